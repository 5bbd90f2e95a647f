# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The workers of a fault run, seen from outside: started, killed, frozen, and their record."""

from __future__ import annotations

import contextlib
import os
import pathlib
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any

from multiboard_conformance.machinery import serialization
from multiboard_conformance.machinery.history import History, Operation

from multiboard import errors
from tests.faults.board_record import BoardRecord
from tests.faults.judge import Read, read_of

#: Seconds after which a worker that does not answer a command is taken for hung.
PATIENCE = 90.0


class Record:
    """What all workers of a run invoked and heard."""

    def __init__(self) -> None:
        self.history = History()
        self.reads: list[Read] = []
        #: When the store answered each worker: when the operation began, and when it ended.
        self.answered: dict[str, list[tuple[float, float]]] = {}
        self.operations = 0

    def begun(self, op: Operation) -> None:
        """Take in that an operation began."""
        self.operations += op.verb != "keepalive"
        if op.verb not in ("get", "list"):
            self.history.adopt(op)

    def ended(self, op: Operation, at: float) -> None:
        """Take in what an operation answered."""
        op.ended = at
        read = read_of(op) if op.verb in ("get", "list") else None
        if read is not None:
            op.answer = None  # thousands of listings, with all their postings
            self.reads.append(read)
        if not isinstance(op.answer, errors.BackendError) and op.verb != "keepalive":
            self.answered.setdefault(op.who, []).append((op.began, at))


class WorkerProcess:
    """A process that works by itself, reports in lines on a pipe, and obeys a few commands."""

    def __init__(self, program: str, who: str, first: Mapping[str, Any]) -> None:
        self.who = who
        self.alive = True
        self._answers: queue.Queue[Any] = queue.Queue()
        self._process = subprocess.Popen(
            [sys.executable, str(pathlib.Path(__file__).with_name(program))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            # A group of its own: an interrupt at the keyboard is ours to handle.
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, name="fault-worker", daemon=True)
        self._reader.start()
        self._say({"who": who, **first})

    def _say(self, value: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(serialization.dumps(value) + "\n")
        self._process.stdin.flush()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if not line.endswith("\n"):
                break  # cut short by its death
            said = serialization.loads(line)
            if "note" in said:
                self._note(said)
            elif "answer" in said:
                self._answers.put(said["answer"])
        self.alive = False
        self._answers.put(None)

    def _note(self, said: dict[str, Any]) -> None:
        """Take in a report."""
        raise NotImplementedError

    def _waits_for(self) -> str:
        """Return what it is doing, and what all did of late, for a failure."""
        raise NotImplementedError

    def ask(self, do: str) -> Any:
        """Let the worker obey a command, and return what it answers."""
        self._say({"do": do})
        try:
            answer = self._answers.get(timeout=PATIENCE)
        except queue.Empty:
            self.signal(signal.SIGUSR1)  # it says where its threads are
            time.sleep(1.0)
            raise RuntimeError(
                f"worker {self.who} did not obey {do!r} within {PATIENCE:g} s; it waits for"
                f" {self._waits_for()}"
            ) from None
        if not self.alive:
            raise RuntimeError(f"worker {self.who} died by itself")
        return answer

    def signal(self, number: int) -> None:
        """Send it a signal."""
        os.kill(self._process.pid, number)

    def freeze(self) -> None:
        """Stop the process where it is."""
        self.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self.signal(signal.SIGCONT)

    def kill(self) -> None:
        """Kill it, and wait until all that it said was read."""
        self._process.kill()
        self._process.wait()
        self._reader.join(5.0)
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):
                pipe.close()


class Worker(WorkerProcess):
    """A worker on the primitives: each attempt of its guard is in the record."""

    def __init__(
        self, record: Record, who: str, seed: str, target: str, settings: Mapping[str, Any]
    ) -> None:
        self._record = record
        self._open: dict[int, Operation] = {}
        first = {"seed": seed, "target": target, "settings": dict(settings)}
        super().__init__("worker.py", who, first)

    def _note(self, said: dict[str, Any]) -> None:
        if said["note"] == "invoke":
            op = Operation.begun(said)
            self._open[op.number] = op
            self._record.begun(op)
        else:
            op = self._open.pop(said["number"])
            self._record.history.conclude(op, said["answer"])
            self._record.ended(op, said["at"])

    def _waits_for(self) -> str:
        waits = "\n".join(f"{op.verb}({op.args})" for op in self._open.values())
        return f"{waits or 'nothing'}\n{self._record.history.table(40)}"

    def last_answer(self) -> float:
        """Return when the last operation began to which the store gave it an answer."""
        answered = self._record.answered.get(self.who)
        return answered[-1][0] if answered else float("-inf")


class BoardWorker(WorkerProcess):
    """A worker on a whole jobboard: what it did and was told is in the record."""

    def __init__(
        self, record: BoardRecord, who: str, seed: str, target: str, settings: Mapping[str, Any]
    ) -> None:
        self._record = record
        self._last: dict[str, Any] = {}
        self._ready = threading.Event()
        first = {"seed": seed, "target": target, "settings": dict(settings)}
        super().__init__("board_worker.py", who, first)

    def _note(self, said: dict[str, Any]) -> None:
        self._last = said
        if said["note"] == "ready":
            self._ready.set()
        self._record.add(self.who, said)

    def _waits_for(self) -> str:
        return f"what comes after {self._last}"

    def interrupt(self) -> None:
        """Have a time limit strike within its calls, for the next seconds."""
        if not self._ready.wait(PATIENCE):  # the signal would end a process that is not ready
            raise RuntimeError(f"worker {self.who} did not connect within {PATIENCE:g} s")
        self.signal(signal.SIGUSR2)
