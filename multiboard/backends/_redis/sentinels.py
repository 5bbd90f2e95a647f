# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Finding the master that Redis Sentinels agreed on. It imports the errors and the server.

A sentinel's answer is a hint: the server itself says whether it is a master. That it says so is
not enough either. A master that was frozen or cut off while another one was elected believes in
itself for some seconds more. Hence every new connection asks the sentinels, and once a second so
does a call that takes an old one.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Sequence

from multiboard import errors
from multiboard.backends._redis.server import Address, Deposed, Finder, Line

#: Seconds after which a call asks a sentinel whether its connection leads to the master still, ...
CHECKED_FOR = 1.0
#: ... and how many it has for that: sentinels that are away must not take the board with them.
CHECKED_WITHIN = 0.25


class Sentinels(Finder):
    """The master of one name. What the sentinels and the server say, asked in turn."""

    def __init__(self, sentinels: Sequence[Address], name: str, server: Address) -> None:
        """Ask ``sentinels`` for the master ``name``; ``server`` is how to introduce oneself."""
        self.server = None
        self._name = name
        self._template = server
        self._lock = threading.Lock()
        #: The one that answered last stands first.
        self._sentinels = list(sentinels)
        self._check_at = 0.0
        self._checking = threading.Lock()
        self._told_by: Line | None = None
        self._closed = False
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

    def serves(self, line: Line, now: float) -> bool:
        if now >= self._check_at and self._checking.acquire(blocking=False):
            try:
                self._check()
            finally:
                self._checking.release()
                if self._closed:
                    self.close()
        return line.address == self.server

    def failed(self, line: Line) -> None:
        with self._lock:
            if self.server == line.address:
                self.server = None  # other idle connections to it are dropped

    def close(self) -> None:
        self._closed = True
        if not self._checking.acquire(blocking=False):
            return  # whoever asks just now does it
        try:
            if self._told_by is not None:
                self._told_by.drop()
                self._told_by = None
        finally:
            self._checking.release()

    def _check(self) -> None:
        """Ask the first sentinel whether the master is the one that was found."""
        self._check_at = time.monotonic() + CHECKED_FOR
        with self._lock:
            sentinel = self._sentinels[0]
        line = self._told_by
        try:
            if line is None or line.address != sentinel or not line.usable():
                if line is not None:
                    line.drop()
                line = self._told_by = Line(sentinel, CHECKED_WITHIN)
            address = self._asked(line, CHECKED_WITHIN)
        except errors.BackendError:
            if line is not None:
                line.drop()
            self._told_by = None
            with self._lock:  # the next one is asked in a second
                self._sentinels.append(self._sentinels.pop(0))
        else:
            with self._lock:
                self.server = address

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
