# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The fixtures of the tests of the board in Redis: servers, clusters, and boards on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis as client
import servers
from servers import clusters

from multiboard.backends.redis import RedisBackend
from multiboard.runtime.retry import RetryingGuard
from tests.backends.redis.boards import boards_on
from tests.backends.redis.clusters import boards_on_cluster


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    with servers.redis_server(appendonly=False) as running:
        yield running


@pytest.fixture
def raw(server: Any) -> Iterator[Any]:
    with client.Redis(port=server.port) as connection:
        yield connection


@pytest.fixture(scope="module")
def sentinel() -> Iterator[clusters.RedisSentinel]:
    with clusters.running(clusters.RedisSentinel()) as cluster:
        assert isinstance(cluster, clusters.RedisSentinel)
        yield cluster


@pytest.fixture(scope="module")
def nodes() -> Iterator[clusters.RedisCluster]:
    with clusters.running(clusters.RedisCluster()) as cluster:
        assert isinstance(cluster, clusters.RedisCluster)
        yield cluster


@pytest.fixture(params=["sentinel", "nodes"])
def cluster(request: pytest.FixtureRequest) -> Iterator[clusters.Cluster]:
    """Each clustered form in turn, whole again afterwards."""
    found: clusters.Cluster = request.getfixturevalue(request.param)
    yield found
    found.heal()


@pytest.fixture
def make(request: pytest.FixtureRequest) -> Iterator[Callable[..., RedisBackend]]:
    """Makes boards on the cluster where a test asks for one, else on the server."""
    if "cluster" in request.fixturenames:
        boards = boards_on_cluster(request.getfixturevalue("cluster"))
    else:
        boards = boards_on(request.getfixturevalue("server"))
    with boards as make:
        yield make


@pytest.fixture
def board(make: Callable[..., RedisBackend]) -> RedisBackend:
    return make()


@pytest.fixture
def guarded(board: RedisBackend) -> RetryingGuard:
    return RetryingGuard(board)
