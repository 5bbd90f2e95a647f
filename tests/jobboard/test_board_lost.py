# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""A conductor that opens its board again when the store has lost it."""

from __future__ import annotations

import contextlib
import logging
import threading
from typing import Any

import pytest
import servers

import multiboard
from multiboard.jobboard.conductor import Conductor
from tests.jobboard import flows
from tests.jobboard.test_conductor import wiped
from tests.waiting import eventually


@pytest.mark.parametrize("store_url", ["sqlite", "redis"], indirect=True)
@pytest.mark.parametrize("slots", [1, 2], ids=["no slot free", "a slot free"])
def test_a_conductor_goes_on_with_the_new_board(
    store_url: str, slots: int, persistence: Any, caplog: pytest.LogCaptureFixture
) -> None:
    options = {"persistence": persistence, "max_simultaneous_jobs": slots}
    with multiboard.backend("b", store_url, persistence=persistence) as board:
        conductor = Conductor("tester", board, on_board_lost="reopen", **options)
        thread = threading.Thread(target=conductor.run, daemon=True)
        flows.post(board, persistence, flows.slow, "before")
        thread.start()
        assert flows.begun.wait(20)
        before = board.incarnation
        wiped(store_url)
        eventually(lambda: conductor.board_lost)
        flows.go_on.set()  # what runs for the board of before is suspended after this task
        eventually(lambda: not conductor.board_lost)
        assert board.incarnation != before
        assert [entity.name for entity in board.entities()] == [conductor.conductor.name]
        job = flows.post(board, persistence, flows.quick, "after")
        assert job.wait(20)
        assert flows.runs == {"after": 1}
        conductor.stop()
        thread.join(20)
        assert not thread.is_alive()
    own = [r.getMessage() for r in caplog.records if r.name.startswith("taskflow.conductors")]
    assert len([text for text in own if "is opened again" in text]) == 1
    assert len([text for text in own if "is left as it is" in text]) == 1
    assert not [r for r in caplog.records if r.exc_info and r.levelno >= logging.WARNING]


def test_a_stop_ends_a_conductor_that_waits_for_its_store(
    persistence: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The store is away when the board is to be opened again: that is logged at growing pauses."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(servers.redis_server())
        url = f"{server.url}?connect_timeout=0.2&operation_timeout=0.2&session_timeout=2"
        board = stack.enter_context(multiboard.backend("b", url, persistence=persistence))
        conductor = Conductor("tester", board, persistence=persistence, on_board_lost="reopen")
        flows.post(board, persistence, flows.slow, "a")
        thread = threading.Thread(target=conductor.run, daemon=True)
        thread.start()
        assert flows.begun.wait(20)
        wiped(url)
        eventually(lambda: conductor.board_lost)
        server.kill()
        flows.go_on.set()
        eventually(lambda: "The board can't be opened again" in caplog.text)
        eventually(lambda: "times in" in caplog.text)
        conductor.stop()
        thread.join(20)
        assert not thread.is_alive()


def test_what_to_do_is_one_of_two() -> None:
    board: Any = multiboard.fetch("b", "memory://x")
    with pytest.raises(ValueError, match="'stop' or 'reopen'"):
        Conductor("tester", board, on_board_lost="go on")
