# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Transactions on a board, for :mod:`multiboard.backends.sqlite`: one that reads, one that writes.

A :class:`Transaction` has what the verbs that write share: the counters, the feed, what is
remembered for a repeat. It imports the primitives, the errors and its sibling modules.
"""

from __future__ import annotations

import dataclasses
import math
import sqlite3
import time
from collections.abc import Callable
from typing import Any, TypeVar

from multiboard import errors
from multiboard.backends.sqlite import client, records
from multiboard.backends.sqlite.errors import translate_error
from multiboard.backends.sqlite.state import OpenBoard
from multiboard.primitives import ChangeKind, Damage, Lease, Posting, boottime

T = TypeVar("T")

#: Seconds for which a repeated removal, release or posting is recognised as a repeat.
REPEAT_WINDOW = 120.0
#: How many changes a slow reader may be behind before it receives a reset.
HISTORY = 50_000
#: Tidying up is done once in so many changes, for as many and some more.
TIDY_EVERY = 64

_LOAD = (
    "SELECT b.counter, b.told, b.probed,"
    " (SELECT min(ends_at) FROM multiboard_sessions WHERE board = b.id),"
    " (SELECT min(ends_at) FROM multiboard_postings WHERE board = b.id AND ends_at IS NOT NULL)"
    " FROM multiboard_boards b WHERE b.id = ? AND b.incarnation = ?"
)


# -- reading ---------------------------------------------------------------------------------


@dataclasses.dataclass
class Snapshot:
    """One instant of the board, and a time just before it."""

    connection: sqlite3.Connection
    board: int
    now: float
    #: Whether the process of a session lives.
    alive: Callable[[str], bool]


def read(board: OpenBoard, query: Callable[[Snapshot], T]) -> T:
    """Return what ``query`` finds in one instant of the board.

    A function that calls another one: a generator that holds a lock would not survive interrupts.
    """
    try:
        with board.connection.lock:
            connection = board.connection.opened()
            now = boottime()
            try:
                connection.execute("BEGIN")
                check_position(connection, board)
                return query(Snapshot(connection, board.id, now, board.locks.cached_alive()))
            finally:
                try:  # noqa: SIM105 - nothing may come between
                    connection.rollback()
                except sqlite3.Error:
                    pass
    except sqlite3.Error as error:
        raise translate_error(error, board.path) from error


def check_position(connection: sqlite3.Connection, board: OpenBoard) -> Any:
    """Return the board's position, as the first statement of a transaction that reads.

    Raises: ``BoardLost``.
    """
    seen = board.position
    row = client.retry_while_busy(
        connection, records.POSITION, (board.id, board.incarnation), board.settings.busy_timeout
    ).fetchone()
    if row is None:
        raise errors.BoardLost("the board's row is gone from the database")
    if isinstance(row[0], int):
        board.note_position(row[0], seen)
    return row[0]


# -- writing ---------------------------------------------------------------------------------


class Transaction:
    """A transaction that writes, while it holds SQLite's write lock."""

    def __init__(self, connection: sqlite3.Connection, board: OpenBoard) -> None:
        self.board = board
        self.execute = connection.execute
        row = self.execute(_LOAD, (board.id, board.incarnation)).fetchone()
        if row is None:
            raise errors.BoardLost("the board's row is gone from the database")
        #: ``probed`` is when the lock files were last probed, by whoever wrote; the earliest ends
        #: of a session and of a timed lease may be somebody's garbage.
        self._counter, self.position, self.probed, self.session_end, self.lease_end = row
        if not isinstance(self._counter, int) or not isinstance(self.position, int):
            raise errors.Unavailable("the board's row in the database is damaged")
        # The write lock is held: nobody has come farther.
        board.note_position(self.position, board.position)
        self._loaded = (self._counter, self.position, self.probed)
        self.now = boottime()
        self.wall = time.time()
        #: A session that began in this transaction: to be forgotten if it is rolled back.
        self.began: str | None = None
        #: Sessions that ended in this transaction: their lock files are stale once it is committed.
        self.ended: list[str] = []
        self._log: list[tuple[int, int, str, str, int | None]] = []

    @property
    def changed(self) -> bool:
        """Whether the feed has changes to report."""
        return bool(self._log)

    def next_number(self) -> int:
        """Return the next serial or token: neither is ever given twice on a board."""
        self._counter += 1
        return int(self._counter)

    def publish(self, kind: ChangeKind, key: str, token: int | None = None) -> None:
        """Put a change on the feed."""
        self.position += 1
        self._log.append((self.board.id, self.position, kind.value, key, token))

    def read(self, row: records.Row) -> Posting | Damage:
        return records.read_posting(row, self.now, self.board.locks.alive)

    def note_end(self, lease: Lease, kind: ChangeKind) -> None:
        """Remember how a lease ended, for a repeat."""
        self.execute(
            "INSERT OR REPLACE INTO multiboard_ended VALUES (?, ?, ?, ?)",
            (self.board.id, lease.token, f"{kind.value} {lease.key}", self.now),
        )

    def has_ended(self, lease: Lease, kind: ChangeKind) -> bool:
        """Tell whether ``lease`` is known to have ended this way not long ago."""
        found = self.execute(
            "SELECT 1 FROM multiboard_ended WHERE board = ? AND token = ? AND how = ?",
            (self.board.id, lease.token, f"{kind.value} {lease.key}"),
        )
        return found.fetchone() is not None

    def store(self) -> None:
        """Write what the transaction has in memory; the last thing before the commit."""
        for entry in self._log:
            self.execute("INSERT INTO multiboard_log VALUES (?, ?, ?, ?, ?)", entry)
        if self.position // TIDY_EVERY != self._loaded[1] // TIDY_EVERY:
            self._tidy(4 * max(TIDY_EVERY, self.position - self._loaded[1]))
        if (self._counter, self.position, self.probed) != self._loaded:
            self.execute(
                "UPDATE multiboard_boards SET counter = ?, told = ?, probed = ? WHERE id = ?",
                (self._counter, self.position, self.probed, self.board.id),
            )

    def _tidy(self, limit: int) -> None:
        """Delete what is too old to matter: a bounded part of it, more than was added since."""
        board, old = self.board.id, self.now - REPEAT_WINDOW
        self.execute(
            "DELETE FROM multiboard_log WHERE board = ? AND seq <= ?",
            (board, self.position - HISTORY),
        )
        self.execute(
            "DELETE FROM multiboard_postings WHERE id IN (SELECT id FROM multiboard_postings"
            " WHERE board = ? AND gone_at < ? AND shelf IS NULL ORDER BY gone_at LIMIT ?)",
            (board, old, limit),
        )
        # Tokens rise, so the oldest ends are nearly in front; those that are not wait their turn.
        self.execute(
            "DELETE FROM multiboard_ended WHERE board = ? AND at < ? AND token IN"
            " (SELECT token FROM multiboard_ended WHERE board = ? ORDER BY token LIMIT ?)",
            (board, old, board, limit),
        )


def write(
    board: OpenBoard,
    verb: Callable[[Transaction], T],
    *,
    within: float | None = None,
    busy_timeout: float | None = None,
) -> T:
    """Do something in a writing transaction, and commit it.

    It waits for up to ``busy_timeout`` while others write, and where ``within`` is given for up to
    so many seconds in all, for other threads of this backend too.

    It is committed, too, where ``verb`` raises one of our errors: one that refuses has changed
    nothing, but what it found to be over is worth keeping. All else rolls it back. It is a
    function, and what frees a lock stands first in its ``finally``: so it survives interrupts.
    """
    path, locks, writing = board.path, board.locks, board.shared.writing
    patience = board.settings.busy_timeout if busy_timeout is None else busy_timeout
    tx: Transaction | None = None
    committing = False
    refusal: errors.MultiboardError | None = None
    answer: Any = None
    try:
        lock = board.connection.lock
        give_up = boottime() + (math.inf if within is None else within)
        try:
            if not lock.acquire(timeout=-1 if within is None else within):
                raise errors.Unavailable(f"{path} is busy: other threads wait for it")
            connection = board.connection.opened()
            try:
                patience = max(0.0, min(patience, give_up - boottime()))
                if not writing.acquire(timeout=patience):
                    raise errors.Unavailable(f"{path} is busy: other threads are writing to it")
                patience = max(0.0, min(patience, give_up - boottime()))
                client.retry_while_busy(connection, "BEGIN IMMEDIATE", (), patience)
                tx = Transaction(connection, board)
                try:
                    answer = verb(tx)
                except errors.MultiboardError as error:
                    refusal = error
                tx.store()
                committing = True
                client.commit(connection, path)
                board.note_position(tx.position, 0)
            except BaseException as error:
                # Where it is not known whether it was committed, a session that began may be there.
                undone = not committing or isinstance(error, errors.Unavailable)
                if tx is not None and tx.began is not None and undone:
                    board.session = None
                    locks.end(tx.began)
                raise
            finally:
                try:
                    connection.rollback()  # nothing, once it is committed
                except sqlite3.Error:
                    pass
                finally:
                    try:  # noqa: SIM105 - nothing may come between
                        writing.release()
                    except RuntimeError:
                        pass
        finally:
            try:  # noqa: SIM105 - nothing may come between
                lock.release()
            except RuntimeError:
                pass
    except sqlite3.Error as error:
        raise translate_error(error, path) from error
    if tx.changed:
        board.shared.notify()
    for session in tx.ended:
        if not locks.owns(session):
            locks.forget(session)
    if refusal is not None:
        raise refusal
    found: T = answer
    return found
