# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""One run of the demonstration: conductors work on real files, and one of them is killed.

It uses public names only. The parts: :mod:`multiboard.demo.flow` (the work),
:mod:`multiboard.demo.worker` (a conductor process), :mod:`multiboard.demo.processes`,
:mod:`multiboard.demo.ledger` (the books and the verdict), :mod:`multiboard.demo.screen`.
"""

from __future__ import annotations

import pathlib
import queue
import uuid
from collections.abc import Mapping
from typing import Any

from taskflow import exceptions as excp

import multiboard
from multiboard import errors
from multiboard.config import loading
from multiboard.demo import files as demo_files
from multiboard.demo import flow as demo_flow
from multiboard.demo.ledger import Ledger
from multiboard.demo.processes import Report, WorkerProcesses, ended_together
from multiboard.demo.screen import Screen, seconds_of, size_of
from multiboard.jobboard.board import JobBoard
from multiboard.jobboard.job import JobSpec
from multiboard.primitives import arguments, boottime

#: Jobs that are posted at a time.
CHUNK = 100
#: Seconds without a sign of life from any worker, beyond a session's, after which it is over.
PATIENCE = 20.0
#: Seconds of silence after which the board is asked whether there is anything left to do.
QUIET = 2.0
SESSION_TIMEOUT = 2.0
#: With fewer jobs the last flows could be past their middle before anybody is killed there.
ENOUGH = 20
OWNER = "multiboard-demo"
#: How much of a worker's log is shown when something went wrong.
LOG_LINES = 20


def board_conf(url: str) -> dict[str, Any]:
    """Return the configuration of a board of the demonstration's own, unless the URL names one.

    Raises: ``ConfigError``, also for a store that processes can't share.
    """
    conf: dict[str, Any] = {"url": url}
    given = loading.given_options(url)
    if "namespace" not in given:
        conf["namespace"] = f"multiboard-demo-{uuid.uuid4().hex[:12]}"
    if "session_timeout" not in given:
        conf["session_timeout"] = SESSION_TIMEOUT
    options = {name: value for name, value in conf.items() if name != "url"}
    if not loading.load(url, **options).traits.cross_process:
        raise errors.ConfigError(
            f"{loading.redact(url)} is seen by one process only, and the conductors are processes"
            " of their own: name an SQLite file, a Redis or a ZooKeeper"
        )
    return conf


class Run:
    """One run of the demonstration."""

    def __init__(self, conf: Mapping[str, Any], scratch: pathlib.Path, stdout: Any) -> None:
        self._conf = conf
        self._scratch = scratch
        self._logbooks = scratch / "logbooks"
        self._packed = scratch / "packed"
        self._packed.mkdir()
        self.ledger = Ledger()
        self._processes = WorkerProcesses()
        self.screen = Screen(stdout, self.ledger, self._processes.workers)
        #: Jobs consumed each second, from the start of the work to the last one.
        self.rate = 0.0
        self._read = 0

    def all(self, choice: demo_files.Choice, conductors: int) -> list[str]:
        """Do everything; return what is wrong.

        Raises: ``BackendError``, ``ConfigError``.
        """
        try:
            return self._all(choice, conductors)
        except excp.JobFailure as error:
            # TaskFlow's text repeats the cause on lines of its own.
            raise errors.BackendError(error.args[0]) from error

    def _all(self, choice: demo_files.Choice, conductors: int) -> list[str]:
        persistence = demo_flow.open_logbooks(str(self._logbooks))
        with multiboard.backend("demo", self._conf, persistence=persistence) as board:
            if board.job_count:
                raise errors.ConfigError(
                    f"the board {board.settings.namespace!r} holds {board.job_count} jobs already:"
                    " the demonstration would work on them; name another namespace, or none"
                )
            store = loading.redact(self._conf["url"])
            self.screen.show(f"{choice}, {conductors} conductors, on {store}")
            try:
                with ended_together(self._processes):
                    self._processes.start(
                        [f"conductor-{number}" for number in range(1, conductors + 1)],
                        {"conf": self._conf, "logbooks": str(self._logbooks)},
                        self._scratch,
                    )
                    self._post(board, persistence, choice)
                    with self.screen:
                        self._follow(board)
                faults = self.ledger.faults([job.uuid for job in left_on(board)])
            except KeyboardInterrupt:
                self.screen.show("interrupted: the conductors were ended", "bold red")
                raise
            finally:
                clean(board)
        self.screen.show_workers()
        self.screen.show_takeovers()
        packed = sum(path.stat().st_size for path in self._packed.iterdir())
        saved = f"{size_of(self._read)} packed to {size_of(packed)}"
        if faults:
            self._show_logs()
        self.screen.show_verdict(faults, self.rate, saved)
        return faults

    def _show_logs(self) -> None:
        for name, worker in self._processes.workers.items():
            for line in worker.log.splitlines()[-LOG_LINES:]:
                self.screen.show(f"{name}: {line}", "red")

    def _post(self, board: JobBoard, persistence: Any, choice: demo_files.Choice) -> None:
        files = choice.files
        asked_at = boottime()
        for first in range(0, len(files), CHUNK):
            specs = []
            for number, path in enumerate(files[first : first + CHUNK], first):
                name = arguments.printable(str(path.relative_to(choice.folder)))
                book, flow = demo_flow.new_logbook(persistence, name)
                store = {"path": str(path), "packed": str(self._packed / f"{number}.xz")}
                specs.append(JobSpec(name, book, {"flow_uuid": flow, "store": store}))
                self._read += path.stat().st_size
            for job in board.post_many(specs):
                self.ledger.names[job.uuid] = job.name
        self.screen.show(f"{len(files)} jobs posted in {boottime() - asked_at:.1f} s")

    # -- while they work -------------------------------------------------------------------------

    def _follow(self, board: JobBoard) -> None:
        patience = board.settings.session_timeout + PATIENCE
        reported_at = boottime()
        total = len(self.ledger.names)
        kill_at = total // 4 if total >= ENOUGH else 0
        ready: set[str] = set()
        started_at: float | None = None
        armed = killed = False
        while self.ledger.finished < total and self._processes.any_alive:
            try:
                report = self._processes.reports.get(timeout=QUIET)
            except queue.Empty:
                if not any(board.iterjobs(ensure_fresh=True)):
                    break  # what nobody has reported by now, nobody will
                if boottime() - reported_at < patience:
                    continue
                self.screen.show(f"nothing happened for {patience:.0f} s: giving up", "bold red")
                break
            reported_at = boottime()
            self._note(report)
            if report.event == "ready":
                ready.add(report.worker)
            gone = self.ledger.ended.keys() | self.ledger.killed.keys()
            if started_at is None and ready | gone == self._processes.workers.keys():
                started_at = boottime()
            if not armed and started_at is not None and self.ledger.finished >= kill_at:
                # Whoever comes first to the middle of a flow is killed there.
                self._processes.order("hold")
                armed = True
            if report.event == "ready" and started_at is not None:
                self._processes.order("start")
            if report.event == "holding" and not killed:
                killed = True
                self._kill(report.worker, report.job, str(report.fields["task"]))
            self.screen.progress()
        if started_at is not None:
            self.rate = self.ledger.finished / max(boottime() - started_at, 0.001)
        for report in self._processes.end():
            self._note(report)

    def _note(self, report: Report) -> None:
        takeover = self.ledger.note(report)
        if takeover is not None:
            self.screen.show(
                f"{takeover.to} took over {takeover.name} from {takeover.frm}"
                f" ({seconds_of(takeover)})",
                "bold green",
            )
        if report.event == "failed":
            self.screen.show(f"{self.ledger.name(report.job)}: {report.fields['why']}", "red")
        if report.event == "ended" and self.ledger.ended.get(report.worker):
            status = self.ledger.ended[report.worker]
            last = self._processes.workers[report.worker].log.rpartition("\n")[2]
            self.screen.show(f"{report.worker} ended with status {status}: {last}", "bold red")

    def _kill(self, name: str, job: str, task: str) -> None:
        worker = self._processes.workers[name]
        self.ledger.note_kill(name, boottime())
        worker.kill()
        self._processes.order("go")
        self.screen.show(
            f"kill -9 {worker.pid}: {name}, in the middle of {self.ledger.name(job)}, after {task}",
            "bold red",
        )


def left_on(board: JobBoard) -> list[Any]:
    """Return the jobs that are on the board or in its trash."""
    return [*board.iterjobs(ensure_fresh=True), *board.trashed()]


def clean(board: JobBoard) -> None:
    """Remove what a run that failed or was interrupted left on the board."""
    give_up = boottime() + board.settings.session_timeout + 1.0
    while boottime() < give_up and any(board.iterjobs(ensure_fresh=True)):
        jobs = board.claim_next(OWNER, 500, timeout=0.2)
        if jobs:
            board.consume_many(jobs, OWNER)
    board.purge(board.trashed())
