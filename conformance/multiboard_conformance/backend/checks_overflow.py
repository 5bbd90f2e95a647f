# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Checks of a feed whose reader is too slow: it receives a reset, and is never left with a gap."""

from __future__ import annotations

from multiboard.primitives import Backend, ChangeKind, boottime
from multiboard_conformance.backend.feeds import MOMENTS, Reader
from multiboard_conformance.backend.fixtures import Board, post
from multiboard_conformance.backend.guarantees import guarantee
from multiboard_conformance.harness import Harness
from multiboard_conformance.machinery.plugin import Effort, need
from multiboard_conformance.machinery.programs import claim_id

K = ChangeKind


@guarantee("FEED-4", "FEED-1")
def check_trimmed_history_is_a_reset(board: Board, harness: Harness) -> None:
    """A reader whose place in the history is gone receives a reset, and then what happens next."""
    need(harness, "trim")
    backend = board.open()
    slow, quick = Reader(backend).start(), Reader(backend).start()
    post(backend, *[f"k{n}" for n in range(20)])
    assert quick.receives(K.POSTED, "k19")
    harness.trim(backend.settings)
    slow.read(MOMENTS)
    assert slow.resets == 1, f"a gap without a reset: {slow.received}"
    post(backend, "last")
    assert slow.receives(K.POSTED, "last")
    # Its place is the last one that is left, or gone as well.
    assert quick.until(lambda: quick.resets or K.POSTED in quick.story("last"))


@guarantee("FEED-4", "FEED-1")
def check_reader_that_is_far_too_slow(board: Board, effort: Effort) -> None:
    """After more changes than a store may keep a reader receives all of them in order, or a reset.

    The full run makes as many as it can in 15 seconds, up to 120,000: on a fast store more than
    it keeps. Where that is not enough, a harness trims the history instead.
    """
    backend = board.open()
    reader = Reader(board.open().backend).start()
    # Not through the record: it would keep each of these operations.
    made = _churn(backend.backend, effort.rounds(400, 120_000), effort.rounds(1, 15))
    reported: list[tuple[ChangeKind, str]] = []
    give_up = boottime() + 30.0
    while not reader.resets and len(reported) < len(made) and boottime() < give_up:
        reader.read(MOMENTS)
        reported = [(change.kind, change.key) for change in reader.received]
    assert reader.resets or reported == made
    post(backend, "last")
    assert reader.receives(K.POSTED, "last")


def _churn(backend: Backend, most: int, seconds: float) -> list[tuple[ChangeKind, str]]:
    """Make changes until there are enough or the time is over; return them in their order."""
    give_up = boottime() + seconds
    names = [f"k{n}" for n in range(50)]
    post(backend, *names)
    made = [(K.POSTED, name) for name in names]
    while len(made) < most and boottime() < give_up:
        won = backend.acquire_next("me", [claim_id() for _ in names], 600.0)
        made += [(K.CLAIMED, posting.key) for posting, _ in won]
        for posting, lease in won:
            backend.release(lease)
            made.append((K.RELEASED, posting.key))
    return made
