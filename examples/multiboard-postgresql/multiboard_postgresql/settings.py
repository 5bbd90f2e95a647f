# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The options of a board in PostgreSQL, and what its URLs mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from multiboard import errors
from multiboard.primitives import Settings, Url, setting


@dataclass(frozen=True, kw_only=True)
class PostgreSQLSettings(Settings):
    """Where the server is, and the role by which to log in."""

    host: str = setting("localhost", help="The server's host, or the folder of its socket.")
    port: int = setting(5432, help="The server's port.", minimum=1, maximum=65535)
    user: str | None = setting(None, help="The role; by default that of this process.")
    password: str | None = setting(None, help="The role's password.", secret=True)
    dbname: str = setting("postgres", help="The database; its schema 'multiboard' is used.")
    sslmode: str = setting(
        "prefer",
        help="Whether to encrypt and what to verify, as in libpq.",
        choices=("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
    )


def from_url(url: Url) -> Mapping[str, Any]:
    """``postgresql://user:password@host:port/dbname``; each part may be left out."""
    if len(url.hosts) > 1:
        raise errors.ConfigError(f"{url.scheme}: takes one host")
    host, port = url.hosts[0] if url.hosts else (None, None)
    found = {
        "host": host,
        "port": port,
        "user": url.username,
        "password": url.password,
        "dbname": url.path.strip("/"),
    }
    return {name: value for name, value in found.items() if value}
