# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The board in ZooKeeper."""

from multiboard.backends.zookeeper.backend import ZooKeeperBackend
from multiboard.backends.zookeeper.settings import ZooKeeperSettings

__all__ = ["ZooKeeperBackend", "ZooKeeperSettings"]
