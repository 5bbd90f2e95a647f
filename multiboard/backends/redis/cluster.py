# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Locates the node of a Redis Cluster that has a board.

All keys of a board have one hash tag: one slot, one node. The cluster's own list names it, and a
node that receives a command for keys of another node replies with that node (``MOVED``). ``ASK`` is
not followed. It is the reply while a slot is on its way to another node, and a script finds some of
its keys missing there as well: until the last one has come, the board is unavailable.

Nodes may contradict each other for a while. The newer reply is the one with the higher epoch, in
which the node that it names became the master: the cluster itself decides so.

It imports the errors, the connection and the topology.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from redis.crc import key_slot

from multiboard import errors
from multiboard.backends.redis.address import Address
from multiboard.backends.redis.client import Connection
from multiboard.backends.redis.errors import MovedError
from multiboard.backends.redis.topology import CheckedLocator


class _Owner(NamedTuple):
    """The node that has the slot, and since which epoch: 0 where no node reports that."""

    node: Address
    epoch: int


class ClusterLocator(CheckedLocator):
    """The master of one slot."""

    def __init__(self, nodes: Sequence[Address], key: str) -> None:
        """Ask ``nodes``, and those that they name, for the one that has ``key``."""
        super().__init__()
        self._slot: int = key_slot(key.encode())
        self._given = tuple(nodes)
        #: Since which epoch the server has the slot; None where no node reported it yet.
        self._epoch: int | None = None
        #: The nodes to ask, in this order; the one that failed last stands last.
        self._nodes = list(nodes)
        scheme = "rediss+cluster" if nodes[0].tls else "redis+cluster"
        self._text = f"{scheme}://" + ",".join(node.place for node in nodes)

    def __str__(self) -> str:
        return self._text

    def connect(self, within: float) -> Connection:
        give_up = time.monotonic() + within
        known = self.server
        if known is not None:
            try:
                return Connection(known, within / 2)
            except errors.Unavailable:
                self._avoid(known)
        found = self._find_owner(give_up)
        try:
            connection = Connection(found.node, max(give_up - time.monotonic(), within / 4))
        except errors.Unavailable as error:
            self._avoid(found.node)
            raise errors.Unavailable(f"{self}: slot {self._slot}: {error}") from error
        with self._lock:
            self.server, self._epoch = found
        return connection

    def connect_all(self, within: float) -> Iterator[Connection]:
        for connection in super().connect_all(within):
            slots = connection.query("CLUSTER", "SLOTS", within=within)
            masters = dict.fromkeys(_node(connection.address, slot[2]) for slot in slots)
        for master in masters:
            connection = Connection(master, within)
            try:
                yield connection
            finally:
                connection.close()

    def on_failure(self, connection: Connection) -> None:
        self._avoid(connection.address)

    def follow(self, error: MovedError) -> bool:
        with self._lock:
            self.server = dataclasses.replace(self._given[0], host=error.host, port=error.port)
            self._epoch = None
        return True

    def _peer(self) -> Address | None:
        with self._lock:
            return next((node for node in self._nodes if node != self.server), None)

    def _refresh(self, peer: Connection, within: float) -> None:
        owner = self._query(peer, within)
        with self._lock:
            if owner.node == self.server:
                self._epoch = max(owner.epoch, self._epoch or 0)
            elif self.server is not None and self._epoch is not None and owner.epoch > self._epoch:
                self.server, self._epoch = owner

    def _demote(self, peer: Address) -> None:
        with self._lock:
            if peer in self._nodes:
                self._nodes.remove(peer)
                self._nodes.append(peer)

    def _avoid(self, node: Address) -> None:
        with self._lock:
            if self.server == node:
                self.server = None
        self._demote(node)

    def _find_owner(self, give_up: float) -> _Owner:
        """Return the node that has the slot, as another one reports, or the newer of two reports.

        A node's report of itself is not enough where another one replies: it may have been
        replaced in a failover that has not reached it.

        Raises: ``Unavailable``, ``AccessDenied``.
        """
        best: _Owner | None = None
        failures: list[errors.BackendError] = []
        with self._lock:
            nodes = list(self._nodes)
        for number, node in enumerate(nodes):
            # Half of the time is for asking, in shares; the rest for the node that was found.
            share = max((give_up - time.monotonic()) / (len(nodes) - number + 1), 0.01)
            try:
                connection = Connection(node, share / 2)
                try:
                    owner = self._query(connection, share / 2)
                except errors.AccessDenied:
                    owner = _Owner(node, 0)  # a call for the keys is redirected to the right one
                finally:
                    connection.close()
            except (errors.Unavailable, errors.AccessDenied) as error:
                failures.append(error)
                self._demote(node)
                continue
            if best is None and owner.node == node:
                best = owner
                continue
            return owner if best is None or owner.epoch > best.epoch else best
        if best is not None:
            return best
        text = f"{self}: found no node: " + "; ".join(str(failure) for failure in failures)
        if all(isinstance(failure, errors.AccessDenied) for failure in failures):
            raise errors.AccessDenied(text) from failures[0]
        raise errors.Unavailable(text) from failures[0]

    def _query(self, connection: Connection, within: float) -> _Owner:
        """Return the node that has the slot, as a node reports it, and remember all nodes.

        Raises: ``Unavailable``, ``AccessDenied``.
        """
        slots = connection.query("CLUSTER", "SLOTS", within=within)
        owner: Address | None = None
        name = b""
        nodes: dict[Address, None] = {}
        for first, last, *serving in slots:
            found = [_node(connection.address, entry) for entry in serving]
            nodes.update(dict.fromkeys(found))
            if first <= self._slot <= last and found:
                owner, name = found[0], serving[0][2]
        with self._lock:
            # Those that were given come last: names that may lead to nodes that are new.
            known = [node for node in self._nodes if node in nodes]
            new = [node for node in nodes if node not in known]
            self._nodes = [*known, *new, *(node for node in self._given if node not in nodes)]
        if owner is None:
            raise errors.Unavailable(f"{connection.address}: no node serves slot {self._slot}")
        try:
            listing = connection.query("CLUSTER", "NODES", within=within)
        except errors.AccessDenied:
            listing = b""
        return _Owner(owner, _epoch(listing, name))


def _epoch(listing: bytes, name: bytes) -> int:
    """Return the epoch in which a node got its slots, by the reply to ``CLUSTER NODES``."""
    for row in listing.splitlines():
        words = row.split()
        if words[0] == name:
            return int(words[6])
    return 0


def _node(asked: Address, entry: Any) -> Address:
    host = (entry[0] or b"").decode()
    # Without a name of its own to give, a node is where it was asked.
    return dataclasses.replace(
        asked, host=host if host not in ("", "?") else asked.host, port=entry[1]
    )
