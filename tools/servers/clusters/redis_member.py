# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""A Redis among several, and how to talk to it. Imports the standard library and the servers."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Sequence
from typing import IO, Any

from servers.process import Server
from servers.redis_server import RedisServer


class RedisError(OSError):
    """The server answered with an error."""


class RedisMember(RedisServer):
    """A Redis whose configuration file others may rewrite: what it became outlives a restart."""

    def __init__(self, *, lines: Sequence[str] = (), options: Sequence[str] = ()) -> None:
        """``lines`` stand in its file at first; ``options`` are words of every command line."""
        super().__init__(options=options)
        self.lines = tuple(lines)

    def _command(self) -> list[str]:
        path = os.path.join(self.folder, "redis.conf")
        if not os.path.exists(path):
            with open(path, "w") as file:
                file.writelines(f"{line}\n" for line in self.lines)
        program, *words = super()._command()
        # A master waits five seconds for more replicas before it sends them what it has.
        return [program, path, *words, "--repl-diskless-sync-delay", "0"]

    @property
    def role(self) -> str:
        """What it takes itself for: "master" or "slave"."""
        return str(ask(self, "ROLE")[0])

    @property
    def online(self) -> int:
        """How many replicas follow it, however far behind they are while it is written to."""
        role, *reply = ask(self, "ROLE")  # a replica replies with other things
        return len(reply[1]) if role == "master" else 0

    @property
    def replicas(self) -> int:
        """How many replicas have all that it has, which while it is written to may be none."""
        role, *reply = ask(self, "ROLE")
        return sum(int(replica[2]) == reply[0] for replica in reply[1]) if role == "master" else 0


def so(ready: Callable[[], bool]) -> Callable[[], bool]:
    """Return a question whose answer is no where a server is away or refuses."""

    def answer() -> bool:
        with contextlib.suppress(OSError):
            return ready()
        return False

    return answer


def ask(server: Server, *words: str, within: float = 1.0) -> Any:
    """Return a server's reply to a command; one that wants a password gets it.

    Raises: ``RedisError``, ``OSError``.
    """
    password: str | None = getattr(server, "password", None)
    commands = [words] if password is None else [("AUTH", password), words]
    reply = None
    with (
        socket.create_connection((server.host, server.port), within) as client,
        client.makefile("rb") as file,
    ):
        for command in commands:
            parts = [f"${len(word.encode())}\r\n{word}\r\n" for word in command]
            client.sendall(f"*{len(command)}\r\n{''.join(parts)}".encode())
            reply = _reply(file)
    return reply


def _reply(file: IO[bytes]) -> Any:
    line = file.readline()
    if not line.endswith(b"\r\n"):
        raise ConnectionError("the server closed the connection")
    kind, rest = line[:1], line[1:-2].decode()
    if kind == b"-":
        raise RedisError(rest)
    if kind == b":":
        return int(rest)
    if kind == b"+" or int(rest) < 0:
        return rest if kind == b"+" else None
    if kind == b"*":
        return [_reply(file) for _ in range(int(rest))]
    return file.read(int(rest) + 2)[:-2].decode(errors="replace")
