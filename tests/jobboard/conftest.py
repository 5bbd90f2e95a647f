# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Boards to test on, each in every store."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

import multiboard
from multiboard.jobboard.board import JobBoard


@pytest.fixture
def make_board(store_url: str) -> Iterator[Callable[..., JobBoard]]:
    """Make connected boards, all of them the same board in one store."""
    made: list[JobBoard] = []

    def make(name: str = "board", **options: Any) -> JobBoard:
        board = multiboard.fetch(name, {"url": store_url, **options})
        made.append(board)
        board.connect()
        return board

    yield make
    for board in made:
        board.close()


@pytest.fixture
def board(make_board: Callable[..., JobBoard]) -> JobBoard:
    """A connected board."""
    return make_board()


@pytest.fixture
def other(make_board: Callable[..., JobBoard]) -> JobBoard:
    """The same board through another connection."""
    return make_board("other")
