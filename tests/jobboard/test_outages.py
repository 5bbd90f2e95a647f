# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""A board whose server goes away: restarted, frozen, wiped, or never there."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import servers
from taskflow import exceptions as excp
from taskflow import states

import multiboard
from multiboard import errors
from multiboard.jobboard.board import JobBoard
from multiboard.jobboard.events import LEASE_LOST
from tests.waiting import eventually

STORES = ("redis", "zookeeper", "etcd")
Maker = Callable[..., JobBoard]


@pytest.fixture(params=STORES)
def server(request: pytest.FixtureRequest) -> Iterator[servers.Server]:
    """A server that this test may kill."""
    with servers.server(request.param) as started:
        yield started


@pytest.fixture
def make_board(server: servers.Server) -> Iterator[Maker]:
    """Make connected boards on the server of this test."""
    with contextlib.ExitStack() as stack:

        def make(**options: Any) -> JobBoard:
            conf = {"url": server.url, "connect_timeout": 1.0, **options}
            return stack.enter_context(multiboard.backend("board", conf))

        yield make


def test_a_restart_is_ridden_out(server: servers.Server, make_board: Maker) -> None:
    board, other = make_board(operation_timeout=20.0), make_board(operation_timeout=20.0)
    first = board.post("first")
    assert list(other.iterjobs()) == [first]
    server.kill()
    with ThreadPoolExecutor() as pool:
        posting = pool.submit(board.post, "second")
        claiming = pool.submit(other.claim, first, "me", 60)
        time.sleep(0.3)
        server.start()
        second = posting.result()
        claiming.result()
    assert first.state == states.CLAIMED
    assert eventually(lambda: list(other.iterjobs()) == [first, second])
    other.consume(first, "me")
    assert eventually(lambda: list(board.iterjobs()) == [second])
    third = board.post("third")  # the feeds follow again
    assert eventually(lambda: list(other.iterjobs()) == [second, third])


def test_during_an_outage_every_operation_fails_in_time(
    server: servers.Server, make_board: Maker
) -> None:
    board = make_board(operation_timeout=1.0)
    job, held = board.post("a"), board.post("b")
    board.claim(held, "me", expiry=60)
    list(board.iterjobs())
    server.kill()
    operations: list[Callable[[], Any]] = [
        lambda: board.post("c"),
        lambda: board.claim(job, "me"),
        lambda: board.consume(held, "me"),
        lambda: job.state,
        lambda: list(board.iterjobs(ensure_fresh=True)),
        lambda: board.claim_next("me"),
        lambda: job.extend_expiry(5),
    ]
    for operation in operations:
        begun = time.monotonic()
        with pytest.raises(excp.JobFailure) as caught:
            operation()
        assert type(caught.value) is excp.JobFailure
        assert isinstance(caught.value.__cause__, errors.BackendError)
        assert time.monotonic() - begun < 10
    assert list(board.iterjobs()) == [job, held]  # the view is what was seen last


def test_a_job_that_could_not_be_consumed_is_not_kept_for_ever(
    server: servers.Server, make_board: Maker
) -> None:
    board = make_board(operation_timeout=0.5, session_timeout=30.0)
    other = make_board(operation_timeout=20.0)
    job = board.post("a")
    board.claim(job, "me", expiry=600)
    server.kill()
    with pytest.raises(excp.JobFailure):
        board.consume(job, "me")
    server.start()
    assert eventually(lambda: other.claim_next("you", timeout=1.0), 30) == [job]


def test_a_frozen_server_loses_the_claims_before_anyone_else_can_have_them(
    server: servers.Server, make_board: Maker
) -> None:
    board = make_board(session_timeout=4.0, operation_timeout=0.5)
    lost: list[Any] = []
    board.notifier.register(LEASE_LOST, lambda _event, details: lost.append(details["job"]))
    job = board.post("a")
    board.claim(job, "me")
    eventually(lambda: board.health()["session_seconds_left"])
    frozen_at = time.monotonic()
    server.pause()
    try:
        eventually(lambda: lost == [job])
        assert time.monotonic() - frozen_at < 4.0
        assert job.lease is None
    finally:
        server.resume()


def test_a_wiped_store_says_so(server: servers.Server, make_board: Maker) -> None:
    board = make_board(operation_timeout=3.0, session_timeout=2.0)
    job = board.post("a")
    board.claim(job, "me", expiry=60)
    assert list(board.iterjobs()) == [job]
    server.kill()
    server.restart(wipe=True)

    def board_is_lost(operation: Callable[[], Any]) -> bool:
        with pytest.raises(excp.JobFailure) as caught:
            operation()
        return isinstance(caught.value.__cause__, errors.BoardLost)

    # Right after the start a server may still be away; it never reads as COMPLETE.
    assert eventually(lambda: board_is_lost(lambda: job.state), 30)
    for operation in (
        lambda: job.state,
        lambda: job.wait(0.1),
        lambda: board.consume(job, "me"),
        lambda: board.post("b"),
        lambda: board.find_owner(job),
        lambda: board.claim_next("me"),
    ):
        assert board_is_lost(operation), operation
    board.close()
    board.connect()
    assert list(board.iterjobs()) == []
    fresh = board.post("c")
    with pytest.raises(excp.JobFailure, match="lost this board"):
        _ = job.state
    assert list(board.iterjobs()) == [fresh]


@pytest.mark.parametrize("name", STORES)
def test_a_server_that_is_not_there_fails_within_the_connect_timeout(name: str) -> None:
    with servers.server(name) as gone:
        port = gone.port
    user = "user:s3cret@" if name == "redis" else ""
    board = multiboard.fetch("b", f"{name}://{user}127.0.0.1:{port}?connect_timeout=1")
    begun = time.monotonic()
    with pytest.raises(excp.JobFailure, match=f"127.0.0.1:{port}") as caught:
        board.connect()
    assert time.monotonic() - begun < 5
    assert "s3cret" not in str(caught.value)
    assert not board.connected


@pytest.mark.served
def test_a_wrong_password_is_told_without_the_password() -> None:
    with servers.redis_server(password="right") as server:
        board = multiboard.fetch("b", f"redis://:s3cret@{server.host}:{server.port}")
        with pytest.raises(excp.JobFailure) as caught:
            board.connect()
        assert isinstance(caught.value.__cause__, errors.AccessDenied)
        assert "s3cret" not in str(caught.value)
        with multiboard.backend("b", f"redis://:right@{server.host}:{server.port}") as good:
            assert good.post("a").state == states.UNCLAIMED
            assert "right" not in repr(good.settings)


@pytest.mark.served
def test_a_store_that_would_lose_its_data_is_warned_of_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with servers.redis_server(appendonly=False) as server:
        for _ in range(3):
            with multiboard.backend("b", server.url):
                pass
    [warning] = [record for record in caplog.records if record.levelname == "WARNING"]
    assert "append" in warning.getMessage().lower()
