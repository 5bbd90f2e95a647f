# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Redis, of one server."""

from __future__ import annotations

import socket
from collections.abc import Sequence

from servers.process import Server, program


class RedisServer(Server):
    """A Redis without periodic snapshots; its writes are in an append-only file, or nowhere."""

    name = "redis"

    def __init__(
        self,
        *,
        appendonly: bool = True,
        password: str | None = None,
        options: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.appendonly = appendonly
        self.password = password
        self.options = tuple(options)
        self._program = program("redis-server", "redis-server")

    @property
    def url(self) -> str:
        secret = "" if self.password is None else f":{self.password}@"
        return f"redis://{secret}{self.host}:{self.port}/0"

    def _command(self) -> list[str]:
        command = [self._program, "--bind", self.host, "--port", str(self.port)]
        command += ["--dir", self._data, "--save", "", "--daemonize", "no"]
        command += ["--appendonly", "yes" if self.appendonly else "no"]
        if self.password is not None:
            command += ["--requirepass", self.password]
        return [*command, *self.options]

    def _answers(self) -> bool:
        lines = [] if self.password is None else [["AUTH", self.password]]
        with socket.create_connection((self.host, self.port), 1.0) as client:
            for words in [*lines, ["PING"], ["INFO", "server"]]:
                parts = [f"${len(word.encode())}\r\n{word}\r\n" for word in words]
                client.sendall(f"*{len(words)}\r\n{''.join(parts)}".encode())
                answer = client.recv(65536).decode(errors="replace")
                if words == ["PING"] and not answer.startswith("+PONG"):
                    return False  # -LOADING: it still reads its file
                _, found, rest = answer.partition("redis_version:")
                if found:
                    self.version = rest.split()[0]
        return True
