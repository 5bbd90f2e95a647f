# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Boards to test on, each in every store, and what conductors need beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from taskflow.persistence.backends import impl_memory

import multiboard
from multiboard.jobboard.board import JobBoard
from tests.jobboard import flows


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


@pytest.fixture(autouse=True)
def _fresh_flows() -> None:
    flows.runs.clear()
    flows.begun.clear()
    flows.go_on.clear()


@pytest.fixture
def persistence() -> Any:
    """One logbook store for all conductors of a test."""
    return impl_memory.MemoryBackend()
