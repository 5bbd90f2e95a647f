# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Finding the node of a Redis Cluster that has a board. It imports the errors and the server.

All keys of a board have one hash tag: one slot, one node. The cluster's own list says which, and
whoever is asked for keys that another node has names that node (``MOVED``). ``ASK`` is not
followed. It is said while a slot is on its way to another node, and there a script finds some of
its keys missing as well: until the last one has come, the board is unavailable.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Sequence
from typing import Any

from redis.crc import key_slot

from multiboard import errors
from multiboard.backends._redis.server import Address, Elsewhere, Finder, Line


class Cluster(Finder):
    """The master of one slot."""

    def __init__(self, nodes: Sequence[Address], key: str) -> None:
        """Ask ``nodes``, and those that they name, for the one that has ``key``."""
        self.server = None
        self._slot: int = key_slot(key.encode())
        self._given = tuple(nodes)
        self._lock = threading.Lock()
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
            line = Line(found, max(give_up - time.monotonic(), within / 4))
        except errors.Unavailable as error:
            self._avoid(found)
            raise errors.Unavailable(f"{self}: slot {self._slot}: {error}") from error
        with self._lock:
            self.server = found
        return line

    def serves(self, line: Line, now: float) -> bool:
        return line.address == self.server

    def failed(self, line: Line) -> None:
        self._avoid(line.address)

    def follow(self, error: Elsewhere) -> bool:
        with self._lock:
            self.server = dataclasses.replace(self._given[0], host=error.host, port=error.port)
        return True

    def _avoid(self, node: Address) -> None:
        with self._lock:
            if self.server == node:
                self.server = None
            if node in self._nodes:
                self._nodes.remove(node)
                self._nodes.append(node)

    def _found(self, give_up: float) -> Address:
        """Return the node that has the slot, as the first node says that answers.

        Raises: ``Unavailable``, ``AccessDenied``.
        """
        failures: list[errors.BackendError] = []
        with self._lock:
            nodes = list(self._nodes)
        for number, node in enumerate(nodes):
            # Half of the time is for asking, in shares; the rest for the node that was found.
            share = max((give_up - time.monotonic()) / (len(nodes) - number + 1), 0.01)
            try:
                line = Line(node, share / 2)
                try:
                    slots = line.question("CLUSTER", "SLOTS", within=share / 2)
                except errors.AccessDenied:
                    return node  # it will name the right one when it is asked for the keys
                finally:
                    line.drop()
                return self._owner(node, slots)
            except (errors.Unavailable, errors.AccessDenied) as error:
                failures.append(error)
        said = f"{self}: found no node: " + "; ".join(str(failure) for failure in failures)
        if all(isinstance(failure, errors.AccessDenied) for failure in failures):
            raise errors.AccessDenied(said) from failures[0]
        raise errors.Unavailable(said) from failures[0]

    def _owner(self, asked: Address, slots: Any) -> Address:
        """Return the master of the slot, and remember all nodes.

        Raises: ``Unavailable``.
        """
        owner: Address | None = None
        nodes: dict[Address, None] = {}
        for first, last, *serving in slots:
            found = [_node(asked, told) for told in serving]
            nodes.update(dict.fromkeys(found))
            if first <= self._slot <= last and found:
                owner = found[0]
        with self._lock:
            # Those that were given come last: names that may lead to nodes that are new.
            known = [node for node in self._nodes if node in nodes]
            new = [node for node in nodes if node not in known]
            self._nodes = [*known, *new, *(node for node in self._given if node not in nodes)]
        if owner is None:
            raise errors.Unavailable(f"{asked}: no node serves slot {self._slot}")
        return owner


def _node(asked: Address, told: Any) -> Address:
    host = (told[0] or b"").decode()
    # Without a name of its own to give, a node is where it was asked.
    return dataclasses.replace(
        asked, host=host if host not in ("", "?") else asked.host, port=told[1]
    )
