# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""One Redis that is used by an account whose rights are taken and given back."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from servers.clusters.base import until
from servers.clusters.redis_member import ask, so
from servers.clusters.single import SingleServer
from servers.redis_server import RedisServer

_USER, _PASSWORD = "worker", "of-the-faults"
#: Commands that the board's scripts call between others.
_TAKEN = ("hset", "zadd")


class SingleRedis(SingleServer):
    """A Redis that keeps what it acknowledged, and an account that may lose rights."""

    def __init__(self) -> None:
        # Without "always", a write that was acknowledged waits in memory for up to a second.
        account = ("--user", _USER, "on", f">{_PASSWORD}", "~*", "&*", "+@all")
        super().__init__(RedisServer(options=("--appendfsync", "always", *account)))

    @property
    def url(self) -> str:
        return super().url.replace("://", f"://{_USER}:{_PASSWORD}@")

    def disturbances(self) -> Mapping[str, Callable[[], None]]:
        return {"rights taken": self._take_rights}

    def heal(self) -> None:
        super().heal()
        until(so(lambda: self._set("+")), "the rights were not given back")

    def _take_rights(self) -> None:
        self._set("-")

    def _set(self, sign: str) -> bool:
        rules = [f"{sign}{name}" for name in _TAKEN]
        return bool(ask(self.members[0], "ACL", "SETUSER", _USER, *rules))
