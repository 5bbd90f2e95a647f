# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Boards in a ZooKeeper of the tests' own, and what is asked of them again and again."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import servers
from kazoo.client import KazooClient

from multiboard import errors
from multiboard.backends.zookeeper import ZooKeeperBackend, ZooKeeperSettings
from multiboard.primitives import Change, NewPosting
from tests import waiting
from tests.backends.zookeeper.proxy import Proxy

TICK = 0.2
TIMEOUT = 1.0
#: Seconds within which a condition must hold that nothing but a busy machine can delay.
SOON = 20.0
A, B = b"a" * 10, b"b" * 10


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    with servers.zookeeper_server(tick_ms=int(TICK * 1000)) as running:
        yield running


@pytest.fixture(scope="module")
def troubled() -> Iterator[Any]:
    """A server that the tests restart, freeze and wipe."""
    with servers.zookeeper_server(tick_ms=500) as running:
        yield running


@pytest.fixture
def make(server: Any) -> Iterator[Callable[..., ZooKeeperBackend]]:
    """Make opened backends of one board, closed at the end; options as in the settings."""
    namespace = f"t-{uuid.uuid4().hex[:12]}"
    made: list[ZooKeeperBackend] = []

    def opened(**options: Any) -> ZooKeeperBackend:
        values = {
            "hosts": (f"{server.host}:{server.port}",),
            "namespace": namespace,
            "session_timeout": TIMEOUT,
            "connect_timeout": 5.0,
            **options,
        }
        backend = ZooKeeperBackend(ZooKeeperSettings(**values))
        backend.open()
        made.append(backend)
        return backend

    yield opened
    for backend in made:
        backend.close()


@pytest.fixture
def zk(server: Any) -> Iterator[KazooClient]:
    """An operator's client."""
    client = KazooClient(f"{server.host}:{server.port}")
    client.start()
    yield client
    client.stop()
    client.close()


@pytest.fixture
def proxy(server: Any) -> Iterator[Proxy]:
    with Proxy(server.host, server.port) as running:
        yield running


def post(backend: ZooKeeperBackend, key: str = "k", body: bytes = A, **more: Any) -> Any:
    return backend.add([NewPosting(key, body, **more)])[0]


def base(backend: ZooKeeperBackend) -> str:
    return backend._board.paths.base


def eventually(condition: Callable[[], Any]) -> Any:
    """Wait until ``condition`` is true; an outage counts as not yet."""
    return waiting.eventually(condition, SOON, ignoring=(errors.Unavailable, errors.Indeterminate))


def follow(backend: ZooKeeperBackend, cursor: str, until: Change) -> list[Change]:
    """Return the changes told up to and with ``until``."""
    told: list[Change] = []
    deadline = time.monotonic() + SOON
    while until not in told:
        assert time.monotonic() < deadline, told
        changes = backend.changes(cursor, 1.0)
        assert not changes.reset
        cursor = changes.cursor
        told += changes.events
    return told


def end_session(server: Any, backend: ZooKeeperBackend) -> None:
    """End a backend's session in the store, as an expiry does."""
    link = backend._board.link()
    client = link._client
    other = KazooClient(
        f"{server.host}:{server.port}", client_id=(client._session_id, client._session_passwd)
    )
    other.start()
    other.stop()
    other.close()
    eventually(lambda: link.ended)


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
