# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The board in a Redis server, behind sentinels or in a cluster."""

from multiboard.backends.redis.backend import RedisBackend
from multiboard.backends.redis.settings import RedisSettings

__all__ = ["RedisBackend", "RedisSettings"]
