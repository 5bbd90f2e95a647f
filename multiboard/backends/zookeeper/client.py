# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The client of one ZooKeeper session: its state, and its requests in a pipeline.

A :class:`Client` has one session and never another one: where kazoo would quietly begin a new
session after an expiry, the client ends, so that nothing is ever done in a session that the caller
did not mean. Writes go through :mod:`multiboard.backends.zookeeper.transactions`. This module
imports kazoo, the errors, the primitives and its own siblings.
"""

from __future__ import annotations

import collections
import re
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from kazoo import exceptions as kz
from kazoo.handlers.threading import KazooTimeoutError
from kazoo.protocol import serialization as wire
from kazoo.protocol.states import KeeperState
from kazoo.retry import KazooRetry

from multiboard import errors
from multiboard.backends.zookeeper import errors as zk_errors
from multiboard.backends.zookeeper.access import Access
from multiboard.backends.zookeeper.kazoo_ext import Handler, PipelinedClient, QuietLogger
from multiboard.backends.zookeeper.requests import MultiRead
from multiboard.backends.zookeeper.slots import Slots
from multiboard.primitives import boottime, interrupts

#: Requests in flight at once in a pipeline of reads.
READ_WINDOW = 200
#: Nodes read with one request; as few of those are in flight that no more nodes are than that.
READ_BATCH = 50
#: Handshakes that the server broke off before the board's presence is checked.
REFUSALS = 2
#: Seconds for which closing waits for the server to end the session.
CLOSE_TIMEOUT = 1.0
#: A wait that took so many seconds longer than meant shows that process or machine was paused.
PAUSED = 0.5
ENDED = (KeeperState.EXPIRED_SESSION, KeeperState.CLOSED, KeeperState.AUTH_FAILED)


def _ignore(_kind: int, _path: str) -> None:
    """Receive an event that nobody waits for."""


def _ignore_transaction(_operations: Sequence[Any], _zxid: int) -> None:
    """Take no note of a transaction."""


class Client:
    """What one session is used by; it ends with the session."""

    def __init__(
        self,
        *,
        hosts: Sequence[str],
        session_timeout: float,
        patience: float,
        access: Access,
        woken: Callable[[], None] = lambda: None,
    ) -> None:
        self.hosts = ",".join(hosts)
        #: Seconds that any wait for the server may take.
        self.patience = patience
        self.dial_timeout = max(0.05, patience / max(1, len(hosts)))
        self.granted = session_timeout
        self.refusals = 0
        self.id = ""
        #: How often it was connected: watches do not survive from one to the next.
        self.epoch = 0
        #: The connection on which the store was found to be as far as it had come.
        self.compared = 0
        #: It is called with each transaction that was applied, and its number.
        self.on_applied: Callable[[Sequence[Any], int], None] = _ignore_transaction
        self.connected = self.ended = self.closing = False
        #: Closed because the board was, not because another session took its place.
        self.dismissed = False
        #: Whether the server supports ``multiRead`` and ``addWatch`` (ZooKeeper 3.6).
        self.modern = True
        #: The servers did not accept the credentials.
        self.denied = False
        #: A lease or an entity lives by this session, or a caller relies on it.
        self.used = False
        self.on_event: Callable[[int, str], None] = _ignore
        self._access = access
        #: Where the commit markers are.
        self.slots = Slots()
        #: The node that is there as long as the board is; known only after the first reads.
        self.clock_path = ""
        self._woken = woken
        self._down_since = boottime()
        self._changed = interrupts.Condition()
        self._handler = Handler(self.dial_timeout)
        self._kazoo = PipelinedClient(
            self,
            hosts=self.hosts,
            timeout=session_timeout,
            handler=self._handler,
            logger=QuietLogger(),
            connection_retry=KazooRetry(max_tries=-1, delay=0.05, backoff=1.5, max_delay=0.5),
            command_retry=KazooRetry(max_tries=0),
            **access.options,
        )
        self._kazoo.start_async()

    # -- the state of the session --------------------------------------------------------------

    def state_changed(self, state: Any) -> None:
        """Note the state that kazoo reports; runs on kazoo's thread."""
        with self._changed:
            was_connected, self.connected = self.connected, state == KeeperState.CONNECTED
            if self.connected:
                self.id = self._kazoo.session_id
                self.epoch += 1
                self.refusals = 0
            elif was_connected:
                self._down_since = boottime()
            if state == KeeperState.AUTH_FAILED:
                self.denied = True
            if state in ENDED:
                self.ended = True
                self._kazoo.stay_ended()
            self._changed.notify_all()
        self._woken()

    def wait(self, deadline: float) -> None:
        """Return once connected; raise ``Unavailable`` when that takes longer than allowed."""
        with self._changed:
            while not self.connected:
                left = deadline - boottime()
                if self.denied:
                    raise errors.AccessDenied(f"ZooKeeper at {self.hosts}: {self._access.refusal}")
                if self.ended:  # or closed, with the board or because the session was found over
                    raise zk_errors.SessionOver
                if self.epoch and boottime() - self._down_since > self.granted:
                    # By now the server ended the session too; a wiped one would refuse it for ever.
                    break
                if self.refusals >= REFUSALS:
                    self.refusals = 0
                    raise zk_errors.HandshakeRefused
                if left <= 0:
                    raise errors.Unavailable(self._unreachable()) from self._handler.failure
                self._changed.wait(min(left, 0.1))
            else:
                return
        self.close()
        raise zk_errors.SessionOver

    def _unreachable(self) -> str:
        cause = self._handler.failure
        why = "no reply" if cause is None else str(cause) or type(cause).__name__
        return f"ZooKeeper at {self.hosts} can't be reached: {why}"

    def dismiss(self) -> None:
        """Close; requests from now on, and those that wait for a reply, raise ``Closed``."""
        self.dismissed = True
        self.close()

    def close(self) -> None:
        """End the session and free all resources; in the background where the server is slow."""
        with self._changed:
            if self.closing:
                return
            self.closing = self.ended = True
            was_connected, self.connected = self.connected, False
            self._changed.notify_all()
        self._kazoo.begin_close()
        if self._kazoo.wait_closed(CLOSE_TIMEOUT if was_connected else 0.0):
            self._kazoo.free()
        else:
            name = "multiboard-zookeeper-close"
            threading.Thread(target=self._kazoo.free, name=name, daemon=True).start()

    def version(self) -> tuple[str, bool]:
        """Return the server's version, and whether it is alone; nothing depends on it.

        The version is empty where the server may not be asked for it.
        """
        try:
            reply = self._kazoo.command(b"srvr")
        except Exception as error:  # optional: whatever comes of a server that refuses it
            if interrupts.is_interrupt(error):
                raise
            return "", False
        found = re.search(r"version: ([0-9.]+)", reply)
        return found[1] if found else "", "Mode: standalone" in reply

    # -- requests ------------------------------------------------------------------------------

    def submit(self, request: Any, then: Callable[[Any], None] | None = None) -> Any:
        """Send a request without waiting; ``then`` runs on kazoo's thread, in order."""
        result = self._handler.async_result()
        if then is not None:
            result.rawlink(then)
        self._kazoo.submit(request, result)
        return result

    def settle(self, result: Any, until: float | None = None) -> tuple[Any, Exception | None]:
        """Wait for a reply, ``until`` then (boottime) at most: its value, or what went wrong."""
        begun = looked = boottime()
        give_up = min(looked + self.patience, until or float("inf"))
        while not result.wait(0.05):
            if self.closing:
                return None, kz.ConnectionLoss("the connection was closed")
            self._kazoo.nudge()
            last, looked = looked, boottime()
            if looked - last > PAUSED:  # what arrived meanwhile is about to be read
                give_up = max(give_up, looked + PAUSED)
            if looked >= give_up:
                return None, KazooTimeoutError(f"no reply within {looked - begun:.3g} s")
        return (result.value, None) if result.successful() else (None, result.exception)

    def translate(self, error: Exception, *, write: bool) -> errors.MultiboardError:
        """Return the project's error for what went wrong, other than a reply about nodes."""
        return zk_errors.translate_error(
            error,
            servers=self.hosts,
            refusal=self._access.refusal,
            write=write,
            closed=self.dismissed,
            denied=self.denied,
        )

    def value(self, result: Any, give_up: float | None = None) -> Any:
        """Wait for the reply to a read; a reply about nodes is returned, not raised."""
        value, error = self.settle(result, give_up)
        if error is None or isinstance(error, zk_errors.ABOUT_NODES):
            return value if error is None else error
        raise self.translate(error, write=False)

    def pipeline(
        self, requests: Iterable[Any], window: int = READ_WINDOW, give_up: float | None = None
    ) -> list[Any]:
        """Send reads in a pipeline and return their replies in order."""
        waiting: collections.deque[Any] = collections.deque()
        replies: list[Any] = []
        for request in requests:
            waiting.append(self.submit(request))
            if len(waiting) >= window:
                replies.append(self.value(waiting.popleft(), give_up))
        replies.extend(self.value(result, give_up) for result in waiting)
        return replies

    def linearizable(self, requests: Iterable[Any], give_up: float | None = None) -> list[Any]:
        """Send reads, and return replies as new as what was acknowledged to anyone before.

        Before them goes a barrier: a write that changes nothing. ``sync`` would not do: a leader
        that was paused or cut off replies to it by itself, until it finds out that another one was
        elected, and goes on showing its old data. A write is acknowledged only by the agreement of
        most servers, and what stands behind it in a session sees what they agreed on before.

        Raises: ``BoardGone`` where the board is gone.
        """
        barrier, *replies = self.pipeline([self._barrier(), *requests], give_up=give_up)
        self.passed(barrier)
        return replies

    def submit_barrier(self) -> Any:
        """Send the write of :meth:`linearizable`; its number is the result's ``zxid``."""
        return self.submit(self._barrier())

    @property
    def last_zxid(self) -> int:
        """The number of the last transaction that a server has shown."""
        return int(self._kazoo.last_zxid)

    def _barrier(self) -> Any:
        return wire.Transaction([wire.CheckVersion(self.clock_path, -1)])

    @staticmethod
    def passed(barrier: Any) -> None:
        """Raise ``BoardGone`` where the reply to the barrier shows that the board is gone."""
        refused = [one for one in barrier if isinstance(one, Exception)]
        if refused:
            raise zk_errors.BoardGone from refused[0]

    def read(self, paths: Sequence[str], *, fresh: bool = False) -> list[Any]:
        """Read nodes: data and stat of each, or the reply about nodes; one pipeline.

        Those that stand earlier are read earlier. ``fresh`` is as for :meth:`linearizable`.
        """
        barrier = self.submit_barrier() if fresh else None
        if self.modern:
            parts = [paths[at : at + READ_BATCH] for at in range(0, len(paths), READ_BATCH)]
            found = self.pipeline(map(MultiRead, parts), READ_WINDOW // READ_BATCH)
            replies = [node for part in found for node in self.nodes(part)]
        else:
            replies = self.pipeline(wire.GetData(path, None) for path in paths)
        if barrier is not None:
            self.passed(self.value(barrier))  # its reply came before the others
        return replies

    def nodes(self, part: Any) -> list[Any]:
        """Return what the reply to one ``MultiRead`` shows of each node.

        Raises: what went wrong with one of them, unless it is about the node.
        """
        nodes = [part] if isinstance(part, Exception) else part
        for node in nodes:
            if isinstance(node, zk_errors.Unimplemented) or (
                isinstance(node, Exception) and not isinstance(node, zk_errors.ABOUT_NODES)
            ):
                raise self.translate(node, write=False)
        return list(nodes)

    def create(self, path: str, data: bytes, *, ephemeral: bool = False) -> Any:
        """Return the operation that makes a node."""
        return wire.Create(path, data, self._access.nodes, 1 if ephemeral else 0)
