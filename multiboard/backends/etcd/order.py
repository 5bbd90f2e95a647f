# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The live postings as the feed of one backend shows them: which is next, which claim holds which.

It has no lock and sends nothing: :mod:`multiboard.backends.etcd.feed` keeps it. This module imports
sortedcontainers, the primitives and its own siblings.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Container, Iterator

from sortedcontainers import SortedDict

from multiboard.backends.etcd.records import Seen
from multiboard.primitives import Place


class Order:
    """All live postings by key; those that may be claimed also by their place."""

    def __init__(self) -> None:
        self.all: dict[str, Seen] = {}
        #: The revision of the last news.
        self.news = 0
        self._free: SortedDict[Place, str] = SortedDict()
        self._claims: dict[str, str] = {}
        #: Not due when last looked at: when to look again, and the keys not yet looked at.
        self._later: list[tuple[float, str]] = []
        self._unsorted: set[str] = set()
        #: False while it is changed from outside of the watch, and where that was cut short.
        self.whole = True

    def put(self, seen: Seen) -> None:
        """Take in a posting as it is now."""
        self.drop(seen.key)
        self.all[seen.key] = seen
        if seen.held is not None:
            self._claims[seen.held.hold.claim_id] = seen.key
        elif seen.head.delay:
            self._unsorted.add(seen.key)
        else:
            self._free[seen.place] = seen.key

    def drop(self, key: str) -> Seen | None:
        """Forget a posting and return what there was of it."""
        seen = self.all.pop(key, None)
        if seen is not None:
            self._free.pop(seen.place, None)
            self._unsorted.discard(key)
            if seen.held is not None and self._claims.get(seen.held.hold.claim_id) == key:
                del self._claims[seen.held.hold.claim_id]
        return seen

    def claimed_as(self, claim_id: str) -> Seen | None:
        """Return the posting that a claim holds."""
        return self.all.get(self._claims.get(claim_id, ""))

    def undecided(self, now: float) -> list[Seen]:
        """Return the held back postings whose due time has to be read.

        They stay undecided until :meth:`decide` is called: the reading may fail.
        """
        while self._later and self._later[0][0] <= now:
            self._unsorted.add(self._later[0][1])
            heapq.heappop(self._later)
        waiting = []
        for key in list(self._unsorted):
            seen = self.all.get(key)
            if seen is None or seen.held is not None:
                self._unsorted.discard(key)
            else:
                waiting.append(seen)
        return waiting

    def decide(self, seen: Seen, due_at: float | None) -> None:
        """Take in when a posting is due; None for now. It may have changed since that was read."""
        if self.all.get(seen.key) is not seen:
            return
        if due_at is None:
            self._free[seen.place] = seen.key
        else:
            heapq.heappush(self._later, (due_at, seen.key))
        self._unsorted.discard(seen.key)

    def first(self, number: int, skip: Container[str]) -> list[Seen]:
        """Return the first postings that may be claimed."""
        found: list[Seen] = []
        for key in self._free.values():
            if len(found) == number:
                break
            if key not in skip:
                found.append(self.all[key])
        return found

    def behind(self, place: Place | None) -> Iterator[Seen]:
        """Walk over all postings in order, from behind a place."""
        rest = [seen for seen in self.all.values() if place is None or seen.place > place]
        by_place: Callable[[Seen], Place] = lambda seen: seen.place  # noqa: E731
        return iter(sorted(rest, key=by_place))
