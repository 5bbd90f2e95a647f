# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The board in etcd."""

from multiboard.backends.etcd.backend import EtcdBackend

__all__ = ["EtcdBackend"]
