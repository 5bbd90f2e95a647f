# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""etcd, of one member."""

from __future__ import annotations

import contextlib
import http.client
import json

from servers.process import Server, free_port, program


class EtcdServer(Server):
    """An etcd of one member."""

    name = "etcd"

    def __init__(self) -> None:
        super().__init__()
        self._program = program("etcd", "etcd-server")
        self._peer_port = free_port()

    @property
    def url(self) -> str:
        return f"etcd://{self.host}:{self.port}"

    def _command(self) -> list[str]:
        client = f"http://{self.host}:{self.port}"
        peer = f"http://{self.host}:{self._peer_port}"
        command = [self._program, "--name", "one", "--data-dir", self._data]
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
