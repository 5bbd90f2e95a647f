# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""What is no Exception (SystemExit, an interrupt) in a flow or a listener: the threads live on."""

from __future__ import annotations

import logging
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from taskflow import states
from taskflow.jobs import base
from taskflow.patterns import linear_flow

import multiboard
from multiboard import errors
from multiboard.backends.memory import MemoryBackend, MemorySettings
from multiboard.jobboard.board import JobBoard
from multiboard.jobboard.conductor import Conductor
from multiboard.primitives import Changes, Lease, NewPosting, boottime
from multiboard.runtime.lease_keeper import LeaseKeeper
from multiboard.runtime.view import View
from tests.jobboard import flows
from tests.waiting import eventually

pytestmark = pytest.mark.long

Maker = Callable[..., JobBoard]


class Cancelled(BaseException):
    """As asyncio's, or a test runner's."""


#: What the tasks and factories below raise.
raises: list[BaseException] = [SystemExit(3)]


def exiting_task() -> Any:
    """A flow whose task raises, once it may."""
    return linear_flow.Flow("exits").add(flows.Exits("exits", lambda: raises[0]))


def exiting_factory() -> Any:
    """A factory that raises when a conductor calls it, and not when a poster does."""
    if threading.current_thread() is not threading.main_thread():
        raise raises[0]
    return linear_flow.Flow("exits")


@pytest.fixture(autouse=True)
def _fresh_errors() -> Iterator[None]:
    yield
    raises[:] = [SystemExit(3)]


@pytest.fixture
def board(persistence: Any) -> Iterator[JobBoard]:
    with multiboard.backend("b", f"memory://{uuid.uuid4().hex}", persistence=persistence) as board:
        yield board


# -- conductors ------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), Cancelled()], ids=repr)
@pytest.mark.parametrize("factory", [exiting_task, exiting_factory])
def test_a_job_that_exits_goes_to_the_trash_and_the_next_one_runs(
    board: JobBoard,
    persistence: Any,
    caplog: pytest.LogCaptureFixture,
    factory: Callable[[], Any],
    error: BaseException,
) -> None:
    raises[:] = [error]
    flows.go_on.set()
    bad = [flows.post(board, persistence, factory, f"bad {n}") for n in range(3)]
    good = flows.post(board, persistence, flows.quick, "good")
    with flows.running(board, persistence, max_simultaneous_jobs=1):
        assert good.wait(20)
    assert {job.uuid for job in board.trashed()} == {job.uuid for job in bad}
    assert flows.runs == {"good": 1}
    said = [record for record in caplog.records if "dispatching failed" in record.getMessage()]
    assert len(said) == 3
    assert repr(error) in str(said[0].exc_info and said[0].exc_info[1])


def test_a_job_that_exits_while_the_conductor_stops_is_given_back(
    board: JobBoard, persistence: Any
) -> None:
    job = flows.post(board, persistence, exiting_task, "bad")
    with flows.running(board, persistence) as conductor:
        assert flows.begun.wait(10)
        conductor.stop()
    assert job.state == states.UNCLAIMED
    assert board.trashed() == []


def test_a_job_that_is_resumed_by_a_conductor_that_stops_is_not_done(
    board: JobBoard, persistence: Any
) -> None:
    """Its task had begun when it was last run: so it is left by a process that dies."""
    flows.go_on.set()
    job = flows.post(board, persistence, exiting_task, "bad")
    with flows.running(board, persistence):
        eventually(lambda: board.trashed() == [job])
    restored = board.restore(job)
    with flows.running(board, persistence) as conductor:
        # Where the engine is about to run: the stop is what it meets first.
        conductor.notifier.register("running_start", lambda *_a, **_k: conductor.stop())
        assert conductor.wait(15)
    assert restored.state == states.UNCLAIMED
    with flows.running(board, persistence):
        eventually(lambda: board.trashed() == [job])  # the task was run: it raised again


def test_a_listener_of_the_conductor_that_exits_costs_no_thread(
    board: JobBoard, persistence: Any, caplog: pytest.LogCaptureFixture
) -> None:
    jobs = [flows.post(board, persistence, flows.quick, str(n)) for n in range(3)]
    with flows.running(board, persistence, max_simultaneous_jobs=1) as conductor:
        conductor.notifier.register("job_consumed", lambda *_a, **_k: sys.exit(1))
        assert all(job.wait(20) for job in jobs)
    assert "SystemExit" in caplog.text


def test_a_job_for_which_there_is_no_thread_is_given_back(
    board: JobBoard, persistence: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class NoThreads:
        def __enter__(self) -> NoThreads:
            return self

        def __exit__(self, *_: object) -> None: ...

        def submit(self, *_: object) -> None:
            raise RuntimeError("can't start new thread")

    job = flows.post(board, persistence, flows.quick, "a")
    conductor = Conductor("tester", board, persistence=persistence)
    monkeypatch.setattr(conductor, "_executor_factory", NoThreads)
    with pytest.raises(RuntimeError, match="new thread"):
        conductor.run()
    assert job.state == states.UNCLAIMED


# -- listeners of a board --------------------------------------------------------------------------


def test_a_listener_that_exits_silences_nobody(
    make_board: Maker, caplog: pytest.LogCaptureFixture
) -> None:
    board, other = make_board(), make_board("other")
    heard: list[str] = []

    def exits(_event: str, details: Any) -> None:
        raise SystemExit if details["job"].name != "b" else Cancelled

    for one in (board, other):
        one.notifier.register(base.POSTED, exits)
        one.notifier.register(base.POSTED, lambda _e, details: heard.append(details["job"].name))
    for name in ("a", "b", "c"):
        board.post(name)
    eventually(lambda: sorted(heard) == ["a", "a", "b", "b", "c", "c"])
    said = [record for record in caplog.records if record.name == "multiboard.jobboard.events"]
    assert {type(record.exc_info[1]) for record in said if record.exc_info} == {
        SystemExit,
        Cancelled,
    }
    assert "exits" in said[0].getMessage()


def test_a_listener_that_always_fails_is_logged_at_growing_pauses(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with multiboard.backend("b", f"memory://{uuid.uuid4().hex}") as board:
        heard: list[str] = []
        board.notifier.register(base.POSTED, lambda _e, details: details["nothing"])
        board.notifier.register(base.POSTED, lambda _e, details: heard.append(details["job"].name))
        for n in range(200):
            board.post(str(n))
        eventually(lambda: len(heard) == 200)
    said = [record for record in caplog.records if record.name == "multiboard.jobboard.events"]
    assert 1 <= len(said) <= 6  # at 0, 1, 3, 7, 15, 31 s, however slow the machine


# -- our own threads -------------------------------------------------------------------------------


class Exiting(MemoryBackend):
    """A backend that raises once what ends a thread."""

    exits: BaseException | None = None

    def _exit(self) -> None:
        error, self.exits = self.exits, None
        if error is not None:
            raise error

    def changes(self, cursor: str | None, timeout: float) -> Changes:
        self._exit()
        return super().changes(cursor, min(timeout, 0.1))

    def keepalive(self, within: float | None = None) -> float:
        self._exit()
        return super().keepalive(within)


@pytest.fixture
def exiting() -> Iterator[Exiting]:
    backend = Exiting(MemorySettings(name=uuid.uuid4().hex, session_timeout=1.0))
    backend.open()
    yield backend
    backend.close()


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_the_view_goes_on(
    exiting: Exiting, error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    view = View(exiting, lambda posting: posting.key, lambda *_: None)
    view.load(5.0)
    exiting.exits = error()
    eventually(lambda: exiting.exits is None)
    exiting.add([NewPosting("k", b"")])
    eventually(lambda: [entry.item for entry in view.entries()] == ["k"])
    exiting.close()
    view.close()
    [said] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert error.__name__ in said.getMessage()


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_the_keeper_goes_on(
    exiting: Exiting, error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    lost: list[Lease] = []
    keeper = LeaseKeeper(exiting, lambda lease, _: lost.append(lease))
    exiting.add([NewPosting("k", b"")])
    stamp = keeper.stamp()
    lease = exiting.acquire("k", "me", "c")
    keeper.keep(lease, stamp)
    exiting.exits = error()
    eventually(lambda: exiting.exits is None)
    ends = boottime() + 2.0
    eventually(lambda: boottime() > ends)
    assert exiting.get(["k"])[0].lease == lease  # type: ignore[union-attr]
    assert lost == []
    keeper.stop()
    exiting.close()
    keeper.close()
    [said] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert error.__name__ in said.getMessage()


def test_etcds_timed_leases_end_after_a_defect(
    etcd_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The thread that ends them failed in a way that nobody thought of; it goes on."""
    with multiboard.backend("b", f"{etcd_url}?namespace=t-{uuid.uuid4().hex}") as board:
        timer: Any = board._here.backend._timer  # type: ignore[attr-defined]
        end_due, fail = timer.end_due, [SystemExit(), ZeroDivisionError()]

        def failing() -> int:
            if fail:
                raise fail.pop()
            return int(end_due())

        monkeypatch.setattr(timer, "end_due", failing)
        job = board.post("a")
        board.claim(job, "me", expiry=1.0)
        eventually(lambda: fail == [])
        keys = board._here.backend._session.keys.of("leases", job.key)  # type: ignore[attr-defined]
        held = board._here.backend._board.scan  # type: ignore[attr-defined]
        eventually(lambda: keys not in [kv.key for kv in held("leases").kvs])
    assert "SystemExit" in caplog.text
    assert "ZeroDivisionError" in caplog.text


def test_etcds_feed_goes_on(etcd_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with multiboard.backend("b", f"{etcd_url}?namespace=t-{uuid.uuid4().hex}") as board:
        feed: Any = board._here.backend._feed  # type: ignore[attr-defined]
        begin, exits = feed._begin, [SystemExit()]

        def failing() -> None:
            if exits:
                raise exits.pop()
            begin()

        monkeypatch.setattr(feed, "_begin", failing)
        assert list(board.iterjobs()) == []
        assert exits == []
        with multiboard.backend("c", f"{etcd_url}?namespace={board.settings.namespace}") as other:
            other.post("a")
        eventually(lambda: [job.name for job in board.iterjobs()] == ["a"])
        assert feed._trouble is None or isinstance(feed._trouble, errors.Unavailable)
