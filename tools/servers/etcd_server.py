# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""etcd, of one member unless it is given the others."""

from __future__ import annotations

import contextlib
import http.client
import json
import ssl
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from servers.ports import free_port
from servers.process import Server, program


class Tls(NamedTuple):
    """Files for a server: its certificate and key, and the authority of its clients."""

    certificate: str
    key: str
    authority: str


class EtcdServer(Server):
    """An etcd member."""

    name = "etcd"

    def __init__(
        self,
        *,
        member: str = "one",
        peers: Mapping[str, int] | None = None,
        listens: int | None = None,
        tls: Tls | None = None,
        options: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self._program = program("etcd", "etcd-server")
        self.member = member
        #: Port of each member for the other members, and where this one listens for them if that
        #: is another one.
        self._peers = dict(peers or {member: free_port()})
        self._listens = listens or self._peers[member]
        self._tls = tls
        self._options = list(options)

    @property
    def url(self) -> str:
        return f"etcd{'' if self._tls is None else '+https'}://{self.host}:{self.port}"

    def _command(self) -> list[str]:
        client = f"http{'' if self._tls is None else 's'}://{self.host}:{self.port}"
        peers = {name: f"http://{self.host}:{port}" for name, port in self._peers.items()}
        peer = peers[self.member]
        command = [self._program, "--name", self.member, "--data-dir", self._data]
        command += ["--listen-client-urls", client, "--advertise-client-urls", client]
        command += ["--listen-peer-urls", f"http://{self.host}:{self._listens}"]
        command += ["--initial-advertise-peer-urls", peer]
        everyone = ",".join(f"{name}={url}" for name, url in peers.items())
        command += ["--initial-cluster", everyone]
        if self._tls is not None:
            command += ["--cert-file", self._tls.certificate, "--key-file", self._tls.key]
            command += ["--trusted-ca-file", self._tls.authority, "--client-cert-auth"]
        return [*command, *self._options]

    def _answers(self) -> bool:
        # A member of several serves before it knows a leader, and is not healthy before.
        health = self.ask("GET", "/health") if len(self._peers) == 1 else {"health": "true"}
        if health.get("health") != "true":
            return False
        self.version = str(self.ask("GET", "/version")["etcdserver"])
        return True

    def ask(
        self, method: str, path: str, body: object = None, *, token: str = ""
    ) -> dict[str, object]:
        """Return what the server answers to a request, by its JSON gateway.

        ``token`` is what it gave to somebody who authenticated.

        Raises: ``OSError``.
        """
        connection: http.client.HTTPConnection
        if self._tls is None:
            connection = http.client.HTTPConnection(self.host, self.port, timeout=1.0)
        else:
            context = ssl.create_default_context(cafile=self._tls.authority)
            context.load_cert_chain(self._tls.certificate, self._tls.key)
            context.check_hostname = False
            connection = http.client.HTTPSConnection(
                self.host, self.port, timeout=1.0, context=context
            )
        with contextlib.closing(connection):
            data = None if body is None else json.dumps(body)
            try:
                headers = {"Authorization": token} if token else {}
                connection.request(method, path, data, headers)
                answer = json.load(connection.getresponse())
            except (http.client.HTTPException, ValueError) as error:
                raise OSError(f"no answer: {error}") from error
        return dict(answer)
