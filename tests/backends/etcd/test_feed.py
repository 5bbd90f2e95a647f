# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The feed where its watch is cut, or loses events. Real servers."""

from __future__ import annotations

import threading
from typing import Any

from multiboard.backends.etcd import feed
from multiboard.primitives import ChangeKind
from tests.backends.etcd.boards import Maker, post, write
from tests.waiting import eventually


def test_a_cursor_goes_on_over_a_cut_watch(make: Maker) -> None:
    board, other = make(), make()
    cursor = board.changes(None, 1.0).cursor
    post(other, "before")
    for number in range(3):
        stream = board._feed._watch
        if stream is not None:
            stream.close()
        post(other, f"k{number}")
    received: list[str] = []
    while len(received) < 4:
        answer = board.changes(cursor, 5.0)
        assert not answer.reset
        received += [change.key for change in answer.events if change.kind is ChangeKind.POSTED]
        cursor = answer.cursor
    assert received == ["before", "k0", "k1", "k2"]


def test_an_event_that_the_watch_lost_is_noticed(make: Maker, monkeypatch: Any) -> None:
    monkeypatch.setattr(feed, "COMPARE", 0.1)
    monkeypatch.setattr(feed, "SURE", 0.1)
    monkeypatch.setattr(feed, "PULSE", 0.1)
    board, other = make(), make()
    write(board, "live/odd", b"rubbish")  # it differs from the order for ever, and is no loss
    post(board, "a")
    cursor = board.changes(None, 1.0).cursor
    take_in, lost = feed.Feed._take_in, []

    def losing(self: Any, events: Any) -> None:
        if events and self is board._feed and not lost:
            lost.extend(events)
        else:
            take_in(self, events)

    monkeypatch.setattr(feed.Feed, "_take_in", losing)
    post(other, "b")
    assert board.changes(cursor, 10.0).reset
    assert [posting.key for posting, _ in board.acquire_next("me", ["c1", "c2"])] == ["a", "b"]


def test_a_reader_that_never_waits_passes_nothing_over(make: Maker) -> None:
    board, other = make(), make()
    cursor = board.changes(None, 1.0).cursor
    names = [f"k{number}" for number in range(300)]
    poster = threading.Thread(target=post, args=(other, *names))
    poster.start()
    received: list[str] = []

    def all_received() -> bool:
        nonlocal cursor
        answer = board.changes(cursor, 0.0)
        cursor = answer.cursor
        received.extend(change.key for change in answer.events)
        return len(received) >= len(names) or answer.reset

    assert eventually(all_received)
    poster.join()
    assert received == names
