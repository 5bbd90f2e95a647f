# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Broken backends: the memory backend with one small fault each in its claims, early, late, again.

It imports the memory backend, whose inside it spoils.
"""

from __future__ import annotations

import dataclasses
import time
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from multiboard import errors
from multiboard.backends import memory
from multiboard.primitives import ChangeKind, Lease, Posting, Shelf, boottime
from tests.mutants.mutants import caught_by

# -- claims made early -----------------------------------------------------------------------


@caught_by("NEXT-2", also="LEASE-4")
class DeathMakesDue(memory.MemoryBackend):
    """A posting that was claimed early is due at once when that claim ends by itself."""

    def _end_lease(self, board: Any, record: Any, kind: ChangeKind) -> None:
        if kind is ChangeKind.EXPIRED:
            record = dataclasses.replace(record, due_at=boottime())
        super()._end_lease(board, record, kind)


@caught_by("NEXT-2")
class DeathDelaysAnew(memory.MemoryBackend):
    """The delay of a posting begins anew when its lease ends by itself."""

    def _end_lease(self, board: Any, record: Any, kind: ChangeKind) -> None:
        if kind is ChangeKind.EXPIRED:
            delays = board.__dict__.get("delays", {})
            due_at = boottime() + delays.get(record.posting.key, 0.0)
            record = dataclasses.replace(record, due_at=due_at)
        super()._end_lease(board, record, kind)

    def _add_one(self, board: Any, new: Any) -> Posting | errors.MultiboardError:
        board.__dict__.setdefault("delays", {}).setdefault(new.key, new.delay)
        return super()._add_one(board, new)


@caught_by("NEXT-2", also="LEASE-4")
class ClaimMakesDue(memory.MemoryBackend):
    """A claim forgets the delay of a posting that it leases early."""

    def _lease(self, board: Any, record: Any, *args: Any) -> Lease:
        return super()._lease(board, dataclasses.replace(record, due_at=0.0), *args)


@caught_by("NEXT-2", "DIR-1")
class TrashKeepsTheDelay(memory.MemoryBackend):
    """A posting comes back from the trash with the delay that it had."""

    def _remove_one(self, board: Any, lease: Lease, to: Any) -> errors.MultiboardError | None:
        record = board.live.get(lease.key)
        answer = super()._remove_one(board, lease, to)
        if record is not None and lease.key in board.trash:
            board.__dict__.setdefault("due", {})[lease.key] = record.due_at
        return answer

    def restore(self, key: str) -> Posting:
        super().restore(key)
        board = self._opened()
        record = board.live[key]
        record.due_at = board.__dict__.get("due", {}).pop(key, record.due_at)
        return record.as_posting()


# -- acquire_next ----------------------------------------------------------------------------


@caught_by("NEXT-1", "NEXT-2")
class DueByTheHundred(memory.MemoryBackend):
    """What becomes due is moved to the queue a hundred at a time, the earliest first."""

    def acquire_next(
        self, holder: str, claim_ids: Sequence[str], expires_in: float | None = None
    ) -> Sequence[tuple[Posting, Lease]]:
        board = self._opened()
        with board.changed:
            self._reap(board)
            moved = board.__dict__.setdefault("moved", set())
            due = [r for r in board.live.values() if r.due_at < boottime()]
            waiting = [r for r in due if r.posting.key not in moved]
            waiting.sort(key=lambda record: record.due_at)
            moved.update(record.posting.key for record in waiting[:100])
            held_back = {r.posting.key: r.due_at for r in waiting[100:]}
            for key in held_back:
                board.live[key].due_at = boottime() + 60.0
            try:
                return super().acquire_next(holder, claim_ids, expires_in)
            finally:
                for key, due_at in held_back.items():
                    board.live[key].due_at = due_at


@caught_by("LEASE-6", "NEXT-1")
class NextAnswersAStranger(memory.MemoryBackend):
    """acquire_next answers with what its claim ids hold, in whatever session that is."""

    def acquire_next(
        self, holder: str, claim_ids: Sequence[str], expires_in: float | None = None
    ) -> Sequence[tuple[Posting, Lease]]:
        board = self._opened()
        with board.changed:
            self._reap(board)
            shown = [record.as_posting() for record in board.live.values()]
            held = [p for p in shown if p.lease and p.lease.claim_id in claim_ids]
            known = {p.lease.claim_id for p in held if p.lease}
            rest = [claim_id for claim_id in claim_ids if claim_id not in known]
            won = super().acquire_next(holder, rest, expires_in)
            return [*((p, p.lease) for p in held if p.lease), *won]


@caught_by("LEASE-6", "NEXT-1")
class NextRemembersItsOwn(memory.MemoryBackend):
    """acquire_next finds again what this very backend leased, and nothing that another one did."""

    def acquire_next(
        self, holder: str, claim_ids: Sequence[str], expires_in: float | None = None
    ) -> Sequence[tuple[Posting, Lease]]:
        mine = self.__dict__.setdefault("mine", {})
        asked = [mine.setdefault(one, f"{one}-{id(self)}") for one in claim_ids]
        names = dict(zip(asked, claim_ids, strict=True))
        won = []
        board = self._opened()
        with board.changed:
            for posting, lease in super().acquire_next(holder, asked, expires_in):
                named = dataclasses.replace(lease, claim_id=names[lease.claim_id])
                won.append((dataclasses.replace(posting, lease=named), named))
        return won


@caught_by("LEASE-2", "LEASE-8", also="NEXT-1 RUN-1")
class CallEndsAsAWhole(memory.MemoryBackend):
    """The leases of one call share one record: who releases one releases all."""

    def acquire_next(
        self, holder: str, claim_ids: Sequence[str], expires_in: float | None = None
    ) -> Sequence[tuple[Posting, Lease]]:
        won = super().acquire_next(holder, claim_ids, expires_in)
        calls = self._opened().__dict__.setdefault("calls", {})
        group = [lease for _, lease in won]
        calls.update({(lease.key, lease.token): group for lease in group})
        return won

    def release(self, lease: Lease, delay: float = 0.0) -> None:
        super().release(lease, delay)
        calls = self._opened().__dict__.get("calls", {})
        for one in calls.pop((lease.key, lease.token), ()):
            try:
                super().release(one, delay)
            except errors.MultiboardError:
                continue


@caught_by("LEASE-8", "LEASE-2")
class CallDiesAsAWhole(memory.MemoryBackend):
    """Of the leases of one call the end of one is the end of all."""

    def _reap(self, board: Any) -> None:
        now = boottime()
        over = {
            record.posting.lease.holder + str(record.posting.modified_on // 0.05)
            for record in board.live.values()
            if record.lease_ends_at is not None and board.lease_is_over(record, now)
        }
        for record in list(board.live.values()):
            lease = record.posting.lease
            if lease is None or record.lease_ends_at is None:
                continue
            if lease.holder + str(record.posting.modified_on // 0.05) in over:
                record.lease_ends_at = now
        super()._reap(board)


# -- ends_in ---------------------------------------------------------------------------------


@caught_by("LEASE-5", also="LEASE-6")
class RepeatAnswersWhatIsAsked(memory.MemoryBackend):
    """A repeat answers with the span that it asks for as what is left."""

    def acquire(
        self, key: str, holder: str, claim_id: str, expires_in: float | None = None
    ) -> Lease:
        lease = super().acquire(key, holder, claim_id, expires_in)
        return dataclasses.replace(lease, ends_in=expires_in)


@caught_by("LEASE-5")
class RenewalAnswersTheOldEnd(memory.MemoryBackend):
    """A renewal answers with the lease as it was given to it."""

    def renew(self, lease: Lease, expires_in: float) -> Lease:
        super().renew(lease, expires_in)
        return lease


@caught_by("LEASE-5")
class RepeatFindsTheFirstEnd(memory.MemoryBackend):
    """A repeat answers with what was left before the lease was renewed."""

    def acquire(
        self, key: str, holder: str, claim_id: str, expires_in: float | None = None
    ) -> Lease:
        lease = super().acquire(key, holder, claim_id, expires_in)
        ends = self._opened().__dict__.setdefault("ends", {})
        end = ends.setdefault((key, lease.token), boottime() + (expires_in or 0.0))
        return dataclasses.replace(lease, ends_in=expires_in and max(0.0, end - boottime()))


@caught_by("LEASE-5", "LEASE-7")
class NewcomerEndsEarly(memory.MemoryBackend):
    """A backend that has just been opened takes what soon ends for what has ended."""

    def open(self) -> None:
        super().open()
        board = self._opened()
        with board.changed:
            for record in board.live.values():
                if record.lease_ends_at is not None and record.lease_ends_at < boottime() + 0.7:
                    record.lease_ends_at = boottime()


# -- whose token -----------------------------------------------------------------------------


@caught_by("LEASE-2", "ERR-2", also="BATCH-1")
class RemovalIsKnownByItsKey(memory.MemoryBackend):
    """A removal of what was removed is a repeat, whatever the lease."""

    def _remove_one(self, board: Any, lease: Lease, to: Any) -> errors.MultiboardError | None:
        gone = board.consumed if to is None else board.trash
        if lease.key in gone and lease.key not in board.live:
            return None
        return super()._remove_one(board, lease, to)


@caught_by("LEASE-2", "ERR-2", also="LEASE-3 LEASE-5 LEASE-7 ERR-1")
class ReleaseOfTheFreeIsARepeat(memory.MemoryBackend):
    """A release of a posting that has no lease is a repeat, whatever the token."""

    def release(self, lease: Lease, delay: float = 0.0) -> None:
        (posting,) = self.get([lease.key])
        if posting is None or posting.lease is not None:
            super().release(lease, delay)


# -- several boards --------------------------------------------------------------------------

_SPENT: OrderedDict[str, tuple[float, int]] = OrderedDict()
_ENTITIES: dict[str, Any] = {}


@caught_by("RUN-1", "DIR-5")
class BoardsShareClaimIds(memory.MemoryBackend):
    """The claim ids that are spent are kept for the whole store."""

    def open(self) -> None:
        super().open()
        self._opened().spent = _SPENT


@caught_by("RUN-1", also="DIR-5 LEASE-4 DIR-1 DIR-2 LEASE-7 ERR-1")
class BoardsShareEntities(memory.MemoryBackend):
    """The entities of all boards of a store are in one table, which has no column for the board."""

    def open(self) -> None:
        super().open()
        self._opened().entities = _ENTITIES


@caught_by("RUN-1", also="DIR-5", perhaps="FEED-1")
class NeighboursDeadlock(memory.MemoryBackend):
    """A removal locks its neighbours: two that do so wait for each other, and one gives up."""

    def remove(
        self, leases: Sequence[Lease], to: Shelf | None = None
    ) -> Sequence[errors.MultiboardError | None]:
        board, place = self._opened(), (self.settings.name, self.settings.namespace)
        busy = [
            other
            for (store, name), other in list(memory.state.boards.items())
            if store == place[0] and name[:20] == place[1][:20] and other is not board
        ]
        vars(board)["removing"] = True
        try:
            time.sleep(0.002)
            if any(vars(other).get("removing") for other in busy):
                raise errors.Unavailable("deadlock found: the transaction was rolled back")
            return super().remove(leases, to)
        finally:
            vars(board)["removing"] = False
