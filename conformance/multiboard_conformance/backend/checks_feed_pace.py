# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Checks of how a feed keeps pace: no reset without a cause, ends reported soon, tokens with it."""

from __future__ import annotations

import statistics
import time

from multiboard.primitives import Backend, ChangeKind, Shelf, boottime
from multiboard_conformance.backend.feeds import BUSY, Reader
from multiboard_conformance.backend.fixtures import Board, post, take
from multiboard_conformance.backend.guarantees import guarantee
from multiboard_conformance.machinery.plugin import Effort
from multiboard_conformance.machinery.programs import claim_id

K = ChangeKind
#: Chances of a reader: a connection that breaks on a busy machine is a cause for one reset.
TRIES = 3


@guarantee("FEED-1", "FEED-4")
def check_reader_that_keeps_up_receives_no_reset(board: Board, effort: Effort) -> None:
    """A reader that reads on while hundreds of changes happen receives them, and no reset.

    Nothing was trimmed, nothing broke off, and it was not slow: a reset would be a lie, and make
    every board list again. Of three readers one must do without.
    """
    backend, other = board.open(), board.open()
    resets = []
    for turn in range(TRIES):
        reader = Reader(other).start()
        expected: list[tuple[ChangeKind, str]] = []
        for n in range(effort.rounds(15, 150)):
            expected += _life(backend, [f"k{turn}.{n}.{m}" for m in range(5)])
            reader.until(lambda: reader.resets or len(reader.received) >= len(expected))  # noqa: B023
            reader.read(0.0)  # also where there is nothing to read
            if reader.resets:
                break
            assert [(c.kind, c.key) for c in reader.received] == expected
        resets.append(reader.resets)
        if not reader.resets:
            return
    raise AssertionError(f"readers that kept up received resets: {resets}")


@guarantee("FEED-1", "FEED-4")
def check_reader_a_little_behind_receives_no_reset(board: Board) -> None:
    """A reader that comes back after a few hundred changes receives them, and no reset."""
    backend, other = board.open(), board.open()
    resets = []
    for turn in range(TRIES):
        reader = Reader(other).start()
        expected = _life(backend, [f"k{turn}.{m}" for m in range(100)])
        reader.until(lambda: reader.resets or len(reader.received) >= len(expected))  # noqa: B023
        resets.append(reader.resets)
        if not reader.resets:
            assert [(c.kind, c.key) for c in reader.received] == expected
            return
    raise AssertionError(f"readers that were 300 changes behind received resets: {resets}")


def _life(backend: Backend, names: list[str]) -> list[tuple[ChangeKind, str]]:
    """Post, lease and remove postings in three batches; return the changes."""
    post(backend, *names)
    won = backend.acquire_next("me", [claim_id() for _ in names], 600.0)
    assert [posting.key for posting, _ in won] == names
    assert list(backend.remove([lease for _, lease in won])) == [None] * len(names)
    return [(kind, name) for kind in (K.POSTED, K.CLAIMED, K.REMOVED) for name in names]


@guarantee("FEED-3", "LEASE-5")
def check_ends_are_reported_soon(board: Board) -> None:
    """The feed reports the ends of leases, one by one, less than a second late in the median."""
    backend, watcher = board.open(), board.open()
    times = {f"k{n}": 0.6 + n * 0.35 for n in range(9)}
    post(backend, *times)
    reader = Reader(watcher).start()
    due = {}
    for key, seconds in times.items():
        take(backend, key, seconds)
        due[key] = boottime() + seconds
    late: dict[str, float] = {}
    give_up = max(due.values()) + 3 * BUSY
    reader.call = 30.0
    while len(late) < len(times) and boottime() < give_up:
        reader.read(give_up - boottime())
        for key in reader.keys(K.EXPIRED):
            late.setdefault(key, boottime() - due[key])
    assert set(late) == set(times)
    assert statistics.median(late.values()) < 1.0, f"seconds late: {sorted(late.values())}"


@guarantee("FEED-1")
def check_tokens_of_the_feed_are_those_of_the_leases(board: Board) -> None:
    """Where a change carries a token it is that of the lease concerned; posting has none."""
    backend = board.open()
    reader = Reader(board.open()).start()
    post(backend, "k", "other")
    take(backend, "other", 60.0)  # the token of another posting's lease
    given_back = take(backend, "k", 60.0)
    backend.release(given_back)
    ended = take(backend, "k", 0.2)
    time.sleep(0.3)
    trashing = take(backend, "k", 60.0)
    assert list(backend.remove([trashing], Shelf.TRASH)) == [None]
    backend.restore("k")
    removing = take(backend, "k", 60.0)
    assert list(backend.remove([removing])) == [None]
    expected = [
        (K.POSTED, None), (K.CLAIMED, given_back), (K.RELEASED, given_back), (K.CLAIMED, ended),
        (K.EXPIRED, ended), (K.CLAIMED, trashing), (K.TRASHED, trashing), (K.RESTORED, None),
        (K.CLAIMED, removing), (K.REMOVED, removing),
    ]  # fmt: skip
    assert reader.tale("k", len(expected)) == [kind for kind, _ in expected]
    tokens = [change.token for change in reader.received if change.key == "k"]
    for (kind, lease), token in zip(expected, tokens, strict=True):
        known = None if lease is None else lease.token
        optional = kind in (K.TRASHED, K.REMOVED)
        assert token == known or (optional and token is None), kind
