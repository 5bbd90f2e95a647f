# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Where to try next, for workers that meet: a spread over the first candidates.

Workers that all want the first of the order meet there, and those that come second walk behind the
others. Here a worker that meets another one tries elsewhere, among so many of the first candidates
as it has met others lately. One that meets nobody takes the first.

No lock: threads that share it disturb each other's guesses, and nothing more. This module imports
its own siblings and the standard library.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from multiboard.primitives.clock import boottime

#: The widest spread: candidates among which is chosen.
WIDEST = 64.0
#: The spread grows by the first with each meeting and shrinks by the second with each success: one
#: try in ten meets another worker then, whatever the size of the crowd.
WIDER, NARROWER = 2.0, 0.93
#: Seconds without a meeting after which the worker is alone.
ALONE = 1.0
#: Claims of this worker by which a candidate may be passed over in favour of younger ones, and the
#: claims by which that is drawn longer, so that a crowd does not turn to it all at once.
PASSES, DRAWN = 4, 4

T = TypeVar("T")


class Spread:
    """The choices of one worker."""

    def __init__(self) -> None:
        self._width = 1.0
        self._met_at = float("-inf")
        #: By how many claims each candidate was passed over.
        self._passed: dict[str, int] = {}

    @property
    def width(self) -> int:
        """Among how many candidates is chosen."""
        if self._width > 1.0 and boottime() - self._met_at > ALONE:
            self._width = 1.0
        return int(self._width)

    def met(self) -> None:
        """Note that another worker had it already."""
        self._width = min(WIDEST, max(1.5, self._width) * WIDER)
        self._met_at = boottime()

    def pick(self, keys: Sequence[str]) -> int:
        """Choose one of the candidates, which stand in their order; return its index."""
        chosen = 0
        if len(keys) > 1:
            patience = PASSES + random.randrange(DRAWN)
            passed = self._passed
            overdue = (n for n, key in enumerate(keys) if passed.get(key, 0) >= patience)
            chosen = next(overdue, -1)
            if chosen < 0:
                chosen = random.randrange(len(keys))
            self._passed = {key: passed.get(key, 0) + 1 for key in keys[:chosen]}
        self._width = max(1.0, self._width * NARROWER)
        return chosen

    def over(self, candidates: Iterator[T], key: Callable[[T], str]) -> Iterator[T]:
        """Walk over the candidates, which come in their order, each by :meth:`pick`."""
        window: list[T] = []
        while True:
            while len(window) < self.width:
                try:
                    window.append(next(candidates))
                except StopIteration:
                    break
            if not window:
                return
            yield window.pop(self.pick([key(one) for one in window]))
