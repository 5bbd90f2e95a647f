# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Where a Redis server is, and what a client presents there. It imports the primitives only."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from multiboard import primitives


@dataclass(frozen=True, kw_only=True)
class Address:
    """Where a server is, and the credentials for it."""

    host: str
    port: int
    socket: str | None
    db: int
    username: str | None
    password: str | None = dataclasses.field(repr=False)
    tls: bool
    tls_ca: str | None
    tls_cert: str | None
    tls_key: str | None
    tls_verify: bool

    def __str__(self) -> str:
        if self.socket is not None:
            return f"unix://{self.socket}"
        return f"{'rediss' if self.tls else 'redis'}://{self.place}"

    @property
    def place(self) -> str:
        """The host and the port."""
        return primitives.format_address(self.host, self.port)
