# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The keys of a board and what is in them. Real servers."""

from __future__ import annotations

import pytest

from multiboard.backends.etcd import records
from multiboard.backends.etcd.clock import Stamp
from multiboard.primitives import NewPosting, Shelf
from tests.backends.etcd.boards import Maker, post, write


def test_a_finished_posting_leaves_nothing(make: Maker) -> None:
    board = make()
    post(board, "a", "b")
    board.remove([board.acquire("a", "me", "c")])
    board.remove([board.acquire("b", "me", "d")], Shelf.TRASH)
    board.purge(["b"])
    prefix = board._board.keys.top
    left = board._board.scan("bodies").kvs, board._board.scan("leases", end="trash").kvs
    names = [kv.key.removeprefix(prefix).decode() for part in left for kv in part]
    assert names == ["meta", "news"]


@pytest.mark.parametrize(
    "damage", [b"[" * 100_000, b'{"v":1,"x":' * 100_000, b'{"v":1,"rank":0,"created":Infinity}']
)
def test_a_record_without_end_is_damage(make: Maker, damage: bytes) -> None:
    board = make()
    board.add([NewPosting("good", b""), NewPosting("bad", b"")])
    for name in ("live/bad", "trash/worse", "entities/worst"):
        write(board, name, damage)
    assert [posting.key for posting in board.list().postings] == ["good"]
    assert any("bad" in damaged.where for damaged in board.list().damaged)
    assert board.get(["bad", "good"])[0] is None
    assert [posting.key for posting, _ in board.acquire_next("me", ["c-1", "c-2"])] == ["good"]
    for shelf in (Shelf.TRASH, Shelf.ENTITIES):
        assert list(board.list(shelf).postings) == []


def test_a_record_survives_the_way_through_its_bytes() -> None:
    head = records.Head(3, 7, 1.5, 2.5, 4, 1, True, 0.5, Stamp(2, 8.25))
    assert records.Head.decode(head.encode()) == head
    hold = records.Hold("me", "c", 0.25, Stamp(2, 8.25))
    assert records.Hold.decode(hold.encode()) == hold
    for rubbish in (b"", b"\xff", b"[]", b'{"v":2}', b'{"v":1}', b'{"v":1,"rank":true}'):
        with pytest.raises(ValueError, match=r"its|it is|names"):
            records.Head.decode(rubbish)
