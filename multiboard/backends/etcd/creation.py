# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Finding boards in etcd, and making them.

This module imports the primitives, the errors and its own siblings.
"""

from __future__ import annotations

import uuid
from typing import Any

from multiboard import errors
from multiboard.backends.etcd import messages, records
from multiboard.backends.etcd.client import Client
from multiboard.backends.etcd.records import Keys
from multiboard.backends.etcd.settings import EtcdSettings
from multiboard.primitives import boottime

#: How many keys are read at once where boards are looked for.
_PAGE = 1_000


def find_or_make(client: Client, keys: Keys, settings: EtcdSettings) -> str:
    """Return the incarnation of the board, which is made where there is none.

    Raises: ``BoardNotFound`` where there is none and the settings do not allow to make it;
    ``Unsupported``, ``Unavailable``, ``AccessDenied``.
    """
    meta = messages.transaction([], [messages.read(keys.meta)])
    kvs = client.call("Txn", meta, write=False).responses[0].response_range.kvs
    if not kvs:
        if not settings.create:
            raise errors.BoardNotFound(keys.namespace, client.name)
        # In one step, so that of two backends that make it at once one finds the other's.
        made = records.encode_meta(uuid.uuid4().hex)
        making = messages.transaction(
            [messages.created(keys.meta, 0)],
            [messages.put(keys.meta, made), messages.put(keys.news, b"")],
        )
        try:
            client.call("Txn", making, write=True)
        except errors.Indeterminate as error:
            raise errors.Unavailable(f"the board could not be made: {error}") from error
        kvs = client.call("Txn", meta, write=False).responses[0].response_range.kvs
    if not kvs:
        raise errors.Unavailable(f"the board {keys.top.decode()} was deleted while it was made")
    try:
        return records.decode_meta(kvs[0].value)
    except ValueError as error:
        raise errors.Unsupported(
            f"the key {keys.meta.decode()} holds no board of a known version: {error}"
        ) from None


def namespaces(settings: EtcdSettings, within: float) -> list[str]:
    """Return the names of the boards under the root, over a connection of its own.

    Raises: ``Unavailable``, ``AccessDenied``.
    """
    give_up = boottime() + within
    keys = Keys(settings.root, settings.namespace)
    client = Client(settings, min(within, settings.attempt_timeout))
    found: set[bytes] = set()
    begin, end = keys.all, messages.prefix_end(keys.all)
    try:
        while begin < end:
            # The server counts all keys of the range at each read, however few are asked for.
            page = messages.read(begin, end, limit=_PAGE, keys_only=True)
            read = [kv.key for kv in _read(client, page, give_up)]
            metas = [keys.meta_beside(key) for key in read]
            found.update(set(metas).intersection(read))
            if len(read) < _PAGE:
                break
            # What else is in the last board is not read, but whether it is one.
            if _read(client, messages.read(metas[-1], keys_only=True), give_up):
                found.add(metas[-1])
            begin = messages.prefix_end(metas[-1].removesuffix(b"meta"))
        boards = [keys.around(meta) for meta in found]
        return sorted(board.namespace for board in boards if board.meta in found)
    finally:
        client.close()


def _read(client: Client, read: Any, give_up: float) -> Any:
    request = messages.transaction([], [read])
    left = max(0.05, give_up - boottime())
    answer = client.call("Txn", request, write=False, patience=min(left, client.patience))
    return answer.responses[0].response_range.kvs
