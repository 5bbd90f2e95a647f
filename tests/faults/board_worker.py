# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""A worker of the fault tests that uses a whole jobboard: it posts, claims, holds and consumes.

Where it is asked to, a time limit interrupts it anywhere inside the board's code, as the handler of
a service's alarm or a Ctrl-C would. It reports what it did and which claims its board reported as
lost, line by line, on standard output.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import pathlib
import random
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any, TextIO

from taskflow import exceptions as excp

import multiboard
from multiboard import errors
from multiboard.jobboard.board import JobBoard
from multiboard.jobboard.events import LEASE_LOST
from multiboard.jobboard.job import Job
from multiboard.primitives import boottime

#: Jobs on the board from which on nobody posts more.
ENOUGH = 40
#: Seconds for which a job is held at most.
LONGEST = 1.5
#: Seconds for which calls are interrupted after a request, and when in a call, on average.
INTERRUPTED_FOR = 3.0
STRIKES_AFTER = 0.002
#: Seconds within which what was claimed unheard must have been given back.
GIVEN_BACK_WITHIN = 60.0

_INSIDE = str(pathlib.Path(multiboard.__file__).parent)


class Interrupted(BaseException):
    """What the signal handler raises: no error of ours, and none of the store's."""


def interrupt(_signal: int, frame: FrameType | None) -> None:
    """Interrupt what the board does; the worker's own code is left in peace."""
    while frame is not None:
        if frame.f_code.co_filename.startswith(_INSIDE):
            raise Interrupted
        frame = frame.f_back


class Service:
    """What the worker does by itself, until it is asked to be quiet."""

    def __init__(self, board: JobBoard, who: str, seed: str, out: TextIO) -> None:
        self._board = board
        self._who = who
        self._dice = random.Random(seed)
        self._out = out
        self._writing = threading.Lock()
        self._lost: set[tuple[str, int]] = set()
        self.quiet = threading.Event()
        self._limited_until = 0.0
        #: The jobs that are held here, with the tokens of their claims: what is done with one may
        #: be interrupted, and is done again.
        self._held: dict[Job, int] = {}
        board.notifier.register(LEASE_LOST, self._on_lost)

    def report(self, **note: Any) -> None:
        """Write one note; notes of two threads do not mix."""
        with self._writing:
            self._out.write(json.dumps(note) + "\n")
            self._out.flush()

    def _on_lost(self, _event: str, details: dict[str, Any]) -> None:
        at, lease = boottime(), details["lease"]
        self._lost.add((lease.key, lease.token))
        self.report(note="lost", key=lease.key, token=lease.token, at=at)

    def limit(self, *_: Any) -> None:
        """Have a time limit strike within the calls of the next seconds."""
        self._limited_until = boottime() + INTERRUPTED_FOR

    @contextlib.contextmanager
    def _in_time(self) -> Iterator[None]:
        """Call the board, under a time limit while there is one."""
        if boottime() < self._limited_until:
            signal.setitimer(signal.ITIMER_REAL, self._dice.expovariate(1 / STRIKES_AFTER) + 1e-6)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0.0)

    def run(self) -> None:
        """Work; what fails or is interrupted is part of the story."""
        while not self.quiet.is_set() or self._held:
            try:
                if self.quiet.is_set():
                    self._limited_until = 0.0
                for job, token in list(self._held.items()):
                    self._finish(job, token)
                if self.quiet.is_set():
                    break
                self._dice.choice([self._post, self._work, self._work, self._look])()
            except Interrupted:
                self.report(note="interrupted")
            except excp.JobFailure:
                time.sleep(0.05)
            except excp.NotFound:
                pass

    def _post(self) -> None:
        with self._in_time():
            if self._board.job_count >= ENOUGH:
                return
            job = self._board.post(f"{self._who} at work", details={"who": self._who})
        self.report(note="posted", key=job.key)

    def _look(self) -> None:
        with self._in_time():
            jobs = list(self._board.iterjobs(only_unclaimed=self._dice.random() < 0.5))
        for job in jobs:
            if not isinstance(job.details, dict):
                raise AssertionError(f"{job} is not whole")

    def _work(self) -> None:
        began = boottime()
        with self._in_time():
            jobs = self._board.claim_next(self._who, timeout=0.2)
        ended = boottime()
        for job in jobs:
            lease = job.lease
            if lease is None:  # lost between the claim and this look
                continue
            self._held[job] = lease.token
            self.report(note="claimed", key=job.key, token=lease.token, began=began, ended=ended)
            longest = LONGEST if boottime() > self._limited_until else 0.01
            time.sleep(self._dice.uniform(0.0, longest))
            self._finish(job, lease.token)

    def _finish(self, job: Job, token: int) -> None:
        verb = "abandon" if self._dice.random() < 0.2 else "consume"
        self.report(note="finishing", key=job.key, token=token, verb=verb, at=boottime())
        outcome = "unknown"
        try:
            with self._in_time():
                getattr(self._board, verb)(job, self._who)
            outcome = "done"
            self._held.pop(job, None)
        except (excp.NotFound, excp.JobFailure) as error:
            cause = error.__cause__
            sure = (errors.LeaseLost, errors.PostingNotFound, errors.Unavailable)
            outcome = "refused" if isinstance(cause, sure) else "unknown"
            self._held.pop(job, None)  # what could not be done is given back by the board
        finally:
            self.report(note="finished", key=job.key, token=token, verb=verb, outcome=outcome,
                     at=boottime())  # fmt: skip

    def still_claimed(self) -> list[str]:
        """Return the jobs that this board still claims though nobody here works on one."""
        give_up = boottime() + GIVEN_BACK_WITHIN
        while True:
            try:
                left = [
                    job.key
                    for job in self._board.iterjobs(ensure_fresh=True)
                    if self._board.find_owner(job) == self._who
                ]
            except excp.JobFailure:
                left = ["(the store can't be asked)"]
            if not left or boottime() > give_up:
                return left
            time.sleep(0.1)


def main(out: TextIO) -> None:
    """Do as the first line asks, and answer the others."""
    first = json.loads(sys.stdin.readline())
    board = multiboard.fetch("faults", {"url": first["target"], **first["settings"]})
    while True:
        try:
            board.connect()
            break
        except excp.JobFailure:
            time.sleep(0.1)  # it begins while its store is away
    service = Service(board, first["who"], first["seed"], out)
    signal.signal(signal.SIGALRM, interrupt)
    signal.signal(signal.SIGUSR2, service.limit)
    service.report(note="ready")
    stopped = threading.Event()

    def obey() -> None:
        for line in sys.stdin:
            do = json.loads(line)["do"]
            if do == "quiet":
                service.quiet.set()
                stopped.wait()
                service.report(answer=service.still_claimed())
            elif do == "leave":
                board.close()
                service.report(answer=[])
        os._exit(0)

    # Signals reach the main thread: the work is done there, and the commands are read beside it.
    threading.Thread(target=obey, daemon=True).start()
    service.run()
    stopped.set()
    threading.Event().wait()


if __name__ == "__main__":
    logging.basicConfig(level=logging.CRITICAL)
    # A library that prints must not speak between the lines of the conversation.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    main(answers)
