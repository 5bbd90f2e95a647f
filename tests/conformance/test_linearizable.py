# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The checker of linearizability: known histories, and the same verdict as brute force."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st
from multiboard_conformance.machinery.history import History, Operation
from multiboard_conformance.machinery.linearizable import Call, order_of
from multiboard_conformance.machinery.posting_spec import explain

from multiboard import errors
from multiboard.primitives import Lease, NewPosting, Page, Posting, Shelf

# -- the search, on a register -----------------------------------------------------------------


def register(state: int, call: Call) -> Iterator[int]:
    verb, value = call.what
    if verb == "write":
        yield value
    elif value == state:
        yield state


def write(value: int, began: float, ended: float, *, certain: bool = True) -> Call:
    return Call(began, ended if certain else math.inf, ("write", value), certain)


def read(value: int, began: float, ended: float) -> Call:
    return Call(began, ended, ("read", value))


@pytest.mark.parametrize(
    ("calls", "right"),
    [
        ([], True),
        ([write(1, 0, 1), read(1, 2, 3)], True),
        ([write(1, 0, 1), read(0, 2, 3)], False),
        ([write(1, 0, 3), read(0, 1, 2)], True),
        # Two readers that saw a write and its absence, the one that saw it first.
        ([write(1, 0, 9), read(1, 1, 2), read(0, 3, 4)], False),
        ([write(1, 0, 9), write(2, 0, 9), read(1, 1, 2), read(2, 3, 4), read(1, 5, 6)], False),
        # The outcome is unknown: it may have its effect late, or never.
        ([write(1, 0, 1, certain=False), read(0, 2, 3), read(1, 4, 5)], True),
        ([write(1, 0, 1, certain=False), read(0, 2, 3)], True),
        ([write(1, 0, 1, certain=False), read(1, 2, 3), read(0, 4, 5)], False),
    ],
)
def test_known_history(calls: Sequence[Call], right: bool) -> None:
    assert order_of(calls, 0, register).linearizable is right


def test_order_explains_the_history() -> None:
    calls = [write(1, 0, 9), write(2, 0, 9), read(2, 1, 2), read(1, 3, 4)]
    found = order_of(calls, 0, register)
    state = 0
    for call in found.order:
        (state,) = register(state, call)
    assert (found.linearizable, len(found.order)) == (True, 4)


def test_search_that_takes_too_long_is_undecided() -> None:
    calls = [write(n, 0, 99) for n in range(12)]
    assert order_of([*calls, read(99, 0, 99)], 0, register, most=50).linearizable is None


def test_memoisation_keeps_a_long_history_short() -> None:
    calls = [write(n % 3, n, n + 6.5) for n in range(300)]
    found = order_of([*calls, read(77, 400, 401)], 0, register, most=200_000)
    assert found.linearizable is False


def by_brute_force(
    calls: Sequence[Call], initial: int, step: Callable[[int, Call], Iterator[int]]
) -> bool:
    unknown = [call for call in calls if not call.certain]
    certain = [call for call in calls if call.certain]
    for number in range(len(unknown) + 1):
        for chosen in itertools.combinations(unknown, number):
            for order in itertools.permutations([*certain, *chosen]):
                if any(b.ended < a.began for a, b in itertools.combinations(order, 2)):
                    continue
                states = {initial}
                for call in order:
                    states = {after for state in states for after in step(state, call)}
                if states:
                    return True
    return False


_CALLS = st.lists(
    st.builds(
        lambda verb, value, began, took, certain: Call(
            began, began + took if certain or verb == "read" else math.inf, (verb, value),
            certain or verb == "read",
        ),
        st.sampled_from(["read", "write"]), st.integers(0, 2), st.integers(0, 8),
        st.integers(1, 6), st.booleans(),
    ),
    max_size=6,
)  # fmt: skip


@hypothesis.given(_CALLS)
@hypothesis.settings(max_examples=150, deadline=None)
def test_brute_force_agrees(calls: list[Call]) -> None:
    assert order_of(calls, 0, register).linearizable is by_brute_force(calls, 0, register)


# -- a posting ---------------------------------------------------------------------------------


def lease(token: int, claim: str | None = None) -> Lease:
    return Lease("k", "me", claim or f"c{token}", token, None, 60.0)


class Story:
    """A history of the posting ``k``, written down by hand; an operation takes 0.9 seconds."""

    def __init__(self) -> None:
        self.history = History()
        self._now = 0.0
        self.op("add", [None], postings=[NewPosting("k", b"")], shelf=Shelf.LIVE)

    def op(self, verb: str, answer: Any, at: float | None = None, **args: Any) -> Story:
        began = self._now if at is None else at
        lost = answer == "lost"
        failed = isinstance(answer, Exception)
        outcome = "unknown" if lost else "failed" if failed else "ok"
        ended = None if lost else began + 0.9
        op = Operation(int(began), "p", verb, args, began, ended, outcome, None if lost else answer)
        self.history.adopt(op)
        self._now = max(self._now, began + 1.0)
        return self

    def acquire(
        self, answer: Any, claim: str | None = None, span: float = 60.0, at: float | None = None
    ) -> Story:
        name = claim or (answer.claim_id if isinstance(answer, Lease) else "other")
        return self.op("acquire", answer, at, key="k", claim_id=name, expires_in=span)

    def release(self, token: int, answer: Any = None) -> Story:
        return self.op("release", answer, lease=lease(token), delay=0.0)

    def remove(self, token: int, answer: Any = None) -> Story:
        return self.op("remove", [answer], leases=[lease(token)], to=None)

    def listed(self, *postings: Posting) -> Story:
        page = Page(list(postings))
        return self.op("list", page, shelf=Shelf.LIVE, after=None, limit=None)

    def right(self) -> bool:
        violations, undecided = explain(self.history, ["k"])
        assert undecided == []
        return violations == []


def posting(attempts: int, deaths: int = 0, held: Lease | None = None) -> Posting:
    return Posting("k", 0, 1, b"", attempts, deaths, 0.0, 0.0, 0.0, held)


HELD, LOST, GONE = (
    errors.LeaseHeld("k", "me"),
    errors.LeaseLost("k", 1),
    errors.PostingNotFound("k"),
)


@pytest.mark.parametrize(
    ("story", "right"),
    [
        (Story().acquire(lease(1)).acquire(HELD).release(1).release(1).acquire(lease(2)), True),
        (Story().acquire(lease(1)).acquire(lease(2)), False),
        (Story().acquire(lease(2)).acquire(lease(1), at=1.5), False),
        (Story().acquire(lease(2)).release(2).acquire(lease(1)), False),
        (Story().acquire(lease(1)).release(1).acquire(HELD), False),
        (Story().acquire(lease(1)).release(1).release(1, LOST), False),
        (Story().acquire(lease(1)).release(1).acquire(LOST, "c1"), True),
        (Story().acquire(lease(1)).acquire(lease(1)), True),
        (Story().acquire(lease(1)).acquire(lease(3, "c1")), False),
        (Story().acquire(lease(1)).remove(1).acquire(GONE).remove(1), True),
        (Story().acquire(lease(1)).remove(1).acquire(lease(2)), False),
        (Story().acquire(lease(1)).remove(1, LOST), False),
        # A lease that ends: not before its time, and not long after it.
        (Story().acquire(lease(1), span=0.5).acquire(lease(2)), True),
        (Story().acquire(lease(1), span=1.85).acquire(lease(2)), True),
        (Story().acquire(lease(1), span=3.0).acquire(lease(2)), False),
        (Story().acquire(lease(1), span=1.0).acquire(HELD, at=9.0), False),
        # A lost answer: it had its effect, or it had none.
        (Story().acquire("lost", "x").acquire(HELD), True),
        (Story().acquire("lost", "x").acquire(lease(1)), True),
        (Story().acquire("lost", "x").acquire(lease(4, "x")).acquire(HELD), True),
        # What is listed.
        (Story().acquire(lease(1)).listed(posting(1, held=lease(1))), True),
        (Story().acquire(lease(1)).listed(posting(2, held=lease(1))), False),
        (Story().acquire(lease(1)).listed(), False),
        (Story().acquire(lease(1)).remove(1).listed(), True),
        (Story().acquire(lease(1), span=0.5).listed(posting(1, 1)), True),
        (Story().acquire(lease(1), span=0.5).listed(posting(1, 0)), False),
    ],
)
def test_history_of_a_posting(story: Story, right: bool) -> None:
    assert story.right() is right


def test_violation_names_what_can_have_come() -> None:
    story = Story().acquire(lease(1)).acquire(lease(2))
    ((violation,), _) = explain(story.history, ["k"])
    assert "none of these can have come: p acquire #2" in violation
