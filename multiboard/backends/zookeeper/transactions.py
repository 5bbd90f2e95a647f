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

#: The operations of a transaction, and its commit marker.
Write = tuple[Sequence[Any], bytes | None]


@dataclass
class UnconfirmedWrite:
    """A write whose reply was lost, and where its commit marker would be."""

    client: Client
    slot: int
    marker: bytes


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
    if write.client is not client or client.ended:
        return None
    try:
        found = client.linearizable([wire.GetData(client.slots.path(client.id, write.slot), None)])
    except BoardGone:
        return None
    [node] = found
    client.slots.made.discard(write.slot)
    if not isinstance(node, Exception):
        client.slots.made.add(write.slot)
    client.slots.free(write.slot)
    return not isinstance(node, Exception) and node[0] == write.marker
