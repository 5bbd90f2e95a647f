# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Broken backends: the memory backend with one small fault each in its queue, feed or errors.

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
from multiboard.primitives import ChangeKind, Changes, Lease, Posting, Shelf, boottime
from tests.mutants.mutants import caught_by

# -- handing out -----------------------------------------------------------------------------


@caught_by("NEXT-2", also="LEASE-5 NEXT-1")
class DelayIsIgnored(memory.MemoryBackend):
    """Hands out what is not due."""

    def acquire_next(
        self, holder: str, claim_ids: Sequence[str], expires_in: float | None = None
    ) -> Sequence[tuple[Posting, Lease]]:
        for record in self._opened().live.values():
            record.due_at = 0.0
        return super().acquire_next(holder, claim_ids, expires_in)


@caught_by("NEXT-1", also="BATCH-1 DIR-3 LEASE-1 LEASE-5 LEASE-6 NEXT-2")
class YoungestFirst(memory.MemoryBackend):
    """Hands out the youngest of a rank first."""

    def acquire_next(
        self, holder: str, claim_ids: Sequence[str], expires_in: float | None = None
    ) -> Sequence[tuple[Posting, Lease]]:
        board = self._opened()
        with board.changed:
            for record in board.live.values():
                record.posting = dataclasses.replace(record.posting, serial=-record.posting.serial)
            won = super().acquire_next(holder, claim_ids, expires_in)
            for record in board.live.values():
                record.posting = dataclasses.replace(record.posting, serial=-record.posting.serial)
        return won


@caught_by("NEXT-1", "LEASE-6")
class RepeatedNextTakesMore(memory.MemoryBackend):
    """A repeated acquire_next takes postings again, for the same claim ids."""

    def acquire_next(
        self, holder: str, claim_ids: Sequence[str], expires_in: float | None = None
    ) -> Sequence[tuple[Posting, Lease]]:
        number = next(_numbers)
        return super().acquire_next(holder, [f"{c}{number}" for c in claim_ids], expires_in)


_numbers = itertools.count()


# -- the feed --------------------------------------------------------------------------------


@caught_by(
    "FEED-1",
    also="history BATCH-1 DIR-1 DIR-5 ERR-2 FEED-2 FEED-3 FEED-4 LEASE-4 LEASE-5 NEXT-1",
    perhaps="LEASE-6",
)
class FeedDrops(memory.MemoryBackend):
    """Tells every change but each ninth."""

    @staticmethod
    def _publish(board: Any, kind: ChangeKind, key: str, token: int | None = None) -> None:
        if next(_numbers) % 9:
            memory.MemoryBackend._publish(board, kind, key, token)


@caught_by("FEED-2", also="FEED-1")
class AnnouncesEarly(memory.MemoryBackend):
    """Tells of a posting a moment before the listing can show it."""

    def add(
        self, postings: Sequence[primitives.NewPosting], shelf: Shelf = Shelf.LIVE
    ) -> Sequence[Posting | errors.MultiboardError]:
        board = self._opened()
        if shelf is Shelf.LIVE:
            known = {p.key for p in self.get([new.key for new in postings]) if p is not None}
            with board.changed:
                for new in postings:
                    if new.key not in known and new.key not in board.trash:
                        self._publish(board, ChangeKind.POSTED, new.key)
                board.end()
            time.sleep(0.01)
        return super().add(postings, shelf)

    def _add_one(self, board: Any, new: Any) -> Posting | errors.MultiboardError:
        position, length = board.position, len(board.log)
        answer = super()._add_one(board, new)
        if len(board.log) > length:
            board.drop(board.log, board.position)
            board.set(board.numbers, "position", position)
        return answer


@caught_by("FEED-3", also="ERR-1")
class FeedPolls(memory.MemoryBackend):
    """Looks for changes every two seconds."""

    def changes(self, cursor: str | None, timeout: float) -> Changes:
        give_up = boottime() + timeout
        while True:
            changes = super().changes(cursor, 0.0)
            left = give_up - boottime()
            if changes.events or changes.reset or left <= 0:
                return changes
            time.sleep(min(2.0, left))


@caught_by("FEED-3", also="LEASE-5")
class RenewalWakesNobody(memory.MemoryBackend):
    """Whoever waits for the end of a lease goes on waiting when a renewal makes it shorter."""

    def changes(self, cursor: str | None, timeout: float) -> Changes:
        board = self._opened()
        give_up = boottime() + timeout
        with board.changed:
            ends, position = board.next_deadline(), board.position
        while (left := min(give_up, ends) - boottime()) > 0:
            with board.changed:
                seen = self._position(board, cursor)
                if seen is None or seen < board.position or self._board is not board:
                    break
                if board.position == position:
                    board.changed.wait(left)
        return super().changes(cursor, max(0.0, give_up - boottime()))


@caught_by("FEED-4")
class SilentAfterReconnect(memory.MemoryBackend):
    """Takes a cursor that it can't read for one from which nothing was missed."""

    def changes(self, cursor: str | None, timeout: float) -> Changes:
        changes = super().changes(cursor, timeout)
        return changes if cursor is None else dataclasses.replace(changes, reset=False)


# -- errors and everything at once -----------------------------------------------------------


@caught_by("ERR-1", also="history DIR-1 ERR-2")
class NativeErrorEscapes(memory.MemoryBackend):
    """Lets the error of its own dictionary out."""

    def restore(self, key: str) -> Posting:
        board = self._opened()
        if key not in board.live and key not in board.trash:
            raise KeyError(key)
        return super().restore(key)


@caught_by("ERR-1")
class WorksAfterClose(memory.MemoryBackend):
    """Goes on reading after close."""

    _last: Any = None

    def close(self) -> None:
        self._last = self._board
        super().close()

    def count(self, shelf: Shelf = Shelf.LIVE) -> int:
        return 0 if self._board is None and self._last is not None else super().count(shelf)


@caught_by("ERR-2", also="BATCH-1 DIR-2 ERR-1")
class RefusalRenames(memory.MemoryBackend):
    """A refused posting leaves its body behind."""

    def _add_one(self, board: Any, new: Any) -> Posting | errors.MultiboardError:
        answer = super()._add_one(board, new)
        if isinstance(answer, errors.PostingExists) and new.key in board.live:
            record = board.live[new.key]
            record.posting = dataclasses.replace(record.posting, body=new.body)
        return answer


@caught_by("RUN-1")
class NotForkSafe(memory.MemoryBackend):
    """Lets a forked child work on its own copy of the board, as if it were shared."""

    def _opened(self) -> Any:
        if self._board is None:
            raise errors.Closed("the memory board is not open")
        return self._board


@caught_by("RUN-1", also="DIR-1")
class FirstOfAllIsTwo(memory.MemoryBackend):
    """Looks whether there is a board, and makes one a moment later."""

    def open(self) -> None:
        place = (self.settings.name, self.settings.namespace)
        if self.settings.create and place not in memory._boards:
            time.sleep(0.005)
            memory._boards[place] = memory._Board()
        super().open()


class Empty(primitives.Backend):
    """Raises everywhere: it must fail every guarantee."""

    @property
    def traits(self) -> primitives.Traits:
        return primitives.Traits(
            durable=True, cross_process=True, cross_host=False, max_body=1000, lease_slack=0.1
        )

    @property
    def incarnation(self) -> str:
        raise NotImplementedError

    def _refuse(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError("this backend does nothing")

    open = close = keepalive = _refuse
    add = get = list = count = remove = restore = purge = _refuse
    acquire = renew = release = changes = _refuse
