# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""What a check of a jobboard is given: fresh boards, a faulty network, an owner to be killed.

Each check runs in a process of its own, which ends with the check: whatever a board leaves behind
ends there too. Imports TaskFlow and the suite's own modules.
"""

from __future__ import annotations

import contextlib
import inspect
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from taskflow import exceptions as excp
from taskflow import states

from multiboard_conformance.jobboard.expect import eventually
from multiboard_conformance.jobboard.faults import Faults, faulty, passes, refused
from multiboard_conformance.jobboard.fetch import Maker, new_place
from multiboard_conformance.machinery.proxy import Mode, Proxy
from multiboard_conformance.results import NotExercised, NotSupported

_fork = multiprocessing.get_context("fork")


class NthReply(Proxy):
    """A proxy that can let replies pass before it swallows one."""

    skip = 0

    def _may_pass(self, request: bool) -> bool:
        if not request and self.skip and self.mode is Mode.SWALLOW_REPLY:
            self.skip -= 1
            return True
        return super()._may_pass(request)

    def lose_reply(self, number: int) -> None:
        """Swallow one reply from now on: the first for 0, the second for 1."""
        self.skip = number
        self.set(Mode.SWALLOW_REPLY)


class Scene:
    """One place in the store, with any number of boards on it."""

    def __init__(self, maker: Maker) -> None:
        self.maker = maker
        self.place = new_place()
        self._proxy: NthReply | None = None

    def make(self, place: str | None = None, *, proxied: bool = False, **conf: Any) -> Any:
        """Make a board that is not connected."""
        address = self.proxy.address if proxied else None
        return self.maker.fetch(place or self.place, address, **conf)

    def board(self, place: str | None = None, *, proxied: bool = False, **conf: Any) -> Any:
        """Make a board and connect it."""
        board = self.make(place, proxied=proxied, **conf)
        board.connect()
        return board

    def faulty(self, *, away: bool = False, **conf: Any) -> tuple[Any, Faults]:
        """Connect a board over a backend whose calls can be tampered with; return both.

        One that is ``away`` stands behind the proxy, where the store has a server.
        """
        faults = Faults()
        address = self.proxy.address if away and self.maker.address else None
        board = self.maker.mixed(self.place, faulty(faults), address, **conf)
        board.connect()
        return board, faults

    @contextlib.contextmanager
    def cut_off(self, faults: Faults) -> Iterator[None]:
        """Let the session of the board that is away end: meanwhile nobody renews it.

        A client that renews by itself is stopped by its network, not by its caller.
        """
        faults.set(refused, "keepalive")
        if self._proxy is not None:
            self._proxy.set(Mode.BLACK_HOLE)
        try:
            yield
        finally:
            self.heal()
            faults.set(passes, "keepalive")

    def beside(self, *names: str) -> list[Any]:
        """Make connected boards whose names lie in one folder."""
        top = self.place.partition("/")[0]
        return [self.board(f"{top}/{name}") for name in names]

    @property
    def proxy(self) -> NthReply:
        """The proxy before the server, for boards that are made with ``proxied``."""
        if self._proxy is None:
            address = self.maker.address
            if address is None:
                raise NotExercised("the store has no single server to put a proxy before")
            self._proxy = NthReply(*address)
            self._proxy.__enter__()
        return self._proxy

    def next_proxy(self) -> NthReply:
        """Put another proxy before the server, for the boards that are made from now on."""
        self._proxy = None
        return self.proxy

    def alone(self) -> Any:
        """Connect a board through a proxy of its own: what is lost there is no other board's.

        It has worked before, so that one call is one request: no script has to be loaded any more.
        """
        self.next_proxy()
        board = self.board(proxied=True)
        job = board.post("before")
        board.claim(job, "me")
        board.consume(job, "me")
        return board

    def lose_reply(self, number: int) -> None:
        """Lose one reply from now on, when those to what was asked before have come."""
        time.sleep(0.5)
        self.proxy.lose_reply(number)

    def heal(self) -> None:
        """Let the proxy pass everything again, where there is one."""
        if self._proxy is not None:
            self._proxy.heal()

    def process(self, work: Callable[[], None], *, alone: bool = False) -> Any:
        """Start a process that works on this place; nothing may have been connected before.

        One that works ``alone`` needs no store that processes share.
        """
        if not (alone or self.maker.cross_process):
            raise NotExercised("no other process can reach this store")
        assert threading.active_count() == 1, "a process is forked before boards are connected"
        process = _fork.Process(target=work)
        process.start()
        return process

    def owner(self) -> Callable[[], None]:
        """Let a process claim the first job that it sees, without an expiry; return its end."""

        def claim() -> None:
            board = self.board()
            while not (jobs := list(board.iterjobs(ensure_fresh=True))):
                time.sleep(0.05)
            board.claim(jobs[0], "owner")
            time.sleep(300.0)

        process = self.process(claim)

        def kill() -> None:
            os.kill(process.pid, signal.SIGKILL)
            process.join()

        return kill


#: Seconds for which this process may not come to run, in a check whose order they may turn round.
STALL = 0.1


def unless_stalled(once: Callable[[], None]) -> None:
    """Judge an order of events; where it is broken while this process stood still, judge it anew.

    Two threads of one process, one of which has a fifth of a second less to wait than the other,
    may come to run in either order on a machine that lets both wait for longer than that.
    """
    for _ in range(3):
        watch = _Watch()
        try:
            once()
        except AssertionError:
            if watch.longest() < STALL:
                raise
        else:
            return
        finally:
            watch.stop()
    once()


class _Watch:
    """A thread that finds out for how long this process did not come to run."""

    def __init__(self) -> None:
        self._stopped = threading.Event()
        self._longest = 0.0
        threading.Thread(target=self._run, name="conformance-watch", daemon=True).start()

    def _run(self) -> None:
        while not self._stopped.is_set():
            slept_at = time.monotonic()
            time.sleep(0.01)
            self._longest = max(self._longest, time.monotonic() - slept_at)

    def longest(self) -> float:
        """Return the longest stall so far, in seconds."""
        return self._longest

    def stop(self) -> None:
        """End the thread."""
        self._stopped.set()


# -- short words for checks --------------------------------------------------------------------


def found(board: Any, job: Any) -> Any:
    """Return a job as another board sees it."""

    def look() -> Any:
        return [its for its in board.iterjobs(ensure_fresh=True) if its.uuid == job.uuid]

    return eventually(look, f"the job {job.name!r} is seen by another board")[0]


def seen_by_two(scene: Any) -> tuple[Any, Any, Any, Any]:
    """Return a board, another one, a job of the former, and the same job as the latter sees it."""
    board, other = scene.board(), scene.board()
    job = board.post("a")
    return board, other, job, found(other, job)


def takes_expiry(board: Any) -> bool:
    """Tell whether a board has claims that end by themselves."""
    return "expiry" in inspect.signature(board.claim).parameters


def need_expiry(board: Any) -> None:
    """End a check that needs claims with an expiry."""
    if not takes_expiry(board):
        raise NotSupported("claim() takes no expiry")


def need(thing: Any, name: str) -> None:
    """End a check that needs what a board or a job does not have."""
    if not hasattr(thing, name):
        raise NotSupported(f"no {name} on a {type(thing).__name__}")


def lose(board: Any, other: Any, job: Any) -> Any:
    """Let a board claim a job, lose it, and the other claim it under the same name.

    The claim ends by its expiry; where there is no such thing, the other board gives it back in
    the owner's name, which TaskFlow allows. Return the job as the other board sees it.
    """
    its = found(other, job)
    if takes_expiry(board):
        board.claim(job, "me", expiry=1)
        eventually(lambda: its.state == states.UNCLAIMED, "the first claim ended")
        other.claim(its, "me", expiry=30)
    else:
        board.claim(job, "me")
        other.abandon(its, "me")
        other.claim(its, "me")
    return its


#: What may be raised where a claim was lost.
LOST = (excp.JobFailure, excp.NotFound)
