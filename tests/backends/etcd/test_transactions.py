# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Batches of steps, and the fence. Real servers."""

from __future__ import annotations

from typing import Any

from multiboard.backends.etcd import transactions
from multiboard.primitives import NewPosting
from tests.backends.etcd.boards import Maker


def test_write_that_arrives_after_its_fence_was_closed_is_void(make: Maker) -> None:
    board = make()
    old = board._board.transactions.fence
    board._board.transactions.close_fence()
    assert board._board.transactions.fence != old
    board._board.transactions.fence = old  # a request that was sent before, and arrives now
    new = NewPosting("late", b"body")
    _, step = board._additions._step(new, 0, 1.0)
    assert board._board.transactions.commit([step], news=True, fence=True) == []
    assert board.get(["late"]) == [None]


def test_a_batch_is_one_round_trip_for_a_hundred(make: Maker, monkeypatch: Any) -> None:
    board = make()
    calls: list[str] = []
    call_many = board._session.client.call_many

    def counted(name: str, *args: Any, **kwargs: Any) -> Any:
        calls.append(name)
        return call_many(name, *args, **kwargs)

    monkeypatch.setattr(board._session.client, "call_many", counted)
    answers = board.add([NewPosting(f"k{n}", b"x") for n in range(transactions.STEPS)])
    assert calls == ["Txn"]
    serials = [answer.serial for answer in answers]  # type: ignore[union-attr]
    assert serials == sorted(set(serials))
    calls.clear()
    won = board.acquire_next("me", [f"c{n}" for n in range(50)], 60.0)
    assert len(won) == 50
    calls.clear()
    won = board.acquire_next("me", [f"d{n}" for n in range(50)], 60.0)
    assert (len(won), calls.count("Txn")) == (50, 1)


def test_bodies_that_fill_requests_are_sent_in_parts(make: Maker) -> None:
    board = make()
    body = bytes(700_000)
    answers = board.add([NewPosting(f"k{n}", body) for n in range(3)])
    assert [type(answer).__name__ for answer in answers] == ["Posting"] * 3
    assert [posting.body for posting in board.list().postings] == [body] * 3
