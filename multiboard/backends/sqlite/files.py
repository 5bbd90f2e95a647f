# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Connections to one database file, for :mod:`multiboard.backends.sqlite`: what SQLite demands.

Here are the connections and what a fork does to them, the transactions and the errors. It knows
nothing of boards, and imports the errors only.

**Forks.** SQLite keeps the locks of a file for the whole process in memory that a forked child
inherits: a connection that the child opens believes it holds locks that only the parent has (the
parent's close then deleted the write-ahead log under a child, whose commits were lost). So no
connection may be open while the process forks: a hook closes them all just before, and each is
opened again when it is next used, in the parent and in the child. Descriptors of the database are
never opened or closed by hand: that would drop the locks of every connection.
"""

from __future__ import annotations

import contextlib
import os
import random
import sqlite3
import threading
import time
import urllib.parse
import weakref
from collections.abc import Iterator
from typing import Any

from multiboard import errors
from multiboard.primitives import interrupts

#: Seconds between two attempts at a busy file, at the most.
LONGEST_PAUSE = 0.001
#: Seconds that a fork waits for operations under way to finish.
FORK_PATIENCE = 15.0


# -- errors ----------------------------------------------------------------------------------


def translate(error: sqlite3.Error, path: str) -> errors.BackendError:
    """Return what an error means that was raised while nothing could have been applied."""
    text = str(error)
    if "readonly" in text or "permission" in text:
        return errors.AccessDenied(f"{path} can't be written: {text}")
    if "no such table" in text or "no such column" in text:
        return errors.BoardLost(f"{path} no longer holds the board's tables: {text}")
    if "not a database" in text or "malformed" in text or "encrypted" in text:
        return errors.Unavailable(f"{path} is damaged or is no SQLite database: {text}")
    if "locked" in text or "busy" in text:
        return errors.Unavailable(f"{path} is busy: another process holds its write lock")
    return errors.Unavailable(f"{path}: {text}")


def is_busy(error: sqlite3.Error) -> bool:
    text = str(error)
    return "locked" in text or "busy" in text


def patiently(
    connection: sqlite3.Connection, sql: str, arguments: tuple[Any, ...], patience: float
) -> sqlite3.Cursor:
    """Run a statement, again and again while the file is busy, up to ``patience`` seconds.

    SQLite's own busy handler sleeps up to 100 ms between its looks. A process that writes without
    a pause leaves the lock free for a tenth of a millisecond at a time, and who looks rarely may
    miss that for seconds on a slow disk.
    """
    give_up, pause = 0.0, 0.0001
    while True:
        try:
            return connection.execute(sql, arguments)
        except sqlite3.OperationalError as error:
            now = time.monotonic()
            give_up = give_up or now + patience
            if not is_busy(error) or now >= give_up:
                raise
        time.sleep(pause * (0.5 + random.random()))
        pause = min(pause * 1.5, LONGEST_PAUSE)


def commit(connection: sqlite3.Connection, path: str) -> None:
    """Commit; after an error it is known whether the transaction may have been applied.

    Raises: ``Unavailable`` (it was rolled back), ``Indeterminate``.
    """
    try:
        connection.execute("COMMIT")
    except sqlite3.Error as error:
        undone = rollback(connection)
        # A full disk takes no commit record. After any other failure of the disk the record may
        # be there all the same, and be found when the log is next recovered.
        if undone and (is_busy(error) or "full" in str(error)):
            raise errors.Unavailable(f"{path}: the commit was rolled back: {error}") from error
        raise errors.Indeterminate(f"{path}: the commit failed: {error}") from error


def rollback(connection: sqlite3.Connection) -> bool:
    """End a transaction, if there is one, without effect; False where that can't be said."""
    try:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
    except sqlite3.Error:
        return False
    return True


# -- connections -----------------------------------------------------------------------------


class Hub:
    """What the backends of this process that share a file have in common."""

    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        """Forget the threads of a parent process, which may have held these for ever."""
        #: Held for a write: threads queue here rather than race for the lock of the file.
        #: Of the thread that has it: an interrupted one frees it where it came to have it.
        self.writing = threading.RLock()
        self._alarms: dict[int, threading.Lock] = {}

    def alarm(self) -> threading.Lock:
        """Give a waiting reader a lock that it can't get until somebody notifies.

        A condition variable would do, at twice the cost: a reader waits 200 times a second.
        """
        lock = threading.Lock()
        lock.acquire()
        self._alarms[id(lock)] = lock
        return lock

    def drop(self, alarm: threading.Lock) -> None:
        """Forget a reader that waits no more."""
        self._alarms.pop(id(alarm), None)

    def notify(self) -> None:
        """Wake the waiting readers of this process."""
        for lock in list(self._alarms.values()):
            with contextlib.suppress(RuntimeError):  # it rings already
                lock.release()


class Link:
    """One connection, used by one thread at a time, opened when it is first used.

    The way in is ``with link.lock:`` and then :meth:`opened`. The link itself has no ``__enter__``:
    one in Python would leave the lock locked where an interrupt strikes in it.
    """

    def __init__(
        self, path: str, identity: tuple[int, int], synchronous: str, patience: float
    ) -> None:
        self._path = path
        self._patience = patience
        self._identity = identity
        self._synchronous = synchronous
        self._connection: sqlite3.Connection | None = None
        #: Of the thread that has it: who waits for it only so long frees it where it was struck.
        self.lock = threading.RLock()
        self._retired = False
        #: Of the database and of its log, as they were when the connection was last given.
        self._stamp: tuple[int, int] | None = None
        self._log: tuple[int, int] | None = None
        #: How often it was opened, or began to read anew: what one connection counts, another does
        #: not go on counting.
        self.epoch = 0
        key = id(self)
        _links[key] = weakref.ref(self, lambda _: _links.pop(key, None) and None)

    def opened(self) -> sqlite3.Connection:
        """Return the connection; called with the lock held."""
        if self._retired:
            raise errors.Closed("the SQLite board was closed")
        if self._connection is None:
            return self._connect()
        if self._connection.in_transaction:  # an interrupt struck amid a transaction
            rollback(self._connection)
        self._look_at_files(self._connection)
        return self._connection

    def _connect(self) -> sqlite3.Connection:
        with _connecting:
            if self._identity in _tainted:
                raise errors.Unavailable(
                    f"{self._path} was in use while this process was forked, and SQLite can't use "
                    "it here: start the process afresh"
                )
            try:
                connection = connect(self._path)
            except sqlite3.OperationalError as error:
                if identify(self._path) is None:
                    raise errors.BoardLost(f"{self._path} was deleted") from error
                raise
            try:
                if identify(self._path) != self._identity:
                    raise errors.BoardLost(f"{self._path} was deleted or replaced")
                patiently(connection, f"PRAGMA synchronous={self._synchronous}", (), self._patience)
            except BaseException:
                connection.close()
                raise
            # Before _connecting is free again: a fork must not miss it.
            self._connection = connection
            self._stamp = self._log = None
            self.epoch += 1
            return connection

    def _look_at_files(self, connection: sqlite3.Connection) -> None:
        """Find out whether somebody wrote over the files by hand, to put back a backup.

        SQLite knows of changes from its shared index only, and keeps showing the pages that it
        has in memory. A checkpoint writes to the database, too: then they are read once more.

        Raises: ``BoardLost`` where the log is another one: that of this connection is nobody's.
        """
        log = identify(f"{self._path}-wal")
        if log != self._log:
            if self._log is not None:
                raise errors.BoardLost(f"the log of {self._path} was deleted or replaced")
            self._log = log
        try:
            status = os.stat(self._path)
        except OSError:
            return  # the board's next look at the file tells
        stamp = (status.st_mtime_ns, status.st_size)
        if stamp != self._stamp:
            connection.execute("PRAGMA shrink_memory")
            self._stamp = stamp
            self.epoch += 1

    def close(self) -> None:
        """Close the connection for good."""
        with self.lock:
            self._retired = True
            self._shut()

    def _shut(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(sqlite3.Error):
                connection.close()

    # -- fork: the lock is held by the hook, from before the fork until after it --------------

    def seize(self, timeout: float) -> bool:
        if not self.lock.acquire(timeout=max(0.0, timeout)):
            return False
        self._shut()
        return True

    def let_go(self) -> None:
        self.lock.release()

    def start_anew(self) -> None:
        if self._connection is not None:  # it could not be seized
            _tainted.add(self._identity)
            _never_closed.append(self._connection)
            self._connection = None
        self.lock = threading.RLock()

    @property
    def is_open(self) -> bool:
        return self._connection is not None


def connect(path: str) -> sqlite3.Connection:
    """Open a connection to a file that is there."""
    connection = sqlite3.connect(
        f"file:{urllib.parse.quote(path)}?mode=rw",
        uri=True,
        timeout=0,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=128,
    )
    # Text that is not UTF-8 is somebody's damage, not a reason to fail the whole statement.
    connection.text_factory = _text
    return connection


def _text(value: bytes) -> str:
    return value.decode("utf-8", "surrogateescape")


@contextlib.contextmanager
def connecting(path: str, mode: str = "rwc") -> Iterator[sqlite3.Connection]:
    """Give a connection that may make the file; no fork comes between its begin and its end."""
    with _connecting:
        # Made by hand, for SQLite would not let the umask allow a group to write. Nobody can have
        # a connection to a file that is not there: closing this descriptor drops no lock.
        if mode == "rwc":
            with contextlib.suppress(FileExistsError):
                os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666))
        connection = connect(path)
        try:
            yield connection
        finally:
            connection.close()


def identify(path: str) -> tuple[int, int] | None:
    """Return what tells this file from another one of the same name; None if it is missing."""
    try:
        status = os.stat(path)
    except OSError as error:
        if interrupts.is_interrupt(error):
            raise
        return None
    return (status.st_dev, status.st_ino)


def hub_of(identity: tuple[int, int]) -> Hub:
    """Return the hub of a file in this process."""
    return _hubs.setdefault(identity, Hub())


def check_process() -> None:
    """Raise ``Unavailable`` in a child that was forked behind Python's back."""
    if not usable():
        raise errors.Unavailable(
            "this process was forked without Python's fork hooks, and SQLite can't be used in it"
        )


def keep(inherited: object) -> None:
    """Let what was inherited over a fork never be closed by the garbage collector."""
    _never_closed.append(inherited)


def usable() -> bool:
    """Tell whether the process was forked, if ever, with the hooks below."""
    return os.getpid() == _pid


_links: dict[int, weakref.ref[Link]] = {}
_hubs: weakref.WeakValueDictionary[tuple[int, int], Hub] = weakref.WeakValueDictionary()
_connecting = threading.Lock()
_seized: list[Link] = []
_prepared = False
#: Files that can't be used in this process, and the inherited connections to them.
_tainted: set[tuple[int, int]] = set()
_never_closed: list[object] = []
_pid = os.getpid()


def _all_links() -> list[Link]:
    return [link for reference in list(_links.values()) if (link := reference()) is not None]


def _before_fork() -> None:
    global _prepared
    # Link first, then _connecting, as a thread that opens a connection takes them; hence the loop
    # for a link that was opened in between.
    give_up = time.monotonic() + FORK_PATIENCE
    while True:
        for link in _all_links():
            if link not in _seized and link.seize(give_up - time.monotonic()):
                _seized.append(link)
        _prepared = _connecting.acquire(timeout=max(0.0, give_up - time.monotonic()))
        if not _prepared:
            return
        missed = [link for link in _all_links() if link.is_open and link not in _seized]
        if not missed or time.monotonic() >= give_up:
            return
        _connecting.release()


def _after_fork_in_parent() -> None:
    if _prepared:
        _connecting.release()
    while _seized:
        _seized.pop().let_go()


def _after_fork_in_child() -> None:
    global _connecting, _pid
    if _prepared:
        _pid = os.getpid()
    _connecting = threading.Lock()
    _seized.clear()
    for link in _all_links():
        link.start_anew()
    for hub in list(_hubs.values()):
        hub.renew()


os.register_at_fork(
    before=_before_fork,
    after_in_parent=_after_fork_in_parent,
    after_in_child=_after_fork_in_child,
)
