# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The lock files that show which processes live, for :mod:`multiboard.backends.sqlite`.

A session is a row in the database and a file of its own that its process keeps locked. The kernel
drops the lock in the instant of the process's death, so that one probe tells the dead from the
living long before any time-out. It imports the errors only.

The locks are POSIX record locks (``fcntl.lockf``), chosen over ``flock`` and open-file-description
locks because they belong to the process alone. The other two belong to the open file, which a
forked child inherits: a killed conductor whose worker pool lives on would seem to live itself.
The price is that they do not exclude their own process, and that closing *any* descriptor of the
file drops them. Hence the registry: a session of this process is looked up there, and its lock
file is opened exactly once.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
import uuid
from collections.abc import Callable

from multiboard import errors, interrupts

#: A lock file without a session is litter after this many seconds (its process died between
#: making the file and committing the row); before that it may be a session that is beginning.
LITTER_AGE = 600.0

#: The sessions of this process and the descriptors that hold their locks; -1 while it is opened.
_own: dict[str, int] = {}


def probe_pause(sessions: int) -> float:
    """Return the seconds between two looks at the lock files, so that they cost 1 % of a core."""
    return min(0.08, max(0.02, sessions * 0.0006))


class SessionLocks:
    """The lock files of one database, in a folder beside it."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def begin(self) -> str:
        """Return the id of a new session whose lock this process holds."""
        session = uuid.uuid4().hex
        _own[session] = -1  # before the file exists: nobody in this process may open it again
        try:
            os.makedirs(self.folder, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            _own[session] = os.open(self._path(session), flags, 0o666)
            fcntl.lockf(_own[session], fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self.end(session)
            kind = errors.AccessDenied if isinstance(error, PermissionError) else errors.Unavailable
            raise kind(f"no session can be locked in {self.folder}: {error}") from error
        return session

    def end(self, session: str, *, forget: bool = True) -> None:
        """Drop the lock of a session of this process; with ``forget`` the file goes too.

        The file must stay as long as the session's row may: without it only the time-out tells.
        """
        descriptor = _own.pop(session, -1)
        if forget:
            self.forget(session)
        if descriptor >= 0:
            os.close(descriptor)

    def forget(self, session: str) -> None:
        """Delete the file of a session that has no row any more."""
        try:
            os.unlink(self._path(session))
        except OSError as error:
            if interrupts.is_interrupt(error):
                raise

    @staticmethod
    def owns(session: str) -> bool:
        """Tell whether this very process, not its parent, holds the session."""
        return session in _own

    def alive(self, session: str) -> bool:
        """Tell whether the session's process lives. In doubt it does: the time-out will tell."""
        if session in _own:
            return True
        try:
            descriptor = os.open(self._path(session), os.O_RDONLY | os.O_CLOEXEC)
        except (OSError, ValueError) as error:
            if interrupts.is_interrupt(error):
                raise
            return True
        try:
            # Shared: probes of several processes must not take each other for the owner.
            fcntl.lockf(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError as error:
            if interrupts.is_interrupt(error):
                raise
            return True
        finally:
            os.close(descriptor)
        return False

    def memo(self) -> Callable[[str], bool]:
        """Return :meth:`alive` for the length of one verb: it looks at each session once."""
        known: dict[str, bool] = {}

        def alive(session: str) -> bool:
            if session not in known:
                known[session] = self.alive(session)
            return known[session]

        return alive

    def litter(self) -> list[str]:
        """Return the ids of old lock files that nobody holds; some may still have a row."""
        found = []
        with contextlib.suppress(OSError), os.scandir(self.folder) as entries:
            for entry in entries:
                name = entry.name
                with contextlib.suppress(OSError):
                    old = entry.stat().st_mtime < time.time() - LITTER_AGE
                    if old and len(name) == 32 and not self.alive(name):
                        found.append(name)
        return found

    def _path(self, session: str) -> str:
        return os.path.join(self.folder, session)


def _after_fork() -> None:
    """Own nothing in a forked child; the descriptors stay open, which holds no POSIX lock."""
    _own.clear()


os.register_at_fork(after_in_child=_after_fork)
