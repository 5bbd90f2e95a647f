# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The board in ZooKeeper."""

from multiboard.backends.zookeeper.backend import ZooKeeperBackend

__all__ = ["ZooKeeperBackend"]
