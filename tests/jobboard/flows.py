# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Flows and conductors that run them; flows talk to the test through module-level events."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from taskflow import engines, task
from taskflow.conductors import backends as conductors
from taskflow.patterns import linear_flow
from taskflow.utils import persistence_utils

from multiboard.jobboard.board import JobBoard
from multiboard.jobboard.conductor import Conductor
from multiboard.jobboard.job import Job

#: How often each job's task ran.
runs: Counter[str] = Counter()
#: Set when a slow task has begun, and when it may go on.
begun = threading.Event()
go_on = threading.Event()


class Count(task.Task):  # type: ignore[misc]
    """Counts that it ran."""

    def execute(self, label: str) -> None:
        """Count."""
        runs[label] += 1


class Slow(task.Task):  # type: ignore[misc]
    """Runs until it is told to go on."""

    def execute(self) -> None:
        """Wait."""
        begun.set()
        assert go_on.wait(20)


class Exits(task.Task):  # type: ignore[misc]
    """Raises what is no Exception, when it is told to go on."""

    def __init__(self, name: str, error: Callable[[], BaseException]) -> None:
        super().__init__(name)
        self._error = error

    def execute(self) -> None:
        """Wait, and raise."""
        begun.set()
        assert go_on.wait(20)
        raise self._error()


def quick() -> Any:
    """One task that counts."""
    return linear_flow.Flow("quick").add(Count("count"))


def slow() -> Any:
    """A task that waits, then one that counts."""
    return linear_flow.Flow("slow").add(Slow("slow"), Count("count"))


def post(board: JobBoard, persistence: Any, factory: Any, label: str) -> Job:
    """Post a job for a flow."""
    book, detail = persistence_utils.temporary_flow_detail(persistence)
    engines.save_factory_details(detail, factory, [], {}, backend=persistence)
    details = {"flow_uuid": detail.uuid, "store": {"label": label}}
    return board.post(label, book, details=details)


@contextlib.contextmanager
def running(board: JobBoard, persistence: Any, **options: Any) -> Iterator[Conductor]:
    """Run a conductor on a thread until the end of the block."""
    conductor = conductors.fetch("multiboard", "tester", board, persistence=persistence, **options)
    thread = threading.Thread(target=conductor.run, daemon=True)
    thread.start()
    try:
        yield conductor
    finally:
        go_on.set()
        conductor.stop()
        assert conductor.wait(15)
        thread.join(15)
        assert not thread.is_alive()
