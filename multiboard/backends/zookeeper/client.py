# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""One ZooKeeper session, and what became of everything that was asked of it.

A :class:`Link` is one session and never becomes another one: where kazoo would quietly begin a new
session after an expiry, the link ends, so that nothing is ever done in a session that the caller
did not mean. Every answer says whether the store applied what was asked. This module imports
kazoo, the errors, the clock of the primitives and its own siblings.
"""

from __future__ import annotations

import collections
import contextlib
import re
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from kazoo import exceptions as kz
from kazoo.handlers.threading import KazooTimeoutError
from kazoo.protocol import serialization as wire
from kazoo.protocol.states import KeeperState
from kazoo.retry import KazooRetry

from multiboard import errors
from multiboard.backends.zookeeper.access import Access
from multiboard.backends.zookeeper.kazoo_ext import Client, Handler, MultiRead, NotSent, Quiet
from multiboard.primitives import boottime, interrupts

#: Requests under way at once in a pipeline.
READ_WINDOW = 200
#: Nodes read with one request; as few of those are under way that no more nodes are than that.
READ_BATCH = 50
WRITE_WINDOW = 64
#: Handshakes that the server broke off before the board's presence is looked into.
REFUSALS = 2
#: Seconds for which closing waits for the server to end the session.
FAREWELL = 1.0
#: Whoever slept for so many seconds where a moment was meant was frozen, process or machine.
FROZEN = 0.5
#: The answers that speak of nodes: they are the caller's matter, and nothing was applied.
ABOUT_NODES = (
    kz.NoNodeError,
    kz.NodeExistsError,
    kz.BadVersionError,
    kz.NotEmptyError,
    kz.NoChildrenForEphemeralsError,
    kz.UnimplementedError,
)
#: The server refused it, or it was never sent: surely not applied.
_NOT_APPLIED = (
    kz.SessionExpiredError,
    kz.SessionMovedError,
    kz.NotReadOnlyCallError,
    kz.ThrottledOpError if hasattr(kz, "ThrottledOpError") else kz.SessionMovedError,
)
_DENIED = (kz.NoAuthError, kz.AuthFailedError, kz.InvalidACLError)


class SessionOver(Exception):
    """The link's session has ended; a new link is needed."""


class Vanished(Exception):
    """The board is no longer in the store, as most of its servers agree."""


class Refused(Exception):
    """Servers accept the connection and break it off: they may not know what this client saw."""


def _ignore(_kind: int, _path: str) -> None:
    """Hear of an event that nobody waits for."""


def _no_matter(_operations: Sequence[Any], _zxid: int) -> None:
    """Take no note of a transaction."""


@dataclass
class Doubt:
    """A write whose answer was lost, and where its evidence would be."""

    link: Link
    slot: int
    evidence: bytes


@dataclass
class Outcome:
    """What became of one write."""

    #: Of the evidence's node, written in the same transaction: its ``mzxid`` and ``mtime`` are the
    #: transaction's own.
    stat: Any = None
    results: Sequence[Any] | None = None
    #: Which operation the server refused, and how; nothing was applied.
    refused: tuple[int, Exception] | None = None
    error: errors.MultiboardError | None = None
    doubt: Doubt | None = None


class Link:
    """One connection to ZooKeeper that lives as long as its session."""

    def __init__(
        self,
        *,
        hosts: Sequence[str],
        session_timeout: float,
        patience: float,
        access: Access,
        woken: Callable[[], None] = lambda: None,
        gone: bytes = b"",
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
        #: Whom a transaction that was applied is shown, with its number.
        self.on_applied: Callable[[Sequence[Any], int], None] = _no_matter
        self.connected = self.ended = self.closing = False
        #: Closed because the board was, not because another session took its place.
        self.dismissed = False
        #: Whether the server knows ``multiRead`` and ``addWatch`` (ZooKeeper 3.6).
        self.modern = True
        #: The servers do not take us for who we say we are.
        self.denied = False
        #: Something lives by this session, or somebody relies on it.
        self.used = False
        self.on_event: Callable[[int, str], None] = _ignore
        self._access = access
        #: Where the evidence nodes are, and the node that is there as long as the board is; the
        #: board's path is known only after the first reads.
        self.slots_path = self.clock_path = ""
        self._gone = gone
        self._woken = woken
        self._down_since = boottime()
        self._changed = interrupts.Condition()
        self._free_slots: list[int] = []
        self._slots = 0
        self._made_slots: set[int] = set()
        self._handler = Handler(self.dial_timeout)
        self._client = Client(
            self,
            hosts=self.hosts,
            timeout=session_timeout,
            handler=self._handler,
            logger=Quiet(),
            connection_retry=KazooRetry(max_tries=-1, delay=0.05, backoff=1.5, max_delay=0.5),
            command_retry=KazooRetry(max_tries=0),
            **access.options,
        )
        self._client.start_async()

    # -- the state of the connection -----------------------------------------------------------

    def state_changed(self, state: Any) -> None:
        """Note what kazoo says of the connection; runs on kazoo's thread."""
        with self._changed:
            was_connected, self.connected = self.connected, state == KeeperState.CONNECTED
            if self.connected:
                self.id = format(self._client._session_id & (2**64 - 1), "x")
                self.epoch += 1
                self.refusals = 0
            elif was_connected:
                self._down_since = boottime()
            if state == KeeperState.AUTH_FAILED:
                self.denied = True
            if state in (KeeperState.EXPIRED_SESSION, KeeperState.CLOSED, KeeperState.AUTH_FAILED):
                self.ended = True
                self._client._stopped.set()  # or kazoo would begin another session by itself
            self._changed.notify_all()
        self._woken()

    def wait(self, deadline: float) -> None:
        """Return once connected; raise ``Unavailable`` when that takes longer than allowed."""
        with self._changed:
            while not self.connected:
                left = deadline - boottime()
                if self.denied:
                    raise errors.AccessDenied(f"ZooKeeper at {self.hosts}: {self._access.refusal}")
                if self.ended:  # or closed, by the board or by whoever found the session over
                    raise SessionOver
                if self.epoch and boottime() - self._down_since > self.granted:
                    # By now the server ended the session too; a wiped one would refuse us for ever.
                    break
                if self.refusals >= REFUSALS:
                    self.refusals = 0
                    raise Refused
                if left <= 0:
                    raise errors.Unavailable(self._unreachable()) from self._handler.failure
                self._changed.wait(min(left, 0.1))
            else:
                return
        self.close()
        raise SessionOver

    def _unreachable(self) -> str:
        cause = self._handler.failure
        why = "no answer" if cause is None else str(cause) or type(cause).__name__
        return f"ZooKeeper at {self.hosts} can't be reached: {why}"

    def dismiss(self) -> None:
        """Close, and let what is asked from now on, or waits for an answer, raise ``Closed``."""
        self.dismissed = True
        self.close()

    def close(self) -> None:
        """End the session and free all resources; where the server is slow, behind our back."""
        with self._changed:
            if self.closing:
                return
            self.closing = self.ended = True
            was_connected, self.connected = self.connected, False
            self._changed.notify_all()
        client, connection = self._client, self._client._connection
        client._stopped.set()
        client._queue.append((wire.CloseInstance, None))
        with contextlib.suppress(OSError, AttributeError):  # its thread may have ended by itself
            connection._write_sock.send(b"\0")
        if connection.connection_stopped.wait(FAREWELL if was_connected else 0.0):
            self._free()
        else:
            threading.Thread(target=self._free, name="multiboard-farewell", daemon=True).start()

    def _free(self) -> None:
        connection = self._client._connection
        connection.connection_stopped.wait()
        connection.stop(0)
        connection.close()

    def version(self) -> tuple[str, bool]:
        """Return the server's version, and whether it is alone; nothing depends on it.

        The version is empty where the server may not be asked for it.
        """
        try:
            told = self._client.command(b"srvr")
        except Exception as error:  # a courtesy: whatever a server that dislikes it makes of it
            if interrupts.is_interrupt(error):
                raise
            return "", False
        found = re.search(r"version: ([0-9.]+)", told)
        return found[1] if found else "", "Mode: standalone" in told

    # -- asking --------------------------------------------------------------------------------

    def submit(self, request: Any, then: Callable[[Any], None] | None = None) -> Any:
        """Send a request without waiting; ``then`` runs on kazoo's thread, in order."""
        result = self._handler.async_result()
        if then is not None:
            result.rawlink(then)
        self._client.submit(request, result)
        return result

    def _settle(self, result: Any, until: float | None = None) -> tuple[Any, Exception | None]:
        """Wait for an answer, ``until`` then (boottime) at most: its value, or what went wrong."""
        begun = looked = boottime()
        give_up = min(looked + self.patience, until or float("inf"))
        while not result.wait(0.05):
            if self.closing:
                return None, kz.ConnectionLoss("the connection was closed")
            self._client.nudge()
            last, looked = looked, boottime()
            if looked - last > FROZEN:  # what came meanwhile is about to be read
                give_up = max(give_up, looked + FROZEN)
            if looked >= give_up:
                return None, KazooTimeoutError(f"no answer within {looked - begun:.3g} s")
        return (result.value, None) if result.successful() else (None, result.exception)

    def _explain(self, error: Exception, *, write: bool) -> errors.MultiboardError:
        """Map what went wrong, other than an answer about nodes, to the project's errors."""
        if isinstance(error, errors.MultiboardError):
            return error
        kind: type[errors.MultiboardError]
        if self.dismissed and (not write or isinstance(error, (NotSent, *_NOT_APPLIED))):
            kind = errors.Closed
        elif isinstance(error, _DENIED) or (self.denied and isinstance(error, NotSent)):
            kind = errors.AccessDenied
        elif not write or isinstance(error, (NotSent, *_NOT_APPLIED)):
            kind = errors.Unavailable
        elif isinstance(error, (kz.ConnectionLoss, kz.OperationTimeoutError)):
            kind = errors.Indeterminate
        elif isinstance(error, kz.ZookeeperError):
            kind = errors.BackendError
        else:
            kind = errors.Indeterminate
        text = str(error) or type(error).__name__
        if kind is errors.AccessDenied:
            text = self._access.refusal
        mapped = kind(f"ZooKeeper at {self.hosts}: {text}")
        mapped.__cause__ = error
        return mapped

    def value(self, result: Any, give_up: float | None = None) -> Any:
        """Wait for the answer to a read; an answer about nodes is returned, not raised."""
        value, error = self._settle(result, give_up)
        if error is None or isinstance(error, ABOUT_NODES):
            return value if error is None else error
        raise self._explain(error, write=False)

    def ask(
        self, requests: Iterable[Any], window: int = READ_WINDOW, give_up: float | None = None
    ) -> list[Any]:
        """Send reads in a pipeline and return their answers in order."""
        waiting: collections.deque[Any] = collections.deque()
        answers: list[Any] = []
        for request in requests:
            waiting.append(self.submit(request))
            if len(waiting) >= window:
                answers.append(self.value(waiting.popleft(), give_up))
        answers.extend(self.value(result, give_up) for result in waiting)
        return answers

    def truth(self, requests: Iterable[Any], give_up: float | None = None) -> list[Any]:
        """Send reads, and return answers as new as what was acknowledged to anyone before.

        Before them goes a write that changes nothing. ``sync`` would not do: a leader that was
        frozen or cut off answers it by itself, until it learns that another one was elected, and
        goes on showing what it knew. A write is answered only by the agreement of most servers,
        and what stands behind it in a session sees what they agreed on before.

        Raises: ``Vanished`` where the board is gone.
        """
        fence, *answers = self.ask([self._fence(), *requests], give_up=give_up)
        self.passed(fence)
        return answers

    def submit_fence(self) -> Any:
        """Send the write of :meth:`truth`, which has a number of its own: the result's ``zxid``."""
        return self.submit(self._fence())

    @property
    def last_zxid(self) -> int:
        """The number of the last transaction that a server has shown."""
        return int(self._client.last_zxid)

    def _fence(self) -> Any:
        return wire.Transaction([wire.CheckVersion(self.clock_path, -1)])

    @staticmethod
    def passed(fence: Any) -> None:
        """Raise ``Vanished`` where the answer to the fence says that the board is gone."""
        refused = [one for one in fence if isinstance(one, Exception)]
        if refused:
            raise Vanished from refused[0]

    def read(self, paths: Sequence[str], *, fresh: bool = False) -> list[Any]:
        """Read nodes: data and stat of each, or the answer about nodes; one pipeline.

        Those that stand earlier are read earlier. ``fresh`` is as for :meth:`truth`.
        """
        fence = self.submit(self._fence()) if fresh else None
        if self.modern:
            parts = [paths[at : at + READ_BATCH] for at in range(0, len(paths), READ_BATCH)]
            found = self.ask(map(MultiRead, parts), READ_WINDOW // READ_BATCH)
            answers = [node for part in found for node in self.nodes(part)]
        else:
            answers = self.ask(wire.GetData(path, None) for path in paths)
        if fence is not None:
            self.passed(self.value(fence))  # answered before the others were
        return answers

    def nodes(self, part: Any) -> list[Any]:
        """Return what the answer to one ``MultiRead`` says of each node.

        Raises: what went wrong with one of them, unless it speaks of the node.
        """
        nodes = [part] if isinstance(part, Exception) else part
        for node in nodes:
            if isinstance(node, kz.UnimplementedError) or (
                isinstance(node, Exception) and not isinstance(node, ABOUT_NODES)
            ):
                raise self._explain(node, write=False)
        return list(nodes)

    # -- writing -------------------------------------------------------------------------------

    def create(self, path: str, data: bytes, *, ephemeral: bool = False) -> Any:
        """Return the operation that makes a node."""
        return wire.Create(path, data, self._access.nodes, 1 if ephemeral else 0)

    def commit(self, writes: Iterable[tuple[Sequence[Any], bytes | None]]) -> list[Outcome]:
        """Apply each write as one transaction, in order; answer for each.

        A write is its operations and its evidence: a few bytes that the same transaction leaves in
        a node of this session, so that a lost answer can be told from a lost request. After the
        first failure of the connection no further write is sent.
        """
        outcomes: list[Outcome] = []
        waiting: collections.deque[tuple[Any, Sequence[Any], int, bytes | None]]
        waiting = collections.deque()
        broken: errors.MultiboardError | None = None
        for operations, evidence in writes:
            if broken is None and len(waiting) >= WRITE_WINDOW:
                outcomes.append(self._outcome(*waiting.popleft()))
                broken = outcomes[-1].error
            if broken is not None:
                unsent = errors.Unavailable(f"not sent: {broken}")
                waiting.append((unsent, operations, -1, None))
                continue
            slot, noting = -1, list[Any]()
            if evidence is not None:
                slot, noting = self._note(evidence)
            request = wire.Transaction([*operations, *noting])
            waiting.append((self.submit(request), operations, slot, evidence))
        outcomes.extend(self._outcome(*item) for item in waiting)
        return outcomes

    def _note(self, evidence: bytes) -> tuple[int, list[Any]]:
        """Return a slot that nobody uses now, and the operations that put evidence there."""
        with self._changed:
            if self._free_slots:
                slot = self._free_slots.pop()
            else:
                slot, self._slots = self._slots, self._slots + 1
        path = self._slot_path(slot)
        noting = [wire.SetData(path, evidence, -1)]
        if slot not in self._made_slots:
            noting.insert(0, self.create(path, b"", ephemeral=True))
        return slot, noting

    def _slot_path(self, slot: int) -> str:
        return f"{self.slots_path}/{self.id}-{slot}"

    def _free_slot(self, slot: int) -> None:
        if slot >= 0:
            with self._changed:
                self._free_slots.append(slot)

    def _outcome(
        self, result: Any, operations: Sequence[Any], slot: int, evidence: bytes | None
    ) -> Outcome:
        if isinstance(result, errors.MultiboardError):
            return Outcome(error=result)
        value, error = self._settle(result)
        if error is not None and not isinstance(error, ABOUT_NODES):
            mapped = self._explain(error, write=True)
            if isinstance(mapped, errors.Indeterminate) and evidence is not None:
                return Outcome(error=mapped, doubt=Doubt(self, slot, evidence))
            self._free_slot(slot)
            return Outcome(error=mapped)
        refused = [
            (index, answer)
            for index, answer in enumerate(value or [error])
            if isinstance(answer, Exception)
            and not isinstance(answer, (kz.RolledBackError, kz.RuntimeInconsistency))
        ]
        if not refused:
            self._made_slots.add(slot)
            self._free_slot(slot)
            self.on_applied(operations, result.zxid)
            return Outcome(stat=value[-1] if evidence is not None else None, results=value)
        self._free_slot(slot)
        index, answer = refused[0]
        if isinstance(answer, kz.NotEmptyError):
            # Somebody put nodes of their own under ours. They are not ours to delete: ours stays,
            # marked as gone.
            marked = list(operations)
            marked[index] = wire.SetData(operations[index].path, self._gone, -1)
            return self.commit([(marked, evidence)])[0]
        if not isinstance(answer, ABOUT_NODES):
            return Outcome(error=self._explain(answer, write=True))
        return Outcome(refused=(index, answer))

    def was_applied(self, doubt: Doubt) -> bool | None:
        """Tell whether a doubtful write was applied; None where its session is over.

        The look is behind the write in the order of the session, whatever server it is asked of.
        """
        if doubt.link is not self or self.ended:
            return None
        path = self._slot_path(doubt.slot)
        try:
            found = self.truth([wire.GetData(path, None)])[0]
        except Vanished:
            return None
        self._made_slots.discard(doubt.slot)
        if not isinstance(found, Exception):
            self._made_slots.add(doubt.slot)
        self._free_slot(doubt.slot)
        return not isinstance(found, Exception) and found[0] == doubt.evidence
