# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""A store of one server, or of none, to which the faults of clusters are done all the same."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from urllib.parse import urlsplit

from servers.clusters.base import Cluster
from servers.process import Server


class SingleServer(Cluster):
    """One server: there is nobody to take over, so every fault of it is an outage."""

    def __init__(self, server: Server) -> None:
        super().__init__()
        self.name = server.name
        self.members.append(server)

    @property
    def url(self) -> str:
        return self.members[0].url

    def url_through(self, addresses: Sequence[tuple[str, int]]) -> str | None:
        split = urlsplit(self.url)
        user, at, _ = split.netloc.rpartition("@")
        hosts = ",".join(f"{host}:{port}" for host, port in addresses)
        return split._replace(netloc=f"{user}{at}{hosts}").geturl()

    def in_step(self) -> bool:
        return self.members[0].serves()

    def faults(self) -> Mapping[str, Callable[[], None]]:
        server = self.members[0]
        return {"server killed": server.kill, "server frozen": server.pause}


class File(Cluster):
    """A file: no server, and no fault but those of its users."""

    name = "sqlite"

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory(prefix="multiboard-file-")

    @property
    def url(self) -> str:
        return f"sqlite://{self._folder.name}/board.db"

    def in_step(self) -> bool:
        return True

    def faults(self) -> Mapping[str, Callable[[], None]]:
        return {}

    def close(self) -> None:
        self._folder.cleanup()
