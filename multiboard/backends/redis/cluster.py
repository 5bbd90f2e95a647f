# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Finding the node of a Redis Cluster that has a board. It imports the errors and the server.

All keys of a board have one hash tag: one slot, one node. The cluster's own list says which, and
whoever is asked for keys that another node has names that node (``MOVED``). ``ASK`` is not
followed. It is said while a slot is on its way to another node, and there a script finds some of
its keys missing as well: until the last one has come, the board is unavailable.

Nodes may contradict each other for a while. Whose word is newer tells the epoch in which the node
that is named became the master: the cluster itself decides so.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from redis.crc import key_slot

from multiboard import errors
from multiboard.backends.redis.server import Address, Elsewhere, Line
from multiboard.backends.redis.topology import Doubting


class _Owner(NamedTuple):
    """Who has the slot, and since which epoch: 0 where that is told to nobody."""

    node: Address
    epoch: int


class Cluster(Doubting):
    """The master of one slot."""

    def __init__(self, nodes: Sequence[Address], key: str) -> None:
        """Ask ``nodes``, and those that they name, for the one that has ``key``."""
        super().__init__()
        self._slot: int = key_slot(key.encode())
        self._given = tuple(nodes)
        #: Since when the server has the slot; None where nobody said so yet.
        self._epoch: int | None = None
        #: Whom to ask, in this order; the one that failed last stands last.
        self._nodes = list(nodes)
        scheme = "rediss+cluster" if nodes[0].tls else "redis+cluster"
        self._text = f"{scheme}://" + ",".join(node.place for node in nodes)

    def __str__(self) -> str:
        return self._text

    def connect(self, within: float) -> Line:
        give_up = time.monotonic() + within
        known = self.server
        if known is not None:
            try:
                return Line(known, within / 2)
            except errors.Unavailable:
                self._avoid(known)
        found = self._found(give_up)
        try:
            line = Line(found.node, max(give_up - time.monotonic(), within / 4))
        except errors.Unavailable as error:
            self._avoid(found.node)
            raise errors.Unavailable(f"{self}: slot {self._slot}: {error}") from error
        with self._lock:
            self.server, self._epoch = found
        return line

    def connect_all(self, within: float) -> Iterator[Line]:
        for line in super().connect_all(within):
            slots = line.question("CLUSTER", "SLOTS", within=within)
            masters = dict.fromkeys(_node(line.address, told[2]) for told in slots)
        for master in masters:
            line = Line(master, within)
            try:
                yield line
            finally:
                line.drop()

    def failed(self, line: Line) -> None:
        self._avoid(line.address)

    def follow(self, error: Elsewhere) -> bool:
        with self._lock:
            self.server = dataclasses.replace(self._given[0], host=error.host, port=error.port)
            self._epoch = None
        return True

    def _witness(self) -> Address | None:
        with self._lock:
            return next((node for node in self._nodes if node != self.server), None)

    def _hear(self, line: Line, within: float) -> None:
        told = self._asked(line, within)
        with self._lock:
            if told.node == self.server:
                self._epoch = max(told.epoch, self._epoch or 0)
            elif self.server is not None and self._epoch is not None and told.epoch > self._epoch:
                self.server, self._epoch = told

    def _pass_over(self, witness: Address) -> None:
        with self._lock:
            if witness in self._nodes:
                self._nodes.remove(witness)
                self._nodes.append(witness)

    def _avoid(self, node: Address) -> None:
        with self._lock:
            if self.server == node:
                self.server = None
        self._pass_over(node)

    def _found(self, give_up: float) -> _Owner:
        """Return the node that has the slot, as another one says, or the newer of two answers.

        A node's word about itself is not enough where there is another one that answers: it may
        have been replaced, and not have heard of it.

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
                line = Line(node, share / 2)
                try:
                    told = self._asked(line, share / 2)
                except errors.AccessDenied:
                    told = _Owner(node, 0)  # it names the right one when it is asked for the keys
                finally:
                    line.drop()
            except (errors.Unavailable, errors.AccessDenied) as error:
                failures.append(error)
                self._pass_over(node)
                continue
            if best is None and told.node == node:
                best = told
                continue
            return told if best is None or told.epoch > best.epoch else best
        if best is not None:
            return best
        said = f"{self}: found no node: " + "; ".join(str(failure) for failure in failures)
        if all(isinstance(failure, errors.AccessDenied) for failure in failures):
            raise errors.AccessDenied(said) from failures[0]
        raise errors.Unavailable(said) from failures[0]

    def _asked(self, line: Line, within: float) -> _Owner:
        """Return who has the slot, as a node says, and remember all nodes.

        Raises: ``Unavailable``, ``AccessDenied``.
        """
        slots = line.question("CLUSTER", "SLOTS", within=within)
        owner: Address | None = None
        name = b""
        nodes: dict[Address, None] = {}
        for first, last, *serving in slots:
            found = [_node(line.address, told) for told in serving]
            nodes.update(dict.fromkeys(found))
            if first <= self._slot <= last and found:
                owner, name = found[0], serving[0][2]
        with self._lock:
            # Those that were given come last: names that may lead to nodes that are new.
            known = [node for node in self._nodes if node in nodes]
            new = [node for node in nodes if node not in known]
            self._nodes = [*known, *new, *(node for node in self._given if node not in nodes)]
        if owner is None:
            raise errors.Unavailable(f"{line.address}: no node serves slot {self._slot}")
        try:
            told = line.question("CLUSTER", "NODES", within=within)
        except errors.AccessDenied:
            told = b""
        return _Owner(owner, _epoch(told, name))


def _epoch(told: bytes, name: bytes) -> int:
    """Return the epoch in which a node got its slots, of what ``CLUSTER NODES`` tells."""
    for line in told.splitlines():
        words = line.split()
        if words[0] == name:
            return int(words[6])
    return 0


def _node(asked: Address, told: Any) -> Address:
    host = (told[0] or b"").decode()
    # Without a name of its own to give, a node is where it was asked.
    return dataclasses.replace(
        asked, host=host if host not in ("", "?") else asked.host, port=told[1]
    )
