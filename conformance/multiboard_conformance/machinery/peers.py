# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The suite's side of its actors: worker processes, or actors in this process.

A store that processes can share is judged with worker processes that are really killed and
stopped. A store that lives in one process (``cross_process=False``) is judged with backends in
this process, and the death of one is that nobody keeps its session. Imports the primitives, the
errors and the suite's own modules.
"""

from __future__ import annotations

import abc
import contextlib
import dataclasses
import itertools
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from typing import Any

from multiboard import primitives
from multiboard_conformance.machinery import serialization
from multiboard_conformance.machinery.history import History, Operation
from multiboard_conformance.machinery.recording import Delegate
from multiboard_conformance.machinery.worker import Actor

#: Seconds after which a worker that does not answer is taken for hung.
PATIENCE = 90.0

_BOOT = (
    "import sys; sys.path[:] = sys.argv[1].splitlines();"
    "from multiboard_conformance.machinery.worker import main; main()"
)


class WorkerGone(AssertionError):
    """A worker process died or hung."""


class Peer(Delegate):
    """Another user of the board, at arm's length: its verbs, its session, its death."""

    def __init__(self, who: str, settings: primitives.Settings, traits: primitives.Traits) -> None:
        super().__init__(settings)
        self.who = who
        #: When set, the next verb begins at this instant.
        self.start_at: float | None = None
        self._traits = traits
        self._incarnation = ""

    @property
    def traits(self) -> primitives.Traits:
        return self._traits

    @property
    def incarnation(self) -> str:
        """The incarnation that it saw when it opened the board."""
        return self._incarnation

    def do(self, verb: str, args: Mapping[str, Any]) -> Any:
        at, self.start_at = self.start_at, None
        return self.ask("call", verb=verb, args=dict(args), at=at)

    @abc.abstractmethod
    def ask(self, do: str, **command: Any) -> Any:
        """Let the actor obey one command."""

    def visit(self, namespace: str, **settings: Any) -> primitives.Backend:
        """Let it open a further board of the store; return what does verbs there."""
        self.ask("visit", namespace=namespace, settings=settings)
        return Visit(self, namespace)

    def run(self, program: str, **args: Any) -> Any:
        """Run a program of :mod:`multiboard_conformance.machinery.programs` there."""
        return self.ask("run", program=program, args=args)

    def keep(self) -> tuple[float, float]:
        """Keep the session from now on; return the time before a renewal and what was granted."""
        before, granted = self.ask("keep")
        return before, granted

    def unkeep(self) -> tuple[float, float]:
        """Stop keeping the session, after a last renewal; return when, and what was granted."""
        before, granted = self.ask("unkeep")
        return before, granted

    @abc.abstractmethod
    def kill(self) -> None:
        """Let it die without a word."""

    @abc.abstractmethod
    def pause(self) -> None:
        """Freeze it."""

    @abc.abstractmethod
    def resume(self) -> None:
        """Thaw it."""

    @abc.abstractmethod
    def leave(self) -> None:
        """Close it, at the end of a check."""


class Visit(Delegate):
    """A further board on which a peer works, by a backend and a session of its own."""

    def __init__(self, peer: Peer, namespace: str) -> None:
        super().__init__(dataclasses.replace(peer.settings, namespace=namespace))
        self._peer = peer

    @property
    def traits(self) -> primitives.Traits:
        return self._peer.traits

    @property
    def incarnation(self) -> str:
        raise NotImplementedError("a check that needs it asks a backend of this process")

    def do(self, verb: str, args: Mapping[str, Any]) -> Any:
        return self._peer.ask("call", verb=verb, args=dict(args), on=self.settings.namespace)


class LocalPeer(Peer):
    """A peer in this process: its death is that nobody keeps its session."""

    def __init__(self, actor: Actor, who: str, traits: primitives.Traits) -> None:
        super().__init__(who, actor.bare.settings, traits)
        self._actor = actor
        self._incarnation = actor.bare.incarnation
        self._dead = False

    def ask(self, do: str, **command: Any) -> Any:
        return getattr(self._actor, do)(**command)

    def kill(self) -> None:
        self._dead = True
        self._actor.abandon()

    def pause(self) -> None:
        self._actor.abandon()

    def resume(self) -> None:
        pass

    def leave(self) -> None:
        if not self._dead:
            self._actor.close()


class Worker:
    """A worker process and the pipes to it. It is used by one peer after another."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _BOOT, "\n".join(filter(None, sys.path))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            # A group of its own: an interrupt at the keyboard is the suite's to handle.
            start_new_session=True,
        )
        self.history: History | None = None
        self.usable = True
        self._numbers = itertools.count(1)
        self._answers: dict[int, queue.Queue[dict[str, Any]]] = {}
        self._open: dict[int, Operation] = {}
        self._lock = threading.Lock()
        self._reader = threading.Thread(target=self._read, name="conformance-worker", daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if not line.endswith("\n"):
                break  # cut short by its death
            message = serialization.loads(line)
            if "note" in message:
                self._note(message)
            else:
                self._answers[message["id"]].put(message)
        self.usable = False
        for waiting in list(self._answers.values()):
            waiting.put({"gone": True})

    def _note(self, message: dict[str, Any]) -> None:
        history = self.history
        if message["note"] == "invoke":
            op = Operation.begun(message)
            self._open[op.number] = op
            if history is not None:
                history.adopt(op)
        else:
            op = self._open.pop(message["number"])
            if history is not None:
                history.conclude(op, message["answer"])
            op.ended = message["at"]

    def ask(self, do: str, **command: Any) -> Any:
        """Send one command and wait for its answer; raise what the actor raised."""
        number = next(self._numbers)
        self._answers[number] = queue.Queue()
        assert self._process.stdin is not None
        try:
            with self._lock:
                self._process.stdin.write(
                    serialization.dumps({"id": number, "do": do, **command}) + "\n"
                )
                self._process.stdin.flush()
            message = self._answers[number].get(timeout=PATIENCE)
        except (OSError, ValueError):
            message = {"gone": True}
        except queue.Empty:
            self.kill()
            raise WorkerGone(f"a worker did not answer {do!r} within {PATIENCE:g} s") from None
        del self._answers[number]
        if "gone" in message:
            raise WorkerGone(f"the worker process died at {do!r}")
        if "raised" in message:
            raise message["raised"]
        return message["answer"]

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process."""
        os.kill(self._process.pid, number)

    def kill(self) -> None:
        """Kill the process with SIGKILL and wait until it is gone and all its reports were read."""
        self.usable = False
        self._process.kill()
        self._process.wait()
        if threading.current_thread() is not self._reader:
            self._reader.join(5.0)
        with contextlib.suppress(OSError):
            assert self._process.stdin is not None
            self._process.stdin.close()
        assert self._process.stdout is not None
        self._process.stdout.close()


class WorkerPool:
    """Worker processes that are used again: starting one costs more than most checks."""

    def __init__(self) -> None:
        self._idle: list[Worker] = []
        self._lock = threading.Lock()

    def checkout(self) -> Worker:
        """Return a worker that nobody uses."""
        with self._lock:
            while self._idle:
                worker = self._idle.pop()
                if worker.usable:
                    return worker
        return Worker()

    def checkin(self, worker: Worker) -> None:
        """Keep a worker for the next peer, or end it where it is of no more use."""
        try:
            if worker.usable:
                worker.ask("reset")
        except Exception:
            worker.usable = False
        worker.history = None
        if worker.usable:
            with self._lock:
                self._idle.append(worker)
        else:
            worker.kill()

    def close(self) -> None:
        """End all workers."""
        while self._idle:
            self._idle.pop().kill()


class RemotePeer(Peer):
    """A peer in a worker process."""

    def __init__(
        self,
        pool: WorkerPool,
        target: str,
        settings: Mapping[str, Any],
        who: str,
        history: History,
        own: tuple[primitives.Settings, primitives.Traits],
        skew: float = 0.0,
        at: float | None = None,
    ) -> None:
        super().__init__(who, *own)
        self._pool = pool
        self._worker = pool.checkout()
        self._worker.history = history
        try:
            if skew:
                self._worker.ask("skew", seconds=skew)
            self._incarnation = self._worker.ask(
                "open", target=target, settings=dict(settings), who=who, at=at
            )
        except BaseException:
            self.leave()
            raise

    def ask(self, do: str, **command: Any) -> Any:
        return self._worker.ask(do, **command)

    def kill(self) -> None:
        self._worker.kill()

    def pause(self) -> None:
        self._worker.signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._worker.signal(signal.SIGCONT)

    def leave(self) -> None:
        if self._worker.usable:
            with contextlib.suppress(ProcessLookupError):
                self.resume()
        self._pool.checkin(self._worker)
