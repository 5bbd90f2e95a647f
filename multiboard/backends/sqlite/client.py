# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Connections to one database file, for :mod:`multiboard.backends.sqlite`: what SQLite demands.

Here are the connections and what a fork does to them, and the waiting for a busy file. Nothing
here depends on what a board is; it imports the errors and the interrupts only.

**Forks.** SQLite keeps the locks of a file for the whole process in memory that a forked child
inherits: a connection that the child opens takes the parent's locks for its own (the parent's
close then deleted the write-ahead log under a child, whose commits were lost). So no
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
from multiboard.backends.sqlite.errors import is_busy, translate_commit_error
from multiboard.primitives import interrupts

#: Seconds between two attempts at a busy file, at the most.
LONGEST_PAUSE = 0.001
#: Seconds for which a fork waits for operations in flight to finish.
FORK_TIMEOUT = 15.0


# -- statements ------------------------------------------------------------------------------


def retry_while_busy(
    connection: sqlite3.Connection, sql: str, arguments: tuple[Any, ...], timeout: float
) -> sqlite3.Cursor:
    """Run a statement, again and again while the file is busy, for up to ``timeout`` seconds.

    SQLite's own busy handler sleeps up to 100 ms between its attempts. A process that writes
    without a pause leaves the lock free for a tenth of a millisecond at a time, and a rare attempt
    may miss that for seconds on a slow disk.
    """
    give_up, pause = 0.0, 0.0001
    while True:
        try:
            return connection.execute(sql, arguments)
        except sqlite3.OperationalError as error:
            now = time.monotonic()
            give_up = give_up or now + timeout
            if not is_busy(error) or now >= give_up:
                raise
        time.sleep(pause * (0.5 + random.random()))
        pause = min(pause * 1.5, LONGEST_PAUSE)


def commit(connection: sqlite3.Connection, path: str) -> None:
    """Commit; the error says whether the transaction may have been applied.

    Raises: ``Unavailable`` (it was rolled back), ``Indeterminate``.
    """
    try:
        connection.execute("COMMIT")
    except sqlite3.Error as error:
        undone = rollback(connection)
        raise translate_commit_error(error, path, rolled_back=undone) from error


def rollback(connection: sqlite3.Connection) -> bool:
    """End a transaction, if there is one, without effect; False where that is not certain."""
    try:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
    except sqlite3.Error:
        return False
    return True


# -- connections -----------------------------------------------------------------------------


class SharedFile:
    """What the backends of this process that use the same file have in common."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget the threads of a parent process, which may have held these for ever."""
        #: Held for a write: threads queue here rather than race for the lock of the file.
        #: Of the thread that has it: an interrupted one frees it where it came to have it.
        self.writing = threading.RLock()
        self._waiters: dict[int, threading.Lock] = {}

    def add_waiter(self) -> threading.Lock:
        """Return a lock that a waiting reader can't get until :meth:`notify`.

        A condition variable would do, at twice the cost: a reader waits 200 times a second.
        """
        lock = threading.Lock()
        lock.acquire()
        self._waiters[id(lock)] = lock
        return lock

    def remove_waiter(self, waiter: threading.Lock) -> None:
        """Forget a reader that waits no more."""
        self._waiters.pop(id(waiter), None)

    def notify(self) -> None:
        """Wake the waiting readers of this process."""
        for lock in list(self._waiters.values()):
            with contextlib.suppress(RuntimeError):  # it was released already
                lock.release()


class Connection:
    """One connection, used by one thread at a time, opened when it is first used.

    It is used by ``with connection.lock:`` and then :meth:`opened`. It has no ``__enter__`` itself:
    one in Python would leave the lock locked where an interrupt strikes in it.
    """

    def __init__(
        self, path: str, identity: tuple[int, int], synchronous: str, busy_timeout: float
    ) -> None:
        self._path = path
        self._busy_timeout = busy_timeout
        self._identity = identity
        self._synchronous = synchronous
        self._native: sqlite3.Connection | None = None
        #: Of the thread that has it: one that waits for a limited time frees it if it is struck.
        self.lock = threading.RLock()
        self._is_closed = False
        #: Of the database and of its log, as they were when the connection was last used.
        self._stamp: tuple[int, int] | None = None
        self._log: tuple[int, int] | None = None
        #: How often it was opened, or began to read anew: SQLite's ``data_version`` can be compared
        #: within one epoch only.
        self.epoch = 0
        key = id(self)
        _connections[key] = weakref.ref(self, lambda _: _connections.pop(key, None) and None)

    def opened(self) -> sqlite3.Connection:
        """Return SQLite's connection, open; called with the lock held."""
        if self._is_closed:
            raise errors.Closed("the SQLite board was closed")
        if self._native is None:
            return self._connect()
        if self._native.in_transaction:  # an interrupt struck amid a transaction
            rollback(self._native)
        self._check_files(self._native)
        return self._native

    def _connect(self) -> sqlite3.Connection:
        with _connecting:
            if self._identity in _unusable:
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
                retry_while_busy(
                    connection, f"PRAGMA synchronous={self._synchronous}", (), self._busy_timeout
                )
            except BaseException:
                connection.close()
                raise
            # Before _connecting is free again: a fork must not miss it.
            self._native = connection
            self._stamp = self._log = None
            self.epoch += 1
            return connection

    def _check_files(self, connection: sqlite3.Connection) -> None:
        """Find out whether somebody wrote over the files by hand, to put back a backup.

        SQLite detects changes by its shared index only, and goes on to show the pages that it has
        in memory. A checkpoint writes to the database, too: then they are read once more.

        Raises: ``BoardLost`` where the log is another one: nobody reads this connection's.
        """
        log = identify(f"{self._path}-wal")
        if log != self._log:
            if self._log is not None:
                raise errors.BoardLost(f"the log of {self._path} was deleted or replaced")
            self._log = log
        try:
            status = os.stat(self._path)
        except OSError as error:
            if interrupts.is_interrupt(error):
                raise
            return  # the board's next check of the file reports it
        stamp = (status.st_mtime_ns, status.st_size)
        if stamp != self._stamp:
            connection.execute("PRAGMA shrink_memory")
            self._stamp = stamp
            self.epoch += 1

    def close(self) -> None:
        """Close the connection for good."""
        with self.lock:
            self._is_closed = True
            self._close_native()

    def _close_native(self) -> None:
        connection, self._native = self._native, None
        if connection is not None:
            with contextlib.suppress(sqlite3.Error):
                connection.close()

    # -- fork: the lock is held by the hook, from before the fork until after it --------------

    def lock_for_fork(self, timeout: float) -> bool:
        if not self.lock.acquire(timeout=max(0.0, timeout)):
            return False
        self._close_native()
        return True

    def unlock_after_fork(self) -> None:
        self.lock.release()

    def reset_in_child(self) -> None:
        if self._native is not None:  # it could not be locked before the fork
            _unusable.add(self._identity)
            _never_collected.append(self._native)
            self._native = None
        self.lock = threading.RLock()

    @property
    def is_open(self) -> bool:
        return self._native is not None


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
    """Yield a connection that may make the file; no fork comes between its begin and its end."""
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
    """Return what distinguishes this file from another one of its name; None if it is missing."""
    try:
        status = os.stat(path)
    except OSError as error:
        if interrupts.is_interrupt(error):
            raise
        return None
    return (status.st_dev, status.st_ino)


def shared_file(identity: tuple[int, int]) -> SharedFile:
    """Return what this process's backends share for a file."""
    return _shared_files.setdefault(identity, SharedFile())


def check_process() -> None:
    """Raise ``Unavailable`` in a child that was forked behind Python's back."""
    if not forked_with_hooks():
        raise errors.Unavailable(
            "this process was forked without Python's fork hooks, and SQLite can't be used in it"
        )


def never_collect(inherited: object) -> None:
    """Keep the garbage collector from closing what was inherited over a fork."""
    _never_collected.append(inherited)


def forked_with_hooks() -> bool:
    """Tell whether the process was forked, if ever, with the hooks below."""
    return os.getpid() == _pid


_connections: dict[int, weakref.ref[Connection]] = {}
_shared_files: weakref.WeakValueDictionary[tuple[int, int], SharedFile] = (
    weakref.WeakValueDictionary()
)
_connecting = threading.Lock()
_locked: list[Connection] = []
_prepared = False
#: Files that can't be used in this process, and the inherited connections to them.
_unusable: set[tuple[int, int]] = set()
_never_collected: list[object] = []
_pid = os.getpid()


def _all_connections() -> list[Connection]:
    found = [reference() for reference in list(_connections.values())]
    return [connection for connection in found if connection is not None]


def _before_fork() -> None:
    global _prepared
    # Its own lock first, then _connecting, as a thread that opens a connection takes them; hence
    # the loop, for a connection that was opened in between.
    give_up = time.monotonic() + FORK_TIMEOUT
    while True:
        for one in _all_connections():
            if one not in _locked and one.lock_for_fork(give_up - time.monotonic()):
                _locked.append(one)
        _prepared = _connecting.acquire(timeout=max(0.0, give_up - time.monotonic()))
        if not _prepared:
            return
        missed = [one for one in _all_connections() if one.is_open and one not in _locked]
        if not missed or time.monotonic() >= give_up:
            return
        _connecting.release()


def _after_fork_in_parent() -> None:
    if _prepared:
        _connecting.release()
    while _locked:
        _locked.pop().unlock_after_fork()


def _after_fork_in_child() -> None:
    global _connecting, _pid
    if _prepared:
        _pid = os.getpid()
    _connecting = threading.Lock()
    _locked.clear()
    for connection in _all_connections():
        connection.reset_in_child()
    for shared in list(_shared_files.values()):
        shared.reset()


os.register_at_fork(
    before=_before_fork,
    after_in_parent=_after_fork_in_parent,
    after_in_child=_after_fork_in_child,
)
