# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Who the client is to the servers, who may touch what it makes, and whether all is encrypted.

This module imports kazoo and the errors.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from kazoo import security

from multiboard import errors

OPEN, DIGEST, SASL = "open", "digest", "sasl"


@dataclass(frozen=True, kw_only=True)
class Access:
    """How the servers are reached, as whom, and for whom the nodes are.

    With ``digest`` a user is whoever knows the password: a wrong one is another user, whom the
    server lets in and to whom it denies the nodes. With ``sasl`` the server knows its users, and
    turns a wrong password away.
    """

    username: str | None = None
    password: str | None = field(default=None, repr=False)
    acl: str = OPEN
    tls: bool = False
    tls_ca: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None
    tls_verify: bool = True

    def __post_init__(self) -> None:
        if (self.username is None) != (self.password is None):
            raise errors.ConfigError("zookeeper: username and password go together")
        if self.username is not None and (":" in self.username or not self.username):
            raise errors.ConfigError("zookeeper: a username has no ':' and is not empty")
        if self.acl != OPEN and self.username is None:
            raise errors.ConfigError(f"zookeeper: acl={self.acl} needs a username and a password")
        if self.acl == SASL and importlib.util.find_spec("puresasl") is None:
            raise errors.ConfigError(
                "zookeeper: acl=sasl needs the package 'pure-sasl', which is not installed:"
                " install multiboard[zookeeper-sasl]"
            )
        if (self.tls_cert is None) != (self.tls_key is None):
            raise errors.ConfigError("zookeeper: tls_cert and tls_key go together")

    @property
    def nodes(self) -> Sequence[Any]:
        """The access control list of the nodes that are made."""
        nodes: Sequence[Any] = (
            security.OPEN_ACL_UNSAFE if self.acl == OPEN else security.CREATOR_ALL_ACL
        )
        return nodes

    @property
    def options(self) -> dict[str, Any]:
        """What kazoo has to be told."""
        told: dict[str, Any] = {}
        if self.acl == SASL:
            told["sasl_options"] = {
                "mechanism": "DIGEST-MD5",
                "username": self.username,
                "password": self.password,
            }
        elif self.username is not None:
            told["auth_data"] = [("digest", f"{self.username}:{self.password}")]
        if self.tls:
            told.update(
                use_ssl=True,
                ca=self.tls_ca,
                certfile=self.tls_cert,
                keyfile=self.tls_key,
                verify_certs=self.tls_verify,
                check_hostname=self.tls_verify,  # kazoo does not, left to itself
            )
        return told

    @property
    def refusal(self) -> str:
        """What it may mean that the server denies something."""
        if self.username is None:
            return "access denied: the board is for users with a password, and none was given"
        return (
            f"access denied to the user {self.username!r}: the password is wrong, or the board is"
            " another user's"
        )
