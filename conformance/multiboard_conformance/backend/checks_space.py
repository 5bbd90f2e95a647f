# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Checks of a board's space: what is in it that is not the board's."""

from __future__ import annotations

import pytest

from multiboard.primitives import ChangeKind, NewPosting, Shelf
from multiboard_conformance.backend.answers import answer_of
from multiboard_conformance.backend.feeds import Reader
from multiboard_conformance.backend.fixtures import Board, post, take
from multiboard_conformance.backend.guarantees import guarantee
from multiboard_conformance.backend.reading import listed, snapshot
from multiboard_conformance.harness import Harness
from multiboard_conformance.machinery.plugin import need

_INSIDE = (
    "x", "live", "trash", "entities", "leases", "postings", "locks", "sessions", "feed", "board",
    "0", "meta", "x/y",
)  # fmt: skip


@guarantee("DIR-5")
def check_boards_inside_a_board_share_nothing(board: Board) -> None:
    """Boards whose names begin with this board's name are foreign to it, and it to them."""
    backend = board.open()
    reader = Reader(backend).start()
    post(backend, "mine")
    inner = {name: board.open(namespace=f"{board.namespace}/{name}") for name in _INSIDE}
    for name, other in inner.items():
        post(other, "theirs", name.replace("/", "."))
        other.remove([take(other, "theirs")], Shelf.TRASH)
        other.add([NewPosting("entity", b"")], Shelf.ENTITIES)
    assert (listed(backend), listed(backend, Shelf.TRASH), listed(backend, Shelf.ENTITIES)) == (
        ["mine"], [], [],
    )  # fmt: skip
    assert backend.list().damaged == () or not backend.list().damaged
    assert [listed(other) for other in inner.values()] == [
        [name.replace("/", ".")] for name in inner
    ]
    post(backend, "last")
    assert reader.receives(ChangeKind.POSTED, "last")
    assert {change.key for change in reader.received} == {"mine", "last"}


@guarantee("DIR-5")
@pytest.mark.parametrize("name", ["{0}-", "{0}.", "{0}0", "A{0}", "{0}-b"])
def check_boards_of_like_names_share_nothing(board: Board, name: str) -> None:
    """Boards whose names are alike share no postings, trash or feed."""
    backend = board.open()
    other = board.open(namespace=name.format(board.namespace))
    post(backend, "k", body=b"one")
    post(other, "k", body=b"two")
    other.remove([take(other, "k")], Shelf.TRASH)
    assert (listed(backend), listed(backend, Shelf.TRASH)) == (["k"], [])
    assert answer_of(lambda: backend.restore("k").body) == b"one"


@guarantee("DIR-5")
def check_long_board_names_are_told_apart(board: Board) -> None:
    """Boards whose long names differ at the end, or by what joins their parts, share nothing."""
    long = f"{board.namespace}/{'n' * 30}"
    names = [f"{long}/{end}" for end in ("a", "b", "a.b", "a-b", "a_b", "a/b", "ab")]
    boards = [board.open(namespace=name) for name in names]
    for number, backend in enumerate(boards):
        post(backend, "k", f"own{number}", body=b"%d" % number)
        backend.remove([take(backend, f"own{number}")], Shelf.TRASH)
    assert [backend.get(["k"])[0].body for backend in boards] == [  # type: ignore[union-attr]
        b"%d" % number for number in range(len(boards))
    ]
    assert [listed(backend, Shelf.TRASH) for backend in boards] == [
        [f"own{number}"] for number in range(len(boards))
    ]


@guarantee("DIR-5")
def check_board_names_are_told_apart_by_case(board: Board) -> None:
    """Two namespaces that differ by case only are two boards."""
    backend = board.open()
    other = board.open(namespace=board.namespace.upper())
    post(backend, "k")
    assert listed(other) == []


@guarantee("DIR-5")
def check_foreign_records_break_nothing(board: Board, harness: Harness) -> None:
    """With foreign records in its space every verb of the board works as before."""
    need(harness, "write_garbage")
    backend = board.open()
    post(backend, "before")
    reader = Reader(backend).start()
    harness.write_garbage(backend.settings)
    post(backend, "after")
    assert listed(backend) == ["before", "after"]
    assert [posting and posting.key for posting in backend.get(["before", "after"])] == [
        "before", "after",
    ]  # fmt: skip
    won = backend.acquire_next("me", ["c1", "c2", "c3"], 30.0)
    assert [posting.key for posting, _ in won] == ["before", "after"]
    assert list(backend.remove([won[0][1]])) == [None]
    assert list(backend.remove([won[1][1]], Shelf.TRASH)) == [None]
    assert backend.restore("after").key == "after"
    assert reader.receives(ChangeKind.RESTORED, "after")


@guarantee("DIR-5")
def check_foreign_records_are_left_alone(board: Board, harness: Harness) -> None:
    """No verb deletes or changes what is not the board's."""
    need(harness, "write_garbage", "read_garbage")
    backend = board.open()
    post(backend, "k")
    written = dict(harness.write_garbage(backend.settings))
    snapshot(backend)
    backend.remove([take(backend, "k")])
    backend.acquire_next("me", ["c1"])
    backend.purge(["k"])
    backend.close()
    snapshot(board.open())
    assert dict(harness.read_garbage(backend.settings)) == written


@guarantee("DIR-5")
def check_damaged_posting_is_skipped_and_named(board: Board, harness: Harness) -> None:
    """A damaged posting is named in the page's damaged, reads as None, and hides no other."""
    need(harness, "damage")
    backend = board.open()
    post(backend, "a", "bad", "c")
    harness.damage(backend.settings, "bad")
    page = backend.list()
    assert ([posting.key for posting in page.postings], len(page.damaged)) == (["a", "c"], 1)
    answers = backend.get(["a", "bad", "c"])
    assert [posting and posting.key for posting in answers] == ["a", None, "c"]


@guarantee("DIR-5", "NEXT-1")
def check_damaged_posting_stops_no_worker(board: Board, harness: Harness) -> None:
    """acquire_next passes over a damaged posting at the front of the order."""
    need(harness, "damage")
    backend = board.open()
    post(backend, "bad", rank=0)
    post(backend, "good", rank=1)
    harness.damage(backend.settings, "bad")
    won = backend.acquire_next("me", ["c1", "c2"], 30.0)
    assert [posting.key for posting, _ in won] == ["good"]
