# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""A conductor woken by the change feed.

TaskFlow's conductors list the board every half second and try to claim what they see. This one
sleeps until there is work, takes the first of the order in one step, and stops the engine of a job
whose claim it lost.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import logging
import math
import threading
from collections.abc import Iterator
from typing import Any

import futurist
from taskflow import exceptions as excp
from taskflow import states
from taskflow.conductors.backends import impl_executor
from taskflow.engines.action_engine import compiler
from taskflow.types import entity as entities
from taskflow.types import timing
from taskflow.utils import threading_utils

from multiboard import errors
from multiboard.jobboard.board import JobBoard
from multiboard.jobboard.job import Job
from multiboard.primitives import FailureLog, arguments, boottime


class JobEnded(RuntimeError):
    """A job's flow raised what would have ended the thread or the process that ran it."""


class Conductor(impl_executor.ExecutorConductor):  # type: ignore[misc]
    """Runs the flows of a multiboard board's jobs, ``max_simultaneous_jobs`` of them at once.

    It takes TaskFlow's arguments, and ``expiry``: seconds after which a claim ends unless somebody
    extends it; None, the default, for claims that live as long as this process does. And
    ``on_board_lost``: what to do where the store has lost the board (it came back empty, or was put
    back to an earlier state). Either way the flows under way are suspended after their current
    tasks. ``"stop"``, the default, then lets :meth:`run` raise, so that a supervisor starts the
    process anew; ``"reopen"`` opens the board that the store holds now, and goes on.

    A job whose claim is lost (the store could not be reached in time, or this process was
    suspended for too long) may be taken by another conductor at any moment: its engine is
    suspended, after the tasks that are running, and the job is not consumed. On :meth:`stop`, jobs
    under way are suspended and abandoned, at once or after a time of grace.

    A job whose flow calls ``sys.exit()``, or raises anything else that is no ``Exception``, goes to
    the trash: it would do the same to whoever took it next. While the conductor is being stopped it
    is abandoned instead, for then the flow may have been asked to end.

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
        self._on_board_lost = kwargs.pop("on_board_lost", "stop")
        if self._on_board_lost not in ("stop", "reopen"):
            raise errors.InvalidArgument(
                f"on_board_lost is {arguments.shown(self._on_board_lost)}; it should be 'stop' or"
                " 'reopen'"
            )
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
        #: Whether the store has lost the board, and with it every claim.
        self._board_lost = False
        self._draining = self._event_factory()
        #: When what runs is suspended, by the boot-time clock: once a stop has set it.
        self._suspend_at = math.inf
        #: Set when a job has ended or a stop was asked for.
        self._woken = self._event_factory()
        self._handed_back: collections.deque[str] = collections.deque()
        self._runner: threading.Thread | None = None
        self._openings = FailureLog(self._log, "The board can't be opened again, trying on")
        self._failures = FailureLog(
            self._log, "Taking the next job failed, trying again", "Jobs are taken again"
        )

    def _executor_factory(self) -> futurist.ThreadPoolExecutor:
        return futurist.ThreadPoolExecutor(max_workers=self._max_simultaneous_jobs)

    def run(self, max_dispatches: int | None = None) -> None:
        """Run jobs until :meth:`stop`, or until ``max_dispatches`` of them were dispatched.

        Raises: ``JobFailure``, with ``BoardLost`` as its ``__cause__``, where the store has lost
        the board (it came back empty, or another one) and ``on_board_lost`` is ``"stop"``: nothing
        that this conductor knows of it is true any more, and whoever started it should start it
        anew. Flows under way are suspended first.
        """
        if max_dispatches is not None:
            arguments.check_count("max_dispatches", max_dispatches, least=-1, most=2**63)
        self._board_lost = False
        self._runner = threading.current_thread()
        super().run(max_dispatches)

    def stop(self, grace: float | None = None) -> None:
        """Take no more jobs, let what runs go on for ``grace`` seconds, then hand it back.

        It returns at once; :meth:`wait` waits for the end. When the grace is over, by the clock
        that counts a suspended machine's sleep too, each flow that still runs is suspended after
        its current task, and its job abandoned: another conductor goes on where it was. Nothing is
        consumed that did not finish. Without a grace, or with 0, that is so at once. Of several
        stops the one that ends soonest counts.

        Raises: ``ValueError`` for what is no number of seconds.
        """
        arguments.check_wait("grace", grace)
        self._suspend_at = min(self._suspend_at, boottime() + (grace or 0.0))
        self._draining.set()
        if not grace:
            super().stop()
        self._woken.set()

    @property
    def draining(self) -> bool:
        """Whether it was asked to stop, and takes no more jobs."""
        return bool(self._draining.is_set())

    @property
    def board_lost(self) -> bool:
        """Whether the store has lost the board, which was not opened again since."""
        return self._board_lost

    @property
    def running(self) -> list[Job]:
        """The jobs that it runs at this moment, in no order."""
        return [future.job for future in self._dispatched.copy()]

    @property
    def handed_back(self) -> int:
        """How many jobs under way it gave back unfinished because it was stopped."""
        return len(self._handed_back)

    def presence(self) -> entities.Entity:
        """Return the entity that shows this conductor on the board, with what it does just now.

        :meth:`run` registers it without that. Beside TaskFlow's metadata it holds ``draining``,
        ``max_simultaneous_jobs`` and ``running``: the names and UUIDs of the jobs.
        """
        shown = self.conductor
        running = sorted((job.name, job.uuid) for job in self.running)
        doing = {
            "draining": self.draining,
            "max_simultaneous_jobs": self._max_simultaneous_jobs,
            "running": [{"name": name, "uuid": uuid} for name, uuid in running],
        }
        return entities.Entity(shown.kind, shown.name, {**shown.metadata, **doing})

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until :meth:`run` is over; return False where ``timeout`` seconds pass before."""
        arguments.check_wait("timeout", timeout)
        return bool(super().wait(timeout))

    def _run_until_dead(
        self, executor: futurist.ThreadPoolExecutor, max_dispatches: int | None = None
    ) -> None:
        left = -1 if max_dispatches is None else max_dispatches
        while left != 0 and not self._draining.is_set():
            if not self._free.acquire(timeout=self.WAIT_TIMEOUT):
                # Nothing is asked of the store for want of a slot, but its feed is followed.
                self._board_lost = bool(self._jobboard.health().get("board_lost"))
                continue
            job = self._take()
            if job is None:
                self._free.release()
                continue
            if self._draining.is_set():  # it came while this conductor was asked to stop
                self._free.release()
                super()._try_finish_job(job, False)  # nothing of it was begun
                continue
            try:
                future = executor.submit(self._dispatch_job, job)
            except BaseException:  # no thread for it, or an interrupt
                self._free.release()
                self._try_finish_job(job, False)
                raise
            future.job = job  # type: ignore[attr-defined]
            self._dispatched.add(future)
            future.add_done_callback(functools.partial(self._on_job_done, job))
            left -= 1
        self._wait_for_running()

    def _wait_for_running(self) -> None:
        """Wait until no job runs; suspend them when the grace of a stop is over."""
        while self._dispatched:
            left = self._suspend_at - boottime()
            if left <= 0:
                super().stop()
            self._woken.wait(min(left, self.WAIT_TIMEOUT) if left > 0 else self.WAIT_TIMEOUT)
            self._woken.clear()

    def _take(self) -> Job | None:
        asked_at = boottime()
        try:
            jobs = self._jobboard.claim_next(
                self._name, timeout=self.WAIT_TIMEOUT, expiry=self._expiry
            )
        except excp.JobFailure as error:
            if isinstance(error.__cause__, errors.BoardLost):
                self._board_lost = True
                if self._on_board_lost == "stop":
                    self._log.error("The board is lost, and this conductor ends: %s", error)
                    raise
                self._log.error("The board is lost, and is opened again: %s", error)
                self._reopen()
                return None
            self._failures.failed(error)
            self._draining.wait(self._wait_timeout.value)
            return None
        self._failures.succeeded()
        if not jobs and boottime() - asked_at < self.WAIT_TIMEOUT / 2:
            # A board that answers at once must not be asked at once.
            self._draining.wait(self._wait_timeout.value)
        return jobs[0] if jobs else None

    def _reopen(self) -> None:
        """Open the board that the store holds now, once nothing runs for the one that it lost."""
        # Until then no claim of before is given up: a store that was put back would hand the job
        # out while a task of it runs here.
        self._wait_for_running()
        while not self._draining.is_set():
            try:
                self._jobboard.close()
                self._jobboard.connect()
                self._jobboard.register_entity(self.conductor)
            except excp.JobFailure as error:
                self._openings.failed(error)
                self._draining.wait(self._wait_timeout.value)
            else:
                self._openings.succeeded()
                self._board_lost = False
                self._log.warning("The board is open again; jobs are taken")
                return

    def _dispatch_job(self, job: Job) -> bool:
        try:
            return bool(super()._dispatch_job(job))
        except Exception:
            raise
        except BaseException as error:
            # It comes from the flow: Python interrupts the main thread only. Let through, it would
            # end this thread, which the pool does not replace, with the job claimed for ever.
            if self._draining.is_set():
                self._log.warning("%s raised %r while stopping: it is given back", job, error)
                return False
            raise JobEnded(f"the flow of {job} raised {error!r}: it goes to the trash") from error

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
                why = "the board is lost" if self._board_lost else why_lost()
                if not suspended and why is not None:
                    suspended = True
                    self._log.warning("The claim on %s was lost: %s; suspending it", job, why)
                    engine.suspend()
                yield state
            if _under_way(engine):
                # A flow that is to go on where its process died in a task, and is suspended before
                # it does, is "reverted" for TaskFlow, and its job done.
                engine.storage.set_flow_state(states.SUSPENDED)

        engine.run_iter = run_until_lost
        return engine

    def _on_job_done(self, job: Job, future: Any) -> None:
        try:
            super()._on_job_done(job, future)
        except BaseException as error:
            if threading.current_thread() is self._runner:
                raise
            # A listener of this conductor's, perhaps: the pool's thread must live.
            self._log.log(logging.ERROR, "The end of %s failed: %r", job, error, exc_info=True)
        finally:
            self._free.release()
            self._woken.set()

    def _try_finish_job(self, job: Job, consume: bool, trash: bool = False) -> None:
        if self._board_lost:
            self._log.warning("%s is left as it is: the board that it was claimed on is lost", job)
            return
        if self._draining.is_set() and not consume and not trash:
            self._handed_back.append(job.uuid)
        super()._try_finish_job(job, consume, trash)


def _under_way(engine: Any) -> bool:
    """Return whether a task of a flow has begun and not ended, by its logbook."""
    graph = engine.compilation.execution_graph
    atoms = [atom for atom, data in graph.nodes(data=True) if data["kind"] in compiler.ATOMS]
    found = engine.storage.get_atoms_states([atom.name for atom in atoms])
    return any(state in (states.RUNNING, states.REVERTING) for state, _ in found.values())
