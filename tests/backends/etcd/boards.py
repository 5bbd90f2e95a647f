# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""What the tests of the etcd board share, beside their fixtures."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Iterator
from typing import Any

from multiboard.backends.etcd import EtcdBackend, EtcdSettings
from multiboard.backends.etcd.messages import M, delete, put, read, transaction
from multiboard.primitives import NewPosting

Maker = Callable[..., EtcdBackend]


@contextlib.contextmanager
def boards_on(server: Any, **common: Any) -> Iterator[Maker]:
    """Yield a function that makes and opens backends of one board; close them in the end."""
    namespace = f"t-{uuid.uuid4().hex[:12]}"
    made: list[EtcdBackend] = []

    def make(**options: Any) -> EtcdBackend:
        hosts = (f"127.0.0.1:{server.port}",)
        options = {"hosts": hosts, "namespace": namespace, **common, **options}
        made.append(EtcdBackend(EtcdSettings(**options)))
        made[-1].open()
        return made[-1]

    try:
        yield make
    finally:
        for backend in made:
            backend.close()


def post(board: EtcdBackend, *keys: str, **options: Any) -> None:
    """Add postings, which must be new."""
    for key in keys or ("k",):
        (answer,) = board.add([NewPosting(key, b"body", **options)])
        assert not isinstance(answer, Exception), answer


def write(board: EtcdBackend, name: str, value: bytes | None) -> None:
    """Write a key of the board past the board; None deletes it."""
    raw = board._board.keys.top + name.encode()
    operation = delete(raw) if value is None else put(raw, value)
    board._session.client.call("Txn", transaction([], [operation]), write=True)


def value(board: EtcdBackend, name: str) -> bytes | None:
    """Read a key of the board past the board."""
    raw = board._board.keys.top + name.encode()
    answer = board._session.client.call("Txn", transaction([], [read(raw)]), write=False)
    kvs = answer.responses[0].response_range.kvs
    return bytes(kvs[0].value) if kvs else None


def lease_left(board: EtcdBackend, lease: int) -> int:
    """Return the whole seconds that an etcd lease has left; -1 where there is none."""
    request = M["LeaseTimeToLiveRequest"](ID=lease)
    return int(board._session.client.call("LeaseTimeToLive", request, write=False).TTL)
