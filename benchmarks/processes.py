# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Worker processes for what several processes do: started once, given their tasks through pipes.

It knows no board. What is done must be a function of a module, and what it answers picklable.
"""

from __future__ import annotations

import multiprocessing
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any

#: Seconds within which a worker that was sent a task has answered.
PATIENCE = 300.0


class Worker:
    """One process, which does one thing at a time."""

    def __init__(self) -> None:
        # Not forked: neither a client nor its threads may be inherited.
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()

    def send(self, task: Callable[..., Any], *arguments: Any) -> None:
        """Tell it what to do; :meth:`answer` waits for the result."""
        self._pipe.send((task, arguments))

    def answer(self) -> Any:
        """Return the result of the task that it was sent first.

        Raises: ``RuntimeError`` with its traceback where that failed; ``TimeoutError``.
        """
        if not self._pipe.poll(PATIENCE):
            raise TimeoutError(f"a worker did not answer within {PATIENCE:g} s")
        done, result = self._pipe.recv()
        if not done:
            raise RuntimeError(f"a worker failed:\n{result}")
        return result

    def ask(self, task: Callable[..., Any], *arguments: Any) -> Any:
        """Tell it what to do and return the result."""
        self.send(task, *arguments)
        return self.answer()

    def dismiss(self) -> None:
        """End the process."""
        self._pipe.close()
        self._process.join(timeout=5.0)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


class WorkerProcesses:
    """Workers, started when they are first needed."""

    def __init__(self) -> None:
        self._workers: list[Worker] = []

    def __enter__(self) -> WorkerProcesses:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.dismiss()

    def some(self, count: int) -> Sequence[Worker]:
        """Return that many workers."""
        while len(self._workers) < count:
            self._workers.append(Worker())
        return self._workers[:count]


def together(workers: Sequence[Worker], task: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Let workers do the same thing at once; return their answers."""
    for worker in workers:
        worker.send(task, *arguments)
    return [worker.answer() for worker in workers]


def _serve(pipe: Connection) -> None:
    while True:
        try:
            task, arguments = pipe.recv()
        except (EOFError, OSError, KeyboardInterrupt):
            return
        try:
            pipe.send((True, task(*arguments)))
        except Exception:
            pipe.send((False, traceback.format_exc()))
