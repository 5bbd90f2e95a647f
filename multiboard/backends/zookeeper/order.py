# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The live postings in the order in which they are handed out, as far as they were looked up.

It has no lock and sends nothing: :mod:`multiboard.backends.zookeeper.feed` keeps it. This module
imports the primitives.
"""

from __future__ import annotations

import bisect
from collections.abc import Container
from dataclasses import dataclass

from multiboard import primitives


@dataclass(frozen=True, slots=True)
class Entry:
    """What the order of the postings depends on of one: it holds while nobody claims it."""

    place: primitives.Place
    #: Milliseconds by the server's clock.
    due: float
    #: Whether nobody ever claimed it.
    unclaimed: bool


class Order:
    """The live postings by rank and serial, as far as they were looked up."""

    def __init__(self) -> None:
        #: What has to be looked up. Some have a place already, and may be due at another time.
        self.unknown: dict[str, object] = {}
        self._damaged: set[str] = set()
        self._known: dict[str, Entry] = {}
        self._sorted: list[primitives.Place] = []
        self._keys: dict[primitives.Place, str] = {}
        #: How many of the known ones have a time before which they are not handed out.
        self.delayed = 0

    def __contains__(self, key: str) -> bool:
        return key in self._known or key in self.unknown

    def add(self, key: str) -> None:
        """Note a posting that has not been looked up yet."""
        self.discard(key)
        self.unknown[key] = object()

    def touch(self, key: str) -> None:
        """Note that a posting was claimed or released: when it is due has to be looked up."""
        if key in self._known or key in self.unknown:
            self.unknown[key] = object()

    def reconsider(self) -> None:
        """Note that what was damaged has to be looked up again."""
        self.unknown.update((key, object()) for key in self._damaged)

    def discard(self, key: str) -> None:
        """Forget a posting."""
        self.unknown.pop(key, None)
        self._damaged.discard(key)
        entry = self._known.pop(key, None)
        if entry is not None:
            self.delayed -= entry.due > 0
            del self._keys[entry.place]
            del self._sorted[bisect.bisect_left(self._sorted, entry.place)]

    def learn(self, key: str, entry: Entry | None) -> None:
        """Take in what was looked up; None for a posting that is damaged or gone."""
        self.discard(key)
        if entry is None:
            self._damaged.add(key)  # where it is gone, an event is about to show that
        else:
            self._known[key] = entry
            self.delayed += entry.due > 0
            # No two have one place: the serial is that of a transaction of their own.
            self._keys[entry.place] = key
            bisect.insort(self._sorted, entry.place)

    def page(self, behind: primitives.Place, limit: int) -> list[tuple[str, Entry]]:
        """Return the first postings behind a place, leased or not, in order."""
        start = bisect.bisect_right(self._sorted, behind)
        keys = [self._keys[place] for place in self._sorted[start : start + limit]]
        return [(key, self._known[key]) for key in keys]

    def after(
        self, behind: primitives.Place | None, earliest: float, leases: Container[str]
    ) -> tuple[str, Entry] | None:
        """Return the first posting behind a place that is due and not leased."""
        start = 0 if behind is None else bisect.bisect_right(self._sorted, behind)
        for index in range(start, len(self._sorted)):
            key = self._keys[self._sorted[index]]
            if key in leases or key in self.unknown:
                continue
            if self._known[key].due <= earliest:
                return key, self._known[key]
        return None
