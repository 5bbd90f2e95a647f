# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The worker process: one backend in a process of its own, driven by lines of JSON over pipes.

Commands come on standard input and answers go to standard output, as does the record of every
operation, before and after it: what was invoked is known even of a process that is killed.
:class:`Actor` does the work; the suite uses it in its own process too, for stores that no two
processes share. No pytest here: every worker process loads this module.
"""

from __future__ import annotations

import functools
import os
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any, TextIO

from multiboard import errors
from multiboard.config import loading
from multiboard.primitives import Backend, boottime
from multiboard_conformance.machinery import serialization
from multiboard_conformance.machinery.history import History, Operation
from multiboard_conformance.machinery.programs import PROGRAMS
from multiboard_conformance.machinery.recording import Recorded, apply


class Actor:
    """A connected backend, and the thread that keeps its session until it is stopped."""

    def __init__(
        self,
        target: str,
        settings: Mapping[str, Any],
        who: str,
        history: History,
        at: float | None = None,
    ) -> None:
        self._load = functools.partial(loading.load, target, **settings)
        self.bare: Backend = self._load()
        self.backend = Recorded(self.bare, who, history)
        #: The backends of further boards, by their namespaces.
        self._visited: dict[str, Recorded] = {}
        _sleep_until(at)
        self.backend.open()
        self._stopped = threading.Event()
        self._keeper: threading.Thread | None = None

    def call(
        self, verb: str, args: Mapping[str, Any], at: float | None = None, on: str | None = None
    ) -> Any:
        """Do one verb, at an instant of :func:`boottime` or now, ``on`` a board that it visits."""
        _sleep_until(at)
        return apply(self.backend if on is None else self._visited[on], verb, args)

    def visit(self, namespace: str, settings: Mapping[str, Any]) -> None:
        """Open a further board of the store, by a backend of its own."""
        bare = self._load(**{**settings, "namespace": namespace})
        who = f"{self.backend.who} ({namespace})"
        self._visited[namespace] = Recorded(bare, who, self.backend.history)
        self._visited[namespace].open()

    def run(self, program: str, args: Mapping[str, Any]) -> Any:
        """Run a program by its name."""
        return PROGRAMS[program](self.backend, **args)

    def keep(self) -> tuple[float, float]:
        """Begin to keep the session; return the time before the first renewal, and the grant."""
        before = boottime()
        granted = self.backend.keepalive()
        self._stopped = threading.Event()
        self._keeper = threading.Thread(
            target=self._keep, args=(self._stopped, granted), name="conformance-keeper", daemon=True
        )
        self._keeper.start()
        return before, granted

    def _keep(self, stopped: threading.Event, granted: float) -> None:
        while not stopped.wait(granted / 4):
            try:
                granted = self.bare.keepalive()
            except errors.SessionLost:
                return
            except errors.MultiboardError:
                continue

    def unkeep(self) -> tuple[float, float]:
        """Stop keeping the session, after a last renewal; return when, and for how long."""
        self._stopped.set()
        if self._keeper is not None:
            self._keeper.join()
        before = boottime()
        return before, self.backend.keepalive()

    def abandon(self) -> None:
        """Stop keeping the session, without closing it."""
        self._stopped.set()

    def close(self) -> None:
        """Close the backend, and those of the boards that it visited."""
        self._stopped.set()
        for backend in (self.backend, *self._visited.values()):
            backend.close()


def _sleep_until(at: float | None) -> None:
    if at is not None:
        time.sleep(max(0.0, at - boottime()))


class _Skew:
    """A client clock that is wrong by some seconds."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._time, self._time_ns = time.time, time.time_ns

    def set(self, seconds: float) -> None:
        self.seconds = seconds
        time.time = lambda: self._time() + self.seconds
        time.time_ns = lambda: self._time_ns() + int(self.seconds * 1e9)


class _Session:
    """The connection of a worker with the suite."""

    def __init__(self, answers: TextIO) -> None:
        self._answers = answers
        self._lock = threading.Lock()
        self._history = History(self._report)
        self._actor: Actor | None = None
        self._skew = _Skew()

    def _send(self, value: Any) -> None:
        line = serialization.dumps(value)
        with self._lock:
            self._answers.write(line + "\n")
            self._answers.flush()

    def _report(self, what: str, op: Operation) -> None:
        self._send(op.note(what))

    def serve(self, line: str) -> None:
        """Obey one command and answer it."""
        command = serialization.loads(line)
        number, do = command.pop("id"), command.pop("do")
        try:
            answer = self._obey(do, command)
        except Exception as error:
            self._send({"id": number, "raised": error})
        else:
            self._send({"id": number, "answer": answer})

    def _obey(self, do: str, command: dict[str, Any]) -> Any:
        if do == "open":
            self._actor = Actor(**command, history=self._history)
            return self._actor.bare.incarnation
        if do == "skew":
            return self._skew.set(**command)
        if do == "reset":
            actor, self._actor = self._actor, None
            self._skew.set(0.0)
            return None if actor is None else actor.close()
        assert self._actor is not None
        return getattr(self._actor, do)(**command)


def main() -> None:
    """Serve commands until standard input ends."""
    # A library that prints must not speak between the lines of the conversation.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    session = _Session(answers)
    for line in sys.stdin:
        session.serve(line)
    # Whoever closed our input has gone: threads of a client library must not hold us back.
    os._exit(0)
