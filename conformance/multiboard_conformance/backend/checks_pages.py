# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Checks of what is listed: every shelf, in parts or at once, long or short, near or far away."""

from __future__ import annotations

import pytest

from multiboard.primitives import Backend, NewPosting, Posting, Shelf
from multiboard_conformance.backend.answers import answer_of
from multiboard_conformance.backend.fixtures import Board, added, post, take
from multiboard_conformance.backend.guarantees import guarantee
from multiboard_conformance.backend.reading import keys, listed
from multiboard_conformance.machinery.plugin import Effort
from multiboard_conformance.machinery.programs import claim_id
from multiboard_conformance.machinery.proxy import Mode, Proxy


def _walk(backend: Backend, shelf: Shelf, limit: int) -> list[Posting]:
    """Read a shelf page by page."""
    walked: list[Posting] = []
    page = backend.list(shelf, limit=limit)
    for _ in range(500):
        assert len(page.postings) <= limit
        walked += page.postings
        if page.after is None:
            return walked
        page = backend.list(shelf, after=page.after, limit=limit)
    raise AssertionError("a walk has no end")


@guarantee("DIR-1", "DIR-3")
@pytest.mark.parametrize("shelf", list(Shelf), ids=lambda shelf: shelf.value)
def check_every_shelf_is_walked_in_order(board: Board, shelf: Shelf) -> None:
    """Pages of any length hold each posting of a shelf once, by rank, then serial, to the last."""
    backend = board.open()
    ranks = {f"k{n}": (7, 10, 9, 0)[n % 4] for n in range(12)}
    new = [NewPosting(key, key.encode(), rank) for key, rank in ranks.items()]
    added(backend.add(new, Shelf.ENTITIES if shelf is Shelf.ENTITIES else Shelf.LIVE))
    if shelf is Shelf.TRASH:
        for key in sorted(ranks, key=lambda key: (ranks[key] % 3, key)):
            backend.remove([take(backend, key, 60.0)], Shelf.TRASH)
    whole = list(backend.list(shelf).postings)
    assert {posting.key: posting.rank for posting in whole} == ranks
    assert [posting.body.decode() for posting in whole] == keys(whole)
    assert [posting.place for posting in whole] == sorted({posting.place for posting in whole})
    for limit in (1, 4, 6, 11, 12, 13):
        assert _walk(backend, shelf, limit) == whole, f"in pages of {limit}"


@guarantee("DIR-1")
def check_every_page_shows_what_was_acknowledged(board: Board) -> None:
    """The second page of a walk is as of the instant at which it is asked for, like the first."""
    backend, other = board.open(), board.open()
    post(backend, "a", "b", "gone", "taken", rank=1)
    page = backend.list(limit=2)
    assert (keys(page.postings), page.after is None) == (["a", "b"], False)
    post(other, "new", rank=2)
    assert list(other.remove([take(other, "gone", 60.0)])) == [None]
    lease = take(other, "taken", 60.0)
    page = backend.list(after=page.after, limit=9)
    assert [(posting.key, posting.lease) for posting in page.postings] == [
        ("taken", lease), ("new", None),
    ]  # fmt: skip


@guarantee("DIR-1")
def check_count_counts_whatever_the_state(board: Board) -> None:
    """Leased, delayed, released and restored postings are counted, an entity once for its key."""
    backend, other = board.open(), board.open()
    post(backend, "free", "leased", "released", "restored")
    post(backend, "later", rank=9, delay=60.0)
    take(backend, "leased", 60.0)
    backend.release(take(backend, "released", 60.0), 60.0)
    backend.remove([take(backend, "restored", 60.0)], Shelf.TRASH)
    assert (other.count(), other.count(Shelf.TRASH)) == (4, 1)
    backend.restore("restored")
    for _ in range(2):
        backend.add([NewPosting("entity", b"")], Shelf.ENTITIES)
    assert [other.count(shelf) for shelf in Shelf] == [5, 0, 1]
    assert [other.count(shelf) for shelf in Shelf] == [
        len(other.list(shelf).postings) for shelf in Shelf
    ]


@guarantee("DIR-1", "BATCH-1")
def check_long_shelf(board: Board, effort: Effort) -> None:
    """A shelf of more than a thousand, and batches of hundreds, are listed and answered whole."""
    backend, other = board.open(), board.open()
    names = [f"k{n}" for n in range(effort.rounds(1_050, 5_100))]
    added(backend.add([NewPosting(name, name.encode()) for name in names]))
    assert (listed(other), other.count()) == (names, len(names))
    assert keys(_walk(other, Shelf.LIVE, 500)) == names
    assert [posting and posting.key for posting in other.get(names)] == names
    won = backend.acquire_next("me", [claim_id() for _ in range(260)], 600.0)
    assert [posting.key for posting, _ in won] == names[:260]
    answers = backend.remove([lease for _, lease in won], Shelf.TRASH)
    assert list(answers) == [None] * 260
    assert (keys(_walk(other, Shelf.TRASH, 100)), listed(other)) == (names[:260], names[260:])
    assert list(backend.purge(names[:260])) == [True] * 260
    assert (listed(other, Shelf.TRASH), other.count(Shelf.TRASH)) == ([], 0)


@guarantee("DIR-1", "NEXT-1")
def check_distant_client_sees_what_was_acknowledged(
    board: Board, faulty: Board, proxy: Proxy
) -> None:
    """A client to whom everything takes long sees what was acknowledged to others before it asked.

    What it knows of the board by itself is late by as much. It holds for each page and each count,
    and for what ``acquire_next`` hands out.
    """
    direct, far = board.open(), faulty.open()
    post(direct, "first", "last", rank=50)
    everything = far.list().postings
    assert keys(everything) == ["first", "last"]
    assert len(far.acquire_next("me", [claim_id()], 60.0)) == 1
    far.changes(None, 0.0)
    proxy.set(Mode.DELAY, 0.1)
    for n in range(2):
        key = f"k{n}"
        post(direct, key, rank=9 - n)
        assert keys(far.list(limit=1).postings) == [key], "the first page is old"
        post(direct, f"{key}-behind", rank=60)
        rest = keys(far.list(after=everything[-1].place).postings)
        assert f"{key}-behind" in rest, "the page behind a place is old"
        ((posting, lease),) = far.acquire_next("me", [claim_id()], 60.0)
        assert posting.key == key, "what was posted first in the order is not handed out"
        direct.release(lease)
        ((posting, lease),) = far.acquire_next("me", [claim_id()], 60.0)
        assert posting.key == key, "what was released is not handed out"
        before = far.count()
        assert list(direct.remove([lease], Shelf.TRASH)) == [None]
        assert far.count() == before - 1, "the count is old"
        assert key in keys(far.list(Shelf.TRASH, limit=5).postings), "the trash is old"
    post(direct, "leased", rank=0)
    take(direct, "leased", 60.0)
    assert answer_of(lambda: take(far, "leased", 60.0)) == "LeaseHeld"
    won = far.acquire_next("me", [claim_id()], 60.0)
    assert [posting.key for posting, _ in won] == ["last"]
