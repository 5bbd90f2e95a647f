# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Whether the operations of many callers can have happened one after the other: the second judge.

:func:`order_of` is the search of Wing and Gong with the memoisation of Lowe: it looks for an order
of the calls that keeps the order in time (a call that ended before another began comes first) and
that a sequential specification explains. A configuration, the set of calls done and the state that
they led to, is tried once. A call whose outcome is unknown may take its place at any time after it
began, or never. The specification may leave a choice: a lease that may be over by now.

Linearizability is local (Herlihy and Wing), so that each posting is judged alone: its
specification is in :mod:`.posting_spec`. Nothing is shared with :mod:`.judge`, which looks for
violations of single rules: the two must come to the same verdict. Imports the standard library.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

State = TypeVar("State")

#: So many configurations are tried before a history is left undecided: half a minute of search.
MOST = 300_000


@dataclass(frozen=True, eq=False)
class Call:
    """One call: when it began and ended, and what the specification knows it by."""

    began: float
    #: Infinite where no answer came.
    ended: float
    what: Any
    #: Its effect is certain: it must have a place in the order.
    certain: bool = True


@dataclass(frozen=True)
class Found(Generic[State]):
    """What a search came to."""

    #: True, False, or None where the search was given up.
    linearizable: bool | None
    #: An order that explains the history; else the longest part of one.
    order: Sequence[Call]
    #: The calls of which one had to come next, where there is no order.
    stuck: Sequence[Call] = ()
    tried: int = 0


def order_of(
    calls: Iterable[Call],
    initial: State,
    step: Callable[[State, Call], Iterable[State]],
    most: int = MOST,
) -> Found[State]:
    """Look for an order of the calls; ``step`` gives the states that a call may lead to.

    States must be hashable. ``step`` gives none where the call can't have had its answer there.
    """
    ordered = sorted(calls, key=lambda call: (call.began, call.ended))
    certain = sum(1 << n for n, call in enumerate(ordered) if call.certain)
    seen = {(0, initial)}
    #: The way to where the search is: what was done last there, and what is still to be tried.
    way: list[tuple[int, int | None, list[tuple[int, State]]]] = []
    longest: list[int] = []
    stuck: list[int] = []

    def open_up(done: int, last: int | None, state: State) -> None:
        nonlocal longest, stuck
        next_ones = _candidates(ordered, done)
        tries = [(n, after) for n in next_ones for after in step(state, ordered[n])]
        way.append((done, last, tries[::-1]))
        path = [n for _, n, _ in way if n is not None]
        if not stuck or len(path) > len(longest):
            longest, stuck = path, next_ones

    open_up(0, None, initial)
    if certain == 0:
        return Found(True, [], tried=1)
    while way:
        done, _, tries = way[-1]
        if not tries:
            way.pop()
            continue
        number, state = tries.pop()
        after = done | 1 << number
        if (after, state) in seen:
            continue
        if len(seen) >= most:
            return Found(None, [ordered[n] for n in longest], tried=len(seen))
        seen.add((after, state))
        open_up(after, number, state)
        if after & certain == certain:
            path = [ordered[n] for _, n, _ in way if n is not None]
            return Found(True, path, tried=len(seen))
    return Found(False, [ordered[n] for n in longest], [ordered[n] for n in stuck], tried=len(seen))


def _candidates(ordered: Sequence[Call], done: int) -> list[int]:
    """Return the calls that may come next: no other that is left ended before they began.

    Those whose outcome is known come first, the earliest end first: most histories are explained
    by that order.
    """
    earliest_end = math.inf
    found = []
    # The lowest bit that is not set: what was done from the first call on need not be looked at.
    for number in range((~done & (done + 1)).bit_length() - 1, len(ordered)):
        if done >> number & 1:
            continue
        call = ordered[number]
        if call.began > earliest_end:
            break
        found.append(number)
        earliest_end = min(earliest_end, call.ended)
    return sorted(found, key=lambda n: (not ordered[n].certain, ordered[n].ended))
