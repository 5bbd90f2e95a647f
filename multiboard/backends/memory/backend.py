# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The board in this process's memory: the reference model of the primitives.

It is the simplest code that keeps every guarantee; the conformance suite compares the other
backends with it. Boards live as long as the process and are shared by all of its threads. One
lock a board makes every verb one step. It imports the primitives, the errors and its siblings only.

What a verb changes goes through the board's journal, since a signal handler may raise in its midst:
a step that was not ended is rolled back by the next one (:mod:`.state`).
"""

from __future__ import annotations

import dataclasses
import os
import time
import uuid
from collections.abc import Sequence
from typing import Any

from multiboard import errors, primitives
from multiboard.backends.memory import state
from multiboard.backends.memory.settings import MemorySettings, from_url
from multiboard.backends.memory.state import Board, Record
from multiboard.primitives import Change, ChangeKind, Lease, Page, Place, Posting, Shelf, boottime


class MemoryBackend(primitives.Backend):
    """The primitives over a dictionary. See :class:`multiboard.primitives.Backend`."""

    settings_class = MemorySettings
    settings: MemorySettings
    from_url = staticmethod(from_url)
    traits = primitives.Traits(
        max_body=16 * 1024 * 1024,
        lease_slack=0.2,
        durable=False,
        cross_process=False,
        cross_host=False,
        native_claim_next=True,
        linearizable_feed=True,
        fencing_survives_failover=True,
    )

    def __init__(self, settings: primitives.Settings) -> None:
        super().__init__(settings)
        self._board: Board | None = None
        self._session: str | None = None

    @property
    def incarnation(self) -> str:
        return self._opened().incarnation

    def open(self) -> None:
        settings = self.settings
        self._board = state.open_board(settings.name, settings.namespace, settings.create)

    def boards(self) -> Sequence[str]:
        return state.namespaces(self.settings.name)

    def close(self) -> None:
        board, self._board = self._board, None
        if board is None or board.pid != os.getpid():
            return
        with board.changed:
            board.begin()
            if self._session is not None:
                board.set(board.sessions, self._session, 0.0)
                board.end()
                self._session = None
                self._reap(board)
            board.changed.notify_all()

    # -- directory ---------------------------------------------------------------------------

    def add(
        self, postings: Sequence[primitives.NewPosting], shelf: Shelf = Shelf.LIVE
    ) -> Sequence[Posting | errors.MultiboardError]:
        board = self._opened()
        with board.changed:
            self._reap(board)
            if shelf is Shelf.ENTITIES:
                session = self._begin_session(board)
                entered = [self._add_entity(board, new, session) for new in postings]
                board.end()
                return entered
            added = [self._add_one(board, new) for new in postings]
            board.end()
            return added

    def _add_entity(self, board: Board, new: primitives.NewPosting, session: str) -> Posting:
        now = time.time()
        entry = Posting(new.key, new.rank, next(board.serials), new.body, 0, 0, now, now)
        board.set(board.entities, new.key, (entry, session))
        return entry

    def _add_one(
        self, board: Board, new: primitives.NewPosting
    ) -> Posting | errors.MultiboardError:
        record = board.live.get(new.key) or board.trash.get(new.key)
        known = record.as_posting() if record else board.consumed.get(new.key, (0, None))[1]
        if known is not None:
            if (known.rank, known.body) != (new.rank, new.body):
                return errors.PostingExists(new.key)
            return known
        now = time.time()
        posting = Posting(new.key, new.rank, next(board.serials), new.body, 0, 0, now, now)
        record = Record(posting, boottime() + new.delay)
        board.set(board.live, new.key, record)
        self._publish(board, ChangeKind.POSTED, new.key)
        return record.as_posting()

    def get(self, keys: Sequence[str]) -> Sequence[Posting | None]:
        board = self._opened()
        with board.changed:
            self._reap(board)
            records = [board.live.get(key) for key in keys]
            return [None if record is None else record.as_posting() for record in records]

    def list(
        self, shelf: Shelf = Shelf.LIVE, *, after: Place | None = None, limit: int | None = None
    ) -> Page:
        board = self._opened()
        with board.changed:
            self._reap(board)
            if shelf is Shelf.ENTITIES:
                everything = [entry for entry, _ in board.entities.values()]
            else:
                records = board.live if shelf is Shelf.LIVE else board.trash
                everything = [record.as_posting() for record in records.values()]
        everything.sort(key=lambda posting: posting.place)
        rest = [posting for posting in everything if after is None or posting.place > after]
        if limit is None or len(rest) <= limit:
            return Page(rest)
        return Page(rest[:limit], after=rest[limit - 1].place)

    def count(self, shelf: Shelf = Shelf.LIVE) -> int:
        return len(self.list(shelf).postings)

    def remove(
        self, leases: Sequence[Lease], to: Shelf | None = None
    ) -> Sequence[errors.MultiboardError | None]:
        board = self._opened()
        with board.changed:
            self._reap(board)
            answers = [self._remove_one(board, lease, to) for lease in leases]
            board.end()
            return answers

    def _remove_one(
        self, board: Board, lease: Lease, to: Shelf | None
    ) -> errors.MultiboardError | None:
        kind = ChangeKind.REMOVED if to is None else ChangeKind.TRASHED
        if board.ended_by(lease) is kind:
            return None
        try:
            record = self._leased(board, lease)
        except errors.MultiboardError as error:
            return error
        board.drop(board.live, lease.key)
        posting = dataclasses.replace(record.posting, lease=None, modified_on=time.time())
        if to is None:
            board.set(board.consumed, lease.key, (boottime(), posting))
        else:
            board.set(board.trash, lease.key, Record(posting, boottime()))
        board.set(board.ended, (lease.key, lease.token), (boottime(), kind))
        board.set(board.spent, lease.claim_id, (boottime(), lease.token))
        self._publish(board, kind, lease.key, lease.token)
        return None

    def restore(self, key: str) -> Posting:
        board = self._opened()
        with board.changed:
            self._reap(board)
            record = board.live.get(key)
            if record is None:
                record = board.trash.get(key)
                if record is None:
                    raise errors.PostingNotFound(key, f"no posting {key!r} in the trash")
                posting = dataclasses.replace(
                    record.posting, serial=next(board.serials), modified_on=time.time()
                )
                record = Record(posting, boottime())
                board.drop(board.trash, key)
                board.set(board.live, key, record)
                self._publish(board, ChangeKind.RESTORED, key)
                board.end()
            return record.as_posting()

    def purge(self, keys: Sequence[str], shelf: Shelf = Shelf.TRASH) -> Sequence[bool]:
        board = self._opened()
        with board.changed:
            self._reap(board)
            entries: dict[str, Any] = board.trash if shelf is Shelf.TRASH else board.entities
            answers = []
            for key in keys:
                answers.append(key in entries)
                if shelf is Shelf.TRASH and key in board.trash:
                    board.set(board.consumed, key, (boottime(), board.trash[key].posting))
                board.drop(entries, key)
            board.end()
            return answers

    # -- lock --------------------------------------------------------------------------------

    def acquire(
        self, key: str, holder: str, claim_id: str, expires_in: float | None = None
    ) -> Lease:
        board = self._opened()
        with board.changed:
            self._reap(board)
            session = self._begin_session(board) if expires_in is None else None
            record = board.live.get(key)
            if record is None:
                raise errors.PostingNotFound(key)
            lease = self._lease(board, record, holder, claim_id, session, expires_in)
            board.end()
            return lease

    def acquire_next(
        self, holder: str, claim_ids: Sequence[str], expires_in: float | None = None
    ) -> Sequence[tuple[Posting, Lease]]:
        board = self._opened()
        with board.changed:
            self._reap(board)
            session = self._begin_session(board) if expires_in is None else None
            won: list[tuple[Posting, Lease]] = []
            wanted = set(claim_ids)
            in_order = sorted(board.live.values(), key=lambda record: record.posting.place)
            for record in in_order:
                lease = record.as_posting().lease
                if lease is not None and lease.claim_id in wanted and lease.session == session:
                    wanted.discard(lease.claim_id)
                    won.append((record.as_posting(), lease))
            unused = [c for c in claim_ids if c in wanted and c not in board.spent]
            due = (r for r in in_order if r.posting.lease is None and r.due_at <= boottime())
            for claim_id, record in zip(unused, due, strict=False):
                lease = self._lease(board, record, holder, claim_id, session, expires_in)
                won.append((board.live[record.posting.key].as_posting(), lease))
            board.end()
            return won

    def renew(self, lease: Lease, expires_in: float) -> Lease:
        board = self._opened()
        with board.changed:
            self._reap(board)
            record = self._leased(board, lease)
            if lease.session is None:
                record = dataclasses.replace(record, lease_ends_at=boottime() + expires_in)
                board.set(board.live, lease.key, record)
                board.end()
            renewed = record.as_posting().lease
            assert renewed is not None
            board.changed.notify_all()  # whoever waits for the end has to wait for another one
            return renewed

    def release(self, lease: Lease, delay: float = 0.0) -> None:
        board = self._opened()
        with board.changed:
            self._reap(board)
            if board.ended_by(lease) is ChangeKind.RELEASED:
                return
            record = self._leased(board, lease)
            record = dataclasses.replace(record, due_at=boottime() + delay)
            self._end_lease(board, record, ChangeKind.RELEASED)
            board.set(board.spent, lease.claim_id, (boottime(), lease.token))
            board.end()

    # -- feed --------------------------------------------------------------------------------

    def changes(self, cursor: str | None, timeout: float) -> primitives.Changes:
        board = self._opened()
        give_up = boottime() + timeout
        with board.changed:
            board.begin()
            seen = self._position(board, cursor)
            if seen is None:
                return primitives.Changes((), f"{board.incarnation}:{board.position}", reset=True)
            while True:
                self._reap(board)
                if self._board is not board:
                    raise errors.Closed("the memory board was closed")
                left = give_up - boottime()
                if board.position > seen or left <= 0:
                    break
                board.changed.wait(min(left, board.next_deadline() - boottime()))
            events = tuple(board.log[number] for number in range(seen + 1, board.position + 1))
            return primitives.Changes(events, f"{board.incarnation}:{board.position}")

    @staticmethod
    def _position(board: Board, cursor: str | None) -> int | None:
        """Return the position that a reader has come to; None where it has to start anew."""
        incarnation, _, seen = (cursor or "").partition(":")
        if incarnation != board.incarnation or not seen.isdigit():
            return None
        oldest = board.position - len(board.log)
        return int(seen) if oldest <= int(seen) <= board.position else None

    # -- session -----------------------------------------------------------------------------

    def keepalive(self, within: float | None = None) -> float:
        board = self._opened()
        with board.changed:
            self._reap(board)
            self._begin_session(board)
            return self.settings.session_timeout

    def _begin_session(self, board: Board) -> str:
        """Return the session's id, renewed, beginning one where there is none."""
        session = self._session
        if session is None:
            session = uuid.uuid4().hex
        elif session not in board.sessions:
            self._session = None
            raise errors.SessionLost("the session ended: it was not renewed in time")
        board.set(board.sessions, session, boottime() + self.settings.session_timeout)
        board.end()
        self._session = session
        return session

    def _opened(self) -> Board:
        board = self._board
        if board is None:
            raise errors.Closed("the memory board is not open")
        if board.pid != os.getpid():
            raise errors.BoardLost(
                "a memory board belongs to the process that opened it, and this is a forked child:"
                " close and open again for a board of its own"
            )
        return board

    # -- the state of a lease ----------------------------------------------------------------

    def _lease(
        self,
        board: Board,
        record: Record,
        holder: str,
        claim_id: str,
        session: str | None,
        expires_in: float | None,
    ) -> Lease:
        posting = record.posting
        if posting.lease is not None:
            if posting.lease.claim_id == claim_id and posting.lease.session == session:
                found = record.as_posting().lease
                assert found is not None
                return found
            raise errors.LeaseHeld(posting.key, posting.lease.holder)
        if claim_id in board.spent:
            raise errors.LeaseLost(posting.key, board.spent[claim_id][1])
        # Numbered by the board, not by the posting: the tokens of a key rise after a purge, too.
        token = next(board.tokens)
        lease = Lease(posting.key, holder, claim_id, token, session, expires_in)
        ends_at = None if expires_in is None else boottime() + expires_in
        posting = dataclasses.replace(
            posting, lease=lease, attempts=posting.attempts + 1, modified_on=time.time()
        )
        board.set(board.live, posting.key, Record(posting, record.due_at, ends_at))
        self._publish(board, ChangeKind.CLAIMED, posting.key, lease.token)
        return lease

    @staticmethod
    def _leased(board: Board, lease: Lease) -> Record:
        """Return the record that ``lease`` is the current lease of."""
        record = board.live.get(lease.key)
        if record is None:
            raise errors.PostingNotFound(lease.key)
        current = record.posting.lease
        if current is None or current.token != lease.token:
            raise errors.LeaseLost(lease.key, lease.token)
        return record

    def _end_lease(self, board: Board, record: Record, kind: ChangeKind) -> None:
        posting = record.posting
        assert posting.lease is not None
        token = posting.lease.token
        posting = dataclasses.replace(
            posting,
            lease=None,
            deaths=posting.deaths + (kind is ChangeKind.EXPIRED),
            modified_on=time.time(),
        )
        board.set(board.live, posting.key, Record(posting, record.due_at))
        board.set(board.ended, (posting.key, token), (boottime(), kind))
        self._publish(board, kind, posting.key, token)

    def _reap(self, board: Board) -> None:
        """Begin a step: end what is over, sessions, what lives by them, and timed leases."""
        board.begin()
        now = boottime()
        for session in [name for name, end in board.sessions.items() if end <= now]:
            board.drop(board.sessions, session)
        for record in list(board.live.values()):
            if board.lease_is_over(record, now):
                self._end_lease(board, record, ChangeKind.EXPIRED)
        for key in [k for k, (_, owner) in board.entities.items() if owner not in board.sessions]:
            board.drop(board.entities, key)
        board.end()
        board.forget(now - state.REPEAT_WINDOW)

    @staticmethod
    def _publish(board: Board, kind: ChangeKind, key: str, token: int | None = None) -> None:
        position = board.position + 1
        board.set(board.log, position, Change(kind, key, token))
        board.set(board.numbers, "position", position)
        board.changed.notify_all()
