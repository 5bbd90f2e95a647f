# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The user that a client is, who may touch the nodes that it makes, and TLS.

This module imports kazoo and the errors.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kazoo import security

from multiboard import errors

OPEN, DIGEST, SASL = "open", "digest", "sasl"


@dataclass(frozen=True, kw_only=True)
class Access:
    """How the servers are reached, by which user, and for whom the nodes are.

    With ``digest`` a user is anybody who has the password: a wrong one makes another user, whom the
    server lets in and to whom it denies the nodes. With ``sasl`` the server has a list of its
    users, and refuses a wrong password.
    """

    username: str | None = None
    password: str | None = field(default=None, repr=False)
    acl: str = OPEN
    #: kazoo's options for TLS; none where it is not used.
    tls: Mapping[str, Any] = field(default_factory=dict)

    def check(self) -> None:
        """Refuse what does not fit together.

        Raises: ``ConfigError``, without the password.
        """
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

    @property
    def nodes(self) -> Sequence[Any]:
        """The access control list of the nodes that are made."""
        nodes: Sequence[Any] = (
            security.OPEN_ACL_UNSAFE if self.acl == OPEN else security.CREATOR_ALL_ACL
        )
        return nodes

    @property
    def options(self) -> dict[str, Any]:
        """The options for kazoo's client."""
        options = dict(self.tls)
        if self.acl == SASL:
            options["sasl_options"] = {
                "mechanism": "DIGEST-MD5",
                "username": self.username,
                "password": self.password,
            }
        elif self.username is not None:
            options["auth_data"] = [("digest", f"{self.username}:{self.password}")]
        return options

    @property
    def refusal(self) -> str:
        """What it may mean that the server denies something."""
        if self.username is None:
            return "access denied: the board is for users with a password, and none was given"
        return (
            f"access denied to the user {self.username!r}: the password is wrong, or the board is"
            " another user's"
        )
