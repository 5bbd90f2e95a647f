# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""One conductor process of the demonstration: TaskFlow's conductor ``multiboard`` on the board.

Its first line of input names what to work on. Later lines are orders: ``start``, ``hold`` (stop
after the task ``compress`` of a flow, and report it) and ``go``. The end of the input ends the
process, so that it never outlives the one that started it. Its output is one JSON object a line.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from taskflow import exceptions as excp
from taskflow import states
from taskflow.conductors import backends as conductors

from multiboard import errors
from multiboard.demo import flow as demo_flow
from multiboard.jobboard.board import JobBoard
from multiboard.jobboard.job import Job
from multiboard.primitives import boottime

#: The task after which a flow is held: what was done before it must not be done again.
HOLD_AFTER = "compress"
#: Seconds that a conductor gets to end in order.
GRACE = 5.0


def report(event: str, **fields: Any) -> None:
    """Report what happened, in one write: a process that is killed has reported it, or has not."""
    os.write(1, json.dumps({"event": event, **fields}).encode() + b"\n")


def orders() -> Iterator[str]:
    """Yield the lines of the input, as they come."""
    # Not sys.stdin: a daemon thread that waits in a buffered reader breaks the interpreter's exit.
    rest = b""
    while data := os.read(0, 65536):
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            yield line.decode()


class ReportingBoard(JobBoard):
    """A board that reports which jobs were claimed through it, and when."""

    def claim_next(
        self, who: str, limit: int = 1, timeout: float | None = 0.0, expiry: float | None = None
    ) -> list[Job]:
        """Claim as any board does, and report it."""
        jobs = super().claim_next(who, limit, timeout, expiry)
        at = boottime()
        for job in jobs:
            report("claimed", job=job.uuid, at=at)
        return jobs


class Reporter:
    """Reports what a conductor does, and holds its flow when it is asked to."""

    def __init__(self) -> None:
        #: Set while flows may go on.
        self.may_go_on = threading.Event()
        self.may_go_on.set()

    def listen_to(self, conductor: Any) -> None:
        """Report what happens from now on."""
        conductor.notifier.register("running_start", self._on_flow)
        conductor.notifier.register("job_consumed", self._on_consumed)
        conductor.notifier.register("job_abandoned", self._on_abandoned)
        conductor.notifier.register("job_trashed", self._on_trashed)

    def _on_flow(self, _event: str, details: Mapping[str, Any]) -> None:
        about = (details["job"].uuid,)
        for state in (states.SUCCESS, states.FAILURE):
            details["engine"].atom_notifier.register(state, self._on_task, args=about)

    def _on_task(self, state: str, uuid: str, details: Mapping[str, Any]) -> None:
        # TaskFlow has written the logbook before it calls.
        name = details["task_name"]
        if state == states.FAILURE:
            why = getattr(details.get("result"), "exception_str", "no reason known")
            report("failed", job=uuid, task=name, why=why)
            return
        report("done", job=uuid, task=name)
        if name == HOLD_AFTER and not self.may_go_on.is_set():
            report("holding", job=uuid, task=name)
            self.may_go_on.wait()

    @staticmethod
    def _on_consumed(_event: str, details: Mapping[str, Any]) -> None:
        report("consumed", job=details["job"].uuid)

    @staticmethod
    def _on_abandoned(_event: str, details: Mapping[str, Any]) -> None:
        report("abandoned", job=details["job"].uuid)

    @staticmethod
    def _on_trashed(_event: str, details: Mapping[str, Any]) -> None:
        report("trashed", job=details["job"].uuid)


def _follow(lines: Iterator[str], reporter: Reporter, conductor: Any) -> None:
    for order in lines:
        if order == "hold":
            reporter.may_go_on.clear()
        elif order == "go":
            reporter.may_go_on.set()
    conductor.stop()
    reporter.may_go_on.set()
    last = threading.Timer(GRACE, os._exit, (1,))
    last.daemon = True
    last.start()


def work(lines: Iterator[str]) -> None:
    """Work as the first line asks, until the lines end."""
    work = json.loads(next(lines))
    name = work["name"]
    persistence = demo_flow.open_logbooks(work["logbooks"])
    board = ReportingBoard("demo", work["conf"], persistence=persistence)
    board.connect()
    conductor = conductors.fetch(
        "multiboard",
        name,
        board,
        persistence=persistence,
        engine="serial",
        max_simultaneous_jobs=1,
    )
    reporter = Reporter()
    reporter.listen_to(conductor)
    report("ready")
    for order in lines:
        if order == "start":
            break
        if order == "hold":
            reporter.may_go_on.clear()
    else:
        board.close()
        return
    threading.Thread(target=_follow, args=(lines, reporter, conductor), daemon=True).start()
    conductor.run()
    board.close()


def main() -> int:
    """Run the process; what can't be done is one line on the error output."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        work(orders())
    except (errors.MultiboardError, excp.TaskFlowException) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
