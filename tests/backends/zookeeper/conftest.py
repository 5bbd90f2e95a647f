# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The fixtures of the tests of the ZooKeeper backend: servers and boards of their own."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import servers
from kazoo.client import KazooClient

from multiboard.backends.zookeeper import ZooKeeperBackend, ZooKeeperSettings
from tests.backends.zookeeper.boards import TICK, TIMEOUT
from tests.backends.zookeeper.proxy import Proxy


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
