# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The options of a board in Redis, and what its URLs mean.

It imports the primitives and the errors.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from multiboard import errors, primitives
from multiboard.primitives import Url

PORT, SENTINEL_PORT = 6379, 26379
_LOCAL = ("localhost:6379",)
#: Form of the URL by its scheme: '', 'sentinel' or 'cluster', and whether it means TLS.
SCHEMES = {
    "redis": ("", False),
    "rediss": ("", True),
    "redis+sentinel": ("sentinel", False),
    "rediss+sentinel": ("sentinel", True),
    "redis+cluster": ("cluster", False),
    "rediss+cluster": ("cluster", True),
}


@dataclass(frozen=True, kw_only=True)
class RedisSettings(primitives.TlsSettings):
    """The options of every form of a Redis URL. TLS is for sentinels as for servers."""

    tls_url = "rediss://, rediss+sentinel://, rediss+cluster://"

    hosts: tuple[str, ...] = primitives.setting(
        _LOCAL,
        help="The server, as host:port; an IPv6 address as [address]:port. With 'master' the "
        "sentinels, with 'cluster' some of the nodes: any that replies will do.",
    )
    socket: str | None = primitives.setting(
        None, help="Path of the server's Unix socket, used instead of a host."
    )
    master: str | None = primitives.setting(
        None, help="The master's name at the sentinels; none: no sentinels."
    )
    cluster: bool = primitives.setting(
        False, help="Whether the hosts are nodes of a Redis Cluster."
    )
    db: int = primitives.setting(
        0, help="Number of the database; a cluster has only number 0.", minimum=0
    )
    username: str | None = primitives.setting(None, help="The ACL user; none: the default user.")
    password: str | None = primitives.setting(None, help="The user's password.", secret=True)
    sentinel_username: str | None = primitives.setting(
        None, help="The ACL user at the sentinels; none: the default user."
    )
    sentinel_password: str | None = primitives.setting(
        None, help="The password at the sentinels, which is not the servers'.", secret=True
    )
    prefix: str = primitives.setting(
        "multiboard", help="What the name of every key in the server begins with."
    )
    durability: str = primitives.setting(
        "none",
        help="'none', or 'wait:N': what changes the board succeeds when N replicas have it too, "
        "and is indeterminate and repeated until then.",
    )

    def check(self) -> None:
        super().check()
        for user, password in ("username", "password"), ("sentinel_username", "sentinel_password"):
            if getattr(self, user) and not getattr(self, password):
                raise errors.ConfigError(
                    f"redis: {user} without {password}; a password alone stands behind a colon, as"
                    " in redis://:password@host, and a user who needs none may have any"
                )
        if self.master is not None and self.cluster:
            raise errors.ConfigError("redis: it is sentinels ('master') or a cluster, not both")
        if self.socket is not None and (self.master is not None or self.cluster):
            raise errors.ConfigError(
                "redis: a socket leads to one server: no sentinels, no cluster"
            )
        if self.socket is not None and self.tls:
            raise errors.ConfigError("redis: there is no TLS over a socket")
        if self.socket is not None and self.hosts != _LOCAL:
            raise errors.ConfigError("redis: it is a socket or a host, not both")
        if self.master is None and (self.sentinel_username or self.sentinel_password):
            raise errors.ConfigError(
                "redis: sentinel_username and sentinel_password are for sentinels, and there are"
                " none without 'master' or a URL redis+sentinel://h1,h2,h3/mymaster"
            )
        if self.cluster and self.db:
            raise errors.ConfigError("redis: a cluster has only database 0")


def replicas(settings: RedisSettings) -> int:
    """Return how many replicas must have what is acknowledged.

    Raises: ``ConfigError``.
    """
    found = re.fullmatch(r"none|wait:([1-9][0-9]?)", settings.durability, re.ASCII)
    if found is None:
        raise errors.ConfigError(
            f"redis: the durability is 'none' or 'wait:N' with N replicas, as in 'wait:1', not"
            f" {settings.durability!r}"
        )
    return int(found.group(1) or 0)


# -- URLs ------------------------------------------------------------------------------------


def from_url(url: Url) -> Mapping[str, Any]:
    """Return the settings that a URL means.

    Raises: ``ConfigError``.
    """
    found: dict[str, Any] = {"username": url.username or None, "password": url.password}
    if url.scheme == "unix":
        if url.hosts or url.path in ("", "/"):
            raise errors.ConfigError("a unix URL is unix:///PATH/TO/SOCKET, with no host")
        return {**found, "socket": url.path}
    form, tls = SCHEMES[url.scheme]
    found["tls"] = tls
    default = SENTINEL_PORT if form == "sentinel" else PORT
    if url.hosts:
        found["hosts"] = url.addresses(default)
    elif form:
        raise errors.ConfigError(f"a {url.scheme} URL names hosts: {url.scheme}://h1,h2,h3")
    if form == "sentinel":
        name = url.path.removeprefix("/")
        if not name or "/" in name:
            raise errors.ConfigError(
                f"the path of a {url.scheme} URL is the name of the master, as in"
                f" {url.scheme}://h1,h2,h3/mymaster; the database is an option: ?db=1"
            )
        return {**found, "master": name}
    if form == "cluster":
        if url.path not in ("", "/", "/0"):
            raise errors.ConfigError(
                f"a {url.scheme} URL has no path: a cluster has one database, and the board's name"
                " is an option: ?namespace=x"
            )
        return {**found, "cluster": True}
    if len(url.hosts) > 1:
        raise errors.ConfigError(
            f"a {url.scheme} URL names one host; several are sentinels"
            f" ({url.scheme}+sentinel://h1,h2,h3/mymaster) or nodes of a cluster"
            f" ({url.scheme}+cluster://h1,h2,h3)"
        )
    if url.path not in ("", "/"):
        if not re.fullmatch(r"/[0-9]+", url.path, re.ASCII):
            raise errors.ConfigError(
                f"the path of a {url.scheme} URL is the number of a database, as in /0"
            )
        found["db"] = int(url.path[1:])
    return found
