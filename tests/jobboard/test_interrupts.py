# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Whoever uses a board may be interrupted at any instruction, and the board goes on working."""

from __future__ import annotations

import random
from typing import Any

import pytest

from multiboard.jobboard.board import JobBoard
from tests.jobboard.interrupting import ByHandler, FromAnotherThread, Ordeal

# The time limit of a test is a signal by default, the very one that these tests raise.
pytestmark = pytest.mark.timeout(120, method="thread")

#: Seconds of one long ordeal.
SECONDS = 60.0


def test_a_board_survives_a_signal_handler_that_raises(board: JobBoard, other: JobBoard) -> None:
    ordeal = Ordeal(board, other, seed=5)
    with ByHandler(random.Random(5)) as striker:
        ordeal.run(striker, interrupts=300, seconds=2.0, at_least=25)
    assert sum(ordeal.hits.values()) > 20


@pytest.mark.strict  # twenty minutes in all
@pytest.mark.timeout(400, method="thread")
@pytest.mark.parametrize("strikes", [ByHandler, FromAnotherThread])
@pytest.mark.parametrize("seed", [1, 2])
def test_a_board_survives_a_great_many_interrupts(
    board: JobBoard, other: JobBoard, strikes: Any, seed: int
) -> None:
    ordeal = Ordeal(board, other, seed)
    with strikes(random.Random(seed)) as striker:
        ordeal.run(striker, interrupts=5000, seconds=SECONDS)
    assert sum(ordeal.hits.values()) > 300
