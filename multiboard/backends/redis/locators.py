# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The locator that the settings ask for: one server, sentinels, or a cluster.

It imports the settings and the locators.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from multiboard import errors, primitives
from multiboard.backends.redis.address import Address
from multiboard.backends.redis.cluster import ClusterLocator
from multiboard.backends.redis.sentinel import SentinelLocator
from multiboard.backends.redis.settings import PORT, SENTINEL_PORT, RedisSettings
from multiboard.backends.redis.topology import ServerLocator, SingleServer


def locator_factory(settings: RedisSettings, key: str) -> Callable[[], ServerLocator]:
    """Return what makes the locator for the server of the key, one for each process.

    Raises: ``ConfigError``.
    """
    if settings.socket is not None:
        alone = _address(settings, "", 0)
        return lambda: SingleServer(alone)
    if not settings.hosts:
        raise errors.ConfigError("redis: give a host, as host:port")
    port = PORT if settings.master is None else SENTINEL_PORT
    hosts = [primitives.parse_address(host, port) for host in settings.hosts]
    if settings.master is not None:
        name, server = settings.master, _address(settings, "", 0)
        sentinels = [_sentinel(settings, *host) for host in hosts]
        return lambda: SentinelLocator(sentinels, name, server)
    addresses = [_address(settings, *host) for host in hosts]
    if settings.cluster:
        return lambda: ClusterLocator(addresses, key)
    if len(addresses) != 1:
        raise errors.ConfigError(
            "redis: give one host, as host:port; several need 'master' (they are sentinels) or"
            " 'cluster' (they are nodes)"
        )
    return lambda: SingleServer(addresses[0])


def _address(settings: RedisSettings, host: str, port: int) -> Address:
    shared = {field.name for field in dataclasses.fields(Address)} - {"host", "port"}
    return Address(host=host, port=port, **{name: getattr(settings, name) for name in shared})


def _sentinel(settings: RedisSettings, host: str, port: int) -> Address:
    return dataclasses.replace(
        _address(settings, host, port),
        db=0,
        username=settings.sentinel_username,
        password=settings.sentinel_password,
    )
