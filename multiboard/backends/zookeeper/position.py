# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""How far a board had come, so that an older data folder that was put back is found out.

A server breaks off a session that saw more than the server has. A new session is served by any,
and so is an old one where the servers elected a leader since: its epoch is the upper half of every
later number. So the board itself is compared too, by the last change to the folders in which every
change adds a node or deletes one. This module imports kazoo and its own siblings.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kazoo.protocol import serialization as wire

from multiboard.backends.zookeeper import client


class WentBack(Exception):
    """What the servers show is not the continuation of what they showed."""


class Reached:
    """What one backend knows of how far its board had come, over all its sessions."""

    def __init__(self) -> None:
        #: The highest number of a transaction that a server has shown to one of its sessions.
        self.zxid = 0
        #: The highest that is known to have added or deleted a node in one of the folders.
        self.changed = 0

    def note_link(self, link: client.Link) -> None:
        """Note what was shown to a link."""
        self.zxid = max(self.zxid, link.last_zxid)

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

    def compare(self, link: client.Link, folders: Sequence[str]) -> None:
        """Compare with what is shown on a new connection: one round trip.

        The fence stands behind all that was acknowledged to anyone, and what is read behind it is
        no older: a server that lags is not taken for one that went back.

        Raises: ``WentBack``; as :meth:`client.Link.truth`.
        """
        epoch, zxid, changed = link.epoch, self.zxid, self.changed
        if zxid or changed:
            fence = link.submit_fence()
            stats = link.ask(wire.Exists(folder, None) for folder in folders)
            link.passed(link.value(fence))
            if None in stats:
                raise client.Vanished
            if fence.zxid < zxid or max(stat.pzxid for stat in stats) < changed:
                raise WentBack
        link.compared = epoch
