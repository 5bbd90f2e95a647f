# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Finding a board in the store, and making it where there is none.

This module imports kazoo, the errors and its own siblings.
"""

from __future__ import annotations

import json
import uuid
from typing import Any

from kazoo.protocol import serialization as wire

from multiboard import errors
from multiboard.backends.zookeeper import records
from multiboard.backends.zookeeper.client import Client
from multiboard.backends.zookeeper.errors import Unimplemented
from multiboard.backends.zookeeper.requests import MultiRead
from multiboard.backends.zookeeper.transactions import commit_one

#: How often a board is looked for, each time after an attempt to make it.
TRIES = 10


class BoardNode:
    """The uppermost node of one board, which names its incarnation."""

    def __init__(self, client: Client, root: str, top: str) -> None:
        self._client = client
        self._root = root
        self._top = top
        self._found: Any = None
        #: The server does not support the requests of ZooKeeper 3.6, and ends the session.
        self.needs_older_requests = False

    def find(self) -> records.Paths | None:
        """Return where the board's nodes are; None where there is no whole board.

        Raises: ``Unsupported`` where something else is in its place.
        """
        requests = [wire.Sync(self._top), wire.GetData(self._top, None)]
        self._found = self._client.pipeline(requests)[1]
        if isinstance(self._found, Exception):
            return None
        paths = records.Paths(self._top, self._incarnation(self._found[0]))
        if not paths.incarnation:
            return None
        clock = self._read_clock(paths)
        self.needs_older_requests = isinstance(clock, Unimplemented)
        whole = self.needs_older_requests or not isinstance(clock, Exception)
        return paths if whole else None

    def make(self) -> None:
        """Try to make the board; another process may be faster, so that it has to be found.

        Raises: ``AccessDenied``; what prevents the parents of the node.
        """
        client, incarnation = self._client, uuid.uuid4().hex[:16]
        base = records.Paths(self._top, incarnation).base
        record = json.dumps({"v": 1, "incarnation": incarnation}).encode()
        if isinstance(self._found, Exception):
            self._make_parents()
            head = client.create(self._top, record)
        else:
            head = wire.SetData(self._top, record, self._found[1].version)
        folders = [client.create(f"{base}/{name}", b"") for name in records.Paths.FOLDERS]
        outcome = commit_one(client, [head, client.create(base, b""), *folders])
        # Whatever else happened, and whichever process was faster: the next read shows it.
        if isinstance(outcome.error, errors.AccessDenied):
            raise outcome.error

    def _read_clock(self, paths: records.Paths) -> Any:
        if not self._client.modern:
            return self._client.pipeline([wire.GetData(paths.clock, None)])[0]
        reply = self._client.pipeline([MultiRead([paths.clock])])[0]
        return reply if isinstance(reply, Unimplemented) else self._client.nodes(reply)[0]

    def _incarnation(self, data: bytes) -> str:
        try:
            record = json.loads(data)
            incarnation = record["incarnation"]
            if record["v"] == 1 and isinstance(incarnation, str) and "/" not in incarnation:
                return incarnation
        except (ValueError, TypeError, KeyError, RecursionError):
            pass
        raise errors.Unsupported(f"the node {self._top} holds no board that is known here")

    def _make_parents(self) -> None:
        path = ""
        for part in self._root.strip("/").split("/"):
            path = f"{path}/{part}" if part else ""
            if path and self._client.pipeline([wire.Exists(path, None)])[0] is None:
                error = commit_one(self._client, [self._client.create(path, b"")]).error
                if error is not None and not isinstance(error, errors.Indeterminate):
                    raise error


def namespaces(client: Client, root: str) -> list[str]:
    """Return the names of the boards under a root."""
    folder = root.rstrip("/") or "/"
    names = client.pipeline([wire.Sync(folder), wire.GetChildren(folder, None)])[1]
    if isinstance(names, Exception):  # there is no root yet
        return []
    tops = [name for name in names if name.startswith(records.Paths.BOARD)]
    return sorted(records.Paths.namespace(name) for name in tops)
