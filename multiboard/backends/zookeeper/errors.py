# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""What each error of kazoo means: in one place.

:func:`translate_error` turns kazoo's errors into the project's. The errors of this module's own
stay inside the backend. It imports kazoo and the errors of the project.
"""

from __future__ import annotations

from kazoo import exceptions as kz

from multiboard import errors

NoNode: type[Exception] = kz.NoNodeError
NodeExists: type[Exception] = kz.NodeExistsError
NotEmpty: type[Exception] = kz.NotEmptyError
#: The server does not support the request.
Unimplemented: type[Exception] = kz.UnimplementedError
#: The replies that are about nodes: they are the caller's matter, and nothing was applied.
ABOUT_NODES = (
    kz.NoNodeError,
    kz.NodeExistsError,
    kz.BadVersionError,
    kz.NotEmptyError,
    kz.NoChildrenForEphemeralsError,
    kz.UnimplementedError,
)
#: What a transaction shows in the place of the operations that were not the cause.
NOT_THE_CAUSE = (kz.RolledBackError, kz.RuntimeInconsistency)


class NotSent(kz.ConnectionLoss):  # type: ignore[misc]
    """The connection was lost while the request was still waiting to be sent."""


class SessionOver(Exception):
    """The client's session has ended; a new client is needed."""


class BoardGone(Exception):
    """The board is no longer in the store, as most of its servers agree."""


class HandshakeRefused(Exception):
    """Servers accept the connection and break it off: they may be behind what the client saw."""


#: The server refused it, or it was never sent: surely not applied.
_NOT_APPLIED = (
    NotSent,
    kz.SessionExpiredError,
    kz.SessionMovedError,
    kz.NotReadOnlyCallError,
    kz.ThrottledOpError if hasattr(kz, "ThrottledOpError") else kz.SessionMovedError,
)
_DENIED = (kz.NoAuthError, kz.AuthFailedError, kz.InvalidACLError)


def translate_error(
    error: Exception, *, servers: str, refusal: str, write: bool, closed: bool, denied: bool
) -> errors.MultiboardError:
    """Return the project's error for one of kazoo's that is not about nodes.

    A write may have been applied unless the error excludes it; a read changes nothing. ``refusal``
    is what it means that the servers deny access. ``closed`` means that the board was closed, and
    ``denied`` that the servers did not accept the credentials.
    """
    if isinstance(error, errors.MultiboardError):
        return error
    kind: type[errors.MultiboardError]
    harmless = not write or isinstance(error, _NOT_APPLIED)
    if closed and harmless:
        kind = errors.Closed
    elif isinstance(error, _DENIED) or (denied and isinstance(error, NotSent)):
        kind = errors.AccessDenied
    elif harmless:
        kind = errors.Unavailable
    elif isinstance(error, kz.ZookeeperError) and not isinstance(
        error, (kz.ConnectionLoss, kz.OperationTimeoutError)
    ):
        kind = errors.BackendError
    else:
        kind = errors.Indeterminate
    text = refusal if kind is errors.AccessDenied else str(error) or type(error).__name__
    translated = kind(f"ZooKeeper at {servers}: {text}")
    translated.__cause__ = error
    return translated
