# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""A Redis Cluster of three masters with a replica each.

Imports the standard library and the servers only.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence

from servers.clusters.base import Cluster, until
from servers.clusters.redis_member import RedisMember, ask, so
from servers.ports import free_port

SLOTS = 16384


class ClusterNode(RedisMember):
    """A node; it keeps what it learns of the others in a file of its own."""

    def __init__(self, node_timeout_ms: int, options: Sequence[str] = ()) -> None:
        words = ["--cluster-enabled", "yes", "--cluster-node-timeout", str(node_timeout_ms)]
        super().__init__(options=[*words, *options])
        self.bus = 0

    def _command(self) -> list[str]:
        self.bus = self.bus or free_port()  # by default it is 10000 above, where it may be taken
        return [*super()._command(), "--cluster-port", str(self.bus)]

    @property
    def id(self) -> str:
        """The name by which the others know it."""
        return str(ask(self, "CLUSTER", "MYID"))

    @property
    def sound(self) -> bool:
        """Whether it sees a cluster that serves all slots, and no node that failed."""
        reply = ask(self, "CLUSTER", "NODES")
        return "cluster_state:ok" in ask(self, "CLUSTER", "INFO") and "fail" not in reply


class RedisCluster(Cluster):
    """Three masters and three replicas; a master's replica takes over in a second or three."""

    name = "redis+cluster"
    may_lose = (
        "Redis replicates after it acknowledges: with durability=none what the master acknowledged"
        " last dies with it"
    )
    safe = {"durability": "wait:1"}

    def __init__(self, *, node_timeout_ms: int = 1000, options: Sequence[str] = ()) -> None:
        """``options`` are words of the command line of each node."""
        super().__init__()
        self.nodes = [ClusterNode(node_timeout_ms, options) for _ in range(6)]
        self.members.extend(self.nodes)

    @property
    def url(self) -> str:
        return "redis+cluster://" + ",".join(f"{node.host}:{node.port}" for node in self.nodes)

    def start(self) -> None:
        for node in self.nodes:
            node.start()
        first, *others = self.nodes
        masters, replicas = self.nodes[:3], self.nodes[3:]
        for number, node in enumerate(masters):
            begin, end = SLOTS * number // 3, SLOTS * (number + 1) // 3 - 1
            ask(node, "CLUSTER", "ADDSLOTSRANGE", str(begin), str(end))
        for number, node in enumerate(self.nodes, 1):
            ask(node, "CLUSTER", "SET-CONFIG-EPOCH", str(number))
        for node in others:
            ask(first, "CLUSTER", "MEET", node.host, str(node.port), str(node.bus))
        met = so(lambda: all(_knows(node, len(self.nodes)) for node in self.nodes))
        until(met, "the nodes did not meet")
        for replica, master in zip(replicas, masters, strict=True):
            ask(replica, "CLUSTER", "REPLICATE", master.id)
        self.settle()

    def owner(self, key: str) -> RedisMember:
        """Return the master that has a key's slot, as the others see it; it may be dead."""
        for asked in self.nodes:
            with contextlib.suppress(OSError):  # dead, or frozen
                slot = ask(asked, "CLUSTER", "KEYSLOT", key)
                for first, last, master, *_ in ask(asked, "CLUSTER", "SLOTS"):
                    if first <= slot <= last:
                        return next(node for node in self.nodes if node.port == master[1])
        raise OSError(f"nobody has the slot of {key}")

    @property
    def busiest(self) -> RedisMember:
        """The master that has most keys: the one that a board is on, where there is one board."""
        masters = [node for node in self.nodes if node.running and node.role == "master"]
        return max(masters, key=lambda node: int(ask(node, "DBSIZE")))

    def replica(self, master: RedisMember) -> RedisMember:
        """Return the replica of a master."""
        for node in self.nodes:
            if node.running:
                role, *rest = ask(node, "ROLE")
                if role == "slave" and rest[1] == master.port:
                    return node
        raise OSError(f"{master} has no replica")

    def faults(self) -> Mapping[str, Callable[[], None]]:
        return {
            "master killed": lambda: self.busiest.kill(),
            "master frozen": lambda: self.busiest.pause(),
            "replica killed": lambda: self.replica(self.busiest).kill(),
        }

    def in_step(self) -> bool:
        return so(self._in_step)()

    def _in_step(self) -> bool:
        masters = [node for node in self.nodes if node.role == "master"]
        return (
            len(masters) == 3
            and all(master.online == 1 for master in masters)
            and all(node.sound for node in self.nodes)
        )


def _knows(node: RedisMember, count: int) -> bool:
    reply = str(ask(node, "CLUSTER", "NODES"))
    return len(reply.splitlines()) == count and "handshake" not in reply
