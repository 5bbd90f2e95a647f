# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Start a real etcd, beside the stores of :mod:`servers`: TaskFlow's etcd board is judged on it.

Imports the standard library and :mod:`servers` only.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
from collections.abc import Iterator

import servers


class EtcdServer(servers.Server):
    """An etcd of one member."""

    name = "etcd"

    def __init__(self) -> None:
        super().__init__()
        self._program = servers._program("etcd", "etcd-server")
        self._peer_port = servers._free_port()

    @property
    def url(self) -> str:
        return f"etcd://{self.host}:{self.port}"

    def _command(self) -> list[str]:
        client = f"http://{self.host}:{self.port}"
        peer = f"http://{self.host}:{self._peer_port}"
        command = [self._program, "--name", "one", "--data-dir", os.path.join(self.folder, "etcd")]
        command += ["--listen-client-urls", client, "--advertise-client-urls", client]
        command += ["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer]
        return [*command, "--initial-cluster", f"one={peer}"]

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=1.0)
        with contextlib.closing(connection):
            connection.request("GET", "/health")
            if connection.getresponse().status != 200:
                return False
        with contextlib.closing(connection):
            connection.request("GET", "/version")
            self.version = json.load(connection.getresponse())["etcdserver"]
        return True


@contextlib.contextmanager
def etcd_server() -> Iterator[servers.Server]:
    """Run an etcd."""
    with servers._running(EtcdServer()) as server:
        yield server
