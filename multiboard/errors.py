# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Every error that multiboard raises.

::

    MultiboardError
    ├── BoardNotFound            the store has no such board, and none was to be made
    ├── PostingNotFound          no such posting on the shelf; nothing changed
    ├── PostingExists            another posting has that key; nothing changed
    ├── PostingTooLarge          body over ``max_body``; nothing was sent
    ├── LeaseHeld                somebody holds the lease; nothing changed
    ├── LeaseLost                the lease is not current any more; nothing changed
    ├── SessionLost              the session ended, and its session leases with it
    ├── Unsupported              the backend declares that it can't do this
    ├── Closed                   the backend was never opened, or was closed
    ├── InvalidArgument          an argument was refused before anything was sent (a ValueError)
    ├── ConfigError              a URL, an option or a backend name can't be used
    └── BackendError             the store did not do as asked
        ├── Unavailable          surely not applied: the operation may simply be repeated
        ├── Indeterminate        may have been applied: repeat it, or look
        ├── AccessDenied         the store refused the credentials or the right
        └── BoardLost            the store no longer holds the board that was opened

The store's own error is the ``__cause__``; it never escapes by itself. This module imports nothing
of the project.
"""

from __future__ import annotations

from collections.abc import Sequence

#: Names of boards that an error lists; of more it tells the number.
LISTED = 20


class MultiboardError(Exception):
    """Base of every error raised by multiboard."""


class BoardNotFound(MultiboardError):
    """The store has no board of this name and ``create`` is off; nothing was made.

    ``place`` is the store for people to read, without credentials. ``boards`` are the boards that
    are there; None where that is not known.
    """

    def __init__(self, namespace: str, place: str, boards: Sequence[str] | None = None) -> None:
        text = f"no board {namespace!r} at {place}"
        if boards is not None:
            more = len(boards) - LISTED
            names = [*boards[:LISTED], *([f"and {more} more"] if more > 0 else [])]
            text += f"; there are: {', '.join(names)}" if names else "; there are none"
        super().__init__(text)
        self.namespace = namespace
        self.place = place
        self.boards = boards


class PostingNotFound(MultiboardError):
    """No posting has this key on the shelf asked for; nothing changed."""

    def __init__(self, key: str, message: str | None = None) -> None:
        super().__init__(message or f"no posting {key!r} on the board")
        self.key = key


class PostingExists(MultiboardError):
    """Another posting, with a different rank or body, has this key; nothing changed."""

    def __init__(self, key: str, message: str | None = None) -> None:
        super().__init__(message or f"a different posting has the key {key!r}")
        self.key = key


class PostingTooLarge(MultiboardError):
    """The body is larger than the backend's ``max_body`` trait; nothing was sent."""

    def __init__(self, key: str, size: int, limit: int) -> None:
        super().__init__(f"the body of posting {key!r} has {size} bytes, the limit is {limit}")
        self.key = key
        self.size = size
        self.limit = limit


class LeaseHeld(MultiboardError):
    """The posting is leased already, by ``holder``; nothing changed."""

    def __init__(self, key: str, holder: str) -> None:
        super().__init__(f"posting {key!r} is held by {holder!r}")
        self.key = key
        self.holder = holder


class LeaseLost(MultiboardError):
    """The lease was released, ended, or was succeeded by another one; nothing changed."""

    def __init__(self, key: str, token: int, message: str | None = None) -> None:
        super().__init__(message or f"the lease on posting {key!r} (token {token}) is over")
        self.key = key
        self.token = token


class SessionLost(MultiboardError):
    """The session ended in the store, and every session lease and entity that lived by it.

    The operation that raises it changed nothing. The next operation that needs a session begins
    a new one.
    """


class Unsupported(MultiboardError):
    """The backend declares, by a trait, that it can't do what was asked."""


class Closed(MultiboardError):
    """The backend is not open: ``open()`` was not called, or ``close()`` was."""


class InvalidArgument(MultiboardError, ValueError):
    """An argument is outside what the verb accepts; nothing was sent."""


class ConfigError(MultiboardError, ValueError):
    """A backend name, a URL or an option can't be used. The message says what would be right."""


class BackendError(MultiboardError):
    """The store did not do as asked. The native error is the ``__cause__``."""


class Unavailable(BackendError):
    """The store could not be reached or refused: the operation was surely not applied."""


class Indeterminate(BackendError):
    """The answer was lost: the operation may have been applied, wholly, or not at all."""


class AccessDenied(BackendError):
    """The store refused the credentials, or the right to do this; nothing changed."""


class BoardLost(BackendError):
    """The store no longer holds the board that was opened: it came back empty or was restored.

    A backend that was restored from a backup is known by this: it knew of changes that the store
    no longer has. It stays so until it is closed, also when the store has come as far again.
    Nothing may be concluded from what the store shows now (an absent posting is not a finished
    one). Close and open again to work with what the store holds.
    """
