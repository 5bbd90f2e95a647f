# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Where the server of a board is, and how that is found out and checked.

It imports the errors and the connection.
"""

from __future__ import annotations

import abc
import threading
import time
from collections.abc import Iterator

from multiboard import errors
from multiboard.backends.redis.address import Address
from multiboard.backends.redis.client import Connection
from multiboard.backends.redis.errors import MovedError

#: Seconds after which a call has its server checked by one of its peers, ...
CHECKED_FOR = 1.0
#: ... and how many the peer has to reply: a peer that is away must not take the board with it.
CHECKED_WITHIN = 0.25


class ServerLocator(abc.ABC):
    """Locates the server of a board, as of now. Thread-safe; of one process."""

    #: The server that was found last.
    server: Address | None = None

    @abc.abstractmethod
    def connect(self, within: float) -> Connection:
        """Return a new connection to the server that has the board, within so many seconds.

        Raises: ``Unavailable``, ``AccessDenied``.
        """

    def connect_all(self, within: float) -> Iterator[Connection]:
        """Yield a connection to each server that may have a board, whatever its name, and close it.

        Raises: as :meth:`connect`.
        """
        connection = self.connect(within)
        try:
            yield connection
        finally:
            connection.close()

    def is_current(self, connection: Connection, now: float) -> bool:
        """Return whether a connection that was idle or slow leads to the right server."""
        return True

    def on_failure(self, connection: Connection) -> None:  # noqa: B027 - for those to whom it matters
        """Note that a connection broke, or that its server replied that it is not the master."""

    def follow(self, error: MovedError) -> bool:
        """Note where the board is by a node's redirection; return whether to go there."""
        return False

    def close(self) -> None:  # noqa: B027 - for those that hold a connection
        """Drop what was needed for finding."""


class SingleServer(ServerLocator):
    """One server, at an address that does not change."""

    def __init__(self, address: Address) -> None:
        self.server: Address = address

    def __str__(self) -> str:
        return str(self.server)

    def connect(self, within: float) -> Connection:
        return Connection(self.server, within)


class CheckedLocator(ServerLocator):
    """Has the server checked by a peer (a sentinel, another node) once a second.

    After a failover, a master that was frozen or cut off meanwhile goes on as a master until it
    receives the new configuration: its own word is not enough.
    """

    def __init__(self) -> None:
        self.server = None
        self._lock = threading.Lock()
        self._check_at = 0.0
        #: An RLock: only the thread that holds it can release it, so an interrupted one may try.
        self._checking = threading.RLock()
        self._peer_connection: Connection | None = None
        self._closed = False

    @abc.abstractmethod
    def _peer(self) -> Address | None:
        """Return the peer to ask, which is not the server itself; None where there is none."""

    @abc.abstractmethod
    def _refresh(self, peer: Connection, within: float) -> None:
        """Ask a peer for the server, and accept its reply or not.

        Raises: ``Unavailable``, ``AccessDenied``.
        """

    @abc.abstractmethod
    def _demote(self, peer: Address) -> None:
        """Have another peer asked next time."""

    def is_current(self, connection: Connection, now: float) -> bool:
        if now >= self._check_at:
            try:
                if self._checking.acquire(blocking=False):
                    self._check()
            finally:
                try:  # noqa: SIM105 - nothing may come between
                    self._checking.release()
                except RuntimeError:  # another thread checks just now
                    pass
            if self._closed:
                self.close()
        return connection.address == self.server

    def on_failure(self, connection: Connection) -> None:
        with self._lock:
            if self.server == connection.address:
                self.server = None  # other idle connections to it are dropped

    def close(self) -> None:
        self._closed = True
        try:
            if self._checking.acquire(blocking=False):  # or the thread that checks just now does it
                connection, self._peer_connection = self._peer_connection, None
                if connection is not None:
                    connection.close()
        finally:
            try:  # noqa: SIM105 - nothing may come between
                self._checking.release()
            except RuntimeError:  # another thread has it
                pass

    def _check(self) -> None:
        self._check_at = time.monotonic() + CHECKED_FOR
        peer = self._peer()
        if peer is None:
            return
        connection = self._peer_connection
        try:
            if connection is None or connection.address != peer or not connection.usable():
                if connection is not None:
                    connection.close()
                connection = self._peer_connection = Connection(peer, CHECKED_WITHIN)
            self._refresh(connection, CHECKED_WITHIN)
        except errors.BackendError:
            if connection is not None:
                connection.close()
            self._peer_connection = None
            self._demote(peer)
