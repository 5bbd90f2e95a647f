# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Locates the master on which Redis Sentinels agreed.

A sentinel's reply is a hint: the server itself reports whether it is a master. That report is not
enough either: a master that was frozen or cut off during a failover still reports that it is one,
for some seconds. Hence each new connection begins with a question to the sentinels, and so does,
once a second, a call on an old connection.

It imports the errors, the connection and the topology.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence

from multiboard import errors
from multiboard.backends.redis.address import Address
from multiboard.backends.redis.client import Connection
from multiboard.backends.redis.errors import NotMasterError
from multiboard.backends.redis.topology import CHECKED_FOR, CheckedLocator


class SentinelLocator(CheckedLocator):
    """The master of one name, by the sentinels, which are asked in turn, and the server itself."""

    def __init__(self, sentinels: Sequence[Address], name: str, server: Address) -> None:
        """Ask ``sentinels`` for the master ``name``; ``server`` holds its credentials."""
        super().__init__()
        self._name = name
        self._template = server
        #: The one that replied last stands first.
        self._sentinels = list(sentinels)
        scheme = "rediss+sentinel" if server.tls else "redis+sentinel"
        hosts = ",".join(sentinel.place for sentinel in sentinels)
        self._text = f"{scheme}://{hosts}/{name}"

    def __str__(self) -> str:
        return self._text

    def connect(self, within: float) -> Connection:
        give_up = time.monotonic() + within
        failures: list[errors.BackendError] = []
        asked: set[Address] = set()
        with self._lock:
            sentinels = list(self._sentinels)
        for number, sentinel in enumerate(sentinels):
            # Each gets its share of the time, half of it for the reply.
            share = (give_up - time.monotonic()) / (len(sentinels) - number)
            share_ends = time.monotonic() + share
            try:
                connection = Connection(sentinel, share / 2)
                try:
                    address = self._query(connection, share / 2)
                finally:
                    connection.close()
                if address in asked:
                    continue
                asked.add(address)
                master = _master(address, max(share_ends - time.monotonic(), share / 4))
            except (errors.Unavailable, errors.AccessDenied) as error:
                failures.append(error)
                continue
            with self._lock:
                self.server = address
                self._prefer(sentinel)
            self._check_at = time.monotonic() + CHECKED_FOR
            return master
        text = f"{self}: found no master: " + "; ".join(str(failure) for failure in failures)
        if all(isinstance(failure, errors.AccessDenied) for failure in failures):
            raise errors.AccessDenied(text) from failures[0]
        raise errors.Unavailable(text) from failures[0]

    def _peer(self) -> Address:
        with self._lock:
            return self._sentinels[0]

    def _refresh(self, peer: Connection, within: float) -> None:
        address = self._query(peer, within)
        with self._lock:
            self.server = address

    def _demote(self, peer: Address) -> None:
        with self._lock:
            self._sentinels.remove(peer)
            self._sentinels.append(peer)

    def _query(self, connection: Connection, within: float) -> Address:
        """Return the address of the master, as a sentinel reports it.

        Raises: ``Unavailable``, ``AccessDenied``.
        """
        found = connection.query("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._name, within=within)
        if not found:
            raise errors.Unavailable(f"{connection.address}: has no master called {self._name!r}")
        return dataclasses.replace(self._template, host=found[0].decode(), port=int(found[1]))

    def _prefer(self, sentinel: Address) -> None:
        self._sentinels.remove(sentinel)
        self._sentinels.insert(0, sentinel)


def _master(address: Address, within: float) -> Connection:
    """Return a connection to a server that reports that it is a master.

    Raises: ``Unavailable``, ``AccessDenied``.
    """
    give_up = time.monotonic() + within
    connection = Connection(address, within)
    role = connection.query("ROLE", within=max(give_up - time.monotonic(), 0.01))[0]
    if role != b"master":
        connection.close()
        raise NotMasterError(f"{address}: is a {role.decode()}, not the master")
    return connection
