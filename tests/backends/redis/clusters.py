# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""What the tests of Redis among several servers share: the clusters, and the boards on them."""

from __future__ import annotations

import contextlib
import threading
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from servers import clusters
from servers.clusters.redis_member import RedisMember, ask

from multiboard import errors
from multiboard.backends.redis import RedisBackend
from multiboard.config import loading
from multiboard.primitives import Change
from multiboard.runtime.retry import RetryingGuard
from tests.waiting import eventually

#: Long enough that no session ends while a master is being replaced.
STEADY: dict[str, Any] = {
    "session_timeout": 60.0,
    "connect_timeout": 1.0,
    "operation_timeout": 30.0,
}


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


@contextlib.contextmanager
def boards_on(cluster: clusters.Cluster) -> Iterator[Callable[..., RedisBackend]]:
    """Give what makes and opens backends of one board on a cluster."""
    namespace = f"t-{uuid.uuid4().hex[:12]}"
    made: list[RedisBackend] = []

    def make(**options: Any) -> RedisBackend:
        backend = loading.load(cluster.url, **{"namespace": namespace, **STEADY, **options})
        assert isinstance(backend, RedisBackend)
        made.append(backend)
        backend.open()
        return backend

    try:
        yield make
    finally:
        for backend in made:
            backend.close()


@pytest.fixture
def make(cluster: clusters.Cluster) -> Iterator[Callable[..., RedisBackend]]:
    with boards_on(cluster) as make:
        yield make


@pytest.fixture
def board(make: Callable[..., RedisBackend]) -> RedisBackend:
    return make()


@pytest.fixture
def guarded(board: RedisBackend) -> RetryingGuard:
    return RetryingGuard(board)


def master_of(cluster: clusters.Cluster, board: RedisBackend) -> RedisMember:
    """Return the master that has the board, as the others see it; it may be dead."""
    if isinstance(cluster, clusters.RedisCluster):
        return cluster.owner(key_of(board, "meta"))
    assert isinstance(cluster, clusters.RedisSentinel)
    return cluster.master


def replicas_of(cluster: clusters.Cluster, master: RedisMember) -> list[RedisMember]:
    if isinstance(cluster, clusters.RedisCluster):
        return [cluster.replica(master)]
    assert isinstance(cluster, clusters.RedisSentinel)
    return cluster.replicas


def key_of(board: RedisBackend, name: str) -> str:
    return f"multiboard:{{{board.settings.namespace}}}:{name}"


def in_step(cluster: clusters.Cluster, board: RedisBackend) -> None:
    """Wait until the replicas have what the master has."""
    master = master_of(cluster, board)
    expected = len(replicas_of(cluster, master))
    eventually(lambda: master.replicas == expected)


def replaced(cluster: clusters.Cluster, board: RedisBackend, old: RedisMember) -> RedisMember:
    """Wait until another master has the board, and return it."""

    def another() -> RedisMember | None:
        with contextlib.suppress(OSError):
            now = master_of(cluster, board)
            return now if now is not old and now.role == "master" else None
        return None

    found = eventually(another, 30.0)
    assert isinstance(found, RedisMember)
    return found


def cut_off(cluster: clusters.Cluster, master: RedisMember) -> list[RedisMember]:
    """Let the replicas hear nothing more of their master; they are frozen until they are resumed.

    That they are frozen is not enough: what the master sends them waits in their sockets, and
    they would read it even when it is dead.
    """
    replicas = replicas_of(cluster, master)
    for replica in replicas:
        replica.pause()
    ask(master, "CLIENT", "KILL", "TYPE", "replica")
    return replicas


class Reader:
    """A thread that follows the feed through outages, and what it heard."""

    def __init__(self, board: RedisBackend) -> None:
        self._board = board
        self._cursor = board.changes(None, 0.0).cursor
        self.told: list[Change] = []
        self.resets = 0
        self.failures: list[Exception] = []
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def _follow(self) -> None:
        while True:
            try:
                changes = self._board.changes(self._cursor, 30.0)
            except errors.Closed:
                return
            except errors.Unavailable as error:
                self.failures.append(error)
                threading.Event().wait(0.02)
                continue
            except Exception as error:  # whatever else it is, a test is to see it
                self.failures.append(error)
                return
            self._cursor = changes.cursor
            self.resets += changes.reset
            self.told += changes.events

    def heard(self, key: str) -> bool:
        """Whether it was told of a posting, or that it missed something."""
        return self.resets > 0 or key in [change.key for change in self.told]
