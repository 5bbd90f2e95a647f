# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Finding the master that Redis Sentinels agreed on. It imports the errors and the server.

A sentinel's answer is a hint: the server itself says whether it is a master. That it says so is
not enough either. A master that was frozen or cut off while another one was elected believes in
itself for some seconds more. Hence every new connection asks the sentinels, and once a second so
does a call that takes an old one.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence

from multiboard import errors
from multiboard.backends.redis.server import Address, Deposed, Line
from multiboard.backends.redis.topology import CHECKED_FOR, Doubting


class Sentinels(Doubting):
    """The master of one name. What the sentinels and the server say, asked in turn."""

    def __init__(self, sentinels: Sequence[Address], name: str, server: Address) -> None:
        """Ask ``sentinels`` for the master ``name``; ``server`` is how to introduce oneself."""
        super().__init__()
        self._name = name
        self._template = server
        #: The one that answered last stands first.
        self._sentinels = list(sentinels)
        scheme = "rediss+sentinel" if server.tls else "redis+sentinel"
        hosts = ",".join(sentinel.place for sentinel in sentinels)
        self._text = f"{scheme}://{hosts}/{name}"

    def __str__(self) -> str:
        return self._text

    def connect(self, within: float) -> Line:
        give_up = time.monotonic() + within
        failures: list[errors.BackendError] = []
        asked: set[Address] = set()
        with self._lock:
            sentinels = list(self._sentinels)
        for number, sentinel in enumerate(sentinels):
            # Each gets its share of the time, half of it for the answer.
            share = (give_up - time.monotonic()) / (len(sentinels) - number)
            share_ends = time.monotonic() + share
            try:
                line = Line(sentinel, share / 2)
                try:
                    address = self._asked(line, share / 2)
                finally:
                    line.drop()
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
        said = f"{self}: found no master: " + "; ".join(str(failure) for failure in failures)
        if all(isinstance(failure, errors.AccessDenied) for failure in failures):
            raise errors.AccessDenied(said) from failures[0]
        raise errors.Unavailable(said) from failures[0]

    def _witness(self) -> Address:
        with self._lock:
            return self._sentinels[0]

    def _hear(self, line: Line, within: float) -> None:
        address = self._asked(line, within)
        with self._lock:
            self.server = address

    def _pass_over(self, witness: Address) -> None:
        with self._lock:
            self._sentinels.remove(witness)
            self._sentinels.append(witness)

    def _asked(self, line: Line, within: float) -> Address:
        """Return the address that a sentinel gives.

        Raises: ``Unavailable``, ``AccessDenied``.
        """
        found = line.question("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._name, within=within)
        if not found:
            raise errors.Unavailable(f"{line.address}: knows no master called {self._name!r}")
        return dataclasses.replace(self._template, host=found[0].decode(), port=int(found[1]))

    def _prefer(self, sentinel: Address) -> None:
        self._sentinels.remove(sentinel)
        self._sentinels.insert(0, sentinel)


def _master(address: Address, within: float) -> Line:
    """Return a connection to a server that says that it is a master.

    Raises: ``Unavailable``, ``AccessDenied``.
    """
    give_up = time.monotonic() + within
    line = Line(address, within)
    role = line.question("ROLE", within=max(give_up - time.monotonic(), 0.01))[0]
    if role != b"master":
        line.drop()
        raise Deposed(f"{address}: is a {role.decode()}, not the master")
    return line
