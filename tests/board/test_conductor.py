# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Our conductor, beyond what TaskFlow's own tests ask of any."""

from __future__ import annotations

import contextlib
import threading
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import flows
import pytest
import servers
from taskflow import states
from taskflow.conductors import backends as conductors
from taskflow.persistence.backends import impl_memory
from waiting import eventually

import multiboard
from multiboard.board import JobBoard
from multiboard.conductor import Conductor
from multiboard.notifier import LEASE_LOST


@pytest.fixture(autouse=True)
def _fresh_events() -> None:
    flows.runs.clear()
    flows.begun.clear()
    flows.go_on.clear()


@pytest.fixture
def persistence() -> Any:
    """One logbook store for all conductors of a test."""
    return impl_memory.MemoryBackend()


@contextlib.contextmanager
def running(board: JobBoard, persistence: Any, **options: Any) -> Iterator[Conductor]:
    """Run a conductor on a thread until the end of the block."""
    conductor = conductors.fetch("multiboard", "tester", board, persistence=persistence, **options)
    thread = threading.Thread(target=conductor.run, daemon=True)
    thread.start()
    try:
        yield conductor
    finally:
        flows.go_on.set()
        conductor.stop()
        assert conductor.wait(15)
        thread.join(15)


def test_many_jobs_run_once_each_at_once(
    make_board: Callable[..., JobBoard], store_url: str, persistence: Any
) -> None:
    board = multiboard.fetch("conducted", store_url, persistence=persistence)
    board.connect()
    with contextlib.closing(board), running(board, persistence, max_simultaneous_jobs=4):
        labels = [uuid.uuid4().hex for _ in range(20)]
        jobs = [flows.post(board, persistence, flows.quick, label) for label in labels]
        assert all(job.wait(20) for job in jobs)
        assert flows.runs == dict.fromkeys(labels, 1)
        [conductor] = make_board().entities()
        assert conductor.kind == "conductor"


def test_no_more_than_the_wanted_number_at_once(persistence: Any) -> None:
    with multiboard.backend("b", f"memory://{uuid.uuid4().hex}", persistence=persistence) as board:
        jobs = [flows.post(board, persistence, flows.slow, str(n)) for n in range(4)]
        with running(board, persistence, max_simultaneous_jobs=2):
            assert flows.begun.wait(10)
            eventually(lambda: [job.state for job in jobs].count(states.CLAIMED) == 2)
            assert [job.state for job in jobs[2:]] == [states.UNCLAIMED] * 2
            flows.go_on.set()
            assert all(job.wait(20) for job in jobs)


def test_a_stop_gives_the_job_under_way_back(persistence: Any) -> None:
    with multiboard.backend("b", f"memory://{uuid.uuid4().hex}", persistence=persistence) as board:
        job = flows.post(board, persistence, flows.slow, "a")
        with running(board, persistence) as conductor:
            assert flows.begun.wait(10)
            conductor.stop()
        eventually(lambda: job.state == states.UNCLAIMED)
        assert flows.runs == {}
        with running(board, persistence):  # it goes on where it was
            assert job.wait(20)
        assert flows.runs == {"a": 1}


def test_a_lost_claim_suspends_its_engine(
    persistence: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The server is frozen until the session may have ended: nobody else has the job yet."""
    suspended = threading.Event()
    with (
        servers.redis_server() as server,
        multiboard.backend(
            "b", f"{server.url}?session_timeout=2&operation_timeout=0.5", persistence=persistence
        ) as board,
    ):
        # A listener that does not return holds up no suspension.
        board.notifier.register(board.notifier.ANY, lambda *_, **__: flows.go_on.wait(30))
        board.notifier.register(LEASE_LOST, lambda *_, **__: suspended.wait(30))
        job = flows.post(board, persistence, flows.slow, "a")
        with running(board, persistence):
            assert flows.begun.wait(10)
            server.pause()
            eventually(lambda: job.lease is None)
            flows.go_on.set()
            eventually(lambda: "suspending it" in caplog.text)
            suspended.set()
            server.resume()
            assert job.wait(30)  # its claim ended, and it was taken again from where it was
        assert flows.runs == {"a": 1}


def test_only_our_boards() -> None:
    with pytest.raises(TypeError, match="'blocking' and 'nonblocking'"):
        Conductor("c", object())  # type: ignore[arg-type]


def test_a_claim_with_an_expiry(persistence: Any) -> None:
    with multiboard.backend("b", f"memory://{uuid.uuid4().hex}", persistence=persistence) as board:
        job = flows.post(board, persistence, flows.slow, "a")
        with running(board, persistence, expiry=60):
            assert flows.begun.wait(10)
            assert 50 < job.expires_in() <= 60
            flows.go_on.set()
            assert job.wait(20)
