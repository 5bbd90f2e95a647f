# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Checks of opening a board that may not be there, by somebody who must not make it."""

from __future__ import annotations

import pytest

from multiboard import errors
from multiboard.primitives import Backend
from multiboard_conformance.backend.answers import answer_of
from multiboard_conformance.backend.fixtures import Board, Store, post
from multiboard_conformance.backend.guarantees import guarantee
from multiboard_conformance.backend.reading import listed
from multiboard_conformance.harness import Harness
from multiboard_conformance.machinery.plugin import need, not_exercised


@guarantee("DIR-6")
@pytest.mark.parametrize("first_of_all", [False, True], ids=["board", "store"])
def check_looking_makes_no_board(board: Board, harness: Harness, first_of_all: bool) -> None:
    """Without create, opening a board that is not there raises BoardNotFound and makes none.

    Whoever looks again finds none either. The variant ``store`` does it in a store that nobody has
    used yet.
    """
    if first_of_all:
        need(harness, "fresh")
        store = Store(harness.fresh())
        store.pool = board.store.pool
        board = Board(store)
    try:
        backend = board.make(create=False)
        assert [answer_of(backend.open), answer_of(backend.open)] == [
            "BoardNotFound",
            "BoardNotFound",
        ]
        assert answer_of(backend.list) == "Closed"
        backend.close()
        assert answer_of(board.make(create=False).open) == "BoardNotFound"
    finally:
        if first_of_all:
            board.close()


@guarantee("DIR-6")
def check_board_that_is_there_is_opened(board: Board) -> None:
    """Without create, a board that is there is opened, and works like any other."""
    made = board.open()
    post(made, "k")
    found = board.open(create=False)
    assert (found.incarnation, listed(found)) == (made.incarnation, ["k"])
    post(found, "m")
    made.close()
    assert listed(board.open(create=False)) == ["k", "m"]


@guarantee("DIR-6")
def check_looking_at_a_wiped_board_makes_none(board: Board, harness: Harness) -> None:
    """Without create, a board that the store has lost is not found, as if it had never been."""
    need(harness, "wipe")
    made = board.open()
    post(made, "k")
    made.close()
    harness.wipe(made.settings)
    assert answer_of(board.make(create=False).open) == "BoardNotFound"
    assert answer_of(board.make(create=False).open) == "BoardNotFound"


@guarantee("DIR-6")
def check_boards_are_named(board: Board) -> None:
    """Where boards() is not Unsupported it names each board, and none that is not there."""
    looking = board.make(create=False, namespace=f"{board.namespace}/not-there")
    before = _named(looking)
    for name in (board.namespace, f"{board.namespace}/inner", board.namespace.upper()):
        board.open(namespace=name)
    assert answer_of(looking.open) == "BoardNotFound"
    added = [name for name in _named(looking) if name not in before]
    ours = [name for name in added if name.lower().startswith(board.namespace)]
    assert ours == sorted([board.namespace, f"{board.namespace}/inner", board.namespace.upper()])


def _named(backend: Backend) -> list[str]:
    try:
        return list(backend.boards())
    except errors.Unsupported:
        not_exercised("the backend can't list the boards of its store")
