# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Checks of what a posting carries: its body byte for byte, and its times."""

from __future__ import annotations

import random
import time
import uuid

from multiboard.errors import PostingTooLarge
from multiboard.primitives import NewPosting, Posting, Shelf
from multiboard.runtime.retry import RetryingGuard
from multiboard_conformance.backend.answers import eventually
from multiboard_conformance.backend.feeds import MOMENTS
from multiboard_conformance.backend.fixtures import Board, added, post, take
from multiboard_conformance.backend.guarantees import guarantee
from multiboard_conformance.backend.reading import is_free, keys, look
from multiboard_conformance.machinery.plugin import Effort


@guarantee("DIR-4")
def check_bodies_come_back_byte_for_byte(board: Board) -> None:
    """Every byte, none at all, and what looks like text or a record, comes back as it was."""
    backend, other = board.open(), board.open()
    bodies = [
        b"", b"\0", bytes(range(256)), b"\r\n\0\n", "ünï©ode ☃".encode(), b"\xff\xfe\xfd", b"null",
        b'{"key": 1}', b"\r\nfoo\r\n", b"'; drop table postings; --", b" padded ", b"\x80" * 1000,
    ]  # fmt: skip
    added(backend.add([NewPosting(f"k{n}", body) for n, body in enumerate(bodies)]))
    assert [posting.body for posting in other.list().postings] == bodies
    answers = other.get([f"k{n}" for n in range(len(bodies))])
    assert [posting and posting.body for posting in answers] == bodies


@guarantee("DIR-4")
def check_largest_body_comes_back(board: Board, effort: Effort) -> None:
    """A body of max_body bytes is taken and comes back; the full run goes up to 16 MiB."""
    backend, other = board.open(), board.open()
    largest = min(board.traits.max_body, effort.rounds(2, 16) * 1024 * 1024)
    body = random.Random(1).randbytes(largest)
    post(backend, "k", body=body)
    assert look(other, "k").body == body
    ((posting, lease),) = other.acquire_next("me", [uuid.uuid4().hex], 30.0)
    assert posting.body == body
    assert list(other.remove([lease], Shelf.TRASH)) == [None]
    assert backend.restore("k").body == body


@guarantee("DIR-4")
def check_body_over_the_limit_is_never_sent(board: Board) -> None:
    """Over max_body the answer is PostingTooLarge, nothing is sent, and the others are added."""
    backend = board.open()
    limit = board.traits.max_body
    new = [NewPosting("a", b""), NewPosting("b", bytes(limit + 1)), NewPosting("c", b"")]
    first, answer, last = RetryingGuard(backend).add(new)
    assert isinstance(answer, PostingTooLarge)
    assert (answer.key, answer.size, answer.limit) == ("b", limit + 1, limit)
    sent = [
        len(item.body) for op in board.history.operations("add") for item in op.args["postings"]
    ]
    assert (keys(added([first, last])), sent) == (["a", "c"], [0, 0])


@guarantee("DIR-4")
def check_answer_shows_what_was_posted(board: Board) -> None:
    """The answer to add is the posting as it was asked for, unleased and never tried."""
    backend = board.open()
    (posting,) = post(backend, "k", body=b"b", rank=42)
    assert (posting.key, posting.rank, posting.body) == ("k", 42, b"b")
    assert (posting.attempts, posting.deaths, posting.lease, posting.due_in) == (0, 0, None, 0.0)
    assert posting.created_on == posting.modified_on


@guarantee("DIR-4")
def check_times_are_the_stores(board: Board) -> None:
    """created_on stays; modified_on moves with acquire and release, and not with renew."""
    backend = board.open()
    (new,) = post(backend, "k")
    time.sleep(0.02)  # a store's clock may count in milliseconds
    lease = take(backend, "k", 30.0)
    acquired = look(backend, "k")
    backend.renew(lease, 40.0)
    renewed = look(backend, "k")
    backend.release(lease)
    released = look(backend, "k")
    assert {new.created_on, acquired.created_on, released.created_on} == {new.created_on}
    assert new.modified_on <= acquired.modified_on == renewed.modified_on <= released.modified_on
    assert released.modified_on > new.modified_on


@guarantee("DIR-4")
def check_each_change_moves_the_time(board: Board) -> None:
    """modified_on moves with trash and restore and never goes back; created_on stays throughout.

    At the end of a lease it may move when the store ends it, or when it is acted upon.
    """
    backend, other = board.open(), board.open()
    (new,) = post(backend, "k")
    seen = [new]

    def changed(posting: Posting) -> None:
        seen.append(posting)
        time.sleep(0.02)  # a store's clock may count in milliseconds

    time.sleep(0.02)
    take(backend, "k", 0.3)
    acquired = look(other, "k")
    if acquired.lease is not None:  # or it has ended by now
        changed(acquired)
    eventually(lambda: is_free(other, "k"), MOMENTS)
    changed(look(other, "k"))
    assert list(backend.remove([take(backend, "k", 60.0)], Shelf.TRASH)) == [None]
    (trashed,) = other.list(Shelf.TRASH).postings
    changed(trashed)
    backend.restore("k")
    changed(look(other, "k"))
    assert {posting.created_on for posting in seen} == {new.created_on}
    moments = [posting.modified_on for posting in seen]
    assert moments == sorted(moments)
    assert len(set(moments[-3:])) == 3, "the end, the trash and the restore are not told apart"


@guarantee("LEASE-5", "NEXT-2")
def check_long_times_are_kept(board: Board) -> None:
    """A lease and a delay of months are as long as was asked for, as others see them, too."""
    backend, other = board.open(), board.open()
    months = 100 * 86400.0
    post(backend, "leased", "released")
    post(backend, "later", delay=months)
    lease = take(backend, "leased", 60.0)
    backend.renew(lease, months)
    backend.release(take(backend, "released", 2 * months), months)
    leased, released, later = (look(other, key) for key in ("leased", "released", "later"))
    assert leased.lease is not None
    times = [leased.lease.ends_in or 0.0, released.due_in, later.due_in]
    assert [months - 120.0 <= seconds <= months for seconds in times] == [True] * 3, times
    assert list(other.acquire_next("me", [uuid.uuid4().hex])) == []
