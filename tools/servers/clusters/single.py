# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""A store of one server, or of none, to which the faults of clusters are done all the same."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import tempfile
import time
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
        return f"sqlite://{self._path}"

    def in_step(self) -> bool:
        return True

    def faults(self) -> Mapping[str, Callable[[], None]]:
        return {}

    def back_up(self, folder: str) -> None:
        self._settled()
        shutil.copyfile(self._path, os.path.join(folder, "board.db"))

    def put_back(self, folder: str) -> None:
        self._settled()
        shutil.copyfile(os.path.join(folder, "board.db"), self._path)  # in place, as it is open

    @property
    def _path(self) -> str:
        return os.path.join(self._folder.name, "board.db")

    def _settled(self) -> None:
        """Have all that is in the log written into the file, and the log emptied."""
        with contextlib.closing(sqlite3.connect(self._path, timeout=10.0)) as connection:
            while connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
                time.sleep(0.01)  # somebody reads this very moment

    def close(self) -> None:
        self._folder.cleanup()
