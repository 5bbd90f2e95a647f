# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""What each error of an etcd server means, in one table.

The texts are those of ``rpctypes`` in etcd 3.4 to 3.8, all that a server may reply to the calls
that are made here; where the same error has different gRPC codes in different versions the text
is the same. This module imports the errors of the project.
"""

from __future__ import annotations

import enum

from multiboard import errors


class LeaseGone(Exception):
    """The etcd lease is not there; nothing was done."""


class Compacted(Exception):
    """The revision to be read is no longer kept; nothing was done."""


class TokenExpired(Exception):
    """The member requires a new token; nothing was done."""


class NativeError(Exception):
    """The error that etcd replied."""

    def __init__(self, status: int | None, message: str) -> None:
        super().__init__(f"{message or 'no message'} (gRPC status {status})")
        self.status = status
        self.message = message


class Meaning(enum.Enum):
    """What to do about an error."""

    LEASE_GONE = "the etcd lease is not there"
    COMPACTED = "the revision is not kept any more"
    AUTHENTICATE = "a new token is needed; nothing was done"
    DENIED = "AccessDenied; nothing was done"
    RETRY = "Unavailable; nothing was done"
    OTHER_MEMBER = "Unavailable, and another member may be able to; nothing was done"
    UNKNOWN = "Indeterminate where it writes, else Unavailable"
    REFUSED = "BackendError: a repeat would fail as well; nothing was done"


_M = Meaning
#: The first text that is found in the server's message decides.
TEXTS = {
    "requested lease not found": _M.LEASE_GONE,
    "required revision has been compacted": _M.COMPACTED,
    # Accounts. Tokens expire, and a change of any user or role makes JWT tokens too old. A client
    # that authenticated before authentication was turned on has no token.
    "invalid auth token": _M.AUTHENTICATE,
    "revision of auth store is old": _M.AUTHENTICATE,
    "revision in header is old": _M.AUTHENTICATE,
    "user name is empty": _M.AUTHENTICATE,
    "authentication failed": _M.DENIED,
    "permission denied": _M.DENIED,
    "user name not found": _M.DENIED,
    # Refused before the request is proposed to the other members.
    "too many requests": _M.RETRY,
    "raft proposal dropped": _M.RETRY,
    "required revision is a future revision": _M.RETRY,
    "watch canceled": _M.RETRY,
    "no leader": _M.OTHER_MEMBER,
    "not leader": _M.OTHER_MEMBER,
    "not capable": _M.OTHER_MEMBER,
    "rpc not supported for learner": _M.OTHER_MEMBER,
    # It may have been proposed. A member that finds its space used up while it applies a write
    # keeps what it wrote, and replies this all the same.
    "database space exceeded": _M.UNKNOWN,
    "leader changed": _M.UNKNOWN,
    "server stopped": _M.UNKNOWN,
    "request timed out": _M.UNKNOWN,
    "unhealthy cluster": _M.UNKNOWN,
    "request canceled": _M.UNKNOWN,
    "context deadline exceeded": _M.UNKNOWN,
    "trying to send message larger than max": _M.UNKNOWN,
    # An operator has to do something, or the request itself is wrong.
    "corrupt cluster": _M.REFUSED,
    "cluster ID mismatch": _M.REFUSED,
    "member not found": _M.REFUSED,
    "request is too large": _M.REFUSED,
    "received message larger than max": _M.REFUSED,
    "too large lease TTL": _M.REFUSED,
    "lease already exists": _M.REFUSED,
    "key is not provided": _M.REFUSED,
    "key not found": _M.REFUSED,
    "value is provided": _M.REFUSED,
    "lease is provided": _M.REFUSED,
    "too many operations in txn request": _M.REFUSED,
    "duplicate key given in txn request": _M.REFUSED,
    "invalid sort option": _M.REFUSED,
    "invalid client api version": _M.REFUSED,
    "invalid auth management": _M.REFUSED,
    "authentication is not enabled": _M.REFUSED,
}
#: For what is not in the table: the texts of a proxy, of gRPC, of a later etcd. Any other status
#: is UNKNOWN.
STATUSES = {
    3: _M.REFUSED,  # INVALID_ARGUMENT
    5: _M.REFUSED,  # NOT_FOUND
    7: _M.DENIED,  # PERMISSION_DENIED
    9: _M.REFUSED,  # FAILED_PRECONDITION
    12: _M.REFUSED,  # UNIMPLEMENTED
    16: _M.DENIED,  # UNAUTHENTICATED
}


def meaning(status: int | None, message: str) -> Meaning:
    """Return what a reply means."""
    for text, meant in TEXTS.items():
        if text in message:
            return meant
    return Meaning.UNKNOWN if status is None else STATUSES.get(status, Meaning.UNKNOWN)


def translate_error(
    status: int | None, message: str, where: str, *, write: bool, named: bool
) -> Exception:
    """Return the error that a reply stands for; ``where`` names what sent it.

    ``named``: the caller has a user name, and can authenticate.
    """
    native = NativeError(status, message)
    meant = meaning(status, message)
    made: Exception
    if meant is Meaning.LEASE_GONE:
        made = LeaseGone()
    elif meant is Meaning.COMPACTED:
        made = Compacted()
    elif meant is Meaning.AUTHENTICATE and named:
        made = TokenExpired()
    elif meant in (Meaning.AUTHENTICATE, Meaning.DENIED):
        made = errors.AccessDenied(f"{where} refused: {message}")
    elif meant in (Meaning.RETRY, Meaning.OTHER_MEMBER):
        made = errors.Unavailable(f"{where}: {message}")
    elif meant is Meaning.REFUSED:
        made = errors.BackendError(f"{where} refused: {message}")
    elif write:
        made = errors.Indeterminate(f"{where}: {native}")
    else:
        made = errors.Unavailable(f"{where}: {native}")
    made.__cause__ = native
    return made
