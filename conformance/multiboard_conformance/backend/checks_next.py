# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Checks of acquire_next: the first that is due and unleased, each to one worker only."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

from multiboard.primitives import Shelf, boottime
from multiboard_conformance.backend.answers import eventually
from multiboard_conformance.backend.feeds import BUSY
from multiboard_conformance.backend.fixtures import (
    Board,
    close_with_a_lease,
    post,
    race,
    take,
    together,
)
from multiboard_conformance.backend.guarantees import BOTH_KINDS, guarantee
from multiboard_conformance.backend.reading import look
from multiboard_conformance.machinery.plugin import Effort
from multiboard_conformance.machinery.programs import claim_id, drain


def _ids(number: int) -> list[str]:
    return [claim_id() for _ in range(number)]


@guarantee("NEXT-1")
@BOTH_KINDS
def check_next_is_the_first_of_the_order(board: Board, expires_in: float | None) -> None:
    """One after the other, postings are handed out by rank, then age."""
    backend = board.open()
    post(backend, "c", rank=10)
    post(backend, "a", "b", rank=9)
    post(backend, "d", rank=10)
    taken = []
    for _ in range(4):
        ((posting, _),) = backend.acquire_next("me", _ids(1), expires_in)
        taken.append(posting.key)
    assert (taken, list(backend.acquire_next("me", _ids(1), expires_in))) == (
        ["a", "b", "c", "d"], [],
    )  # fmt: skip


@guarantee("NEXT-1", "BATCH-1")
def check_next_takes_as_many_as_asked(board: Board) -> None:
    """One posting for each claim id, in order; fewer when there are no more; none for none."""
    backend = board.open()
    post(backend, *[f"k{n}" for n in range(5)])
    first, rest = backend.acquire_next("me", _ids(3)), backend.acquire_next("me", _ids(9))
    assert [posting.key for posting, _ in first] == ["k0", "k1", "k2"]
    assert [posting.key for posting, _ in rest] == ["k3", "k4"]
    assert list(backend.acquire_next("me", [])) == []


@guarantee("NEXT-1")
@BOTH_KINDS
def check_next_answers_with_posting_and_lease(board: Board, expires_in: float | None) -> None:
    """The posting that is handed out is whole, shows its lease, and is what a get reads."""
    backend, other = board.open(), board.open()
    post(backend, "k", body=b"whole", rank=3)
    attempt = claim_id()
    ((posting, lease),) = backend.acquire_next("me", [attempt], expires_in)
    assert (lease.key, lease.holder, lease.claim_id) == ("k", "me", attempt)
    assert (lease.session is None) == (expires_in is not None)
    assert (posting.body, posting.attempts, posting.lease) == (b"whole", 1, lease)
    read = look(other, "k")
    assert (read.lease, read.attempts, read.place) == (lease, 1, posting.place)
    assert list(other.remove([lease])) == [None]


@guarantee("NEXT-1")
def check_next_passes_over_what_is_leased(board: Board) -> None:
    """Leased, trashed and removed postings are not handed out; released ones are, in place."""
    backend, other = board.open(), board.open()
    post(backend, "leased", "trashed", "removed", "released", "free")
    take(other, "leased")
    backend.remove([take(backend, "trashed")], Shelf.TRASH)
    backend.remove([take(backend, "removed")])
    backend.release(take(backend, "released"))
    won = backend.acquire_next("me", _ids(5))
    assert [posting.key for posting, _ in won] == ["released", "free"]


@guarantee("NEXT-1", "LEASE-6")
@BOTH_KINDS
def check_repeated_next_finds_what_it_won(board: Board, expires_in: float | None) -> None:
    """A repeat with the same claim ids answers with the same leases and takes no more."""
    backend = board.open()
    post(backend, "a", "b", "c", "d")
    attempts = _ids(2)
    first = backend.acquire_next("me", attempts, expires_in)
    again = backend.acquire_next("me", attempts, expires_in)
    assert list(again) == list(first)
    assert [lease for _, lease in again] == [posting.lease for posting, _ in again]
    assert [posting.lease is None for posting in backend.list().postings] == [
        False, False, True, True,
    ]  # fmt: skip
    assert [posting.attempts for posting in backend.list().postings] == [1, 1, 0, 0]


@guarantee("NEXT-1", "LEASE-6")
def check_repeated_next_goes_on_where_it_had_too_few(board: Board) -> None:
    """A repeat answers first with what its claim ids hold, then with new postings."""
    backend = board.open()
    post(backend, "b", rank=5)
    attempts = _ids(2)
    ((_, first),) = backend.acquire_next("me", attempts, 30.0)
    post(backend, "a", rank=1)
    again = backend.acquire_next("me", attempts, 30.0)
    assert [posting.key for posting, _ in again] == ["b", "a"]
    assert again[0][1] == first
    assert {lease.claim_id for _, lease in again} == set(attempts)


@guarantee("NEXT-1")
def check_next_hands_out_what_ended(board: Board) -> None:
    """A posting whose lease has ended is handed out, noticed or not, with a higher token."""
    backend = board.open()
    post(backend, "k")
    old = take(backend, "k", 0.3)
    won, _ = eventually(lambda: backend.acquire_next("me", _ids(1), 30.0), 3.0)
    assert [posting.key for posting, _ in won] == ["k"]
    assert won[0][1].token > old.token


@guarantee("NEXT-1", "RUN-1")
def check_workers_get_different_postings(board: Board, effort: Effort) -> None:
    """Processes that ask in the same instant get different postings, and none is left out."""
    backend, peers = board.open(), board.peers(4)
    for n in range(effort.rounds(3, 20)):
        names = [f"k{n}.{m}" for m in range(8)]
        post(backend, *names)
        answers = race(peers, lambda peer: peer.acquire_next(peer.who, _ids(2), 30.0))
        won = [pair for answer in answers if not isinstance(answer, Exception) for pair in answer]
        taken = [posting.key for posting, _ in won]
        # The fallback may lose a race for each posting; what it left it finds by asking again.
        won += backend.acquire_next("rest", _ids(8 - len(taken)), 30.0)
        assert sorted(posting.key for posting, _ in won) == names
        assert list(backend.remove([lease for _, lease in won])) == [None] * 8


@guarantee("NEXT-1", "RUN-1")
@BOTH_KINDS
def check_processes_drain_a_board(board: Board, effort: Effort, expires_in: float | None) -> None:
    """Processes that drain a board finish every posting exactly once, also while it is filled."""
    backend, peers = board.open(), board.peers(3)
    names = [f"k{n}" for n in range(effort.rounds(60, 400))]
    half = len(names) // 2
    post(backend, *names[:half])
    with ThreadPoolExecutor(4) as threads:
        filling = threads.submit(lambda: [post(backend, name) for name in names[half:]])
        draining = [
            threads.submit(
                peer.run, "drain", holder=peer.who, batch=1 + n, expires_in=expires_in, idle=0.4
            )
            for n, peer in enumerate(peers)
        ]
        filling.result()
        done = [key for future in draining for key in future.result()]
    left = backend.acquire_next("rest", _ids(len(names)), 30.0)
    done += [posting.key for posting, _ in left]
    assert sorted(done) == sorted(names)


@guarantee("NEXT-1", "RUN-1")
def check_threads_drain_a_board(board: Board, effort: Effort) -> None:
    """Threads on one backend drain a board and finish every posting exactly once."""
    backend = board.open()
    names = [f"k{n}" for n in range(effort.rounds(40, 200))]
    post(backend, *names)
    done = together([lambda: drain(backend, holder="me", expires_in=None, idle=0.1)] * 4)
    assert sorted(key for part in done for key in part) == sorted(names)


# -- NEXT-2 ----------------------------------------------------------------------------------


@guarantee("NEXT-2")
def check_delayed_posting_is_listed_and_held_back(board: Board) -> None:
    """A delayed posting is listed, shows when it is due, and is not handed out before."""
    backend = board.open()
    sent = boottime()
    (posting,) = post(backend, "k", delay=60.0)
    assert 60.0 - (boottime() - sent) - 0.1 <= posting.due_in <= 60.0
    assert [p.key for p in backend.list().postings] == ["k"]
    assert list(backend.acquire_next("me", _ids(1))) == []


@guarantee("NEXT-2")
def check_delayed_posting_is_handed_out_when_due(board: Board) -> None:
    """A delayed posting is handed out soon after it is due, and not a moment before."""
    backend = board.open()
    sent = boottime()
    post(backend, "k", delay=0.8)
    answered = boottime()
    won, _ = eventually(lambda: backend.acquire_next("me", _ids(1)), 0.8 + BUSY)
    seen = boottime()
    assert [posting.key for posting, _ in won] == ["k"]
    assert seen - sent >= 0.8
    assert seen - answered <= 0.8 + BUSY
    assert look(backend, "k").due_in == 0.0


@guarantee("NEXT-2")
def check_released_with_delay_is_held_back(board: Board) -> None:
    """A posting that was released with a delay is not handed out before that, and soon after."""
    backend, other = board.open(), board.open()
    post(backend, "k")
    sent = boottime()
    backend.release(take(backend, "k"), 0.8)
    assert 0.0 < look(other, "k").due_in <= 0.8
    won, _ = eventually(lambda: other.acquire_next("me", _ids(1)), 0.8 + BUSY)
    assert [posting.key for posting, _ in won] == ["k"]
    assert boottime() - sent >= 0.8


@guarantee("NEXT-2", "NEXT-1")
def check_what_is_not_due_hides_nothing(board: Board) -> None:
    """Postings that are not due stand in nobody's way, however many come first in the order."""
    backend = board.open()
    post(backend, *[f"later{n}" for n in range(30)], rank=0, delay=60.0)
    post(backend, "now", rank=9)
    won = backend.acquire_next("me", _ids(2))
    assert [posting.key for posting, _ in won] == ["now"]


@guarantee("NEXT-2", "DIR-3")
def check_what_became_due_has_its_place(board: Board) -> None:
    """A posting that became due is handed out in its place by rank and age."""
    backend = board.open()
    post(backend, "old", rank=5, delay=0.4)
    post(backend, "young", rank=5)
    post(backend, "last", rank=6)
    time.sleep(0.6)
    won = backend.acquire_next("me", _ids(3))
    assert [posting.key for posting, _ in won] == ["old", "young", "last"]


@guarantee("NEXT-2")
def check_new_release_forgets_the_old_delay(board: Board) -> None:
    """A posting acquired before it is due and released without a delay is due at once."""
    backend = board.open()
    post(backend, "k", delay=60.0)
    backend.release(take(backend, "k"))
    assert [posting.key for posting, _ in backend.acquire_next("me", _ids(1))] == ["k"]


@guarantee("NEXT-2", "LEASE-4")
def check_dead_holders_posting_is_due(board: Board) -> None:
    """A posting whose lease ended by itself is due at once."""
    other = close_with_a_lease(board, "k")
    won, _ = eventually(lambda: other.acquire_next("me", _ids(1)), BUSY)
    assert [posting.key for posting, _ in won] == ["k"]
