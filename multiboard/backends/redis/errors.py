# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""What the errors of ``redis`` and the refusals of a server mean, in errors of ours.

It imports the errors and ``redis``.
"""

from __future__ import annotations

import re

from redis import exceptions as native

from multiboard import errors
from multiboard.backends.redis.address import Address

_DENIED = (native.AuthenticationError, native.AuthorizationError, native.NoPermissionError)
_DENIED_TEXT = re.compile(
    r"\b(NOPERM|NOAUTH|WRONGPASS|DENIED)\b|unauthenticated"
    r"|can't run this command|can't access at least one|ACL failure in script"
)
#: The server refused before it ran anything. The message of a script has the code in its midst.
_REFUSED = (
    native.BusyLoadingError,
    native.ClusterError,
    native.OutOfMemoryError,
    native.ReadOnlyError,
    native.NoScriptError,
)
_REFUSED_TEXT = re.compile(
    r"\b(BUSY|LOADING|MISCONF|MASTERDOWN|READONLY|OOM|NOREPLICAS|CLUSTERDOWN|CROSSSLOT|TRYAGAIN"
    r"|MOVED|ASK|UNBLOCKED|UNKILLABLE)\b|max number of clients"
)
#: How a server ends a handshake that was well but for the client's certificate.
_CUT_OFF_TEXT = re.compile(r"EOF occurred|alert|reset by peer|Connection closed")
#: The server is not, or not any more, the one that takes the board's writes.
_NOT_MASTER_TEXT = re.compile(r"\b(READONLY|MASTERDOWN|CLUSTERDOWN|UNBLOCKED)\b")


#: What a server may reply to a handshake, in our words. Its own may repeat what it received:
#: "unknown command 'AUTH', with args beginning with: ..." does.
_HANDSHAKE_REPLIES = (
    (r"(?i)WRONGPASS|invalid (username|password)", "it refused the user or the password"),
    (r"(?i)NOAUTH|authentication required|unauthenticated", "it asks for a password"),
    (r"(?i)password (is set|configured)", "it was given a password, and has none for that user"),
    (r"(?i)wrong number of arguments", "it has passwords, and no users (Redis 6.0 has)"),
    (r"(?i)unknown command", "it refused a command of the handshake as unknown"),
    (r"(?i)NOPERM|no permissions?\b", "the user has not the right to connect and to select a db"),
    (r"(?i)protected mode", "it is in protected mode, and serves its own machine only"),
    (r"(?i)max number of clients", "max number of clients reached"),
    (r"(?i)DB index", "it has no database of that number"),
    (r"(?i)LOADING", "it is loading its data"),
)


class WrongTypeError(errors.BackendError):
    """A key of the board holds something else than the board put there; nothing changed."""


class NotMasterError(errors.Unavailable):
    """The server refused, since it is not the master of the board; nothing changed."""


class MovedError(errors.Unavailable):
    """The server named another one, which has the board; nothing changed."""

    def __init__(self, text: str, host: str, port: int) -> None:
        super().__init__(text)
        self.host = host
        self.port = port


def translate_error(
    address: Address, error: Exception, *, sent: bool, read_only: bool
) -> errors.BackendError:
    """Return what a native error means that was raised after the handshake.

    Nothing is masked in its text: no password is sent then, and a gap would show what was.
    """
    native_text = str(error) or type(error).__name__
    text = f"{address}: {native_text}"
    if isinstance(error, native.MovedError):
        host, port = error.host or address.host, int(error.port)
        text = f"{address}: the board is on {host}:{port}, another node of a Redis Cluster: a URL"
        return MovedError(f"{text} redis+cluster://... finds it there", host, port)
    if isinstance(error, (native.AskError, native.TryAgainError)):
        return errors.Unavailable(
            f"{address}: the board is on its way to another node of the Redis Cluster"
        )
    if "WRONGTYPE" in native_text:
        return WrongTypeError(text)
    if isinstance(error, _DENIED) or _DENIED_TEXT.search(native_text):
        return errors.AccessDenied(text)
    # redis-py takes the code off the message of an error that has a class of its own: hence both.
    not_master = isinstance(error, (native.ReadOnlyError, native.MasterDownError))
    if (
        not_master
        or isinstance(error, native.ClusterDownError)
        or _NOT_MASTER_TEXT.search(native_text)
    ):
        return NotMasterError(text)
    if isinstance(error, _REFUSED) or _REFUSED_TEXT.search(native_text):
        return errors.Unavailable(text)
    return errors.Indeterminate(text) if sent and not read_only else errors.Unavailable(text)


def translate_handshake_error(
    address: Address, error: Exception
) -> tuple[errors.BackendError, BaseException]:
    """Return what an error of connecting means, and a cause that repeats nothing that was sent."""
    failure, cause = _without_what_was_sent(address, error)
    if address.tls and _CUT_OFF_TEXT.search(str(cause)):
        failure = errors.Unavailable(
            f"{failure} Maybe the server wants a client's certificate that it trusts"
            " (tls_cert, tls_key)."
        )
    return failure, cause


def _without_what_was_sent(
    address: Address, error: Exception
) -> tuple[errors.BackendError, BaseException]:
    meant = translate_error(address, error, sent=False, read_only=True)
    if isinstance(error, OSError) or type(error) in (native.ConnectionError, native.TimeoutError):
        return meant, error  # no reply is in these
    name, text = type(error).__name__, str(error)
    words = next((words for pattern, words in _HANDSHAKE_REPLIES if re.search(pattern, text)), None)
    words = words or f"the handshake failed ({name})"
    kind = next(
        kind
        for kind in (errors.AccessDenied, NotMasterError, errors.Unavailable)
        if isinstance(meant, kind) or kind is errors.Unavailable
    )
    denied = isinstance(error, _DENIED)
    cause = native.AuthenticationError(words) if denied else native.ConnectionError(words)
    return kind(f"{address}: {words}"), cause
