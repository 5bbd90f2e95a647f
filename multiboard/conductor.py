# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""A conductor woken by the change feed.

TaskFlow's conductors list the board every half second and try to claim what they see. This one
sleeps until there is work, takes the first of the order in one step, and stops the engine of a job
whose claim it lost.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Iterator
from typing import Any

import futurist
from taskflow import exceptions as excp
from taskflow.conductors.backends import impl_executor
from taskflow.types import timing
from taskflow.utils import threading_utils

from multiboard import arguments
from multiboard.board import JobBoard
from multiboard.job import Job
from multiboard.primitives import boottime


class Conductor(impl_executor.ExecutorConductor):  # type: ignore[misc]
    """Runs the flows of a multiboard board's jobs, ``max_simultaneous_jobs`` of them at once.

    It takes TaskFlow's arguments, and ``expiry``: seconds after which a claim ends unless somebody
    extends it; None, the default, for claims that live as long as this process does.

    A job whose claim is lost (the store could not be reached in time, or this process was
    suspended for too long) may be taken by another conductor at any moment: its engine is
    suspended, after the tasks that are running, and the job is not consumed. On :meth:`stop`, jobs
    under way are suspended and abandoned.

    Raises: ``TypeError`` for a board that is not multiboard's; ``ValueError`` for another argument
    that can't be used.
    """

    #: As many threads as TaskFlow's nonblocking conductor has.
    MAX_SIMULTANEOUS_JOBS = threading_utils.get_optimal_thread_count()
    #: Seconds for which the feed is waited for at a time; bounds how long a stop may take.
    WAIT_TIMEOUT = 0.5

    def __init__(self, name: str, jobboard: JobBoard, **kwargs: Any) -> None:
        if not isinstance(jobboard, JobBoard):
            raise TypeError(
                f"this conductor works on multiboard's JobBoard, not on {type(jobboard).__name__};"
                " TaskFlow's 'blocking' and 'nonblocking' conductors work on any board"
            )
        arguments.check_holder(name)
        self._expiry = kwargs.pop("expiry", None)
        arguments.check_expiry(self._expiry)
        wanted = kwargs.pop("max_simultaneous_jobs", None)
        if wanted is None:
            wanted = self.MAX_SIMULTANEOUS_JOBS
        arguments.check_count("max_simultaneous_jobs", wanted)
        pause = kwargs.get("wait_timeout")
        if isinstance(pause, str):
            with contextlib.suppress(ValueError):
                pause = float(pause)
        if not isinstance(pause, (timing.Timeout, type(None))):
            arguments.check_duration("wait_timeout", pause)
        super().__init__(name, jobboard, max_simultaneous_jobs=wanted, **kwargs)
        self._free = threading.Semaphore(self._max_simultaneous_jobs)

    def _executor_factory(self) -> futurist.ThreadPoolExecutor:
        return futurist.ThreadPoolExecutor(max_workers=self._max_simultaneous_jobs)

    def run(self, max_dispatches: int | None = None) -> None:
        """Run jobs until :meth:`stop`, or until ``max_dispatches`` of them were dispatched."""
        if max_dispatches is not None:
            arguments.check_count("max_dispatches", max_dispatches, least=-1, most=2**63)
        super().run(max_dispatches)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until :meth:`run` is over; return False where ``timeout`` seconds pass before."""
        arguments.check_wait("timeout", timeout)
        return bool(super().wait(timeout))

    def _run_until_dead(
        self, executor: futurist.ThreadPoolExecutor, max_dispatches: int | None = None
    ) -> None:
        left = -1 if max_dispatches is None else max_dispatches
        while left != 0 and not self._wait_timeout.is_stopped():
            if not self._free.acquire(timeout=self.WAIT_TIMEOUT):
                continue
            job = self._take()
            if job is None:
                self._free.release()
                continue
            future = executor.submit(self._dispatch_job, job)
            self._dispatched.add(future)
            future.add_done_callback(functools.partial(self._on_job_done, job))
            left -= 1

    def _take(self) -> Job | None:
        asked_at = boottime()
        try:
            jobs = self._jobboard.claim_next(
                self._name, timeout=self.WAIT_TIMEOUT, expiry=self._expiry
            )
        except excp.JobFailure:
            self._log.warning("Taking the next job failed, trying again", exc_info=True)
            self._wait_timeout.wait()
            return None
        if not jobs and boottime() - asked_at < self.WAIT_TIMEOUT / 2:
            self._wait_timeout.wait()  # a board that answers at once must not be asked at once
        return jobs[0] if jobs else None

    def _engine_from_job(self, job: Job) -> Any:
        # Asked of the board: its notifier's events come at the pace of their listeners.
        why_lost = self._jobboard.watch_claim(job)
        engine = super()._engine_from_job(job)
        run_iter = engine.run_iter

        def run_until_lost(timeout: float | None = None) -> Iterator[Any]:
            # From within, between two of its steps, as TaskFlow does on a stop: an engine holds
            # its storage's lock while a task runs, and whoever suspends it from outside waits.
            suspended = False
            for state in run_iter(timeout=timeout):
                if not suspended and (why := why_lost()) is not None:
                    suspended = True
                    self._log.warning("The claim on %s was lost: %s; suspending it", job, why)
                    engine.suspend()
                yield state

        engine.run_iter = run_until_lost
        return engine

    def _on_job_done(self, job: Job, future: Any) -> None:
        try:
            super()._on_job_done(job, future)
        finally:
            self._free.release()
