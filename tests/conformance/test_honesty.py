# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The suite's honesty: its own model, resets that must be due, results that name their gaps."""

from __future__ import annotations

import pytest
from multiboard_conformance.backend.feeds import Reader
from multiboard_conformance.machinery.history import History
from multiboard_conformance.machinery.model import Board, ModelBackend
from multiboard_conformance.machinery.recording import Recorded
from multiboard_conformance.machinery.resets import ResetNotDue
from multiboard_conformance.results import (
    CONFORMANT,
    NOT_EXERCISED,
    PASSED,
    Outcome,
    Results,
)

from multiboard import errors
from multiboard.primitives import Changes, NewPosting


class Resetting(ModelBackend):
    """Reports a reset whenever it is asked."""

    def changes(self, cursor: str | None, timeout: float) -> Changes:
        answer = super().changes(cursor, timeout)
        return Changes((), answer.cursor, reset=True)


def test_reset_that_was_not_due_is_a_failure() -> None:
    reader = Reader(Recorded(Resetting(Board()), "a", History())).start()
    with pytest.raises(ResetNotDue, match="kept up"):
        reader.read(0.0)


def test_reset_after_a_fault_is_counted() -> None:
    history = History()
    history.disturbed = True
    reader = Reader(Recorded(Resetting(Board()), "a", history)).start()
    reader.read(0.0)
    assert (reader.resets, history.resets) == (1, 1)


def test_reset_after_a_failed_operation_is_due() -> None:
    history = History()
    reader = Reader(Recorded(Resetting(Board()), "a", history)).start()
    history.conclude(history.invoke("b", "count", {}), errors.Unavailable("cut"))
    reader.read(0.0)
    assert history.resets == 1


def test_reset_to_a_cursor_from_elsewhere_is_not_judged() -> None:
    reader = Reader(Recorded(Resetting(Board()), "a", History()))
    reader.cursor = "0"
    reader.read(0.0)
    assert reader.resets == 1


def test_model_ends_what_a_session_held() -> None:
    board = Board()
    one, two = ModelBackend(board), ModelBackend(board)
    one.add([NewPosting("k", b"")])
    first = one.acquire("k", "me", "c1")
    with pytest.raises(errors.LeaseHeld):
        two.acquire("k", "you", "c2")
    one.close()
    second = two.acquire("k", "you", "c3")
    (posting,) = two.get(["k"])
    assert posting is not None
    assert (posting.attempts, posting.deaths, second.token > first.token) == (2, 1, True)


def test_result_names_what_was_not_exercised() -> None:
    results = Results({})
    results.add(Outcome("check_a", (), PASSED))
    assert results.headline(CONFORMANT) == "conformant"
    results.add(Outcome("check_b", (), NOT_EXERCISED))
    assert results.headline(CONFORMANT) == "conformant, but 1 check was not exercised"
