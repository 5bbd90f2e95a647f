# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The lock files that show which processes live, for :mod:`multiboard.backends.sqlite`.

A session is a row in the database and a file of its own that its process keeps locked. The kernel
drops the lock in the instant of the process's death, so that one probe shows it long before any
time-out. It imports the errors only.

The locks are POSIX record locks (``fcntl.lockf``), chosen over ``flock`` and open-file-description
locks because they belong to the process alone. The other two belong to the open file, which a
forked child inherits: a killed conductor whose worker pool lives on would seem alive itself.
The price is that they do not exclude their own process, and that closing *any* descriptor of the
file drops them. Hence the registry: a session of this process is looked up there, and its lock
file is opened exactly once.

**What is ours.** The folder may hold the files of others. Ours are regular files, empty, named
``multiboard-`` and 32 hexadecimal digits, which is also the session's id in the database; no other
file is deleted, and nothing blocks where a pipe, a link or a device has such a name. Folder
and files may be used by whoever may use the database: they have its mode, and where that is
possible its owner and group, so that a first look by root shuts no service out.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import stat
import time
import uuid
from collections.abc import Callable

from multiboard import errors
from multiboard.primitives import interrupts

#: A lock file without a session is stale after this many seconds (its process died between
#: making the file and committing the row); before that it may be a session that is beginning.
STALE_AFTER = 600.0

_OURS = re.compile(r"multiboard-[0-9a-f]{32}")
#: Processes with an earlier multiboard name their sessions by the digits alone.
_SESSION = re.compile(r"(multiboard-)?[0-9a-f]{32}")
#: A pipe that has one of our names must not block us, nor a terminal become ours.
_OPEN_FLAGS = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC

#: The sessions of this process and the descriptors that hold their locks; -1 while it is opened.
_own: dict[str, int] = {}


def probe_pause(sessions: int) -> float:
    """Return the seconds between two probes of the lock files, so that they cost 1 % of a core."""
    return min(0.08, max(0.02, sessions * 0.0006))


class SessionLocks:
    """The lock files of one database, in a folder beside it."""

    def __init__(self, folder: str, database: str) -> None:
        self.folder = folder
        self._database = database

    def begin(self) -> str:
        """Return the id of a new session whose lock this process holds."""
        session = f"multiboard-{uuid.uuid4().hex}"
        _own[session] = -1  # before the file exists: no thread of this process may open it again
        try:
            like = os.stat(self._database)
            self._make_folder(like)
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | _OPEN_FLAGS
            _own[session] = os.open(self._path(session), flags, 0o600)
            _copy_access(_own[session], like, like.st_mode & 0o666)
            fcntl.lockf(_own[session], fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self.end(session)
            kind = errors.AccessDenied if isinstance(error, PermissionError) else errors.Unavailable
            raise kind(
                f"no session can be locked in {self.folder}, which should be a folder that"
                f" whoever uses the database may write to: {error}"
            ) from error
        return session

    def _make_folder(self, like: os.stat_result) -> None:
        """Make the folder, unless it is there.

        Raises: ``OSError``, also for a link: what it leads to is not ours.
        """
        if not os.path.lexists(self.folder):
            made = f"{self.folder}.{uuid.uuid4().hex}"
            os.mkdir(made, 0o700)
            try:
                # Whoever may read the database may enter the folder.
                mode = like.st_mode & 0o666
                _copy_access(made, like, 0o700 | mode | (mode & 0o444) >> 2)
                os.rename(made, self.folder)  # nobody finds it before it is as it should be
            except OSError:
                os.rmdir(made)
                if not os.path.lexists(self.folder):  # else somebody was quicker
                    raise
        if not stat.S_ISDIR(os.lstat(self.folder).st_mode):
            raise NotADirectoryError(f"{self.folder} is not a directory")

    def end(self, session: str, *, forget: bool = True) -> None:
        """Drop the lock of a session of this process; with ``forget`` the file goes too.

        The file must stay as long as the session's row may: without it only the time-out shows.
        """
        descriptor = _own.pop(session, -1)
        if forget:
            self.forget(session)
        if descriptor >= 0:
            os.close(descriptor)

    def forget(self, session: str) -> None:
        """Delete the file of a session that has no row any more."""
        if not _SESSION.fullmatch(session):  # a damaged row must not name a file elsewhere
            return
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
        """Tell whether the session's process lives. Unless its death is certain, it does."""
        if session in _own or not _SESSION.fullmatch(session):
            return True
        try:
            descriptor = os.open(self._path(session), os.O_RDONLY | _OPEN_FLAGS)
        except OSError as error:
            if interrupts.is_interrupt(error):
                raise
            return True
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                return True
            # Shared: probes of several processes must not take each other for the owner.
            fcntl.lockf(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError as error:
            if interrupts.is_interrupt(error):
                raise
            return True
        finally:
            os.close(descriptor)
        return False

    def cached_alive(self) -> Callable[[str], bool]:
        """Return :meth:`alive` for the length of one verb: it probes each session once."""
        known: dict[str, bool] = {}

        def alive(session: str) -> bool:
            if session not in known:
                known[session] = self.alive(session)
            return known[session]

        return alive

    def stale(self) -> list[str]:
        """Return the ids of old lock files that nobody holds; some may still have a row."""
        found = []
        with contextlib.suppress(OSError), os.scandir(self.folder) as entries:
            for entry in entries:
                name = entry.name
                with contextlib.suppress(OSError):
                    if not _OURS.fullmatch(name) or not entry.is_file(follow_symlinks=False):
                        continue
                    status = entry.stat(follow_symlinks=False)
                    old = status.st_mtime < time.time() - STALE_AFTER
                    if old and status.st_size == 0 and not self.alive(name):
                        found.append(name)
        return found

    def _path(self, session: str) -> str:
        return os.path.join(self.folder, session)


def _copy_access(made: str | int, like: os.stat_result, mode: int) -> None:
    """Give what was just made the owner, the group and the mode that the database calls for."""
    # As SQLite does with its own files; others than root can at the most choose the group.
    owner = like.st_uid if os.geteuid() == 0 else -1
    with contextlib.suppress(PermissionError):
        os.chown(made, owner, like.st_gid)
    # A right of the database's group is not one of another group that took its place.
    os.chmod(made, mode if os.stat(made).st_gid == like.st_gid else mode & ~0o070)


def _after_fork() -> None:
    """Own nothing in a forked child; the descriptors stay open, which holds no POSIX lock."""
    _own.clear()


os.register_at_fork(after_in_child=_after_fork)
