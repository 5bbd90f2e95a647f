# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Broken backends: the memory backend with one small fault each in its lock or its directory.

It imports the memory backend, whose inside it spoils.
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Sequence
from typing import Any

from multiboard import errors, primitives
from multiboard.backends import memory
from multiboard.primitives import ChangeKind, Lease, Posting, Shelf, boottime
from tests.mutants.mutants import caught_by

# -- the lock --------------------------------------------------------------------------------


@caught_by("LEASE-1", "RUN-1", also="history LEASE-5 LEASE-6 LEASE-7")
class RacyAcquire(memory.MemoryBackend):
    """Looks whether a posting is leased, and leases it a moment later."""

    def acquire(
        self, key: str, holder: str, claim_id: str, expires_in: float | None = None
    ) -> Lease:
        (posting,) = self.get([key])
        if posting is not None and posting.lease is None:
            time.sleep(0.005)
            board = self._opened()
            with board.changed:
                record = board.live.get(key)
                if record is not None:
                    record.posting = dataclasses.replace(record.posting, lease=None)
        return super().acquire(key, holder, claim_id, expires_in)


@caught_by("LEASE-3", also="history BATCH-1 FEED-4 LEASE-8 NEXT-1")
class TokenRestarts(memory.MemoryBackend):
    """Counts tokens anew after every lease that was given back."""

    def _end_lease(self, board: Any, record: Any, kind: ChangeKind) -> None:
        super()._end_lease(board, record, kind)
        board.tokens = itertools.count(1)


@caught_by("LEASE-3", also="history")
class TokenRestartsInTheTrash(memory.MemoryBackend):
    """Counts tokens anew for a posting that comes back from the trash."""

    def restore(self, key: str) -> Posting:
        self._opened().tokens = itertools.count(1)
        return super().restore(key)


@caught_by("LEASE-2", also="ERR-1 ERR-2 LEASE-3 LEASE-7")
class ConsumeByName(memory.MemoryBackend):
    """Takes the holder's name for the proof."""

    @staticmethod
    def _leased(board: Any, lease: Lease) -> Any:
        record = board.live.get(lease.key)
        if record is None:
            raise errors.PostingNotFound(lease.key)
        current = record.posting.lease
        if current is None or current.holder != lease.holder:
            raise errors.LeaseLost(lease.key, lease.token)
        return record


@caught_by("LEASE-2", also="BATCH-1 ERR-1 ERR-2 LEASE-3 LEASE-7")
class LostLeaseIsNotFound(memory.MemoryBackend):
    """Says PostingNotFound of a lease that is lost."""

    @staticmethod
    def _leased(board: Any, lease: Lease) -> Any:
        try:
            return memory.MemoryBackend._leased(board, lease)
        except errors.LeaseLost:
            raise errors.PostingNotFound(lease.key) from None


@caught_by(
    "LEASE-5",
    also="FEED-1 FEED-3 LEASE-1 LEASE-2 LEASE-3 LEASE-4 LEASE-6 LEASE-7 LEASE-8 NEXT-1 NEXT-2",
)
class EndlessTimedLease(memory.MemoryBackend):
    """A timed lease never ends."""

    def _reap(self, board: Any) -> None:
        for record in board.live.values():
            if record.lease_ends_at is not None:
                record.lease_ends_at = boottime() + 1000.0
        super()._reap(board)


@caught_by("LEASE-5", "LEASE-7", also="LEASE-1")
class TimedLeaseEndsEarly(memory.MemoryBackend):
    """A timed lease ends at nine tenths of its time."""

    def acquire(
        self, key: str, holder: str, claim_id: str, expires_in: float | None = None
    ) -> Lease:
        return super().acquire(key, holder, claim_id, expires_in and expires_in * 0.9)


@caught_by("LEASE-5", also="LEASE-1 LEASE-2 LEASE-3 LEASE-7")
class RefusedAttemptProlongs(memory.MemoryBackend):
    """An attempt that is refused renews the lease that stands."""

    def acquire(
        self, key: str, holder: str, claim_id: str, expires_in: float | None = None
    ) -> Lease:
        try:
            return super().acquire(key, holder, claim_id, expires_in)
        except errors.LeaseHeld:
            record = self._opened().live[key]
            if record.lease_ends_at is not None and expires_in is not None:
                record.lease_ends_at = boottime() + expires_in
            raise


@caught_by("LEASE-6", also="LEASE-8")
class ClaimIdIgnored(memory.MemoryBackend):
    """A repeated attempt is refused as if another had made the first one."""

    def acquire(
        self, key: str, holder: str, claim_id: str, expires_in: float | None = None
    ) -> Lease:
        (posting,) = self.get([key])
        if posting is not None and posting.lease is not None:
            raise errors.LeaseHeld(key, posting.lease.holder)
        return super().acquire(key, holder, claim_id, expires_in)


@caught_by("LEASE-8", also="LEASE-1 LEASE-2 LEASE-4 LEASE-5")
class DeathsAreNotCounted(memory.MemoryBackend):
    """Takes a death for an abandon."""

    def _end_lease(self, board: Any, record: Any, kind: ChangeKind) -> None:
        deaths = record.posting.deaths
        super()._end_lease(board, record, kind)
        ended = board.live[record.posting.key]
        ended.posting = dataclasses.replace(ended.posting, deaths=deaths)


@caught_by("ERR-2", also="LEASE-2")
class ReleaseIsNotRepeatable(memory.MemoryBackend):
    """Answers LeaseLost to a release whose first reply was lost."""

    def release(self, lease: Lease, delay: float = 0.0) -> None:
        board = self._opened()
        with board.changed:
            if board.ended_by(lease) is ChangeKind.RELEASED:
                raise errors.LeaseLost(lease.key, lease.token)
        super().release(lease, delay)


@caught_by("ERR-2", also="BATCH-1")
class RemovalIsNotRepeatable(memory.MemoryBackend):
    """Answers PostingNotFound to a removal whose first reply was lost."""

    def _remove_one(self, board: Any, lease: Lease, to: Any) -> errors.MultiboardError | None:
        board.ended.pop((lease.key, lease.token), None)
        return super()._remove_one(board, lease, to)


# -- sessions --------------------------------------------------------------------------------


@caught_by("LEASE-7")
class ReaperFreesTheLiving(memory.MemoryBackend):
    """Ends a session at two thirds of the time that keepalive promised."""

    def keepalive(self, within: float | None = None) -> float:
        granted = super().keepalive(within)
        self._opened().sessions[str(self._session)] = boottime() + granted * 0.66
        return granted


@caught_by("LEASE-4", also="FEED-3 LEASE-2 LEASE-3 LEASE-7 LEASE-8")
class SessionsNeverEnd(memory.MemoryBackend):
    """The leases of the dead are kept for ever."""

    def _begin_session(self, board: Any) -> str:
        session = super()._begin_session(board)
        board.sessions[session] = boottime() + 1000.0
        return session

    def keepalive(self, within: float | None = None) -> float:
        granted = super().keepalive(within)
        self._opened().sessions[str(self._session)] = boottime() + 1000.0
        return granted


@caught_by("LEASE-4", also="DIR-1 LEASE-7")
class EntitiesOutliveTheirSession(memory.MemoryBackend):
    """Entries stay when the session that added them is over."""

    def _reap(self, board: Any) -> None:
        kept = dict(board.entities)
        super()._reap(board)
        board.entities.update(kept)


@caught_by("LEASE-4", also="FEED-1 FEED-3 LEASE-1 LEASE-2 LEASE-5")
class EndsInSilence(memory.MemoryBackend):
    """Frees the leases of the dead and reports it to nobody."""

    def _end_lease(self, board: Any, record: Any, kind: ChangeKind) -> None:
        super()._end_lease(board, record, kind)
        if kind is ChangeKind.EXPIRED:
            board.drop(board.log, board.position)
            board.set(board.numbers, "position", board.position - 1)


@caught_by("LEASE-7", also="LEASE-4")
class SessionLostIsSwallowed(memory.MemoryBackend):
    """Begins a new session without a word where the old one has ended."""

    def _begin_session(self, board: Any) -> str:
        try:
            return super()._begin_session(board)
        except errors.SessionLost:
            return super()._begin_session(board)


@caught_by("LEASE-4", also="FEED-3")
class RivalKeepsTheDead(memory.MemoryBackend):
    """An attempt that is refused renews the session of whoever holds the lease."""

    def acquire(
        self, key: str, holder: str, claim_id: str, expires_in: float | None = None
    ) -> Lease:
        try:
            return super().acquire(key, holder, claim_id, expires_in)
        except errors.LeaseHeld:
            board = self._opened()
            held = board.live[key].posting.lease
            if expires_in is None and held is not None and held.session in board.sessions:
                board.sessions[held.session] = boottime() + self.settings.session_timeout
            raise


# -- the directory ---------------------------------------------------------------------------


@caught_by(
    "BATCH-1",
    "DIR-1",
    also="history DIR-2 DIR-3 DIR-4 ERR-2 FEED-3 LEASE-4 LEASE-5 LEASE-6 LEASE-7 LEASE-8 NEXT-1",
)
class LostBatchItem(memory.MemoryBackend):
    """Acknowledges the last of a batch and forgets it."""

    def add(
        self, postings: Sequence[primitives.NewPosting], shelf: Shelf = Shelf.LIVE
    ) -> Sequence[Posting | errors.MultiboardError]:
        answers = super().add(postings, shelf)
        if len(postings) > 2 and shelf is Shelf.LIVE:
            self._opened().live.pop(postings[-1].key, None)
        return answers


@caught_by("BATCH-1", also="DIR-3")
class AnswersInAnotherOrder(memory.MemoryBackend):
    """Answers a get in the order of the shelf."""

    def get(self, keys: Sequence[str]) -> Sequence[Posting | None]:
        answers = super().get(keys)
        there = sorted((p for p in answers if p is not None), key=lambda p: p.place)
        return [*there, *[None] * (len(keys) - len(there))]


@caught_by("DIR-2", also="BATCH-1 ERR-1 ERR-2")
class RetryPostsTwice(memory.MemoryBackend):
    """A posting that is added again gets another serial and is reported again."""

    def _add_one(self, board: Any, new: Any) -> Posting | errors.MultiboardError:
        record = board.live.get(new.key)
        if record is not None and record.posting.lease is None:
            del board.live[new.key]
        return super()._add_one(board, new)


@caught_by("DIR-2")
class ConsumedComesBack(memory.MemoryBackend):
    """Forgets at once what was consumed."""

    def _remove_one(
        self, board: Any, lease: Lease, to: Shelf | None
    ) -> errors.MultiboardError | None:
        answer = super()._remove_one(board, lease, to)
        if to is None:
            board.drop(board.consumed, lease.key)
        return answer


@caught_by("DIR-3", also="BATCH-1 DIR-1 DIR-2 DIR-4 LEASE-2")
class OrderByKey(memory.MemoryBackend):
    """Orders a rank by the key, as stores do that have no order of their own."""

    def list(self, shelf: Shelf = Shelf.LIVE, **part: Any) -> primitives.Page:
        page = super().list(shelf, **part)
        ordered = sorted(page.postings, key=lambda posting: (posting.rank, posting.key))
        return dataclasses.replace(page, postings=ordered)


@caught_by("DIR-3")
class RankAsText(memory.MemoryBackend):
    """Orders ranks as text: 10 before 9."""

    def list(self, shelf: Shelf = Shelf.LIVE, **part: Any) -> primitives.Page:
        page = super().list(shelf, **part)
        ordered = sorted(page.postings, key=lambda posting: (str(posting.rank), posting.serial))
        return dataclasses.replace(page, postings=ordered)


@caught_by("DIR-4")
class BodyAsText(memory.MemoryBackend):
    """Takes a body for text."""

    def _add_one(self, board: Any, new: Any) -> Posting | errors.MultiboardError:
        text = new.body.decode("utf-8", "replace").encode()
        return super()._add_one(board, dataclasses.replace(new, body=text))


@caught_by("DIR-5")
class NamespaceWithoutCase(memory.MemoryBackend):
    """Keeps boards whose names differ by case only in one place."""

    def __init__(self, settings: primitives.Settings) -> None:
        super().__init__(dataclasses.replace(settings, namespace=settings.namespace.lower()))


@caught_by("DIR-1", "LEASE-2", also="history BATCH-1 DIR-2 DIR-3 DIR-4 ERR-2 LEASE-8")
class TrashDeletes(memory.MemoryBackend):
    """Deletes what should be set aside."""

    def _remove_one(self, board: Any, lease: Lease, to: Any) -> errors.MultiboardError | None:
        answer = super()._remove_one(board, lease, to)
        board.trash.pop(lease.key, None)
        return answer


@caught_by("DIR-1")
class PageSkipsOne(memory.MemoryBackend):
    """Loses the posting between two pages."""

    def list(
        self,
        shelf: Shelf = Shelf.LIVE,
        *,
        after: primitives.Place | None = None,
        limit: int | None = None,
    ) -> primitives.Page:
        if after is not None:
            after = (after[0], after[1] + 1)
        return super().list(shelf, after=after, limit=limit)


# -- what comes again ------------------------------------------------------------------------


@caught_by("DIR-2", also="DIR-1")
class PurgedComesBack(memory.MemoryBackend):
    """Forgets at once what was purged."""

    def purge(self, keys: Sequence[str], shelf: Shelf = Shelf.TRASH) -> Sequence[bool]:
        answers = super().purge(keys, shelf)
        for key in keys:
            self._opened().consumed.pop(key, None)
        return answers


@caught_by("LEASE-2", "ERR-2", also="LEASE-1")
class PurgedWasRemoved(memory.MemoryBackend):
    """Takes a purged posting for one that its last lease removed."""

    def purge(self, keys: Sequence[str], shelf: Shelf = Shelf.TRASH) -> Sequence[bool]:
        answers = super().purge(keys, shelf)
        ended = self._opened().ended
        for place in [place for place in ended if place[0] in keys]:
            ended[place] = (ended[place][0], ChangeKind.REMOVED)
        return answers


@caught_by("LEASE-6", "LEASE-1")
class ClaimIdLeasesAgain(memory.MemoryBackend):
    """Leases again by a claim id whose lease was given back or used up."""

    def _reap(self, board: Any) -> None:
        super()._reap(board)
        board.spent.clear()
