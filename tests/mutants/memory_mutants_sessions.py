# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Broken backends: the memory backend with one small fault each in its sessions and their ends.

It imports the memory backend, whose inside it spoils.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from multiboard import errors, primitives
from multiboard.backends import memory
from multiboard.primitives import Lease, Page, Place, Posting, Shelf, boottime
from tests.mutants.mutants import caught_by

# -- what is over, and was noticed by nobody -------------------------------------------------


class _Unaware(memory.MemoryBackend):
    """A backend of which some verbs do not end what is over."""

    _blind = False

    @contextlib.contextmanager
    def _unaware(self) -> Iterator[None]:
        self._blind = True
        try:
            yield
        finally:
            self._blind = False

    def _reap(self, board: Any) -> None:
        if self._blind:
            board.begin()
        else:
            super()._reap(board)


@caught_by("LEASE-4", "LEASE-5", also="LEASE-2 LEASE-7 LEASE-8")
class GetShowsTheDead(_Unaware):
    """A get shows the leases of the dead until another verb has ended them."""

    def get(self, keys: Sequence[str]) -> Sequence[Posting | None]:
        with self._unaware():
            return super().get(keys)


@caught_by("LEASE-4", "LEASE-5", also="LEASE-2")
class ListShowsTheDead(_Unaware):
    """A list shows the leases and the entities of the dead."""

    def list(
        self, shelf: Shelf = Shelf.LIVE, *, after: Place | None = None, limit: int | None = None
    ) -> Page:
        with self._unaware():
            return super().list(shelf, after=after, limit=limit)


@caught_by("LEASE-4")
class CountCountsTheDead(_Unaware):
    """A count counts the entities of the dead, which the list does not show."""

    def count(self, shelf: Shelf = Shelf.LIVE) -> int:
        board = self._opened()
        with board.changed:
            board.begin()
            shelves = {Shelf.LIVE: board.live, Shelf.TRASH: board.trash}
            return len(shelves.get(shelf, board.entities))


@caught_by("LEASE-4")
class PurgeFindsTheDead(_Unaware):
    """A purge answers that it deleted an entity whose session is over."""

    def purge(self, keys: Sequence[str], shelf: Shelf = Shelf.TRASH) -> Sequence[bool]:
        with self._unaware():
            return super().purge(keys, shelf)


@caught_by("LEASE-2")
class TheDeadMayRemove(_Unaware):
    """A removal asks for the token alone: a holder that woke finishes its work."""

    def remove(
        self, leases: Sequence[Lease], to: Shelf | None = None
    ) -> Sequence[errors.MultiboardError | None]:
        with self._unaware():
            return super().remove(leases, to)


@caught_by("LEASE-2")
class TheDeadMayRelease(_Unaware):
    """A release asks for the token alone: a death is taken for an abandon."""

    def release(self, lease: Lease, delay: float = 0.0) -> None:
        with self._unaware():
            super().release(lease, delay)


@caught_by("LEASE-2", also="LEASE-5")
class RenewalRevives(_Unaware):
    """A renewal asks for the token alone: a timed lease that is over begins anew."""

    def renew(self, lease: Lease, expires_in: float) -> Lease:
        with self._unaware():
            return super().renew(lease, expires_in)


@caught_by("LEASE-8", "FEED-1", also="LEASE-4 LEASE-5 LEASE-6 NEXT-1")
class ClaimHidesADeath(_Unaware):
    """A claim takes the place of a lease that is over: neither counted nor reported."""

    def _lease(self, board: Any, record: Any, *args: Any) -> Lease:
        return super()._lease(board, self._forgotten(board, record), *args)

    @staticmethod
    def _forgotten(board: Any, record: Any) -> Any:
        if not board.lease_is_over(record, boottime()):
            return record
        free = dataclasses.replace(record.posting, lease=None)
        return dataclasses.replace(record, posting=free, lease_ends_at=None)

    def acquire(
        self, key: str, holder: str, claim_id: str, expires_in: float | None = None
    ) -> Lease:
        with self._unaware():
            return super().acquire(key, holder, claim_id, expires_in)


@caught_by("LEASE-6", also="LEASE-2 LEASE-5")
class RepeatRevives(_Unaware):
    """A repeated attempt is answered with its lease, though that is over."""

    def acquire(
        self, key: str, holder: str, claim_id: str, expires_in: float | None = None
    ) -> Lease:
        record = self._opened().live.get(key)
        lease = None if record is None else record.posting.lease
        mine = lease is not None and (lease.claim_id, lease.session) == (claim_id, None)
        if record is not None and mine:
            record.lease_ends_at = max(record.lease_ends_at or 0.0, boottime() + 1.0)
        return super().acquire(key, holder, claim_id, expires_in)


# -- the holder that woke --------------------------------------------------------------------


@caught_by("LEASE-7")
class NextBeginsAnew(memory.MemoryBackend):
    """acquire_next begins a new session without a word where the old one has ended."""

    def acquire_next(
        self, holder: str, claim_ids: Sequence[str], expires_in: float | None = None
    ) -> Sequence[tuple[Posting, Lease]]:
        try:
            return super().acquire_next(holder, claim_ids, expires_in)
        except errors.SessionLost:
            return super().acquire_next(holder, claim_ids, expires_in)


@caught_by("LEASE-7")
class EntityBeginsAnew(memory.MemoryBackend):
    """Adding an entity begins a new session without a word where the old one has ended."""

    def add(
        self, postings: Sequence[primitives.NewPosting], shelf: Shelf = Shelf.LIVE
    ) -> Sequence[Posting | errors.MultiboardError]:
        try:
            return super().add(postings, shelf)
        except errors.SessionLost:
            return super().add(postings, shelf)


@caught_by("LEASE-7", "LEASE-5")
class TimedNeedsASession(memory.MemoryBackend):
    """A timed lease is refused, too, to a holder whose session has ended."""

    def acquire(
        self, key: str, holder: str, claim_id: str, expires_in: float | None = None
    ) -> Lease:
        board = self._opened()
        with board.changed:
            self._reap(board)
            if self._session is not None:
                self._begin_session(board)
        return super().acquire(key, holder, claim_id, expires_in)


# -- how long a session lasts ----------------------------------------------------------------


class _ClaimsLeaveTheSession(memory.MemoryBackend):
    """Claims by the verbs named do not renew the session."""

    verbs: tuple[str, ...] = ()

    @contextlib.contextmanager
    def _as_it_was(self, verb: str) -> Iterator[None]:
        board = self._opened()
        with board.changed:
            before = board.sessions.get(self._session or "")
            yield
            if verb in self.verbs and before is not None:
                board.sessions[str(self._session)] = before

    def acquire(
        self, key: str, holder: str, claim_id: str, expires_in: float | None = None
    ) -> Lease:
        with self._as_it_was("acquire"):
            return super().acquire(key, holder, claim_id, expires_in)

    def acquire_next(
        self, holder: str, claim_ids: Sequence[str], expires_in: float | None = None
    ) -> Sequence[tuple[Posting, Lease]]:
        with self._as_it_was("acquire_next"):
            return super().acquire_next(holder, claim_ids, expires_in)


@caught_by("LEASE-7")
class ClaimByADyingSession(_ClaimsLeaveTheSession):
    """A claim leaves the session as it is, however little of its time is left."""

    verbs = ("acquire",)


@caught_by("LEASE-7")
class NextByADyingSession(_ClaimsLeaveTheSession):
    """acquire_next leaves the session as it is, however little of its time is left."""

    verbs = ("acquire_next",)


class _GrantsAnother(memory.MemoryBackend):
    """The store grants sessions of another length, and keepalive answers what was asked."""

    def _granted(self, asked: float) -> float:
        return asked

    def _begin_session(self, board: Any) -> str:
        session = super()._begin_session(board)
        board.sessions[session] = boottime() + self._granted(self.settings.session_timeout)
        return session


@caught_by("LEASE-7")
class LongestSessionInSilence(_GrantsAnother):
    """The store ends sessions after four seconds, whatever was asked for and answered."""

    def _granted(self, asked: float) -> float:
        return min(asked, 4.0)


@caught_by("LEASE-4")
class ShortestSessionInSilence(_GrantsAnother):
    """The store keeps sessions for four seconds, whatever was asked for and answered."""

    def _granted(self, asked: float) -> float:
        return max(asked, 4.0) if asked < 1.0 else asked


@caught_by("LEASE-1", "LEASE-7", also="LEASE-4")
class RefusalShortensTheSession(memory.MemoryBackend):
    """An attempt that is refused gives back the time by which it had renewed, and more."""

    def acquire(
        self, key: str, holder: str, claim_id: str, expires_in: float | None = None
    ) -> Lease:
        try:
            return super().acquire(key, holder, claim_id, expires_in)
        except errors.LeaseHeld:
            sessions = self._opened().sessions
            if expires_in is None and self._session in sessions:
                sessions[str(self._session)] -= self.settings.session_timeout / 2
            raise


@caught_by("LEASE-1", also="LEASE-7")
class RefusalMovesTheAskersEnds(memory.MemoryBackend):
    """An attempt that is refused moves the ends of all that the asker holds."""

    def acquire(
        self, key: str, holder: str, claim_id: str, expires_in: float | None = None
    ) -> Lease:
        try:
            return super().acquire(key, holder, claim_id, expires_in)
        except errors.LeaseHeld:
            for record in self._opened().live.values():
                lease = record.posting.lease
                if expires_in and lease and lease.holder == holder and lease.session is None:
                    record.lease_ends_at = boottime() + expires_in
            raise


@caught_by("LEASE-4", also="LEASE-7")
class SessionEndsWithItsLastLease(memory.MemoryBackend):
    """The session is ended when its last lease is given back: entities go with it."""

    def release(self, lease: Lease, delay: float = 0.0) -> None:
        super().release(lease, delay)
        board = self._opened()
        with board.changed:
            leases = [record.posting.lease for record in board.live.values()]
            if lease.session and not any(one and one.session == lease.session for one in leases):
                board.drop(board.sessions, lease.session)
                board.end()
                self._session = None


@caught_by("LEASE-4", "LEASE-5")
class CloseEndsItsTimedLeases(memory.MemoryBackend):
    """Close ends the timed leases, too, of a backend that has a session."""

    def _lease(self, board: Any, record: Any, *args: Any) -> Lease:
        lease = super()._lease(board, record, *args)
        self.__dict__.setdefault("mine", []).append(lease)
        return lease

    def close(self) -> None:
        board = self._board
        if board is not None and self._session is not None:
            for lease in self.__dict__.get("mine", ()):
                record = board.live.get(lease.key)
                if record is not None and record.posting.lease == lease:
                    record.lease_ends_at = record.lease_ends_at and 0.0
        super().close()


# -- entities --------------------------------------------------------------------------------


@caught_by("LEASE-4", "DIR-2")
class EntityStaysWithItsFirst(memory.MemoryBackend):
    """An entity that another session replaced lives by the session that added it first."""

    def _add_entity(self, board: Any, new: primitives.NewPosting, session: str) -> Posting:
        known = board.entities.get(new.key)
        return super()._add_entity(board, new, session if known is None else known[1])


@caught_by("LEASE-4", "DIR-2")
class EntityIsListedByEachSession(memory.MemoryBackend):
    """A session that ends takes all with it that it ever added, whoever has replaced it."""

    def _add_entity(self, board: Any, new: primitives.NewPosting, session: str) -> Posting:
        entry = super()._add_entity(board, new, session)
        board.__dict__.setdefault("added", []).append((session, new.key))
        return entry

    def _reap(self, board: Any) -> None:
        super()._reap(board)
        for session, key in board.__dict__.get("added", ()):
            if session not in board.sessions:
                board.entities.pop(key, None)


@caught_by("LEASE-4", also="LEASE-7")
class EntityIsNotRenewed(memory.MemoryBackend):
    """An entity lives for one time-out from when it was added: keepalive does not renew it."""

    def _add_entity(self, board: Any, new: primitives.NewPosting, session: str) -> Posting:
        entry = super()._add_entity(board, new, session)
        end = boottime() + self.settings.session_timeout
        board.__dict__.setdefault("ends", {})[new.key] = end
        return entry

    def _reap(self, board: Any) -> None:
        super()._reap(board)
        for key, end in board.__dict__.get("ends", {}).items():
            if end <= boottime():
                board.entities.pop(key, None)
