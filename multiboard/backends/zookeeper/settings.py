# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The options of a board in ZooKeeper, and what a URL means for them.

This module imports the primitives, the errors and its own siblings.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from multiboard import errors, primitives
from multiboard.backends.zookeeper.access import DIGEST, OPEN, SASL, Access

PORT = 2181


@dataclass(frozen=True, kw_only=True)
class ZooKeeperSettings(primitives.TlsSettings):
    """The options of ``zookeeper://`` and ``zookeeper+tls://``."""

    tls_url = "zookeeper+tls://"

    hosts: tuple[str, ...] = primitives.setting(
        ("localhost:2181",), help="The servers of the ensemble, each as host:port."
    )
    root: str = primitives.setting(
        "/multiboard", help="The path of the node under which the boards are."
    )
    username: str | None = primitives.setting(None, help="The user, for 'acl'.")
    password: str | None = primitives.setting(None, help="The user's password.", secret=True)
    acl: str | None = primitives.setting(
        None,
        help="Who may touch the boards made here: 'open' is anybody; 'digest' is whoever gives "
        "this username and password; 'sasl' is this user, whom the servers know (DIGEST-MD5). "
        "By default 'digest' where there is a username, and 'open' otherwise.",
        choices=(OPEN, DIGEST, SASL),
    )

    def check(self) -> None:
        super().check()
        if not re.fullmatch(r"/|(/[^/\0\s]+)+", self.root) or re.search(r"/\.\.?(/|$)", self.root):
            raise errors.ConfigError(f"zookeeper: the root {self.root!r} is no path")
        if not self.hosts:
            raise errors.ConfigError("zookeeper: at least one host is needed")
        self.addresses  # noqa: B018 - each is parsed
        self.access.check()
        if (self.tls_cert is None) != (self.tls_key is None):
            raise errors.ConfigError("zookeeper: tls_cert and tls_key go together")

    @property
    def addresses(self) -> list[str]:
        """The servers, each with its port."""
        parsed = [primitives.parse_address(text, PORT) for text in self.hosts]
        return [primitives.format_address(host, port) for host, port in parsed]

    @property
    def patience(self) -> float:
        """The seconds that one request waits for its reply.

        It is half of what a whole operation may take: a lost reply leaves time for a retry.
        """
        return min(self.connect_timeout, self.operation_timeout / 2)

    @property
    def access(self) -> Access:
        """The credentials, the access control list and TLS."""
        return Access(
            username=self.username,
            password=self.password,
            acl=self.acl or (OPEN if self.username is None else DIGEST),
            tls={
                "use_ssl": True,
                "ca": self.tls_ca,
                "certfile": self.tls_cert,
                "keyfile": self.tls_key,
                "verify_certs": self.tls_verify,
                "check_hostname": self.tls_verify,  # kazoo's default is not to
            }
            if self.tls
            else {},
        )


def options_of(url: primitives.Url) -> Mapping[str, Any]:
    """Return the options that the scheme, the hosts, the user and the path of a URL mean."""
    found: dict[str, Any] = {"username": url.username or None, "password": url.password}
    if url.scheme == "zookeeper+tls":
        found["tls"] = True
    if url.hosts:
        found["hosts"] = url.addresses(PORT)
    if url.path not in ("", "/"):
        found["root"] = url.node()
    return found
