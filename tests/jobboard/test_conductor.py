# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Our conductor, beyond what TaskFlow's own tests ask of any."""

from __future__ import annotations

import contextlib
import logging
import math
import pathlib
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import servers
from taskflow import exceptions as excp
from taskflow import states

import multiboard
from multiboard import errors
from multiboard.config import loading
from multiboard.jobboard.board import JobBoard
from multiboard.jobboard.conductor import Conductor
from multiboard.jobboard.events import LEASE_LOST
from tests.jobboard import flows
from tests.waiting import eventually

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1] / "conformance"))

from tests.conformance import harnesses


def test_many_jobs_run_once_each_at_once(
    make_board: Callable[..., JobBoard], store_url: str, persistence: Any
) -> None:
    board = multiboard.fetch("conducted", store_url, persistence=persistence)
    board.connect()
    with contextlib.closing(board), flows.running(board, persistence, max_simultaneous_jobs=4):
        labels = [uuid.uuid4().hex for _ in range(20)]
        jobs = [flows.post(board, persistence, flows.quick, label) for label in labels]
        assert all(job.wait(20) for job in jobs)
        assert flows.runs == dict.fromkeys(labels, 1)
        [conductor] = make_board().entities()
        assert conductor.kind == "conductor"


def test_no_more_than_the_wanted_number_at_once(persistence: Any) -> None:
    with multiboard.backend("b", f"memory://{uuid.uuid4().hex}", persistence=persistence) as board:
        jobs = [flows.post(board, persistence, flows.slow, str(n)) for n in range(4)]
        with flows.running(board, persistence, max_simultaneous_jobs=2):
            assert flows.begun.wait(10)
            eventually(lambda: [job.state for job in jobs].count(states.CLAIMED) == 2)
            assert [job.state for job in jobs[2:]] == [states.UNCLAIMED] * 2
            flows.go_on.set()
            assert all(job.wait(20) for job in jobs)


def test_a_stop_gives_the_job_under_way_back(persistence: Any) -> None:
    with multiboard.backend("b", f"memory://{uuid.uuid4().hex}", persistence=persistence) as board:
        job = flows.post(board, persistence, flows.slow, "a")
        with flows.running(board, persistence) as conductor:
            assert flows.begun.wait(10)
            conductor.stop()
        eventually(lambda: job.state == states.UNCLAIMED)
        assert flows.runs == {}
        with flows.running(board, persistence):  # it goes on where it was
            assert job.wait(20)
        assert flows.runs == {"a": 1}


@pytest.mark.served
@pytest.mark.long
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
        with flows.running(board, persistence):
            assert flows.begun.wait(10)
            server.pause()
            eventually(lambda: job.lease is None)
            flows.go_on.set()
            eventually(lambda: "suspending it" in caplog.text)
            suspended.set()
            server.resume()
            assert job.wait(30)  # its claim ended, and it was taken again from where it was
        assert flows.runs == {"a": 1}


def wiped(url: str) -> None:
    """Let a store lose a board, as its conformance harness does."""
    scheme = url.partition(":")[0]
    harness = {
        "redis": harnesses.RedisHarness,
        "sqlite": harnesses.SQLiteHarness,
        "zookeeper": harnesses.ZooKeeperHarness,
        "etcd": harnesses.EtcdHarness,
    }[scheme](url)
    with contextlib.closing(harness):
        harness.wipe(loading.load(url).settings)


@pytest.mark.parametrize("store_url", ["sqlite", "redis", "zookeeper", "etcd"], indirect=True)
@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
def test_a_conductor_ends_with_one_error_where_its_board_is_lost(
    store_url: str, persistence: Any, busy: bool, caplog: pytest.LogCaptureFixture
) -> None:
    url = f"{store_url}&session_timeout=2"
    ended: list[BaseException] = []
    with multiboard.backend("b", url, persistence=persistence) as board:
        conductor = Conductor("tester", board, persistence=persistence, max_simultaneous_jobs=2)

        def run() -> None:
            try:
                conductor.run()
            except BaseException as error:
                ended.append(error)

        if busy:
            flows.post(board, persistence, flows.slow, "a")
        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        eventually(lambda: flows.begun.is_set() if busy else board.entities() != [])
        wiped(url)
        eventually(lambda: conductor._board_lost)
        flows.go_on.set()
        thread.join(20)
        [error] = ended
        assert isinstance(error, excp.JobFailure)
        assert isinstance(error.__cause__, errors.BoardLost)
        assert not conductor.dispatching
        assert flows.runs == {}  # it was suspended before its second task
    said = [
        record
        for record in caplog.records
        if record.levelno >= logging.WARNING and "onsum" not in record.getMessage()
    ]
    assert [r.getMessage() for r in said if "this conductor ends" in r.getMessage()] != []
    assert [record for record in said if record.exc_info and "abandon" not in record.msg] == []
    assert len(said) < 12, [record.getMessage() for record in said]


@pytest.mark.served
@pytest.mark.long
def test_an_outage_is_logged_at_growing_pauses(
    persistence: Any, caplog: pytest.LogCaptureFixture
) -> None:
    options = "session_timeout=2&operation_timeout=0.1&connect_timeout=0.1"
    with (
        servers.redis_server() as server,
        multiboard.backend("b", f"{server.url}?{options}", persistence=persistence) as board,
        flows.running(board, persistence),
    ):
        eventually(lambda: board.entities() != [])
        server.kill()
        began = time.monotonic()
        eventually(lambda: time.monotonic() > began + 5)
        records = [r for r in caplog.records if r.levelno >= logging.WARNING]
        seconds = time.monotonic() - began
        server.restart()
        job = flows.post(board, persistence, flows.quick, "a")
        assert job.wait(20)
    logs = Counter(record.name for record in records)
    # At 0, 1, 3, 7, 15, 31, 63 s, for each of two classes of errors; a session is lost once.
    most = 2 * (2 + math.log2(seconds + 1)) + 1
    assert {name: times for name, times in logs.items() if times > most} == {}
    assert [record for record in records if record.exc_info] == []


def test_only_our_boards() -> None:
    with pytest.raises(TypeError, match="'blocking' and 'nonblocking'"):
        Conductor("c", object())  # type: ignore[arg-type]


def test_a_claim_with_an_expiry(persistence: Any) -> None:
    with multiboard.backend("b", f"memory://{uuid.uuid4().hex}", persistence=persistence) as board:
        job = flows.post(board, persistence, flows.slow, "a")
        with flows.running(board, persistence, expiry=60):
            assert flows.begun.wait(10)
            assert 50 < job.expires_in() <= 60
            flows.go_on.set()
            assert job.wait(20)
