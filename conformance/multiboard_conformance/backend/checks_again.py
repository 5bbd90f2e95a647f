# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Checks of what comes again when all is over: purged keys, and claim ids that had their lease."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from multiboard.primitives import Backend, ChangeKind, Lease, NewPosting, Posting, Shelf
from multiboard_conformance.backend.answers import answer_of, name_of
from multiboard_conformance.backend.feeds import Reader
from multiboard_conformance.backend.fixtures import Board, post, post_and_trash, take
from multiboard_conformance.backend.guarantees import guarantee
from multiboard_conformance.backend.reading import listed, look
from multiboard_conformance.machinery.plugin import not_exercised
from multiboard_conformance.machinery.programs import claim_id

ENDS: dict[str, Callable[[Backend, Lease], Any]] = {
    "release": lambda b, lease: b.release(lease),
    "remove": lambda b, lease: b.remove([lease]),
    "trash": lambda b, lease: b.remove([lease], Shelf.TRASH),
}
BOTH_KINDS = pytest.mark.parametrize("expires_in", [None, 60.0], ids=["session", "timed"])


def _purge(backend: Backend, key: str) -> None:
    backend.remove([take(backend, key)], Shelf.TRASH)
    assert list(backend.purge([key])) == [True]


@guarantee("DIR-2", "DIR-1")
def check_purged_posting_does_not_come_back(board: Board) -> None:
    """A posting that was purged does not come back when its poster repeats the add.

    It is as finished as one that was consumed: the answer is the posting as it was added, or that
    there is none, nobody can lease it, and the feed reports nothing.
    """
    poster, operator = board.open(), board.open()
    (first,) = post(poster, "k")
    _purge(operator, "k")
    reader = Reader(operator).start()
    (again,) = poster.add([NewPosting("k", b"body")])
    place = again.place if isinstance(again, Posting) else name_of(again)
    assert place in (first.place, "PostingNotFound")
    assert (listed(poster), listed(poster, Shelf.TRASH)) == ([], [])
    assert answer_of(lambda: take(poster, "k")) == "PostingNotFound"
    assert answer_of(lambda: poster.restore("k")) == "PostingNotFound"
    post(poster, "last")
    assert reader.receives(ChangeKind.POSTED, "last")
    assert reader.story("k") == []


@guarantee("DIR-2")
@pytest.mark.parametrize("end", ["remove", "purge"])
def check_two_posters_of_one_key_repeat(board: Board, end: str) -> None:
    """Of two posters of one posting neither brings it back by its repeat, first or second.

    The second one's add found the posting, was answered with it, and may have lost that answer.
    """
    first, second, worker = board.open(), board.open(), board.open()
    (posting,) = post(first, "k")
    assert post(second, "k") == [posting]
    if end == "purge":
        _purge(worker, "k")
    else:
        assert list(worker.remove([take(worker, "k")])) == [None]
    reader = Reader(worker).start()
    for poster in (second, first, second):
        (again,) = poster.add([NewPosting("k", b"body")])
        place = again.place if isinstance(again, Posting) else name_of(again)
        assert place in (posting.place, "PostingNotFound")
        assert (listed(worker), listed(worker, Shelf.TRASH)) == ([], [])
    post(first, "last")
    assert reader.receives(ChangeKind.POSTED, "last")
    assert reader.story("k") == []


@guarantee("LEASE-2", "ERR-2")
def check_repeat_of_what_was_purged(board: Board) -> None:
    """A lease that trashed a posting which was purged did not remove it, nor can be given back."""
    backend = board.open()
    lease = post_and_trash(backend, "k")
    assert list(backend.purge(["k"])) == [True]
    assert [name_of(answer) for answer in backend.remove([lease])] == ["PostingNotFound"]
    assert answer_of(lambda: backend.release(lease)) == "PostingNotFound"
    assert list(backend.remove([lease], Shelf.TRASH)) == [None], "this repeat is one"


@guarantee("LEASE-3")
def check_tokens_rise_where_a_purged_key_is_used_again(board: Board) -> None:
    """A key that was purged, and is added again by another poster, goes on with higher tokens."""
    backend = board.open()
    old = post_and_trash(backend, "k", released=5)
    backend.purge(["k"])
    other = board.open()
    other.add([NewPosting("k", b"body")])
    if listed(other) == []:
        not_exercised("the store remembers for everybody what was purged")
    assert take(other, "k").token > old.token
    assert [name_of(answer) for answer in backend.remove([old])] == ["LeaseLost"]


@guarantee("LEASE-6", "LEASE-1")
@BOTH_KINDS
@pytest.mark.parametrize("end", ENDS)
def check_claim_id_is_good_for_one_lease(board: Board, end: str, expires_in: float | None) -> None:
    """A claim id whose lease was given back, or used up, leases nothing more.

    A repeat that comes so late is of an attempt that had its answer: nobody would hold the token of
    the lease, and it would keep others away for as long as the process lives.
    """
    backend, other = board.open(), board.open()
    post(backend, "k", "free")
    attempt = claim_id()
    ((_, lease),) = backend.acquire_next("me", [attempt], expires_in)
    assert lease.key == "k"
    ENDS[end](backend, lease)
    before = look(other, "free")
    assert answer_of(lambda: backend.acquire("free", "me", attempt, expires_in)) == "LeaseLost"
    assert list(backend.acquire_next("me", [attempt], expires_in)) == []
    assert look(other, "free") == before
    fresh = claim_id()
    won = backend.acquire_next("me", [attempt, fresh], expires_in)
    assert [lease.claim_id for _, lease in won] == [fresh], "the others must not suffer for it"
    assert [posting.key for posting, _ in won] == ["k" if end == "release" else "free"]


@guarantee("LEASE-6")
@pytest.mark.parametrize("end", ENDS)
def check_repeat_of_an_attempt_at_one_posting(board: Board, end: str) -> None:
    """An acquire that is repeated after its lease was given back leases nothing."""
    backend = board.open()
    post(backend, "k")
    lease = backend.acquire("k", "me", "one", 60.0)
    ENDS[end](backend, lease)
    allowed: Sequence[str] = (
        ("LeaseLost",) if end == "release" else ("LeaseLost", "PostingNotFound")
    )
    assert answer_of(lambda: backend.acquire("k", "me", "one", 60.0)) in allowed
    if end == "release":
        assert look(backend, "k").lease is None
        assert backend.acquire("k", "me", "two", 60.0).token > lease.token
