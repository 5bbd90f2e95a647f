# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""A ZooKeeper ensemble: one leader, the others follow."""

from __future__ import annotations

import contextlib
import os
import re
import socket
from collections.abc import Mapping, Sequence

from servers.clusters.base import Quorum, until
from servers.ports import HOST, free_ports
from servers.zookeeper_server import ZooKeeperServer

#: Ticks after which a follower that received nothing gives its leader up, and the other way round.
SYNC_TICKS = 5


class ZooKeeperMember(ZooKeeperServer):
    """One server of an ensemble."""

    def __init__(
        self, number: int, *, tick_ms: int, options: Mapping[str, str], flags: Sequence[str]
    ) -> None:
        super().__init__(tick_ms=tick_ms, options=options, flags=flags)
        self.number = number

    def _command(self) -> list[str]:
        with open(os.path.join(self._data, "myid"), "w") as file:
            file.write(f"{self.number}\n")
        return super()._command()

    def status(self) -> tuple[str, int]:
        """Return how it takes part, ``leader`` or ``follower``, and the epoch of its last write.

        The word is empty where it does not serve. ``srvr`` is the one command of four letters
        that a server answers unless it is configured not to.
        """
        reply = ""
        with contextlib.suppress(OSError), self._connected() as client:
            client.sendall(b"srvr")
            while part := client.recv(4096):
                reply += part.decode()
        mode, zxid = re.search(r"Mode: ([\w-]+)", reply), re.search(r"Zxid: 0x([0-9a-f]+)", reply)
        if mode is None or zxid is None:
            return "", 0
        return mode[1], int(zxid[1], 16) >> 32

    def _connected(self) -> socket.socket:
        return socket.create_connection((self.host, self.port), 1.0)


class ZooKeeperEnsemble(Quorum):
    """ZooKeeper servers that elect a leader among them; small ticks, so that they do it soon."""

    name = "zookeeper"

    def __init__(
        self,
        size: int = 3,
        *,
        tick_ms: int = 200,
        options: Mapping[str, str] | None = None,
        flags: Sequence[str] = (),
    ) -> None:
        super().__init__()
        ports = free_ports(3 * size)
        clients, quorum, election = ports[:size], ports[size : 2 * size], ports[2 * size :]
        everyone = {f"server.{n + 1}": f"{HOST}:{quorum[n]}:{election[n]}" for n in range(size)}
        everyone |= {"initLimit": str(4 * SYNC_TICKS), "syncLimit": str(SYNC_TICKS)}
        # ZOOKEEPER-4785, before 3.8.4: a member that was behind and is killed soon after it caught
        # up by the transactions that it lacked has a hole in its log, and shows other data for
        # ever. A member that catches up by a snapshot has it on its disk first.
        everyone |= {"forceSnapshotSync": "true", **(options or {})}
        self.servers = [
            ZooKeeperMember(n + 1, tick_ms=tick_ms, options=everyone, flags=flags)
            for n in range(size)
        ]
        for server, port in zip(self.servers, clients, strict=True):
            server.port = port
        self.members.extend(self.servers)

    @property
    def url(self) -> str:
        return self.url_through([(server.host, server.port) for server in self.servers])

    def url_through(self, addresses: Sequence[tuple[str, int]]) -> str:
        return "zookeeper://" + ",".join(f"{host}:{port}" for host, port in addresses)

    def in_step(self) -> bool:
        # One that was frozen while it led still takes itself for the leader: then there are two.
        words = sorted(server.status()[0] for server in self.servers)
        return words == ["follower"] * (len(words) - 1) + ["leader"]

    def leader(self) -> ZooKeeperMember:
        """Return the member that leads; waits while there is none."""
        found: list[tuple[int, ZooKeeperMember]] = []

        def elected() -> bool:
            reply = [(server, *server.status()) for server in self.servers]
            found[:] = [(epoch, server) for server, word, epoch in reply if word == "leader"]
            return bool(found)

        until(elected, "the ensemble elected no leader")
        return max(found, key=lambda pair: pair[0])[1]
