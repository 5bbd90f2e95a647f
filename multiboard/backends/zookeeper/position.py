# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""How far a board had come: by it a data folder that was put back to an older one is found out.

A server breaks off a session that saw more than the server has. A new session is accepted
by every server, and so is an old one after an election: the leader's epoch is the upper half of
every later number. So the board itself is compared too, by the last change to the folders in which
every change adds a node or deletes one. This module imports kazoo and its own siblings.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kazoo.protocol import serialization as wire

from multiboard.backends.zookeeper.client import Client
from multiboard.backends.zookeeper.errors import BoardGone


class RolledBack(Exception):
    """What the servers show is not the continuation of what they showed."""


class Position:
    """How far one backend has seen its board come, over all its sessions."""

    def __init__(self) -> None:
        #: The highest number of a transaction that a server has shown to one of its sessions.
        self.zxid = 0
        #: The highest that has been seen to have added or deleted a node in one of the folders.
        self.changed = 0

    def note_client(self, client: Client) -> None:
        """Note what was shown to a client."""
        self.zxid = max(self.zxid, client.last_zxid)

    def note(self, zxid: int) -> None:
        """Note that a transaction changed the folders."""
        self.changed = max(self.changed, zxid)

    def note_applied(self, folders: Sequence[str], operations: Sequence[Any], zxid: int) -> None:
        """Note a transaction, if it added or deleted a node in one of the folders."""
        for one in operations:
            moves = isinstance(one, (wire.Create, wire.Delete))
            if moves and one.path.rpartition("/")[0] in folders:
                self.note(zxid)
                return

    def compare(self, client: Client, folders: Sequence[str]) -> None:
        """Compare with what is shown on a new connection: one round trip.

        The barrier stands behind all that was acknowledged to anyone, and what is read behind it is
        no older: a server that lags is not taken for one that went back.

        Raises: ``RolledBack``; as :meth:`Client.linearizable`.
        """
        epoch, zxid, changed = client.epoch, self.zxid, self.changed
        if zxid or changed:
            barrier = client.submit_barrier()
            stats = client.pipeline(wire.Exists(folder, None) for folder in folders)
            client.passed(client.value(barrier))
            if None in stats:
                raise BoardGone
            if barrier.zxid < zxid or max(stat.pzxid for stat in stats) < changed:
                raise RolledBack
        client.compared = epoch
