# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""A conductor that is stopped with a grace: what runs may finish, what does not is handed back."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from taskflow import states

import multiboard
from multiboard.jobboard.board import JobBoard
from multiboard.jobboard.conductor import Conductor
from tests.jobboard import flows
from tests.waiting import eventually


@pytest.fixture
def board(persistence: Any) -> Iterator[JobBoard]:
    """A board of the test's own."""
    with multiboard.backend("b", f"memory://{uuid.uuid4().hex}", persistence=persistence) as made:
        yield made


Start = Callable[..., Conductor]


@pytest.fixture
def start(board: JobBoard, persistence: Any) -> Iterator[Start]:
    """Start conductors on threads; at the end they are stopped."""
    started: list[tuple[Conductor, threading.Thread]] = []

    def start(**options: Any) -> Conductor:
        conductor = Conductor("tester", board, persistence=persistence, **options)
        thread = threading.Thread(target=conductor.run, daemon=True)
        thread.start()
        started.append((conductor, thread))
        return conductor

    yield start
    flows.go_on.set()
    for conductor, thread in started:
        conductor.stop()
        thread.join(20)
        assert not thread.is_alive()


def test_what_runs_may_finish_within_the_grace(
    board: JobBoard, persistence: Any, start: Start
) -> None:
    job = flows.post(board, persistence, flows.slow, "a")
    conductor = start()
    assert flows.begun.wait(10)
    conductor.stop(grace=60)
    assert conductor.draining
    later = flows.post(board, persistence, flows.quick, "later")
    assert not conductor.wait(0.5)  # it waits for the job
    flows.go_on.set()
    assert conductor.wait(20)  # and for no more of the 60 s
    assert (job.state, later.state) == (states.COMPLETE, states.UNCLAIMED)
    assert flows.runs == {"a": 1}
    assert conductor.handed_back == 0


def test_what_does_not_finish_is_handed_back_and_goes_on_elsewhere(
    board: JobBoard, persistence: Any, start: Start
) -> None:
    job = flows.post(board, persistence, flows.slow, "a")
    conductor = start()
    assert flows.begun.wait(10)
    conductor.stop(grace=0.1)
    eventually(conductor._wait_timeout.is_stopped)  # the grace is over
    assert conductor.running == [job]  # the current task is not cut short
    flows.go_on.set()
    assert conductor.wait(20)
    assert (job.state, job.attempts) == (states.UNCLAIMED, 1)
    assert (conductor.handed_back, flows.runs) == (1, {})
    start()
    assert job.wait(20)
    assert flows.runs == {"a": 1}


def test_a_second_stop_ends_the_grace(board: JobBoard, persistence: Any, start: Start) -> None:
    job = flows.post(board, persistence, flows.slow, "a")
    conductor = start()
    assert flows.begun.wait(10)
    conductor.stop(grace=600)
    conductor.stop(grace=1000)  # no later than the first one said
    conductor.stop()
    flows.go_on.set()
    assert conductor.wait(20)
    assert (job.state, conductor.handed_back) == (states.UNCLAIMED, 1)


def test_a_stop_wakes_a_conductor_that_has_nothing_to_do(start: Start, board: JobBoard) -> None:
    conductor = start(wait_timeout=600)
    eventually(lambda: board.entities() != [])
    conductor.stop(grace=600)
    assert conductor.wait(20)


def test_the_entity_shows_what_runs(board: JobBoard, persistence: Any, start: Start) -> None:
    job = flows.post(board, persistence, flows.slow, "a")
    conductor = start(max_simultaneous_jobs=3)
    assert flows.begun.wait(10)
    board.register_entity(conductor.presence())
    [shown] = board.entities()
    assert shown.name == conductor.conductor.name
    assert shown.metadata["running"] == [{"name": "a", "uuid": job.uuid}]
    assert (shown.metadata["draining"], shown.metadata["max_simultaneous_jobs"]) == (False, 3)
    conductor.stop(grace=60)
    assert conductor.presence().metadata["draining"]


@pytest.mark.parametrize("grace", [-1, float("nan"), float("inf"), "10", True])
def test_a_grace_is_a_number_of_seconds(board: JobBoard, persistence: Any, grace: Any) -> None:
    conductor = Conductor("tester", board, persistence=persistence)
    with pytest.raises(ValueError, match="grace is"):
        conductor.stop(grace=grace)
    assert not conductor.draining
