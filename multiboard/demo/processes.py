# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The conductor processes of the demonstration, as seen by the process that starts them.

Nothing here uses the board. No process outlives the one that started it: each ends when its input
does, which happens even where that process is killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

#: Seconds that processes get to end in order.
GRACE = 8.0


@dataclass(frozen=True)
class Report:
    """What a worker reported."""

    worker: str
    event: str
    fields: Mapping[str, Any]

    @property
    def job(self) -> str:
        """The UUID of the job that it is about."""
        return str(self.fields["job"])


class Worker:
    """One conductor process; what it reports goes into a queue, ``ended`` last."""

    def __init__(
        self, name: str, work: Mapping[str, Any], folder: pathlib.Path, reports: queue.Queue[Report]
    ) -> None:
        self.name = name
        self._log = folder / f"{name}.log"
        self._reports = reports
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "multiboard.demo.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                # What lies in the user's folder must not be imported in place of a module.
                env={**os.environ, "PYTHONSAFEPATH": "1"},
                start_new_session=True,  # Ctrl-C is for its parent, which then ends it
            )
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()
        # Not on the command line, which everybody on the machine can read.
        self.order(json.dumps({"name": name, **work}))

    @property
    def pid(self) -> int:
        """The id of the process."""
        return self._process.pid

    @property
    def status(self) -> int | None:
        """The exit status, negative for a signal; None while it lives."""
        return self._process.poll()

    @property
    def log(self) -> str:
        """What it wrote to its error output."""
        return self._log.read_text(errors="replace").strip()

    def order(self, order: str) -> None:
        """Give an order; a dead worker gets it in vain."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.write(order.encode() + b"\n")
            self._process.stdin.flush()

    def kill(self) -> None:
        """Kill it with ``SIGKILL``."""
        self._process.kill()

    def end_input(self) -> None:
        """Let it end in order."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()

    def await_end(self, seconds: float) -> None:
        """Wait until it has ended, and kill it where it does not."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._thread.join()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                if line.endswith(b"\n"):  # else it was killed in the middle of it
                    fields = json.loads(line)
                    self._reports.put(Report(self.name, fields.pop("event"), fields))
        self._reports.put(Report(self.name, "ended", {"status": self._process.wait()}))


class WorkerProcesses:
    """All the workers and their reports."""

    def __init__(self) -> None:
        self.workers: dict[str, Worker] = {}
        self.reports: queue.Queue[Report] = queue.Queue()

    def start(self, names: Sequence[str], work: Mapping[str, Any], folder: pathlib.Path) -> None:
        """Start a worker of each name."""
        for name in names:
            self.workers[name] = Worker(name, work, folder, self.reports)

    def order(self, order: str) -> None:
        """Give an order to every worker."""
        for worker in self.workers.values():
            worker.order(order)

    @property
    def any_alive(self) -> bool:
        """Whether a worker lives."""
        return any(worker.status is None for worker in self.workers.values())

    def end(self) -> list[Report]:
        """End every worker; return what they reported until then and nobody has read."""
        for worker in self.workers.values():
            worker.end_input()
        for worker in self.workers.values():
            worker.await_end(GRACE)
        unread = []
        with contextlib.suppress(queue.Empty):
            while True:
                unread.append(self.reports.get_nowait())
        return unread


@contextlib.contextmanager
def ended_together(processes: WorkerProcesses) -> Iterator[None]:
    """End all the processes at the end of the block, whatever happens in it."""
    try:
        yield
    finally:
        try:
            processes.end()
        finally:
            for worker in processes.workers.values():
                if worker.status is None:  # a second Ctrl-C
                    worker.kill()
