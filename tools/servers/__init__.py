# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Start real stores for tests and benchmarks: free loopback ports, temporary folders, no leftovers.

From Python::

    with servers.redis_server() as redis:
        redis.url, redis.kill(), redis.restart(wipe=True), redis.pause(), redis.resume()

From a shell, with the URLs in ``MULTIBOARD_REDIS_URL``, ``MULTIBOARD_ZOOKEEPER_URL`` and so on::

    python tools/servers redis zookeeper -- COMMAND

A store that is not installed is a :class:`RuntimeError`, never a skip. The package imports the
standard library only: it has to run before anything is installed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence

from servers.etcd_server import EtcdServer, Tls
from servers.ports import HOST
from servers.process import Server, started
from servers.redis_server import RedisServer
from servers.zookeeper_server import ZooKeeperServer

__all__ = [
    "HOST",
    "SERVERS",
    "EtcdServer",
    "RedisServer",
    "Server",
    "Tls",
    "ZooKeeperServer",
    "etcd_server",
    "redis_server",
    "running",
    "server",
    "started",
    "zookeeper_server",
]


@contextlib.contextmanager
def running(server: Server) -> Iterator[Server]:
    """Run a server; at the end it is stopped and its folder deleted."""
    try:
        server.start()
        yield server
    finally:
        server.close()


@contextlib.contextmanager
def redis_server(
    *, appendonly: bool = True, password: str | None = None, options: Sequence[str] = ()
) -> Iterator[Server]:
    """Run a Redis; ``options`` are command line words (``"--maxmemory", "10mb"``)."""
    made = RedisServer(appendonly=appendonly, password=password, options=options)
    with running(made) as server:
        yield server


@contextlib.contextmanager
def zookeeper_server(
    *, tick_ms: int = 500, options: Mapping[str, str] | None = None, flags: Sequence[str] = ()
) -> Iterator[Server]:
    """Run a ZooKeeper; sessions last 2 to 20 ticks, ``options`` are lines of its zoo.cfg."""
    with running(ZooKeeperServer(tick_ms=tick_ms, options=options, flags=flags)) as server:
        yield server


@contextlib.contextmanager
def etcd_server(*, tls: Tls | None = None, options: Sequence[str] = ()) -> Iterator[Server]:
    """Run an etcd of one member; ``options`` are command line words."""
    with running(EtcdServer(tls=tls, options=options)) as server:
        yield server


#: The stores that can be had by name.
SERVERS: Mapping[str, Callable[[], contextlib.AbstractContextManager[Server]]] = {
    "redis": redis_server,
    "zookeeper": zookeeper_server,
    "etcd": etcd_server,
}


def server(name: str) -> contextlib.AbstractContextManager[Server]:
    """Run the store called ``name`` with its defaults."""
    if name not in SERVERS:
        raise ValueError(f"no server {name!r}; there are {', '.join(sorted(SERVERS))}")
    return SERVERS[name]()
