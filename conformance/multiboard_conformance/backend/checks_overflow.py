# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Checks of a feed whose reader is too slow: it receives a reset, and is never left with a gap."""

from __future__ import annotations

import itertools

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

    There are 12,000 before it reads, or as many thousands as the store does in some seconds. The
    full run makes up to 120,000: on a fast store more than it keeps. Where that is not enough, a
    harness trims the history instead, or has it trimmed sooner.
    """
    backend = board.open()
    reader = Reader(board.open().backend).start()
    # Not through the record: it would keep each of these operations.
    made = _churn(backend.backend, effort.rounds(12_000, 120_000), effort.rounds(5, 25))
    _receives_all_or_reset(reader, made)
    post(backend, "last")
    assert reader.receives(K.POSTED, "last")


@guarantee("FEED-4", "FEED-1")
def check_history_that_the_backend_trims(board: Board, harness: Harness) -> None:
    """At the edge of what a backend keeps a reader receives all changes in order, or a reset.

    The harness has the backend keep few changes and trim them by itself. Readers come back after
    each number of changes: one more than is kept, one less, as many.
    """
    need(harness, "keep_changes")
    backend = board.open()
    readers: list[tuple[Reader, int]] = []
    made: list[tuple[ChangeKind, str]] = []
    with harness.keep_changes(backend.settings) as kept:
        for n in range(2 * kept + 10):
            readers.append((Reader(backend).start(), n))
            post(backend, f"k{n}")
            made.append((K.POSTED, f"k{n}"))
        for reader, seen in readers:
            _receives_all_or_reset(reader, made, seen)
        assert readers[0][0].resets, "nothing was trimmed"
        post(backend, "last")
        for reader, _ in readers:
            assert reader.receives(K.POSTED, "last")


def _receives_all_or_reset(
    reader: Reader, made: list[tuple[ChangeKind, str]], before: int = 0
) -> None:
    """Read until a reset, or until the last change that was made came, all in the same order.

    The reader began after ``before`` of them. The last of these may be reported, too: each change
    is reported at least once.
    """
    reported: list[tuple[ChangeKind, str]] = []
    give_up = boottime() + 30.0
    while not reader.resets and reported[-1:] != made[-1:] and boottime() < give_up:
        known = len(reader.received)
        reader.read(MOMENTS)
        if len(reader.received) > known:
            give_up = boottime() + 30.0
        reported = [(change.kind, change.key) for change in reader.received]
        first = next((n for n, change in enumerate(made) if [change] == reported[:1]), before)
        assert reader.resets or first <= before, "changes are missing"
        assert reader.resets or reported == made[first : first + len(reported)], "out of order"
    assert reader.resets or reported[-1:] == made[-1:]


def _churn(backend: Backend, most: int, seconds: float) -> list[tuple[ChangeKind, str]]:
    """Make changes until there are enough, or thousands and the time is over; return them."""
    give_up = boottime() + seconds
    made: list[tuple[ChangeKind, str]] = []
    for n in itertools.count():
        names = [f"k{n}.{m}" for m in range(200)]
        post(backend, *names)
        won = backend.acquire_next("me", [claim_id() for _ in names], 600.0)
        assert [posting.key for posting, _ in won] == names
        assert list(backend.remove([lease for _, lease in won])) == [None] * len(names)
        made += [(kind, name) for kind in (K.POSTED, K.CLAIMED, K.REMOVED) for name in names]
        if len(made) >= most or (len(made) >= 3000 and boottime() > give_up):
            return made
    raise AssertionError
