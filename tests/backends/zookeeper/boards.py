# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""What the tests of the ZooKeeper backend do with their boards again and again."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from kazoo.client import KazooClient

from multiboard import errors
from multiboard.backends.zookeeper import ZooKeeperBackend
from multiboard.primitives import Change, NewPosting
from tests import waiting

TICK = 0.2
TIMEOUT = 1.0
#: Seconds within which a condition must hold that nothing but a busy machine can delay.
SOON = 20.0
A, B = b"a" * 10, b"b" * 10


def post(backend: ZooKeeperBackend, key: str = "k", body: bytes = A, **more: Any) -> Any:
    return backend.add([NewPosting(key, body, **more)])[0]


def base(backend: ZooKeeperBackend) -> str:
    return backend._session.paths.base


def eventually(condition: Callable[[], Any]) -> Any:
    """Wait until ``condition`` is true; an outage counts as not yet."""
    return waiting.eventually(condition, SOON, ignoring=(errors.Unavailable, errors.Indeterminate))


def follow(backend: ZooKeeperBackend, cursor: str, until: Change) -> list[Change]:
    """Return the changes that the feed reports up to and with ``until``."""
    received: list[Change] = []
    deadline = time.monotonic() + SOON
    while until not in received:
        assert time.monotonic() < deadline, received
        changes = backend.changes(cursor, 1.0)
        assert not changes.reset
        cursor = changes.cursor
        received += changes.events
    return received


def end_session(server: Any, backend: ZooKeeperBackend) -> None:
    """End a backend's session in the store, as an expiry does."""
    client = backend._session.client()
    other = KazooClient(f"{server.host}:{server.port}", client_id=client._kazoo.client_id)
    other.start()
    other.stop()
    other.close()
    eventually(lambda: client.ended)


def in_flight(backend: ZooKeeperBackend) -> int:
    """Return how many requests were sent and wait for their replies."""
    return len(backend._session.client()._kazoo._pending)


def script(code: str, backend: ZooKeeperBackend) -> subprocess.Popen[str]:
    """Run code in another process that has the board open as ``board``."""
    head = (
        "import sys, time, os, signal\n"
        "from multiboard.backends.zookeeper import *\n"
        "from multiboard.primitives import NewPosting\n"
        f"board = ZooKeeperBackend(ZooKeeperSettings(hosts={backend.settings.hosts!r}, "
        f"namespace={backend.settings.namespace!r}, "
        f"session_timeout={backend.settings.session_timeout!r}, "
        f"connect_timeout={backend.settings.connect_timeout!r}))\n"
        "board.open()\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", head + code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
