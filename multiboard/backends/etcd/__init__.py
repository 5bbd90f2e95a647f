# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The board in etcd."""

from multiboard.backends.etcd.backend import EtcdBackend
from multiboard.backends.etcd.settings import EtcdSettings

__all__ = ["EtcdBackend", "EtcdSettings"]
