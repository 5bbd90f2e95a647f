# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""An owner is killed, or frozen, and another finishes its job. Real processes, real signals."""

from __future__ import annotations

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest
from taskflow import exceptions as excp

from multiboard.jobboard.board import JobBoard
from multiboard.jobboard.events import EXPIRED
from multiboard.jobboard.job import Job
from tests.processes import state
from tests.waiting import eventually

pytestmark = pytest.mark.long

OWNER = pathlib.Path(__file__).with_name("owner.py")
TIMEOUT = 2.0


@pytest.fixture(params=["sqlite", "redis", "zookeeper", "etcd"])
def store(request: pytest.FixtureRequest) -> str:
    """Only the stores that processes can share."""
    return str(request.param)


@pytest.fixture
def store_url(store: str, request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> str:
    """A board with a session of two seconds."""
    base = (
        f"sqlite://{tmp_path / 'board.db'}"
        if store == "sqlite"
        else request.getfixturevalue(f"{store}_url")
    )
    return f"{base}?namespace={tmp_path.name}&session_timeout={TIMEOUT}"


@contextlib.contextmanager
def owner(url: str, *how: str) -> Iterator[subprocess.Popen[str]]:
    """Start a process that claims the only job, and wait until it has."""
    process = subprocess.Popen(
        [sys.executable, str(OWNER), url, *how],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline(), "the owner ended without a claim"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_killed_owners_job_is_claimed_by_another(
    store: str, store_url: str, board: JobBoard, make_board: Callable[..., JobBoard]
) -> None:
    job = board.post("a")
    watcher = make_board("watcher")
    expired: list[tuple[Job, float]] = []
    watcher.notifier.register(
        EXPIRED, lambda _event, details: expired.append((details["job"], time.monotonic()))
    )
    eventually(lambda: watcher.health()["feed_age"] is not None)
    with owner(store_url) as process:
        assert board.find_owner(job) == "owner"
        process.kill()
        killed_at = time.monotonic()
        assert board.claim_next("heir", timeout=20.0) == [job]
        took = time.monotonic() - killed_at
    eventually(lambda: expired)
    print(f"{store}: claimed {1000 * took:.0f} ms after the kill")
    assert expired[0][0] == job
    assert took < (0.1 if store == "sqlite" else TIMEOUT + 1.0)
    assert job.attempts == 2
    board.consume(job, "heir")


@pytest.mark.parametrize("finish", ["consume", "abandon", "trash"])
def test_a_frozen_owner_wakes_up_to_a_lost_claim(
    store_url: str, board: JobBoard, finish: str
) -> None:
    job = board.post("a")
    with owner(store_url, "freeze") as process:
        eventually(lambda: state(process.pid) == "T")
        assert board.claim_next("owner", timeout=20.0) == [job]
        process.send_signal(signal.SIGCONT)
        time.sleep(0.5)
        assert board.find_owner(job) == "owner"
        getattr(board, finish)(job, "owner")


def test_a_claim_with_an_expiry_outlives_its_process(store_url: str, board: JobBoard) -> None:
    job = board.post("a")
    with owner(store_url, "3") as process:
        process.kill()
        killed_at = time.monotonic()
        with pytest.raises(excp.UnclaimableJob):
            board.claim(job, "heir")
        assert board.claim_next("heir", timeout=20.0) == [job]
        assert time.monotonic() - killed_at > 1.0
