# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Stores of several servers, for tests that kill the one that leads.

::

    with clusters.running(clusters.cluster("redis+sentinel")) as cluster:
        cluster.url, cluster.faults()["master killed"](), cluster.heal()

A new one is a file beside this one and a line in :data:`CLUSTERS`. The package imports the standard
library and the servers only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from servers.clusters.base import Cluster, running
from servers.clusters.redis_cluster import RedisCluster
from servers.clusters.redis_sentinel import RedisSentinel

__all__ = ["CLUSTERS", "Cluster", "RedisCluster", "RedisSentinel", "cluster", "running"]

#: The stores that can be had by name.
CLUSTERS: Mapping[str, Callable[[], Cluster]] = {
    "redis+sentinel": RedisSentinel,
    "redis+cluster": RedisCluster,
}


def cluster(name: str) -> Cluster:
    """Make the cluster called ``name``; nothing runs yet."""
    if name not in CLUSTERS:
        raise ValueError(f"no cluster {name!r}; there are {', '.join(sorted(CLUSTERS))}")
    return CLUSTERS[name]()
