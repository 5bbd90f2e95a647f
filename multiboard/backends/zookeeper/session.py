# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The session of one backend with one board: opened, found to be over, begun anew, left by a fork.

A lost session is noticed in :meth:`Session.leasing_client` and :meth:`Session.report_end`. This
module imports the primitives, the errors and its own siblings.
"""

from __future__ import annotations

import functools
import os
import threading
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

from multiboard import errors
from multiboard.backends.zookeeper import creation, records
from multiboard.backends.zookeeper.client import Client
from multiboard.backends.zookeeper.errors import BoardGone, HandshakeRefused, SessionOver
from multiboard.backends.zookeeper.position import Position, RolledBack
from multiboard.backends.zookeeper.settings import ZooKeeperSettings
from multiboard.backends.zookeeper.write_log import WriteLog
from multiboard.primitives import boottime, interrupts


class Session:
    """One session after another, each with a client of its own."""

    def __init__(
        self,
        settings: ZooKeeperSettings,
        *,
        woken: Callable[[], None],
        forked: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._woken, self._forked = woken, forked
        self._name = f"ZooKeeper at {','.join(settings.addresses)}"
        self._patience = settings.patience
        #: Where the board's nodes are.
        self.paths = records.NOWHERE
        self.incarnation = ""
        #: Whether the servers support the requests of ZooKeeper 3.6.
        self.modern = True
        self._begin()
        self.closed = True
        _sessions.add(self)

    def _begin(self) -> None:
        """Forget all that can't outlive the process: a forked child begins here too."""
        self.writes = WriteLog()
        self._lock = threading.Lock()
        self._client: Client | None = None
        #: A session that a lease or a caller relied on ended, and no caller has received that yet.
        self._unreported = False
        #: Why the board is lost, for good; empty where it is not.
        self._lost = ""
        self.position = Position()
        self.closed = False

    def forked(self) -> None:
        """Become like newly opened, without a look at what was inherited."""
        _inherited.append((self._client, self._lock, self.writes))
        closed, lost, position = self.closed, self._lost, self.position
        self._begin()
        self.closed, self._lost = closed, lost
        self.position.zxid, self.position.changed = position.zxid, position.changed
        self._forked()

    # -- the client ----------------------------------------------------------------------------

    def client(self, wait: float | None = None) -> Client:
        """Return a client that is connected now; it may be one of a new session.

        Raises: ``Unavailable``, ``AccessDenied``, ``BoardLost``, ``Closed``.
        """
        deadline = boottime() + (self._patience if wait is None else min(wait, self._patience))
        while True:
            client = self._current()
            try:
                client.wait(deadline)
                if client.compared != client.epoch:
                    self._compare(client)
                return client
            except SessionOver:
                self._drop(client)
            except HandshakeRefused:
                self._probe(deadline)

    def _current(self) -> Client:
        with self._lock:
            if self.closed:
                raise errors.Closed("the ZooKeeper board is not open")
            if self._lost:
                raise errors.BoardLost(self._lost)
            if self._client is None:
                interrupts.uninterrupted(self._begin_client)
            assert self._client is not None
            return self._client

    def _dial(self) -> Client:
        client = Client(
            hosts=self._settings.addresses,
            session_timeout=self._settings.session_timeout,
            patience=self._patience,
            access=self._settings.access,
            woken=self._woken,
        )
        self.locate(client)
        return client

    def _begin_client(self) -> None:
        """Dial, and keep the client as a whole: it has a thread that keeps it alive."""
        client = self._dial()
        client.modern = self.modern
        self._client = client

    def locate(self, client: Client, paths: records.Paths | None = None) -> None:
        """Set the board's place, if it has been found, and have a client use it."""
        self.paths = paths or self.paths
        if self.paths is not records.NOWHERE:
            client.slots.folder, client.clock_path = self.paths.slots, self.paths.clock
            folders = self.paths.live, self.paths.leases
            client.on_applied = functools.partial(self.position.note_applied, folders)

    def without_newer_requests(self, client: Client) -> None:
        """Begin another session, without the requests of ZooKeeper 3.6, and so each from now on.

        An older server ends the session of a client that sends one: that must never happen again,
        to a session by which something lives.
        """
        self.modern = False
        self._drop(client)

    @property
    def zxid(self) -> int:
        """The highest number of a transaction that has been seen."""
        with self._lock:
            if self._client is not None:
                self.position.note_client(self._client)
        return self.position.zxid

    def _compare(self, client: Client) -> None:
        """Raise ``BoardLost`` where the store is not as far as it had come."""
        if not self.incarnation:
            return
        try:
            self.position.compare(client, (self.paths.live, self.paths.leases))
        except BoardGone:
            self.lose()
        except RolledBack:
            self.lose("was put back to an earlier state, or ZooKeeper lost its last changes")

    def _drop(self, client: Client) -> None:
        self.position.note_client(client)
        with self._lock:
            if self._client is client:
                self._unreported = self._unreported or client.used
                self._client = None
        interrupts.uninterrupted(client.close)

    def _probe(self, deadline: float) -> None:
        """Look with a new session: a store that came back empty refuses those that saw more."""
        if self.paths is records.NOWHERE:
            return
        self.zxid  # noqa: B018 - it notes what was shown until now
        probe = self._dial()
        try:
            probe.wait(min(deadline, boottime() + self._patience / 2))
            self.confirm(probe)
            self._compare(probe)
        except (SessionOver, HandshakeRefused, errors.Unavailable):
            pass  # it is just starting; the current client goes on trying
        finally:
            probe.close()

    @property
    def granted(self) -> float | None:
        """The seconds that the session lasts, where one was begun."""
        client = self._client
        return client.granted if client is not None and client.epoch else None

    # -- its end -------------------------------------------------------------------------------

    def leasing_client(self, wait: float | None = None) -> Client:
        """Return a client whose session something is going to live by.

        Raises: ``SessionLost``, once for each session that ended and was relied on; and as
        :meth:`client`.
        """
        client = self.client(wait)
        with self._lock:
            unreported, self._unreported = self._unreported, False
        if unreported:
            raise errors.SessionLost(f"the session with {self._name} ended")
        client.used = True
        return client

    def report_end(self, client: Client) -> None:
        """Raise ``SessionLost`` where the session of ``client`` has ended."""
        if client.ended and not self.closed:
            self._drop(client)
            with self._lock:
                self._unreported = False
            raise errors.SessionLost(f"the session with {self._name} ended")

    def keepalive(self, within: float | None) -> float:
        """Return the seconds that the session lasts from now at least; it asks the servers.

        Raises: as :meth:`leasing_client`.
        """
        give_up = None if within is None else boottime() + within
        client = self.leasing_client(within)
        try:
            self.confirm(client, give_up)
        except errors.Unavailable:
            self.report_end(client)
            raise
        return client.granted

    # -- reading -------------------------------------------------------------------------------

    def confirm(self, client: Client, give_up: float | None = None) -> None:
        """Raise ``BoardLost`` where the board is gone: what is absent then means nothing."""
        self.linearizable(client, (), give_up)

    def linearizable(
        self, client: Client, requests: Iterable[Any], give_up: float | None = None
    ) -> list[Any]:
        """Return replies that show all that was acknowledged to anyone before.

        Raises: ``BoardLost`` where the board is gone; as :meth:`Client.pipeline`.
        """
        try:
            return client.linearizable(requests, give_up)
        except BoardGone:
            self.lose()

    def read(self, client: Client, paths: Sequence[str], *, fresh: bool = False) -> list[Any]:
        """Read nodes; ``fresh`` is for what must show all that was acknowledged before.

        Raises: as :meth:`linearizable`.
        """
        try:
            return client.read(paths, fresh=fresh)
        except BoardGone:
            self.lose()

    def lose(self, why: str = "is no longer in ZooKeeper") -> NoReturn:
        """Raise ``BoardLost``, now and from now on."""
        self._lost = f"the board {self.top} {why}"
        raise errors.BoardLost(self._lost)

    # -- opening and closing -------------------------------------------------------------------

    @property
    def top(self) -> str:
        """The path of the board's uppermost node."""
        return records.Paths.board(self._settings.root, self._settings.namespace)

    def open(self) -> None:
        """Connect, and find the board or make it, as the settings say."""
        before = self._client  # of a board that was lost: it would try to connect for ever
        self._begin()
        if before is not None:
            interrupts.uninterrupted(before.close)
        self.incarnation = ""
        try:
            self._find_board()
        except BaseException:
            self.close()
            raise

    def _find_board(self) -> None:
        for _ in range(creation.TRIES):
            client = self.client()
            board = creation.BoardNode(client, self._settings.root, self.top)
            paths = board.find()
            if paths is not None and board.needs_older_requests:
                self.without_newer_requests(client)
            elif paths is not None:
                self.locate(client, paths)
                self.incarnation = paths.incarnation
                return
            elif not self._settings.create:
                raise errors.BoardNotFound(self._settings.namespace, self._name)
            else:
                board.make()
        raise errors.Unavailable(f"the board {self.top} could not be made")

    def namespaces(self, within: float) -> list[str]:
        """Return the names of the boards under the root, over a session of its own.

        Raises: ``Unavailable``, ``AccessDenied``.
        """
        client = self._dial()
        try:
            client.wait(boottime() + within)
            return creation.namespaces(client, self._settings.root)
        except (SessionOver, HandshakeRefused) as error:
            raise errors.Unavailable(f"{self._name} ended the session") from error
        finally:
            client.close()

    def close(self) -> None:
        """End the session and drop the connection."""
        with self._lock:
            self.closed = True
            client, self._client = self._client, None
        if client is not None:
            client.dismiss()


_sessions: weakref.WeakSet[Session] = weakref.WeakSet()
#: Kept so that a forked child does not close what belongs to its parent.
_inherited: list[Any] = []


def _after_fork() -> None:
    for session in list(_sessions):
        session.forked()


os.register_at_fork(after_in_child=_after_fork)
