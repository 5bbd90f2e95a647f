# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""LEASE_LOST arrives before another owner can have the job, whatever the store or a listener does.

Order is asserted, never a duration: the callback ran before the heir's claim returned.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from multiboard_conformance.machinery.proxy import Mode, Proxy

import multiboard
from multiboard import errors
from multiboard.backends.memory import MemoryBackend
from multiboard.config import loading
from multiboard.jobboard.board import JobBoard
from multiboard.jobboard.events import LEASE_LOST
from multiboard.primitives import NewPosting, boottime
from tests.waiting import eventually

SESSION = 2.0

#: Holds the write lock of an SQLite file from now on, until its input ends.
LOCK = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], timeout=30, isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("locked", flush=True)
sys.stdin.read()
"""


class Holder:
    """A board that claims a job, and whose listeners do all that a listener should not."""

    def __init__(self, board: JobBoard, blocked: threading.Event) -> None:
        self.board = board
        #: By boottime, when the loss of its claim was reported.
        self.reported: list[float] = []
        register = board.notifier.register
        register(board.notifier.ANY, lambda *_, **__: blocked.wait(60))
        register(LEASE_LOST, self._fail)
        register(LEASE_LOST, lambda *_, **__: blocked.wait(60))
        register(LEASE_LOST, lambda *_, **__: self.reported.append(boottime()))
        self.job = board.post("job")
        board.claim(self.job, "me")
        eventually(lambda: board._here.keeper._session.granted is not None)  # it was renewed

    @staticmethod
    def _fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("this listener always fails")


class Heirs:
    """A board that claims each job as soon as that can be had."""

    def __init__(self, board: JobBoard) -> None:
        self._board = board
        #: By job: when it was claimed, and what its former owner thought of its claim just then.
        self.claimed: dict[Any, tuple[float, Any]] = {}

    def claim(self, holders: list[Holder]) -> None:
        """Claim what the holders lose."""
        of = {holder.job: holder for holder in holders}
        while len(self.claimed) < len(holders):
            for job in self._board.claim_next("heir", timeout=30.0):
                self.claimed[job] = (boottime(), of[job].job.lease)

    def judge(self, holders: list[Holder]) -> None:
        """Require that each holder knew of its loss before."""
        for holder in holders:
            claimed_at, lease = self.claimed[holder.job]
            assert lease is None
            assert len(holder.reported) == 1
            assert holder.reported[0] < claimed_at


@pytest.fixture
def blocked() -> Iterator[threading.Event]:
    """What listeners wait for until the end of the test."""
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture
def stack() -> Iterator[contextlib.ExitStack]:
    """What is closed at the end of the test."""
    with contextlib.ExitStack() as opened:
        yield opened


@pytest.mark.parametrize("store", ["redis", "zookeeper", "etcd"])
def test_a_loss_is_reported_before_the_heir_claims(
    store: str,
    request: pytest.FixtureRequest,
    stack: contextlib.ExitStack,
    blocked: threading.Event,
) -> None:
    url = request.getfixturevalue(f"{store}_url")
    options = {"namespace": f"t-{uuid.uuid4().hex[:12]}", "session_timeout": SESSION}

    def board(at: str) -> JobBoard:
        return stack.enter_context(multiboard.backend("board", {"url": at, **options}))

    host, _, port = url.partition("://")[2].partition("/")[0].partition(":")
    proxies = [stack.enter_context(Proxy(host, int(port))) for _ in range(3)]
    there = [url.replace(f":{port}", f":{proxy.address[1]}") for proxy in proxies]
    holders = [Holder(board(at), blocked) for at in there]
    heirs = Heirs(board(url))
    silent, refusing, slow = proxies
    silent.set(Mode.BLACK_HOLE)
    refusing.set(Mode.REFUSE)
    slow.set(Mode.DELAY, SESSION)
    later = threading.Timer(0.4 * SESSION, refusing.set, [Mode.BLACK_HOLE])
    later.start()
    stack.callback(lambda: (later.join(), [proxy.heal() for proxy in proxies]))
    heirs.claim(holders)
    heirs.judge(holders)


def test_a_loss_in_a_locked_file_is_reported_before_the_heir_claims(
    tmp_path: Any, stack: contextlib.ExitStack, blocked: threading.Event
) -> None:
    url = f"sqlite://{tmp_path / 'board.db'}?session_timeout={SESSION}&busy_timeout=10"
    boards = [stack.enter_context(multiboard.backend("b", url)) for _ in range(2)]
    holder, heirs = Holder(boards[0], blocked), Heirs(boards[1])
    with subprocess.Popen(
        [sys.executable, "-c", LOCK, os.fspath(tmp_path / "board.db")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as locker:
        assert locker.stdin is not None
        assert locker.stdout is not None
        assert locker.stdout.readline() == "locked\n"
        locked_at = boottime()
        eventually(lambda: boottime() > locked_at + SESSION)  # its session is over by now
    heirs.claim([holder])
    heirs.judge([holder])


class Stuck(MemoryBackend):
    """A memory backend whose renewals never end once it is frozen."""

    frozen: threading.Event | None = None

    def keepalive(self, within: float | None = None) -> float:
        """Renew the session, or wait for the end of the test."""
        if self.frozen is not None:
            self.frozen.wait(60)
        return super().keepalive(within)


def test_a_renewal_that_never_ends_does_not_delay_the_report(
    stack: contextlib.ExitStack, blocked: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = f"name={uuid.uuid4().hex}&session_timeout=1"
    urls = (f"{__name__}:Stuck?{options}", f"memory://?{options}")
    boards = [stack.enter_context(multiboard.backend("b", url)) for url in urls]
    holder, heirs = Holder(boards[0], blocked), Heirs(boards[1])
    monkeypatch.setattr(Stuck, "frozen", blocked)
    heirs.claim([holder])
    heirs.judge([holder])


@pytest.mark.parametrize("store", ["redis", "zookeeper", "etcd"])
def test_a_renewal_ends_within_the_time_that_it_is_given(
    store: str, request: pytest.FixtureRequest
) -> None:
    url = request.getfixturevalue(f"{store}_url")
    host, _, port = url.partition("://")[2].partition("/")[0].partition(":")
    with Proxy(host, int(port)) as proxy, contextlib.ExitStack() as stack:
        there = url.replace(f":{port}", f":{proxy.address[1]}")
        options = "session_timeout=5&operation_timeout=120"
        name = f"t-{uuid.uuid4().hex[:12]}"
        backend = loading.load(f"{there}?namespace={name}&{options}")
        backend.open()
        stack.callback(backend.close)
        stack.callback(proxy.heal)
        backend.keepalive()
        proxy.set(Mode.BLACK_HOLE)
        for _ in range(2):  # on the connection that there is, and on a new one
            begun = boottime()
            with pytest.raises(errors.BackendError):
                backend.keepalive(0.2)
            assert boottime() - begun < 10  # left to itself it waits for 30 s or 60


def _is_held(lock: threading.RLock) -> bool:
    """Return whether another thread has a lock."""
    if not lock.acquire(blocking=False):
        return True
    lock.release()
    return False


def test_a_renewal_does_not_queue_behind_threads_that_wait_for_a_locked_file(
    tmp_path: Any, stack: contextlib.ExitStack
) -> None:
    path = tmp_path / "board.db"
    backend = loading.load(f"sqlite://{path}?busy_timeout=30")
    backend.open()
    stack.callback(backend.close)
    with subprocess.Popen(
        [sys.executable, "-c", LOCK, os.fspath(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as locker:
        assert locker.stdout is not None
        assert locker.stdout.readline() == "locked\n"
        waiting = threading.Thread(target=backend.add, args=([NewPosting("k", b"")],))
        waiting.start()
        try:
            eventually(lambda: _is_held(backend._board.current.connection.lock))
            begun = boottime()
            with pytest.raises(errors.Unavailable, match="busy"):
                backend.keepalive(0.2)
            assert boottime() - begun < 10
        finally:
            locker.communicate()
            waiting.join()
