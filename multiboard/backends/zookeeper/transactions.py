# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Writes, each one transaction, and what became of each: applied, refused or indeterminate.

A write may carry a commit marker (see :mod:`multiboard.backends.zookeeper.slots`): after a lost
reply it shows whether the transaction was applied, as long as the session lasts. How a lease fences
its holder's writes is described in :mod:`multiboard.backends.zookeeper.leases`. This module imports
kazoo, the errors and its own siblings.
"""

from __future__ import annotations

import collections
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from kazoo.protocol import serialization as wire

from multiboard import errors
from multiboard.backends.zookeeper import records
from multiboard.backends.zookeeper.client import Client
from multiboard.backends.zookeeper.errors import ABOUT_NODES, NOT_THE_CAUSE, BoardGone, NotEmpty

#: Transactions in flight at once.
WRITE_WINDOW = 64
#: Writes in one transaction: while the servers agree on it nobody else's is applied.
TOGETHER = 100
#: Bytes in one transaction; the servers drop the connection over a request of 1 MiB.
REQUEST = 500_000

#: The operations of a transaction, and its commit marker.
Write = tuple[Sequence[Any], bytes | None]


@dataclass
class UnconfirmedWrite:
    """A write whose reply was lost, and where its commit marker would be.

    Those that were sent as one transaction share it.
    """

    client: Client
    slot: int
    marker: bytes
    #: Whether it was applied, once that was found out: from then on others write to the slot.
    applied: bool | None = None


@dataclass
class Outcome:
    """What became of one write."""

    #: Of the marker's node, written in the same transaction: its ``mzxid`` and ``mtime`` are the
    #: transaction's own.
    stat: Any = None
    results: Sequence[Any] | None = None
    #: Which operation the server refused, and how; nothing was applied.
    refused: tuple[int, Exception] | None = None
    error: errors.MultiboardError | None = None
    unconfirmed: UnconfirmedWrite | None = None


def commit(client: Client, writes: Iterable[Write]) -> list[Outcome]:
    """Apply each write as one transaction, in order, and return the outcome of each.

    After the first failure of the connection no further write is sent.
    """
    outcomes: list[Outcome] = []
    waiting: collections.deque[tuple[Any, Sequence[Any], int, bytes | None]]
    waiting = collections.deque()
    broken: errors.MultiboardError | None = None
    for operations, marker in writes:
        if broken is None and len(waiting) >= WRITE_WINDOW:
            outcomes.append(_outcome(client, *waiting.popleft()))
            broken = outcomes[-1].error
        if broken is not None:
            unsent = errors.Unavailable(f"not sent: {broken}")
            waiting.append((unsent, operations, -1, None))
            continue
        slot, marking = -1, list[Any]()
        if marker is not None:
            slot, marking = _mark(client, marker)
        request = wire.Transaction([*operations, *marking])
        waiting.append((client.submit(request), operations, slot, marker))
    outcomes.extend(_outcome(client, *item) for item in waiting)
    return outcomes


def commit_together(client: Client, writes: Sequence[Write], keys: Sequence[str]) -> list[Outcome]:
    """Apply writes in order, as few transactions as they fit in; return the outcome of each.

    Each is about the posting of its key. A transaction that the server refuses because of one of
    its writes changed nothing: then each of them is a transaction of its own. All have a commit
    marker.
    """
    outcomes: list[Outcome] = []
    for part in _parts(writes, keys):
        broken = outcomes[-1].error if outcomes else None
        if broken is not None:
            unsent = errors.Unavailable(f"not sent: {broken}")
            outcomes.extend(Outcome(error=unsent) for _ in part)
            continue
        if len(part) > 1:
            operations = [operation for write in part for operation in write[0]]
            # One that stands for all of them: it is the marker of no other transaction.
            whole = commit_one(client, operations, part[0][1])
            if whole.stat is not None or _lost(whole):
                outcomes.extend([whole] * len(part))
                continue
        outcomes.extend(commit(client, part))
    return outcomes


def _lost(outcome: Outcome) -> bool:
    """Return whether a write has no reply, or can't be sent: others fare no better."""
    return isinstance(outcome.error, (errors.Unavailable, errors.Indeterminate, errors.Closed))


def _parts(writes: Sequence[Write], keys: Sequence[str]) -> Iterable[list[Write]]:
    """Part writes so that each part fits into a request, and has each key once."""
    part: list[Write] = []
    inside: set[str] = set()
    size = 0
    for write, key in zip(writes, keys, strict=True):
        more = sum(_size(operation) for operation in write[0])
        if part and (len(part) == TOGETHER or size + more > REQUEST or key in inside):
            yield part
            part, inside, size = [], set(), 0
        part.append(write)
        inside.add(key)
        size += more
    if part:
        yield part


def _size(operation: Any) -> int:
    """Return about how many bytes an operation takes in a request, and in the server's log."""
    return 100 + 2 * len(operation.path) + len(getattr(operation, "data", None) or b"")


def commit_one(client: Client, operations: Sequence[Any], marker: bytes | None = None) -> Outcome:
    """Apply one write as one transaction."""
    return commit(client, [(operations, marker)])[0]


def _mark(client: Client, marker: bytes) -> tuple[int, list[Any]]:
    """Return a slot that no write uses now, and the operations that put the marker there."""
    slot = client.slots.take()
    path = client.slots.path(client.id, slot)
    marking = [wire.SetData(path, marker, -1)]
    if slot not in client.slots.made:
        marking.insert(0, client.create(path, b"", ephemeral=True))
    return slot, marking


def _outcome(
    client: Client, result: Any, operations: Sequence[Any], slot: int, marker: bytes | None
) -> Outcome:
    if isinstance(result, errors.MultiboardError):
        return Outcome(error=result)
    value, error = client.settle(result)
    if error is not None and not isinstance(error, ABOUT_NODES):
        translated = client.translate(error, write=True)
        if isinstance(translated, errors.Indeterminate) and marker is not None:
            return Outcome(error=translated, unconfirmed=UnconfirmedWrite(client, slot, marker))
        client.slots.free(slot)
        return Outcome(error=translated)
    refused = [
        (index, reply)
        for index, reply in enumerate(value or [error])
        if isinstance(reply, Exception) and not isinstance(reply, NOT_THE_CAUSE)
    ]
    if not refused:
        client.slots.made.add(slot)
        client.slots.free(slot)
        client.on_applied(operations, result.zxid)
        return Outcome(stat=value[-1] if marker is not None else None, results=value)
    client.slots.free(slot)
    index, reply = refused[0]
    if isinstance(reply, NotEmpty):
        # Somebody put nodes of their own under ours. They are not ours to delete: ours stays,
        # marked as gone.
        marked = list(operations)
        marked[index] = wire.SetData(operations[index].path, records.GONE, -1)
        return commit_one(client, marked, marker)
    if not isinstance(reply, ABOUT_NODES):
        return Outcome(error=client.translate(reply, write=True))
    return Outcome(refused=(index, reply))


def was_applied(client: Client, write: UnconfirmedWrite) -> bool | None:
    """Return whether an unconfirmed write was applied; None where its session is over.

    The read is behind the write in the order of the session, whatever server replies to it.
    """
    if write.applied is not None or write.client is not client or client.ended:
        return write.applied
    try:
        found = client.linearizable([wire.GetData(client.slots.path(client.id, write.slot), None)])
    except BoardGone:
        return None
    [node] = found
    there = not isinstance(node, Exception)
    if client.slots.settle(write, there and node[0] == write.marker):
        client.slots.made.discard(write.slot)
        if there:
            client.slots.made.add(write.slot)
        client.slots.free(write.slot)
    return write.applied
