# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Stores of several servers, for tests that kill the one that leads.

::

    with clusters.running(clusters.cluster("zookeeper")) as cluster:
        cluster.url, cluster.faults()["leader killed"](), cluster.heal()

A new one is a file beside this one and a line in :data:`CLUSTERS`; the fault tests and ``make
soak`` run it from then on. The package imports the standard library and the servers only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from servers.clusters.base import Cluster, running
from servers.clusters.etcd_cluster import EtcdCluster
from servers.clusters.redis_cluster import RedisCluster
from servers.clusters.redis_sentinel import RedisSentinel
from servers.clusters.redis_single import SingleRedis
from servers.clusters.single import File, SingleServer
from servers.clusters.zookeeper_ensemble import ZooKeeperEnsemble

__all__ = [
    "CLUSTERS",
    "Cluster",
    "EtcdCluster",
    "File",
    "RedisCluster",
    "RedisSentinel",
    "SingleRedis",
    "SingleServer",
    "ZooKeeperEnsemble",
    "cluster",
    "running",
]


#: The stores that can be had by name, those of one server beside those of several.
CLUSTERS: Mapping[str, Callable[[], Cluster]] = {
    "zookeeper": ZooKeeperEnsemble,
    "etcd": lambda: EtcdCluster(accounts=True),
    "redis+sentinel": RedisSentinel,
    "redis+cluster": RedisCluster,
    "redis": SingleRedis,
    "sqlite": File,
}


def cluster(name: str) -> Cluster:
    """Make the cluster called ``name``; nothing runs yet."""
    if name not in CLUSTERS:
        raise ValueError(f"no cluster {name!r}; there are {', '.join(sorted(CLUSTERS))}")
    return CLUSTERS[name]()
