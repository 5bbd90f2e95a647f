# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""An etcd cluster: one leader by Raft, the others follow."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from servers.clusters.base import Quorum, until
from servers.etcd_server import EtcdServer
from servers.process import free_ports


class EtcdCluster(Quorum):
    """etcd members that elect a leader among them."""

    name = "etcd"

    def __init__(self, size: int = 3) -> None:
        super().__init__()
        ports = free_ports(2 * size)
        peers = {f"m{n}": ports[size + n] for n in range(size)}
        self.servers = [EtcdServer(member=name, peers=peers) for name in peers]
        for server, port in zip(self.servers, ports[:size], strict=True):
            server.port = port
        self.members.extend(self.servers)

    @property
    def may_end_early(self) -> str:
        version = tuple(int(part) for part in self.servers[0].version.split("."))
        if version >= (3, 5, 12) or (3, 4, 30) <= version < (3, 5):
            return ""
        return (
            "a leader that was frozen and replaced revokes, when it wakes, the leases that it takes"
            " to be over (etcd-io/etcd issue 15247, mended in later releases)"
        )

    @property
    def url(self) -> str:
        return self.url_through([(server.host, server.port) for server in self.servers])

    def url_through(self, addresses: Sequence[tuple[str, int]]) -> str:
        return "etcd://" + ",".join(f"{host}:{port}" for host, port in addresses)

    def _states(self) -> list[tuple[str, str]]:
        """Return the id of each member that answers, and that of the leader it knows."""
        states = []
        for server in self.servers:
            with contextlib.suppress(OSError, KeyError, TypeError):
                told = server.ask("POST", "/v3/maintenance/status", {})
                header = told["header"]
                assert isinstance(header, dict)
                states.append((str(header["member_id"]), str(told.get("leader", "0"))))
        return states

    def in_step(self) -> bool:
        states = self._states()
        leaders = {leader for _, leader in states}
        return len(states) == len(self.servers) and len(leaders) == 1 and leaders != {"0"}

    def leader(self) -> EtcdServer:
        """Return the member that leads; waits while there is none."""
        found: list[EtcdServer] = []

        def elected() -> bool:
            found.clear()
            for server in self.servers:
                with contextlib.suppress(OSError, KeyError, TypeError):
                    told = server.ask("POST", "/v3/maintenance/status", {})
                    header = told["header"]
                    assert isinstance(header, dict)
                    if header["member_id"] == told.get("leader"):
                        found.append(server)
            return len(found) == 1

        until(elected, "the cluster elected no leader")
        return found[0]
