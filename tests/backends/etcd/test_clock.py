# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The store's clock. Real servers."""

from __future__ import annotations

from multiboard.backends.etcd.clock import GRACE, Stamp
from tests.backends.etcd.boards import Maker, lease_left, post


def test_a_new_term_prolongs_and_never_shortens(make: Maker) -> None:
    clock = make()._session.clock
    now = clock.stamp()
    assert clock.passed("k", Stamp(now.term, now.latest - 100.0)) >= 98.0
    earlier = Stamp(now.term - 1, now.latest - 10_000.0)
    assert clock.passed("k", earlier) < max(1.0, now.latest - GRACE + 1.0)
    assert clock.passed("k", Stamp(now.term + 1, 0.0)) < 1.0


def test_the_clock_is_made_with_the_first_timed_lease(make: Maker) -> None:
    board = make()
    post(board)
    board.acquire("k", "me", "c", 30.0)
    assert lease_left(board, board._session.clock._lease) > 10**9


def test_a_board_without_timed_things_makes_no_clock(make: Maker) -> None:
    board = make()
    post(board)
    board.remove([board.acquire("k", "me", "c")])
    assert lease_left(board, board._session.clock._lease) == -1
