# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""An etcd that requires a password, with each kind of token, and what its administrator does."""

from __future__ import annotations

import base64
import contextlib
import pathlib
from collections.abc import Iterator
from typing import Any

import servers

from tests.certificates import Authority

SECRET = "s3cret-word"
KINDS = ("simple", "jwt")


class Admin:
    """Changes accounts, as root, through the server's JSON gateway."""

    def __init__(self, server: servers.EtcdServer) -> None:
        self.server = server
        self.port = server.port
        self._token = ""

    def ask(self, path: str, **body: object) -> dict[str, Any]:
        """Ask for a change of the accounts, which must be made."""
        self._sign_in()
        answer = self.server.ask("POST", f"/v3/auth/{path}", body, token=self._token)
        assert "error" not in answer, answer
        return answer

    def _sign_in(self) -> None:
        answer = self.server.ask(
            "POST", "/v3/auth/authenticate", {"name": "root", "password": SECRET}
        )
        self._token = str(answer.get("token", ""))

    def grant(self, prefix: str, kind: str = "READWRITE") -> None:
        """Let those who have the role use all keys that begin so."""
        self.ask("role/grant", name="boards", perm={"permType": kind, **_range(prefix)})

    def revoke(self, prefix: str) -> None:
        """Take that back."""
        self.ask("role/revoke", role="boards", **_range(prefix))


def _range(prefix: str) -> dict[str, str]:
    end = prefix[:-1] + chr(ord(prefix[-1]) + 1)
    begin, behind = (base64.b64encode(key.encode()).decode() for key in (prefix, end))
    return {"key": begin, "range_end": behind}


@contextlib.contextmanager
def locked_server(kind: str, folder: pathlib.Path) -> Iterator[Admin]:
    """Start an etcd where the user "me" may use the boards and nothing else."""
    options = ["--bcrypt-cost", "4"]
    if kind == "jwt":
        pair = Authority(folder).issue("tokens", "DNS:tokens")
        words = (f"pub-key={pair.path}", f"priv-key={pair.key}", "sign-method=ES256", "ttl=10m")
        options += ["--auth-token", ",".join(("jwt", *words))]
    with servers.etcd_server(options=options) as running:
        assert isinstance(running, servers.EtcdServer)
        admin = Admin(running)
        admin.ask("user/add", name="root", password=SECRET)
        admin.ask("role/add", name="root")
        admin.ask("user/grant", user="root", role="root")
        admin.ask("user/add", name="me", password=SECRET)
        admin.ask("role/add", name="boards")
        admin.grant("/multiboard/")
        admin.ask("user/grant", user="me", role="boards")
        admin.ask("enable")
        yield admin
