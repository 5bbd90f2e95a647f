# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Broken backends: the memory backend with one small fault each in what it lists, counts or keeps.

It imports the memory backend, whose inside it spoils.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import threading
import time
from collections.abc import Sequence
from typing import Any

from multiboard import errors, primitives
from multiboard.backends import memory
from multiboard.primitives import ChangeKind, Lease, Page, Place, Posting, Shelf, boottime
from tests.mutants.mutants import caught_by

# -- pages and counts ------------------------------------------------------------------------


@caught_by("DIR-1", also="RUN-1")
class LaterPagesAreOld(memory.MemoryBackend):
    """Reads the whole shelf for the first page, and serves the later ones from that."""

    _kept: Sequence[Posting] = ()

    def list(
        self, shelf: Shelf = Shelf.LIVE, *, after: Place | None = None, limit: int | None = None
    ) -> Page:
        if after is None or limit is None:
            self._kept = super().list(shelf).postings
            return super().list(shelf, after=after, limit=limit)
        rest = [posting for posting in self._kept if posting.place > after]
        return Page(rest[:limit], rest[limit - 1].place if len(rest) > limit else None)


@caught_by("DIR-1", also="DIR-3")
class LastPageIsMissed(memory.MemoryBackend):
    """Takes a shelf for walked to its end where one posting is left."""

    def list(
        self, shelf: Shelf = Shelf.LIVE, *, after: Place | None = None, limit: int | None = None
    ) -> Page:
        page = super().list(shelf, after=after, limit=limit)
        if page.after is not None and len(super().list(shelf, after=page.after).postings) == 1:
            return dataclasses.replace(page, after=None)
        return page


@caught_by("DIR-1", "DIR-3")
class TrashHasNoPages(memory.MemoryBackend):
    """Begins anew at each page of the trash."""

    def list(
        self, shelf: Shelf = Shelf.LIVE, *, after: Place | None = None, limit: int | None = None
    ) -> Page:
        return super().list(shelf, after=None if shelf is Shelf.TRASH else after, limit=limit)


@caught_by("DIR-3", also="DIR-1")
class TrashInOrderOfTrashing(memory.MemoryBackend):
    """Lists the trash by the time at which postings got there."""

    def list(self, shelf: Shelf = Shelf.LIVE, **part: Any) -> Page:
        page = super().list(shelf, **part)
        if shelf is not Shelf.TRASH:
            return page
        ordered = sorted(page.postings, key=lambda posting: posting.modified_on)
        return dataclasses.replace(page, postings=ordered)


@caught_by("DIR-1")
class ListEndsAtAThousand(memory.MemoryBackend):
    """Lists no more than a thousand, and does not say that there are more."""

    def list(self, shelf: Shelf = Shelf.LIVE, **part: Any) -> Page:
        page = super().list(shelf, **part)
        return dataclasses.replace(page, postings=page.postings[:1000])


@caught_by("DIR-1")
class CountsTheFree(memory.MemoryBackend):
    """Counts what may be handed out, and not what is leased or delayed."""

    def count(self, shelf: Shelf = Shelf.LIVE) -> int:
        postings = self.list(shelf).postings
        return sum(posting.lease is None and posting.due_in == 0.0 for posting in postings)


@caught_by("DIR-1", also="DIR-2")
class CountIsKeptApart(memory.MemoryBackend):
    """Counts postings as they come and go, and forgets that some come back from the trash."""

    def restore(self, key: str) -> Posting:
        board: Any = self._opened()
        board.uncounted = getattr(board, "uncounted", 0) + (key in board.trash)
        return super().restore(key)

    def count(self, shelf: Shelf = Shelf.LIVE) -> int:
        uncounted = getattr(self._opened(), "uncounted", 0)
        return super().count(shelf) - (uncounted if shelf is Shelf.LIVE else 0)


@caught_by("BATCH-1", also="DIR-1")
class RemovesAHundred(memory.MemoryBackend):
    """Removes the first two hundred of a batch, and answers for all."""

    def remove(
        self, leases: Sequence[Lease], to: Shelf | None = None
    ) -> Sequence[errors.MultiboardError | None]:
        answers = super().remove(leases[:200], to)
        return [*answers, *[None] * (len(leases) - len(answers))]


# -- keys and bodies -------------------------------------------------------------------------


@caught_by("DIR-2")
class SameLengthIsSame(memory.MemoryBackend):
    """Takes a body of the same length for the same body."""

    def _add_one(self, board: Any, new: Any) -> Posting | errors.MultiboardError:
        record = board.live.get(new.key) or board.trash.get(new.key)
        if record is not None and len(record.posting.body) == len(new.body):
            new = dataclasses.replace(new, body=record.posting.body)
        return super()._add_one(board, new)


@caught_by("DIR-2")
class SamePosterIsSame(memory.MemoryBackend):
    """Answers a poster of its own key with what is in the trash, whatever it brings."""

    def _add_one(self, board: Any, new: Any) -> Posting | errors.MultiboardError:
        record = board.trash.get(new.key)
        if record is not None:
            return record.as_posting()
        return super()._add_one(board, new)


@caught_by("DIR-2", also="DIR-1")
class FinderForgets(memory.MemoryBackend):
    """Recognises a repeat of who added the posting, not of who found it there."""

    def __init__(self, settings: primitives.Settings) -> None:
        super().__init__(settings)
        self._mine: set[str] = set()

    def _add_one(self, board: Any, new: Any) -> Posting | errors.MultiboardError:
        known = new.key in board.live or new.key in board.trash
        if not known and new.key not in self._mine:
            board.consumed.pop(new.key, None)
            self._mine.add(new.key)
        return super()._add_one(board, new)


@caught_by("LEASE-3")
class PurgedStartsAnew(memory.MemoryBackend):
    """Deletes all that there was of a purged key, the counter of its tokens included."""

    def purge(self, keys: Sequence[str], shelf: Shelf = Shelf.TRASH) -> Sequence[bool]:
        answers = super().purge(keys, shelf)
        board = self._opened()
        if any(answers) and shelf is Shelf.TRASH:
            board.tokens = itertools.count(1)
            for key in keys:
                board.consumed.pop(key, None)
        return answers


@caught_by("DIR-5", also="DIR-6")
class LongNameIsCutOff(memory.MemoryBackend):
    """Keeps fifty characters of a board's name."""

    def __init__(self, settings: primitives.Settings) -> None:
        super().__init__(dataclasses.replace(settings, namespace=settings.namespace[:50]))


@caught_by("DIR-5", also="DIR-6")
class SlashIsADot(memory.MemoryBackend):
    """Writes a dot for each slash in a board's name, as if none had one of its own."""

    def __init__(self, settings: primitives.Settings) -> None:
        name = settings.namespace.replace("/", ".")
        super().__init__(dataclasses.replace(settings, namespace=name))


# -- counts and times ------------------------------------------------------------------------


@caught_by("LEASE-8")
class TrashForgetsDeaths(memory.MemoryBackend):
    """Keeps the attempts of a posting in the trash, and not its deaths."""

    def restore(self, key: str) -> Posting:
        record = self._opened().trash.get(key)
        if record is not None:
            record.posting = dataclasses.replace(record.posting, deaths=0)
        return super().restore(key)


@caught_by("DIR-4", also="DIR-1 LEASE-1")
class RestoredIsNew(memory.MemoryBackend):
    """Takes the time at which a posting was restored for that of its making."""

    def restore(self, key: str) -> Posting:
        record = self._opened().trash.get(key)
        if record is not None:
            record.posting = dataclasses.replace(record.posting, created_on=time.time())
        return super().restore(key)


@caught_by("NEXT-2", "LEASE-5")
class MillisecondsOverflow(memory.MemoryBackend):
    """Counts a delay in milliseconds of 31 bits."""

    _most = 2**31 / 1000.0

    def release(self, lease: Lease, delay: float = 0.0) -> None:
        super().release(lease, delay % self._most)


# -- answers before the commit ---------------------------------------------------------------


def _later(call: Any) -> None:
    def run() -> None:
        time.sleep(0.03)
        with contextlib.suppress(errors.MultiboardError):
            call()

    threading.Thread(target=run, daemon=True).start()


@caught_by("LEASE-2", "LEASE-1", also="DIR-1", perhaps="NEXT-1 NEXT-2 ERR-2 FEED-1 LEASE-8 LEASE-6")
class ReleasesLater(memory.MemoryBackend):
    """Answers a release, and does it a moment later."""

    def release(self, lease: Lease, delay: float = 0.0) -> None:
        board = self._opened()
        with board.changed:
            self._reap(board)
            if board.ended_by(lease) is ChangeKind.RELEASED:
                return
            self._leased(board, lease)
        _later(lambda: super(ReleasesLater, self).release(lease, delay))


@caught_by("LEASE-2", also="DIR-1 LEASE-1", perhaps="LEASE-5")
class RenewsLater(memory.MemoryBackend):
    """Answers a renewal, and does it a moment later."""

    def renew(self, lease: Lease, expires_in: float) -> Lease:
        board = self._opened()
        with board.changed:
            self._reap(board)
            self._leased(board, lease)
        _later(lambda: super(RenewsLater, self).renew(lease, expires_in))
        return dataclasses.replace(lease, ends_in=None if lease.session else expires_in)


@caught_by("DIR-1", also="LEASE-1 LEASE-2", perhaps="DIR-2 ERR-2 BATCH-1 LEASE-3")
class PurgesLater(memory.MemoryBackend):
    """Answers a purge, and does it a moment later."""

    def purge(self, keys: Sequence[str], shelf: Shelf = Shelf.TRASH) -> Sequence[bool]:
        board = self._opened()
        with board.changed:
            self._reap(board)
            entries: Any = board.trash if shelf is Shelf.TRASH else board.entities
            seen: set[str] = set()
            answers = []
            for key in keys:
                answers.append(key in entries and key not in seen)
                seen.add(key)
        _later(lambda: super(PurgesLater, self).purge(keys, shelf))
        return answers


# -- the feed --------------------------------------------------------------------------------


@caught_by("FEED-1", "FEED-4")
class ResetsAfter64(memory.MemoryBackend):
    """Says that something was missed after every 64 changes, whatever happened."""

    def changes(self, cursor: str | None, timeout: float) -> primitives.Changes:
        changes = super().changes(cursor, timeout)
        if cursor is None or changes.reset:
            return changes
        before, now = (int(c.rpartition(":")[2]) // 64 for c in (cursor, changes.cursor))
        return changes if before == now else primitives.Changes((), changes.cursor, reset=True)


@caught_by("FEED-1", "FEED-4")
class ResetsWhoIsBehind(memory.MemoryBackend):
    """Keeps no more than a hundred changes."""

    def changes(self, cursor: str | None, timeout: float) -> primitives.Changes:
        changes = super().changes(cursor, timeout)
        if len(changes.events) > 100:
            return primitives.Changes((), changes.cursor, reset=True)
        return changes


@caught_by("FEED-1", "FEED-4")
class TenThousandAtOnce(memory.MemoryBackend):
    """Answers with the first 10,000 changes, and goes on behind the last."""

    def changes(self, cursor: str | None, timeout: float) -> primitives.Changes:
        changes = super().changes(cursor, timeout)
        return dataclasses.replace(changes, events=changes.events[:10_000])


@caught_by("FEED-1", "FEED-4")
class LatestTwoHundred(memory.MemoryBackend):
    """Answers with the latest 200 changes, and not with those before."""

    def changes(self, cursor: str | None, timeout: float) -> primitives.Changes:
        changes = super().changes(cursor, timeout)
        return dataclasses.replace(changes, events=changes.events[-200:])


@caught_by("FEED-1", "FEED-4")
class TrimmedByOneTooMany(memory.MemoryBackend):
    """Takes the oldest change that it keeps for one that a reader has seen."""

    @staticmethod
    def _position(board: Any, cursor: str | None) -> int | None:
        seen = memory.MemoryBackend._position(board, cursor)
        incarnation, _, number = (cursor or "").partition(":")
        if seen is None and incarnation == board.incarnation and number.isdigit():
            oldest = board.position - len(board.log)
            return oldest if int(number) == oldest - 1 else None
        return seen


@caught_by("FEED-3", also="LEASE-5", perhaps="LEASE-4 LEASE-8")
class LooksEveryFourSeconds(memory.MemoryBackend):
    """Is woken by what others do, and looks for what ends by itself every four seconds."""

    def _reap(self, board: Any) -> None:
        if boottime() % 4.0 < 0.1 or not getattr(self, "_waits", False):
            super()._reap(board)
        else:
            board.begin()

    def changes(self, cursor: str | None, timeout: float) -> primitives.Changes:
        give_up = boottime() + timeout
        while True:
            self._waits = True
            try:
                changes = super().changes(cursor, max(0.0, min(0.02, give_up - boottime())))
            finally:
                self._waits = False
            if changes.events or changes.reset or boottime() >= give_up:
                return changes


@caught_by("FEED-1")
class TrashedHasALaterToken(memory.MemoryBackend):
    """Reports a trashed posting with the latest token of the board."""

    @staticmethod
    def _publish(board: Any, kind: ChangeKind, key: str, token: int | None = None) -> None:
        if kind is ChangeKind.TRASHED:
            token = next(board.tokens)
        memory.MemoryBackend._publish(board, kind, key, token)


@caught_by("FEED-1")
class RestoredHasAToken(memory.MemoryBackend):
    """Reports a restored posting as if a lease were concerned."""

    @staticmethod
    def _publish(board: Any, kind: ChangeKind, key: str, token: int | None = None) -> None:
        if kind is ChangeKind.RESTORED:
            token = 1
        memory.MemoryBackend._publish(board, kind, key, token)
