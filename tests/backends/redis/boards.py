# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""What the tests of the Redis board share beside the fixtures: helpers."""

from __future__ import annotations

import contextlib
import socket
import threading
import uuid
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from multiboard.backends.redis import RedisBackend, RedisSettings
from multiboard.primitives import Change


@contextlib.contextmanager
def boards_on(server: Any) -> Iterator[Callable[..., RedisBackend]]:
    """Give what makes and opens backends of one board, and close them in the end."""
    namespace = f"t-{uuid.uuid4().hex[:12]}"
    made: list[RedisBackend] = []

    def make(**options: Any) -> RedisBackend:
        options = {"hosts": (f"127.0.0.1:{server.port}",), "namespace": namespace, **options}
        made.append(RedisBackend(RedisSettings(**options)))
        made[-1].open()
        return made[-1]

    try:
        yield make
    finally:
        for backend in made:
            backend.close()


def key_of(board: RedisBackend, name: str) -> str:
    return f"multiboard:{{{board.settings.namespace}}}:{name}"


class Where(NamedTuple):
    """The place of something that is no server of ours."""

    port: int


def at(running: Any, **options: Any) -> RedisBackend:
    """Return an open backend on a server of the test's own."""
    board = RedisBackend(RedisSettings(hosts=(f"127.0.0.1:{running.port}",), **options))
    board.open()
    return board


def keys_of(postings: Any) -> list[str]:
    return [posting.key for posting in postings]


def drained(board: RedisBackend, cursor: str) -> tuple[list[Change], str]:
    """Return all that the feed has now, which must be no reset."""
    events: list[Change] = []
    while True:
        changes = board.changes(cursor, 0.0)
        assert not changes.reset
        cursor = changes.cursor
        if not changes.events:
            return events, cursor
        events += changes.events


class Proxy:
    """Passes bytes to a server, and swallows the next reply where ``swallow`` is set."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.swallow = False
        self.swallowed = 0
        self._sockets = [self._listener]
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *error: object) -> None:
        for one in self._sockets:
            one.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._port))
                self._sockets += [near, far]
                threading.Thread(target=self._pass, args=(near, far, False), daemon=True).start()
                threading.Thread(target=self._pass, args=(far, near, True), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket, replies: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                # A script that is not loaded yet is no reply worth losing.
                if replies and self.swallow and not data.startswith(b"-NOSCRIPT"):
                    self.swallow = False
                    self.swallowed += 1
                    break
                sink.sendall(data)
        for one in (source, sink):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
