# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""What the tests of Redis among several servers share beside the fixtures."""

from __future__ import annotations

import contextlib
import threading
import uuid
from collections.abc import Callable, Iterator
from typing import Any

from servers import clusters
from servers.clusters.redis_member import RedisMember, ask

from multiboard import errors
from multiboard.backends.redis import RedisBackend
from multiboard.config import loading
from multiboard.primitives import Change
from tests.backends.redis.boards import key_of
from tests.waiting import eventually

#: Long enough that no session ends while a master is being replaced.
STEADY: dict[str, Any] = {
    "session_timeout": 60.0,
    "connect_timeout": 1.0,
    "operation_timeout": 30.0,
}


@contextlib.contextmanager
def boards_on_cluster(cluster: clusters.Cluster) -> Iterator[Callable[..., RedisBackend]]:
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
    """Let the replicas receive nothing more of their master; they stay frozen until resumed.

    That they are frozen is not enough: what the master sends them waits in their sockets, and
    they would read it even when it is dead.
    """
    replicas = replicas_of(cluster, master)
    for replica in replicas:
        replica.pause()
    ask(master, "CLIENT", "KILL", "TYPE", "replica")
    return replicas


class Reader:
    """A thread that follows the feed through outages, and what it received."""

    def __init__(self, board: RedisBackend) -> None:
        self._board = board
        self._cursor = board.changes(None, 0.0).cursor
        self.events: list[Change] = []
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
            self.events += changes.events

    def received(self, key: str) -> bool:
        """Whether it received a change of a posting, or a reset."""
        return self.resets > 0 or key in [change.key for change in self.events]
