# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Checks of what is counted: attempts, and deaths apart from abandons."""

from __future__ import annotations

from multiboard.primitives import Backend, Lease, Shelf
from multiboard_conformance.backend.answers import answer_of, eventually
from multiboard_conformance.backend.feeds import MOMENTS
from multiboard_conformance.backend.fixtures import (
    Board,
    close_with_a_lease,
    post,
    take,
    try_to_take,
)
from multiboard_conformance.backend.guarantees import guarantee
from multiboard_conformance.backend.reading import is_free, look


def _counted(backend: Backend, key: str) -> tuple[int, int]:
    posting = look(backend, key)
    return posting.attempts, posting.deaths


@guarantee("LEASE-8")
def check_attempts_count_acquisitions(board: Board) -> None:
    """Attempts rises with every lease; giving one back is no death."""
    backend, other = board.open(), board.open()
    post(backend, "k")
    for n in range(1, 4):
        lease = take(backend, "k", None if n % 2 else 30.0)
        assert _counted(other, "k") == (n, 0)
        backend.release(lease)
        assert _counted(other, "k") == (n, 0)


@guarantee("LEASE-8")
def check_refused_attempts_do_not_count(board: Board) -> None:
    """An attempt that was refused, and a repeat of the one that won, count nothing."""
    backend, other = board.open(), board.open()
    post(backend, "k")
    backend.acquire("k", "me", "one")
    backend.acquire("k", "me", "one")
    answer_of(lambda: take(other, "k"))
    assert _counted(other, "k") == (1, 0)


@guarantee("LEASE-8", "LEASE-5")
def check_ended_lease_is_a_death(board: Board) -> None:
    """A lease that ended by itself counts one death, seen or unseen, and no more than one."""
    backend = board.open()
    post(backend, "k", "unseen")
    take(backend, "k", 0.2)
    take(backend, "unseen", 0.2)
    counted, _ = eventually(
        lambda: _counted(backend, "k") if look(backend, "k").lease is None else None,
        5.0,
    )
    assert (counted, _counted(backend, "k")) == ((1, 1), (1, 1))
    lease, _ = eventually(lambda: try_to_take(backend, "unseen"), 5.0)
    assert isinstance(lease, Lease)
    assert _counted(backend, "unseen") == (2, 1)


@guarantee("LEASE-8", "LEASE-4")
def check_closing_with_a_lease_is_a_death(board: Board) -> None:
    """A session lease whose backend is closed ends by itself: a death, not an abandon."""
    other = close_with_a_lease(board, "k")
    posting, _ = eventually(lambda: is_free(other, "k"), MOMENTS)
    assert posting
    assert _counted(other, "k") == (1, 1)


@guarantee("LEASE-8")
def check_counts_survive_the_trash(board: Board) -> None:
    """Attempts and deaths go with a posting into the trash and back."""
    backend = close_with_a_lease(board, "k")
    eventually(lambda: is_free(backend, "k"), MOMENTS)
    backend.release(take(backend, "k"))
    assert list(backend.remove([take(backend, "k")], Shelf.TRASH)) == [None]
    (trashed,) = backend.list(Shelf.TRASH).postings
    restored = backend.restore("k")
    counted = [(posting.attempts, posting.deaths) for posting in (trashed, restored)]
    assert [*counted, _counted(backend, "k")] == [(3, 1)] * 3
