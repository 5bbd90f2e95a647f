# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""A Redis master, two replicas, and three sentinels that elect another master.

Imports the standard library and the servers only.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence

from servers.clusters.base import Cluster, until
from servers.clusters.redis_member import RedisMember, ask, so
from servers.process import Server, program
from servers.redis_server import RedisServer

MASTER = "mymaster"


class SentinelServer(Server):
    """One sentinel. It keeps what it learns in its own file."""

    name = "sentinel"

    def __init__(
        self,
        watched: RedisServer,
        *,
        down_after_ms: int = 1000,
        quorum: int = 2,
        password: str | None = None,
        port: int | None = None,
        lines: Sequence[str] = (),
    ) -> None:
        """``port`` is the server's where it has two; ``lines`` are of the sentinel's file."""
        super().__init__()
        self._watched_port = port
        self._lines = tuple(lines)
        self.password = password
        self._watched = watched
        self._quorum = quorum
        self._down_after_ms = down_after_ms
        self._program = program("redis-server", "redis-server")

    @property
    def url(self) -> str:
        return f"redis+sentinel://{self.host}:{self.port}/{MASTER}"

    def _command(self) -> list[str]:
        path = os.path.join(self.folder, "sentinel.conf")
        if not os.path.exists(path):
            with open(path, "w") as file:
                port = self._watched_port or self._watched.port
                file.writelines(f"{line}\n" for line in self._lines)
                file.write(
                    f"bind {self.host}\nport {self.port}\ndir {self._data}\n"
                    f"sentinel monitor {MASTER} {self.host} {port}"
                    f" {self._quorum}\n"
                    f"sentinel down-after-milliseconds {MASTER} {self._down_after_ms}\n"
                    f"sentinel failover-timeout {MASTER} 5000\n"
                )
                if self.password is not None:
                    file.write(f"requirepass {self.password}\n")
                if self._watched.password is not None:
                    file.write(f"sentinel auth-pass {MASTER} {self._watched.password}\n")
        return [self._program, path, "--sentinel"]

    def _answers(self) -> bool:
        _, _, rest = ask(self, "INFO", "server").partition("redis_version:")
        self.version = rest.split()[0]
        return True

    def knows(self, replicas: int, others: int) -> bool:
        """Whether it sees a sound master, and so many replicas and sentinels beside itself."""
        reply = ask(self, "SENTINEL", "MASTER", MASTER)
        fields = dict(zip(reply[::2], reply[1::2], strict=True))
        return fields["flags"] == "master" and (
            (int(fields["num-slaves"]), int(fields["num-other-sentinels"])) == (replicas, others)
        )


class RedisSentinel(Cluster):
    """One master with replicas, of which sentinels make another master in a second or two."""

    name = "redis+sentinel"
    may_lose = (
        "Redis replicates after it acknowledges: with durability=none what the master acknowledged"
        " last dies with it"
    )
    safe = {"durability": "wait:1"}

    def __init__(
        self, *, replicas: int = 2, down_after_ms: int = 1000, options: Sequence[str] = ()
    ) -> None:
        """``options`` are words of the command line of each Redis."""
        super().__init__()
        self._first = RedisMember(options=options)
        self._options = options
        self.servers = [self._first]
        self.sentinels = [
            SentinelServer(self._first, down_after_ms=down_after_ms) for _ in range(3)
        ]
        self._replicas = replicas
        self.members += [self._first, *self.sentinels]

    @property
    def url(self) -> str:
        hosts = ",".join(f"{sentinel.host}:{sentinel.port}" for sentinel in self.sentinels)
        return f"redis+sentinel://{hosts}/{MASTER}"

    def start(self) -> None:
        self._first.start()
        for _ in range(self._replicas):
            lines = [f"replicaof {self._first.host} {self._first.port}"]
            self.servers.append(RedisMember(lines=lines, options=self._options))
            self.members.append(self.servers[-1])
            self.servers[-1].start()
        # A sentinel asks a master for its replicas when it meets it, and then every ten seconds.
        until(so(lambda: self._first.replicas == self._replicas), "no replicas in step")
        for sentinel in self.sentinels:
            sentinel.start()
        self.settle()

    @property
    def master(self) -> RedisMember:
        """The master that the sentinels agree on; it may be dead.

        Raises: ``OSError`` where they do not agree.
        """
        reply = set()
        for sentinel in self.sentinels:
            if sentinel.running:
                reply.add(ask(sentinel, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER)[1])
        if len(reply) != 1:
            raise OSError(f"the sentinels name the ports {reply}")
        return next(server for server in self.servers if server.port == int(min(reply)))

    @property
    def replicas(self) -> list[RedisMember]:
        """The others."""
        master = self.master
        return [server for server in self.servers if server is not master]

    def faults(self) -> Mapping[str, Callable[[], None]]:
        return {
            "master killed": lambda: self.master.kill(),
            "master frozen": lambda: self.master.pause(),
            "replica killed": lambda: self.replicas[0].kill(),
            "sentinel killed": lambda: self.sentinels[0].kill(),
        }

    def in_step(self) -> bool:
        return so(self._in_step)()

    def _in_step(self) -> bool:
        master = self.master
        if master.role != "master":
            return False
        for server in self.servers:
            # A sentinel leaves a master that came back alone for some ten seconds.
            if server is not master and server.role == "master":
                ask(server, "REPLICAOF", master.host, str(master.port))
                with contextlib.suppress(OSError):
                    ask(server, "CLIENT", "KILL", "TYPE", "normal")
        return master.online == self._replicas and all(
            sentinel.knows(self._replicas, len(self.sentinels) - 1) for sentinel in self.sentinels
        )
