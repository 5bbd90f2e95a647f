# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The options of a board in etcd, and what its URLs mean.

This module imports the primitives and the errors.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from multiboard import errors, primitives

PORT = 2379
#: Seconds that an attempt may take at most, see ``clock.GRACE``.
LONGEST_ATTEMPT = 30.0


@dataclass(frozen=True, kw_only=True)
class EtcdSettings(primitives.TlsSettings):
    """The options of ``etcd://`` and ``etcd+https://``."""

    tls_url = "etcd+https://"

    hosts: tuple[str, ...] = primitives.setting(
        (f"localhost:{PORT}",),
        help="The members of the cluster, each as host:port; an IPv6 address as [address]:port.",
    )
    root: str = primitives.setting(
        "/multiboard", help="What the name of every key in the cluster begins with."
    )
    username: str | None = primitives.setting(
        None, help="The user, where the cluster asks for one."
    )
    password: str | None = primitives.setting(None, help="The user's password.", secret=True)

    def check(self) -> None:
        super().check()
        if not re.fullmatch(r"(/[^/\0\s]+)*/?", self.root):
            raise errors.ConfigError(f"etcd: the root {self.root!r} is not like /path/to/boards")
        if (self.username is None) != (self.password is None):
            raise errors.ConfigError("etcd: username and password go together")
        if not self.members:
            raise errors.ConfigError("etcd: at least one host is needed")

    @property
    def members(self) -> tuple[tuple[str, int], ...]:
        """The host and the port of each member.

        Raises: ``ConfigError``.
        """
        return tuple(primitives.parse_address(text, None) for text in self.hosts)

    @property
    def address(self) -> str:
        """What names the cluster in a message."""
        return ",".join(primitives.format_address(*member) for member in self.members)

    @property
    def attempt_timeout(self) -> float:
        """Seconds for one attempt: half of an operation's, so that a lost reply gets a second."""
        return min(self.connect_timeout, self.operation_timeout / 2, LONGEST_ATTEMPT)

    def tls_context(self) -> ssl.SSLContext | None:
        """Return the TLS context, or None for a connection without TLS.

        Raises: ``ConfigError`` for files that can't be used.
        """
        if not self.tls:
            return None
        try:
            context = ssl.create_default_context(cafile=self.tls_ca)
            if self.tls_cert is not None:
                context.load_cert_chain(self.tls_cert, self.tls_key)
        except (OSError, ssl.SSLError) as error:
            raise errors.ConfigError(f"etcd: the TLS files can't be used: {error}") from error
        if not self.tls_verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        context.set_alpn_protocols(["h2"])
        return context


def from_url(url: primitives.Url) -> Mapping[str, Any]:
    """Return the settings that a URL means; see :meth:`multiboard.primitives.Backend.from_url`."""
    found: dict[str, Any] = {"username": url.username or None, "password": url.password}
    if url.hosts:
        found["hosts"] = url.addresses(PORT)
    if url.path not in ("", "/"):
        found["root"] = url.node()
    return {**found, "tls": url.scheme.endswith("https")}
