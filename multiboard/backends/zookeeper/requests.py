# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Two requests of ZooKeeper 3.6 that kazoo 2.x lacks, in the form of kazoo's own.

This module imports kazoo.
"""

from __future__ import annotations

import collections
from typing import Any

from kazoo import exceptions as kz
from kazoo.protocol import serialization as wire

_READ_HEAD = wire.multiheader_struct.pack(wire.GetData.type, False, -1)


class AddWatch(collections.namedtuple("AddWatch", "path mode")):
    """The request ``addWatch`` of ZooKeeper 3.6; mode 1 is persistent and recursive."""

    type = 106

    def serialize(self) -> bytes:
        """Return the request's body."""
        packed: bytes = wire.write_string(self.path) + wire.int_struct.pack(self.mode)
        return packed

    @classmethod
    def deserialize(cls, _bytes: bytes, _offset: int) -> bool:
        """Return True: the reply has no content."""
        return True


class MultiRead(collections.namedtuple("MultiRead", "paths")):
    """The request ``multiRead`` of ZooKeeper 3.6, for the data of many nodes in one packet.

    The reply has, for each path, the data and the stat, or why it could not be read.
    """

    type = 22

    def serialize(self) -> bytes:
        """Return the request's body."""
        packed = bytearray()
        for path in self.paths:
            packed += _READ_HEAD + wire.write_string(path) + b"\0"
        packed += wire.multiheader_struct.pack(-1, True, -1)
        return bytes(packed)

    @classmethod
    def deserialize(cls, packed: bytes, offset: int) -> list[Any]:
        """Return the replies in the order of the paths."""
        replies: list[Any] = []
        while True:
            kind, done, _ = wire.multiheader_struct.unpack_from(packed, offset)
            offset += wire.multiheader_struct.size
            if done:
                return replies
            number = wire.int_struct.unpack_from(packed, offset)[0]
            offset += wire.int_struct.size
            if kind == -1:
                replies.append(kz.EXCEPTIONS.get(number, kz.SystemZookeeperError)())
                continue
            # The number is the length of the data, -1 for a node that was made without any.
            end = offset + max(number, 0)
            stat = wire.ZnodeStat._make(wire.stat_struct.unpack_from(packed, end))
            replies.append((bytes(packed[offset:end]), stat))
            offset = end + wire.stat_struct.size
