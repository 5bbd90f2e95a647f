# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The judge of histories finds what is wrong, and only that; values cross the pipes unchanged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from multiboard_conformance.machinery import serialization
from multiboard_conformance.machinery.history import History, Operation
from multiboard_conformance.machinery.judge import judge

from multiboard import errors
from multiboard.primitives import Change, ChangeKind, Lease, Posting, Shelf

K = ChangeKind


def lease(token: int, key: str = "k", claim: str | None = None) -> Lease:
    return Lease(key, "me", claim or f"c{token}", token, None, 60.0)


class Story:
    """A history written down by hand; every operation takes one second."""

    def __init__(self) -> None:
        self.history = History()
        self._now = 0.0

    def op(self, verb: str, args: Mapping[str, Any], answer: Any, at: float | None = None) -> Story:
        began = self._now if at is None else at
        unknown = answer is None and verb == "lost"
        self.history.adopt(
            Operation(
                int(began), "p", args.get("verb", verb), args, began,
                None if unknown else began + 0.9,
                "unknown" if unknown else "ok", answer,
            )
        )  # fmt: skip
        self._now = max(self._now, began + 1.0)
        return self

    def acquire(self, token: int, at: float | None = None, claim: str | None = None) -> Story:
        return self.op("acquire", {"key": "k"}, lease(token, claim=claim), at)

    def release(self, token: int, at: float | None = None) -> Story:
        return self.op("release", {"lease": lease(token)}, None, at)

    def remove(self, token: int, to: Shelf | None = None, at: float | None = None) -> Story:
        return self.op("remove", {"leases": [lease(token)], "to": to}, [None], at)

    def judge(self, live: str = "", trash: str = "", feed: Any = None) -> list[str]:
        return judge(self.history, posted=["k"], live=live, trash=trash, feed=feed)


def changes(*events: tuple[ChangeKind, int | None]) -> list[Change]:
    return [Change(kind, "k", token) for kind, token in events]


def test_right_history_has_no_violation() -> None:
    story = Story().acquire(1).release(1).release(1).acquire(2).remove(2).remove(2)
    feed = changes((K.POSTED, None), (K.CLAIMED, 1), (K.RELEASED, 1), (K.CLAIMED, 2))
    assert story.judge(feed=[*feed, *changes((K.REMOVED, 2))]) == []


@pytest.mark.parametrize(
    ("story", "live", "words"),
    [
        (Story(), "", "is lost"),
        (Story().acquire(1).remove(1), "k", "and is there"),
        (Story().acquire(1).remove(1).acquire(2).remove(2), "", "removed twice"),
        (Story().acquire(1).release(1).acquire(1, claim="other"), "k", "twice with token 1"),
        (Story().acquire(5).release(5).acquire(3), "k", "token 3 came after token 5"),
        (Story().acquire(1).acquire(2).release(1), "k", "while token 1 was held"),
        (Story().acquire(1).acquire(2).release(1), "k", "after a higher token"),
    ],
)
def test_violation_is_found(story: Story, live: str, words: str) -> None:
    assert words in " ".join(story.judge(live))


def test_overlapping_operations_may_have_either_order() -> None:
    assert Story().acquire(2, at=0.0).acquire(1, at=0.5).judge("k") == []


def test_unknown_removal_may_have_happened_or_not() -> None:
    story = Story().acquire(1)
    story.op("lost", {"verb": "remove", "leases": [lease(1)], "to": None}, None)
    assert (story.judge(live="k"), story.judge()) == ([], [])


@pytest.mark.parametrize(
    ("feed", "words"),
    [
        ([(K.CLAIMED, 1), (K.CLAIMED, 2)], "CLAIMED of k, which was held"),
        ([(K.RELEASED, 1), (K.CLAIMED, 1)], "RELEASED of k, which was free"),
        ([(K.POSTED, None)], "never reported token 1"),
        ([(K.CLAIMED, 1), (K.REMOVED, 1)], "was removed, and it is there"),
    ],
)
def test_feed_that_contradicts_is_found(
    feed: list[tuple[ChangeKind, int | None]], words: str
) -> None:
    assert words in " ".join(Story().acquire(1).judge("k", feed=changes(*feed)))


@pytest.mark.parametrize(
    "value",
    [
        lease(3), Posting("k", 1, 2, b"\xff\x00", 3, 4, 5.0, 6.0, 7.0, lease(1)), Shelf.TRASH,
        Change(K.EXPIRED, "k", 4), None, (1, "two", None), b"", {"a": 1.5},
    ],
)  # fmt: skip
def test_values_cross_the_wire(value: Any) -> None:
    assert serialization.loads(serialization.dumps(value)) == value


def test_errors_cross_the_wire() -> None:
    error = serialization.loads(serialization.dumps(errors.LeaseHeld("k", "somebody")))
    assert isinstance(error, errors.LeaseHeld)
    assert (error.key, error.holder, str(error)) == (
        "k",
        "somebody",
        "posting 'k' is held by 'somebody'",
    )
    assert isinstance(
        serialization.loads(serialization.dumps(KeyError("x"))), serialization.NativeError
    )
