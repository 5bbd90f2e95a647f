# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""One writing transaction on a board, for :mod:`multiboard.backends.sqlite`.

A :class:`Step` knows the rules that the verbs share: the counters, the feed, whose session lives,
how a lease begins and ends. It imports the primitives, the errors and its sibling modules.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import sqlite3
import time
from collections.abc import Callable
from typing import Any, TypeVar

from multiboard import errors
from multiboard.backends.sqlite import files as files
from multiboard.backends.sqlite import schema
from multiboard.backends.sqlite.liveness import probe_pause
from multiboard.backends.sqlite.opening import Opening
from multiboard.primitives import ChangeKind, Damage, Lease, NewPosting, Posting, Shelf, boottime

T = TypeVar("T")

#: Seconds for which a repeated removal, release or posting is told from a new one.
REPEAT_WINDOW = 120.0
#: How many changes a slow reader may be behind before it hears a reset.
HISTORY = 50_000
#: Tidying up is done once in so many changes, for as many and some more.
TIDY_EVERY = 64

_LOAD = (
    "SELECT b.counter, b.told, b.probed,"
    " (SELECT min(ends_at) FROM multiboard_sessions WHERE board = b.id),"
    " (SELECT min(ends_at) FROM multiboard_postings WHERE board = b.id AND ends_at IS NOT NULL)"
    " FROM multiboard_boards b WHERE b.id = ? AND b.incarnation = ?"
)
_KNOWN = (
    "SELECT id, shelf, rank, digest, gone_at FROM multiboard_postings WHERE board = ? AND key = ?"
)
_INSERT = (
    "INSERT INTO multiboard_postings (board, key, shelf, rank, serial, digest, created_on,"
    " modified_on, ready, due_at, due_on, delay) VALUES (?, ?, 'live', ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_QUEUE = schema.POSTING + " WHERE p.board = ? AND p.ready = 1 ORDER BY p.rank, p.serial"
_END_LEASE = (
    "UPDATE multiboard_postings SET holder = NULL, claim_id = NULL, session = NULL,"
    " ends_at = NULL, ends_on = NULL, granted = NULL, "
)


class Step:
    """A transaction under way: SQLite's write lock is held."""

    def __init__(self, connection: sqlite3.Connection, opening: Opening) -> None:
        self._opening = opening
        self._board = opening.board
        self.execute = connection.execute
        row = self.execute(_LOAD, (opening.board, opening.incarnation)).fetchone()
        if row is None:
            raise errors.BoardLost("the board's row is gone from the database")
        self._counter, self.told, self._probed, self._session_end, self._lease_end = row
        if not isinstance(self._counter, int) or not isinstance(self.told, int):
            raise errors.Unavailable("the board's row in the database is damaged")
        opening.note(self.told, opening.seen)  # the write lock is held: nobody is farther
        self._loaded = (self._counter, self.told, self._probed)
        self.now = boottime()
        self.wall = time.time()
        #: A session that began in this step: to be forgotten if the step is undone.
        self.began: str | None = None
        #: Sessions that ended in this step: their lock files are litter once it is committed.
        self.ended: list[str] = []
        self._log: list[tuple[int, int, str, str, int | None]] = []

    @property
    def changed(self) -> bool:
        return bool(self._log)

    def store(self) -> None:
        """Write down what the step kept in memory; the last thing before the commit."""
        for entry in self._log:
            self.execute("INSERT INTO multiboard_log VALUES (?, ?, ?, ?, ?)", entry)
        if self.told // TIDY_EVERY != self._loaded[1] // TIDY_EVERY:
            self._tidy(4 * max(TIDY_EVERY, self.told - self._loaded[1]))
        if (self._counter, self.told, self._probed) != self._loaded:
            self.execute(
                "UPDATE multiboard_boards SET counter = ?, told = ?, probed = ? WHERE id = ?",
                (self._counter, self.told, self._probed, self._board),
            )

    def _tidy(self, limit: int) -> None:
        """Delete what is too old to matter: a bounded part of it, more than was added since."""
        board, old = self._board, self.now - REPEAT_WINDOW
        self.execute(
            "DELETE FROM multiboard_log WHERE board = ? AND seq <= ?", (board, self.told - HISTORY)
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

    def count(self) -> int:
        """Return the next serial or token: neither is ever given twice on a board."""
        self._counter += 1
        return int(self._counter)

    def tell(self, kind: ChangeKind, key: str, token: int | None = None) -> None:
        """Put a change on the feed."""
        self.told += 1
        self._log.append((self._board, self.told, kind.value, key, token))

    # -- sessions ----------------------------------------------------------------------------

    def session(self) -> str:
        """Return this backend's session, renewed, beginning one where there is none.

        Raises: ``SessionLost`` (it had ended).
        """
        opening = self._opening
        own = opening.session
        if own is not None and not opening.locks.owns(own):  # it is the parent process's
            own = opening.session = None
        if own is None:
            own = self.began = opening.session = opening.locks.begin()
            self.execute(
                "INSERT INTO multiboard_sessions VALUES (?, ?, ?)",
                (own, self._board, self.now + opening.session_timeout),
            )
            self._tidy_locks()
        elif not self._renewed(own):
            opening.session = None
            opening.locks.end(own)
            raise errors.SessionLost("the session ended: it was not renewed in time")
        return own

    def _renewed(self, session: str) -> bool:
        ends_at = self.now + self._opening.session_timeout
        found = self.execute(
            "UPDATE multiboard_sessions SET ends_at = ? WHERE id = ?", (ends_at, session)
        )
        return found.rowcount == 1

    def end_session(self, session: str) -> None:
        """End a session, and all leases and entities under it."""
        for row in self.execute(schema.BODILESS + " WHERE p.session = ?", (session,)).fetchall():
            self.expire(row)
        self.execute("DELETE FROM multiboard_entities WHERE session = ?", (session,))
        self.execute("DELETE FROM multiboard_sessions WHERE id = ?", (session,))
        self.ended.append(session)

    def _has_row(self, session: str) -> bool:
        found = self.execute("SELECT 1 FROM multiboard_sessions WHERE id = ?", (session,))
        return found.fetchone() is not None

    def _tidy_locks(self) -> None:
        for session in self._opening.locks.litter():
            if not self._has_row(session):
                self._opening.locks.forget(session)

    # -- what ends by itself -----------------------------------------------------------------

    def reap(self, *, probe: bool = False) -> bool:
        """End what is over: sessions by their time-out or their death, and timed leases.

        The lock files are looked at now and then, or for sure with ``probe``. True if something
        had been over.
        """
        told = self.told
        if _due(self._session_end, self.now):
            for (session,) in self.execute(
                "SELECT id FROM multiboard_sessions WHERE board = ? AND ends_at <= ?",
                (self._board, self.now),
            ).fetchall():
                self.end_session(session)
        if _due(self._lease_end, self.now):
            for row in self.execute(
                schema.BODILESS + " WHERE p.board = ? AND p.ends_at <= ?", (self._board, self.now)
            ).fetchall():
                self.expire(row)
        probed = self._probed if isinstance(self._probed, float) else -math.inf
        # Whoever writes shares the time of the last look with all others.
        if probe or not probed <= self.now < probed + 0.02:
            sessions = self.execute(
                "SELECT id FROM multiboard_sessions WHERE board = ?", (self._board,)
            ).fetchall()
            if probe or self.now >= probed + probe_pause(len(sessions)):
                self._probed = self.now
                for (session,) in sessions:
                    if isinstance(session, str) and not self._opening.locks.alive(session):
                        self.end_session(session)
        return self.told != told or bool(self.ended)

    def expire(self, row: schema.Row) -> None:
        """End a lease that nobody gave back. A damaged row is left alone."""
        posting = self.read(row)
        if isinstance(posting, Damage):
            return
        self.execute(
            _END_LEASE + "deaths = deaths + 1, modified_on = ?, ready = ? WHERE id = ?",
            (self.wall, int(posting.due_in <= 0), row[0]),
        )
        self.tell(ChangeKind.EXPIRED, posting.key, row[11])

    # -- postings and their leases -----------------------------------------------------------

    def read(self, row: schema.Row) -> Posting | Damage:
        return schema.read_posting(row, self.now, self._opening.locks.alive)

    def find(self, key: str) -> tuple[schema.Row, Posting]:
        """Return a live posting without its body, and its row.

        Raises: ``PostingNotFound``.
        """
        row = self.execute(
            schema.BODILESS + " WHERE p.board = ? AND p.key = ? AND p.shelf = 'live'",
            (self._board, key),
        ).fetchone()
        posting = None if row is None else self.read(row)
        if not isinstance(posting, Posting):
            raise errors.PostingNotFound(key)
        return row, posting

    def leased(self, lease: Lease) -> tuple[int, Posting, Lease]:
        """Return the row id and the posting that ``lease`` is the current lease of.

        Raises: ``PostingNotFound``, ``LeaseLost``.
        """
        row, posting = self.find(lease.key)
        current = posting.lease
        if current is None or current.token != lease.token:
            raise errors.LeaseLost(lease.key, lease.token)
        return row[0], posting, current

    def add(self, new: NewPosting) -> Posting | errors.MultiboardError:
        """Store a posting, or return the one that has its key."""
        digest = hashlib.blake2b(new.body, digest_size=16).digest()
        known = self.execute(_KNOWN, (self._board, new.key)).fetchone()
        if known is not None:
            row_id, shelf, rank, known_digest, gone_at = known
            gone = shelf is None and isinstance(gone_at, float)
            if not gone or gone_at > self.now - REPEAT_WINDOW:
                if (rank, known_digest) != (new.rank, digest):
                    return errors.PostingExists(new.key)
                return self._known(row_id, new, gone)
            self.execute("DELETE FROM multiboard_postings WHERE id = ?", (row_id,))
        serial, delay = self.count(), float(new.delay)
        inserted = self.execute(
            _INSERT,
            (
                self._board,
                new.key,
                new.rank,
                serial,
                digest,
                self.wall,
                self.wall,
                int(delay <= 0),
                self.now + delay,
                self.wall + delay,
                delay,
            ),
        )
        self.execute("INSERT INTO multiboard_bodies VALUES (?, ?)", (inserted.lastrowid, new.body))
        self.tell(ChangeKind.POSTED, new.key)
        due_in = max(0.0, delay)
        return Posting(new.key, new.rank, serial, new.body, 0, 0, self.wall, self.wall, due_in)

    def _known(self, row_id: int, new: NewPosting, gone: bool) -> Posting | errors.MultiboardError:
        row = self.execute(schema.POSTING + " WHERE p.id = ?", (row_id,)).fetchone()
        if gone:  # a consumed posting's body is known by its digest only
            row = (*row[:2], Shelf.LIVE.value, *row[3:5], new.body, *row[6:])
        posting = self.read(row)
        return posting if isinstance(posting, Posting) else errors.PostingExists(new.key)

    def enter(self, new: NewPosting, session: str) -> Posting:
        """Store an entity that lives by a session."""
        serial = self.count()
        self.execute(
            "INSERT OR REPLACE INTO multiboard_entities VALUES (?, ?, ?, ?, ?, ?, ?)",
            (self._board, new.key, new.rank, serial, new.body, self.wall, session),
        )
        return Posting(new.key, new.rank, serial, new.body, 0, 0, self.wall, self.wall)

    def purge(self, key: str) -> bool:
        """Delete a trashed posting; its row stays for a while, as that of a consumed one."""
        found = self.execute(
            "SELECT id FROM multiboard_postings WHERE board = ? AND key = ? AND shelf = 'trash'",
            (self._board, key),
        ).fetchone()
        if found is not None:
            self.execute("DELETE FROM multiboard_bodies WHERE posting = ?", found)
            # No lease has the token 0: it is gone, and none removed it.
            self.execute(
                "UPDATE multiboard_postings SET shelf = NULL, gone_at = ?, token = 0 WHERE id = ?",
                (self.now, *found),
            )
        return found is not None

    def held(self, claim_id: str, session: str | None) -> list[tuple[Posting, Lease]]:
        """Return the posting, if any, that this attempt of this session has leased already."""
        held = []
        for row in self.execute(
            schema.POSTING + " WHERE p.board = ? AND p.claim_id = ?", (self._board, claim_id)
        ).fetchall():
            posting = self.read(row)
            if isinstance(posting, Posting) and posting.lease and posting.lease.session == session:
                held.append((posting, posting.lease))
        return held

    def first(self, limit: int) -> list[tuple[int, Posting]]:
        """Return the row ids and the first postings of the queue that are due."""
        self.execute(
            "UPDATE multiboard_postings SET ready = 1 WHERE board = ? AND ready = 0"
            " AND due_at <= ?",
            (self._board, self.now),
        )
        queue: list[tuple[int, Posting]] = []
        rows = self.execute(_QUEUE, (self._board,))
        while len(queue) < limit and (row := rows.fetchone()) is not None:
            posting = self.read(row)
            if isinstance(posting, Posting) and posting.lease is None and row[2] == "live":
                queue.append((row[0], posting))
        rows.close()
        return queue

    def grant(
        self,
        row_id: int,
        posting: Posting,
        holder: str,
        claim_id: str,
        session: str | None,
        expires_in: float | None,
    ) -> Posting:
        """Begin a lease on an unleased posting, and return the posting with it."""
        token = self.count()
        timed = (None, None, None)
        if expires_in is not None:
            span = float(expires_in)
            timed = (self.now + span, self.wall + span, span)  # type: ignore[assignment]
        self.execute(
            "UPDATE multiboard_postings SET attempts = attempts + 1, modified_on = ?,"
            " ready = NULL, token = ?, holder = ?, claim_id = ?, session = ?, ends_at = ?,"
            " ends_on = ?, granted = ? WHERE id = ?",
            (self.wall, token, holder, claim_id, session, *timed, row_id),
        )
        self.tell(ChangeKind.CLAIMED, posting.key, token)
        return dataclasses.replace(
            posting,
            attempts=posting.attempts + 1,
            modified_on=self.wall,
            lease=Lease(posting.key, holder, claim_id, token, session, expires_in),
        )

    def has_ended(self, lease: Lease, kind: ChangeKind) -> bool:
        """Tell whether ``lease`` is known to have ended this way not long ago."""
        found = self.execute(
            "SELECT 1 FROM multiboard_ended WHERE board = ? AND token = ? AND how = ?",
            (self._board, lease.token, f"{kind.value} {lease.key}"),
        )
        return found.fetchone() is not None

    def _note_end(self, lease: Lease, kind: ChangeKind) -> None:
        self.execute(
            "INSERT OR REPLACE INTO multiboard_ended VALUES (?, ?, ?, ?)",
            (self._board, lease.token, f"{kind.value} {lease.key}", self.now),
        )

    def release(self, lease: Lease, delay: float) -> None:
        row_id, _, _ = self.leased(lease)
        self.execute(
            _END_LEASE + "modified_on = ?, ready = ?, due_at = ?, due_on = ?, delay = ?"
            " WHERE id = ?",
            (self.wall, int(delay <= 0), self.now + delay, self.wall + delay, delay, row_id),
        )
        self._note_end(lease, ChangeKind.RELEASED)
        self.tell(ChangeKind.RELEASED, lease.key, lease.token)

    def remove(self, lease: Lease, to: Shelf | None) -> None:
        row_id, _, _ = self.leased(lease)
        if to is Shelf.TRASH:
            self.execute(
                _END_LEASE + "modified_on = ?, shelf = 'trash', due_at = ?, due_on = ?, delay = 0"
                " WHERE id = ?",
                (self.wall, self.now, self.wall, row_id),
            )
            self._note_end(lease, ChangeKind.TRASHED)
            self.tell(ChangeKind.TRASHED, lease.key, lease.token)
            return
        self.execute(
            _END_LEASE + "modified_on = ?, shelf = NULL, gone_at = ? WHERE id = ?",
            (self.wall, self.now, row_id),
        )
        self.execute("DELETE FROM multiboard_bodies WHERE posting = ?", (row_id,))
        self.tell(ChangeKind.REMOVED, lease.key, lease.token)

    def removed_by(self, lease: Lease) -> bool:
        """Tell whether ``lease`` consumed its posting not long ago."""
        found = self.execute(
            "SELECT 1 FROM multiboard_postings WHERE board = ? AND key = ? AND shelf IS NULL"
            " AND token = ?",
            (self._board, lease.key, lease.token),
        )
        return found.fetchone() is not None


def write(
    opening: Opening, patience: float, verb: Callable[[Step], T], within: float | None = None
) -> T:
    """Do something in a writing transaction, and commit it.

    Whoever else writes is waited for with ``patience``, other threads in the line before us too:
    for all of that together ``within`` so many seconds, where that is given.

    It is committed, too, where ``verb`` raises one of our errors: one that refuses has changed
    nothing, but what it found to be over is worth keeping. All else undoes it. It is a function,
    and what frees a lock stands first in its ``finally``: so it survives interrupts.
    """
    path, locks, writing = opening.path, opening.locks, opening.hub.writing
    step: Step | None = None
    committing = False
    refusal: errors.MultiboardError | None = None
    answer: Any = None
    try:
        lock = opening.link.lock
        give_up = boottime() + (math.inf if within is None else within)
        try:
            if not lock.acquire(timeout=-1 if within is None else within):
                raise errors.Unavailable(f"{path} is busy: other threads wait for it")
            connection = opening.link.opened()
            try:
                patience = max(0.0, min(patience, give_up - boottime()))
                if not writing.acquire(timeout=patience):
                    raise errors.Unavailable(f"{path} is busy: other threads are writing to it")
                patience = max(0.0, min(patience, give_up - boottime()))
                files.patiently(connection, "BEGIN IMMEDIATE", (), patience)
                step = Step(connection, opening)
                try:
                    answer = verb(step)
                except errors.MultiboardError as error:
                    refusal = error
                step.store()
                committing = True
                files.commit(connection, path)
                opening.note(step.told, 0)
            except BaseException as error:
                # Where it is not known whether it was committed, a session that began may be there.
                undone = not committing or isinstance(error, errors.Unavailable)
                if step is not None and step.began is not None and undone:
                    opening.session = None
                    locks.end(step.began)
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
        raise files.translate(error, path) from error
    if step.changed:
        opening.hub.notify()
    for session in step.ended:
        if not locks.owns(session):
            locks.forget(session)
    if refusal is not None:
        raise refusal
    found: T = answer
    return found


def _due(end: Any, now: float) -> bool:
    """Tell whether the earliest end has come; what is no number is somebody's garbage."""
    return isinstance(end, float) and end <= now
