# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""A right backend for boards in the memory of a server, so that mutants can lose its network.

``served:ServedBackend?port=N``; the server is in ``serving``. One request is one line out and one
line back on a connection that nobody else uses meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from multiboard_conformance.harness import Harness
from multiboard_conformance.machinery import serialization
from multiboard_conformance.machinery.recording import Delegate

from multiboard import errors, primitives
from multiboard.primitives import boottime
from tests.mutants.serving import PUT_BACK

#: They change nothing: where their answer is lost they may simply be repeated.
READS = ("get", "list", "count", "changes", "open", "boards")


@dataclass(frozen=True, kw_only=True)
class ServedSettings(primitives.Settings):
    """Where the server is."""

    host: str = primitives.setting("127.0.0.1", help="The server's host.")
    port: int = primitives.setting(1, help="The server's port.", minimum=1, maximum=65535)


class ServedBackend(Delegate):
    """The client. What a mutant does otherwise, it overrides."""

    settings_class = ServedSettings
    settings: ServedSettings

    #: The longest that the server lets a reader wait, in parts of ``operation_timeout``.
    longest_wait = 0.5
    #: What every request asks of a faulty server.
    asks: Mapping[str, Any] = {}

    def __init__(self, settings: primitives.Settings) -> None:
        super().__init__(settings)
        self._begin()

    def _begin(self) -> None:
        self.who = uuid.uuid4().hex
        #: How many replies were lost: what was sent before the last loss is late.
        self.losses = 0
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._idle: list[socket.socket] = []
        self._busy: set[socket.socket] = set()
        self._incarnation: str | None = None

    #: How many changes of the board are known, and whether it was put back since.
    known = 0
    lost = False

    @property
    def position(self) -> int:
        return self.known

    @property
    def traits(self) -> primitives.Traits:
        return primitives.Traits(
            durable=False,
            cross_process=True,
            cross_host=True,
            max_body=1024 * 1024,
            lease_slack=0.2,
            native_claim_next=True,
            linearizable_feed=True,
        )

    @property
    def incarnation(self) -> str:
        if self._incarnation is None:
            raise errors.Closed("the board is not open")
        return self._incarnation

    def open(self) -> None:
        self.lost, self.known = False, 0
        try:
            self._incarnation = self.ask("open", {"create": self.settings.create})
        except errors.BackendError as error:
            place = f"{self.settings.host}:{self.settings.port}"
            raise errors.Unavailable(f"no server at {place}: {error}") from error.__cause__

    def close(self) -> None:
        if self._incarnation is None or self._pid != os.getpid():
            return
        with contextlib.suppress(errors.MultiboardError):
            self.ask("close", {})
        with self._lock:
            self._incarnation = None
            for one in (*self._idle, *self._busy):
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
            for one in self._idle:
                one.close()
            self._idle.clear()

    def boards(self) -> Sequence[str]:
        names: Sequence[str] = self.ask("boards", {})
        return names

    def server_info(self) -> Mapping[str, str]:
        return {"store": "served memory"}

    def do(self, verb: str, args: Mapping[str, Any]) -> Any:
        if self._pid != os.getpid() and self._incarnation is not None:
            self.after_fork()
        _ = self.incarnation
        return self.changes_of(**args) if verb == "changes" else self.ask(verb, args)

    def after_fork(self) -> None:
        """Begin anew; what was inherited is neither used nor closed."""
        inherited = (self._idle, self._busy, self._lock)
        self._begin()
        self._inherited = inherited
        self.open()

    def changes_of(self, cursor: str | None, timeout: float) -> primitives.Changes:
        """Wait in short calls, each with an answer to wait for: a dead connection is noticed."""
        give_up = boottime() + timeout
        while True:
            left = max(0.0, give_up - boottime())
            most = self.settings.operation_timeout * self.longest_wait
            args = {"cursor": cursor, "timeout": min(left, most)}
            changes: primitives.Changes = self.ask("changes", args, min(left, most))
            if changes.events or changes.reset or left <= most:
                return changes

    # -- requests ----------------------------------------------------------------------------

    def ask(self, verb: str, args: Mapping[str, Any], waits: float = 0.0) -> Any:
        """Send one request and return its answer, or raise what the server raised."""
        request = {
            "verb": verb,
            "args": dict(args),
            "who": self.who,
            "losses": self.losses,
            "namespace": self.settings.namespace,
            "session_timeout": self.settings.session_timeout,
            "known": self.known,
            **self.asks,
        }
        if self.lost and verb not in ("open", "close"):
            raise errors.BoardLost(PUT_BACK)
        connection = self._take()
        line = b""
        try:
            try:
                within = args.get("within") or self.settings.connect_timeout + waits + 600.0
                connection.settimeout(min(waits + self.patience(verb), within))
                connection.sendall(serialization.dumps(request).encode() + b"\n")
            except OSError as error:
                raise self.unsent(error) from error
            try:
                with connection.makefile("rb") as answers:
                    line = answers.readline()
                if not line.endswith(b"\n"):
                    raise ConnectionResetError("the server closed the connection")
            except OSError as error:
                if self._incarnation is None and verb not in ("open", "boards", "close"):
                    raise errors.Closed("the board was closed") from error
                raise self.unanswered(verb, error) from error
        finally:
            self._give_back(connection, whole=line.endswith(b"\n"))
        reply = serialization.loads(line)
        if "raised" in reply:
            self.lost = self.lost or str(reply["raised"]) == PUT_BACK
            raise reply["raised"]
        self.known = max(self.known, reply["position"])
        return reply["answer"]

    def patience(self, verb: str) -> float:
        """Return for how many seconds an answer is waited for."""
        connecting = verb == "open"
        return (
            self.settings.connect_timeout if connecting else self.settings.operation_timeout
        ) * 0.8

    def unsent(self, error: OSError) -> BaseException:
        """Return the error of a request that may have been sent in part: it was not obeyed."""
        return errors.Unavailable(f"not sent: {error}")

    def unanswered(self, verb: str, error: OSError) -> BaseException:
        """Return the error of a request whose answer did not come."""
        if verb in READS:
            return errors.Unavailable(f"no answer: {error}")
        self.losses += 1
        return errors.Indeterminate(f"no answer: {error}")

    def _take(self) -> socket.socket:
        with self._lock:
            while self._idle:
                one = self._idle.pop()
                if not select.select([one], [], [], 0)[0]:
                    self._busy.add(one)
                    return one
                one.close()  # the server has closed it
        place = (self.settings.host, self.settings.port)
        try:
            one = socket.create_connection(place, timeout=self.settings.connect_timeout * 0.8)
        except OSError as error:
            raise errors.Unavailable(f"no connection to {place[0]}:{place[1]}: {error}") from error
        with self._lock:
            self._busy.add(one)
        return one

    def _give_back(self, connection: socket.socket, whole: bool) -> None:
        with self._lock:
            self._busy.discard(connection)
            if whole and self._incarnation is not None:
                self._idle.append(connection)
            else:
                connection.close()


class ServedHarness(Harness):
    """The loss of a board, and of its last changes."""

    def wipe(self, settings: Any) -> None:
        ServedBackend(settings).ask("wipe", {})

    def put_back(self, settings: Any, writes: Callable[[], None]) -> None:
        ServedBackend(settings).ask("back_up", {})
        writes()
        ServedBackend(settings).ask("put_back", {})


def start_server(paths: str) -> subprocess.Popen[str]:
    """Start a server that finds its modules on ``paths``; its first line is its port."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.mutants.serving"],
        env={**os.environ, "PYTHONPATH": paths},
        stdout=subprocess.PIPE,
        text=True,
    )
