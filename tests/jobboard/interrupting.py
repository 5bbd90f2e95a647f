# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""A board whose user is interrupted at random places, and what must hold of it all the same."""

from __future__ import annotations

import collections
import contextlib
import ctypes
import random
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as TooSlow
from typing import Any

from taskflow import exceptions as excp
from taskflow.types import entity

from multiboard.jobboard.board import JobBoard
from multiboard.jobboard.job import JobSpec
from tests.waiting import eventually

#: Seconds that another thread has for a look at the board: a lock that is leaked lasts for ever.
PATIENCE = 20.0


class Struck(Exception):
    """A time limit of the user's own."""


class StruckTimeout(TimeoutError):
    """One that looks like a socket's."""


class StruckKeyboard(KeyboardInterrupt):
    """One that is no ``Exception``."""


KINDS: tuple[type[BaseException], ...] = (Struck, StruckTimeout, StruckKeyboard)


class ByHandler:
    """Strikes the main thread, by a signal handler that raises."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._armed = False
        self.kind: type[BaseException] = Struck
        self.fired = 0
        #: How many were raised where Python drops them: a finalizer, a callback of the collector.
        self.dropped = 0
        self.where = ""

    def __enter__(self) -> ByHandler:
        self._before = signal.signal(signal.SIGALRM, self._strike)
        self._hook, sys.unraisablehook = sys.unraisablehook, self._note_dropped
        return self

    def _note_dropped(self, what: Any) -> None:
        if isinstance(what.exc_value, KINDS):
            self.dropped += 1
        else:
            self._hook(what)

    def __exit__(self, *_: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, self._before)
        sys.unraisablehook = self._hook

    def _strike(self, _number: int, frame: Any) -> None:
        if self._armed:
            self._armed = False
            self.fired += 1
            self.where = "".join(traceback.format_stack(frame, limit=8))
            raise self.kind("time is up")

    def strike(self, operation: Callable[[], object], delay: float) -> BaseException | None:
        """Do something, be interrupted after a while or not; return what it raised."""
        self.kind = self._chance.choice(KINDS)
        try:
            try:
                self._armed = True
                signal.setitimer(signal.ITIMER_REAL, max(1e-6, delay))
                operation()
            finally:
                self._armed = False
        except BaseException as error:
            # Its frames may be what holds a lock: let go of them, as a user's handler does.
            return error.with_traceback(None) if isinstance(error, KINDS) else error
        finally:
            self._armed = False
            signal.setitimer(signal.ITIMER_REAL, 0)
        return None


class FromAnotherThread:
    """Strikes a worker thread, by an exception that another thread sets in it."""

    #: One that is also a class of the language's own can't be told from the store's.
    kinds: tuple[type[BaseException], ...] = (Struck, StruckKeyboard)
    dropped = 0
    where = "a place that is not known"

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self.kind: type[BaseException] = Struck
        self.fired = 0

    def __enter__(self) -> FromAnotherThread:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def strike(self, operation: Callable[[], object], delay: float) -> BaseException | None:
        """Do something in a thread that is interrupted after a while; return what it raised."""
        self.kind = self._chance.choice(self.kinds)
        # Plain locks: an event of ``threading`` does not survive to be struck.
        ended, go = threading.Lock(), threading.Lock()
        ended.acquire()
        go.acquire()
        outcome: list[BaseException | None] = []

        def work() -> None:
            try:
                operation()
            except BaseException as error:
                outcome.append(error)

        def run() -> None:
            try:
                with contextlib.suppress(*self.kinds):  # it comes too late for the operation
                    work()
            finally:
                ended.release()
                with contextlib.suppress(*self.kinds):
                    go.acquire()  # a thread that has ended leaves its number to another one

        thread = threading.Thread(target=run)
        thread.start()
        assert thread.ident is not None
        if not ended.acquire(timeout=delay):
            kind = ctypes.py_object(self.kind)
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), kind)
        go.release()
        thread.join()
        error = outcome[0] if outcome else None
        if isinstance(error, self.kinds):
            self.fired += 1
            return error.with_traceback(None)
        return error


class Ordeal:
    """One board, interrupted again and again; and another one on the same store."""

    def __init__(self, board: JobBoard, other: JobBoard, seed: int) -> None:
        self.board, self.other = board, other
        self.chance = random.Random(seed)
        self.hits: collections.Counter[str] = collections.Counter()
        self.calm: collections.Counter[str] = collections.Counter()
        self._spans: dict[str, float] = {}
        self._pool = ThreadPoolExecutor(1)
        self._verbs: dict[str, Callable[[], object]] = {
            "post": lambda: board.post("job"),
            "post_many": lambda: board.post_many([JobSpec("one of many")] * 3),
            "claim": self._claim,
            "claim_next": lambda: board.claim_next("me", limit=self.chance.choice((1, 1, 3))),
            "wait_next": lambda: board.claim_next("me", timeout=0.002),
            "consume": lambda: self._with_own(lambda job: board.consume(job, "me")),
            "abandon": lambda: self._with_own(lambda job: board.abandon(job, "me")),
            "iterate": lambda: list(board.iterjobs()),
            "refresh": lambda: list(board.iterjobs(ensure_fresh=True)),
            "wait": lambda: list(board.wait(timeout=0.001)),
            "count": lambda: board.job_count,
            "owner": lambda: self._with_any(board.find_owner),
            "complete": lambda: self._with_any(lambda job: job.wait(timeout=0.001)),
            "enter": lambda: board.register_entity(entity.Entity("conductor", "c", {})),
        }

    def _claim(self) -> None:
        free = [job for job in self._jobs if job.lease is None][:5]
        if free:
            self.board.claim(self.chance.choice(free), "me")

    def _with_own(self, do: Callable[[Any], object]) -> None:
        own = [job for job in self._jobs if job.lease is not None]
        if own:
            do(self.chance.choice(own))

    def _with_any(self, do: Callable[[Any], object]) -> None:
        if self._jobs:
            do(self.chance.choice(self._jobs))

    def run(self, striker: Any, interrupts: int, seconds: float, at_least: int = 0) -> None:
        """Do what comes, until so many interrupts struck or the time is over.

        ``at_least`` so many strike, however long a busy machine takes for them.
        """
        give_up = time.monotonic() + seconds
        for verb in self._verbs:  # how long each takes
            self._jobs = list(self.board.iterjobs())
            self._tried(striker, verb, 0.0)
        while (hits := sum(self.hits.values())) < at_least or (
            hits < interrupts and time.monotonic() < give_up
        ):
            self._jobs = list(self.board.iterjobs())
            verb = self.chance.choice(list(self._verbs))
            if len(self._jobs) > 30:
                verb = self.chance.choice(("claim_next", "consume"))
            self._tried(striker, verb, self.chance.uniform(0, 1.1 * self._spans[verb]))
            self.look()
        self.settle()

    def _tried(self, striker: Any, verb: str, delay: float) -> None:
        fired, dropped, begun = striker.fired, striker.dropped, time.monotonic()
        if delay:
            error = striker.strike(self._verbs[verb], delay)
        else:
            error = striker.strike(self._verbs[verb], 600.0)
        span = time.monotonic() - begun
        if striker.fired == fired:
            self.calm[verb] += 1
            self._spans[verb] = min(self._spans.get(verb, 1.0), span)
            if error is not None and not isinstance(error, (excp.NotFound, excp.UnclaimableJob)):
                raise AssertionError(f"{verb} failed, and nobody interrupted it") from error
        else:
            self.hits[verb] += 1
            if type(error) is not striker.kind and striker.dropped == dropped:
                raise AssertionError(
                    f"{verb} was interrupted by {striker.kind.__name__}, and ended with {error!r};"
                    f" it was at\n{striker.where}"
                ) from error

    def look(self) -> None:
        """Look at the board from another thread, which meets every lock that was leaked."""
        try:
            self._pool.submit(self._glance).result(PATIENCE)
        except TooSlow:
            frames = sys._current_frames()
            text = "".join(
                f"--- {thread.name}\n{''.join(traceback.format_stack(frames[thread.ident]))}"
                for thread in threading.enumerate()
                if thread.ident in frames
            )
            raise AssertionError(f"the board is locked for ever\n{text}") from None

    def _glance(self) -> None:
        board = self.board
        for job in board.iterjobs():
            board.seen_leased(job)
        assert board.health()["connected"]
        if self.chance.random() < 0.2:
            board.purge([board.post("glance")])

    def settle(self) -> None:
        """Whatever was interrupted: nothing is locked, nothing is leaked, the view is right."""
        board, other = self.board, self.other
        for job in board.iterjobs(ensure_fresh=True):
            if job.lease is not None:  # a claim that the board knows of is its user's to give up
                board.abandon(job, "me")

        def none_is_leaked() -> bool:
            there = list(other.iterjobs(ensure_fresh=True))
            return all(other.find_owner(job) is None for job in there)

        eventually(none_is_leaked, 90.0)
        there = list(other.iterjobs(ensure_fresh=True))
        eventually(lambda: list(board.iterjobs()) == there)
        for job in there:
            other.claim(job, "you")
            other.consume(job, "you")
        eventually(lambda: not list(board.iterjobs()))
        self._pool.shutdown()
