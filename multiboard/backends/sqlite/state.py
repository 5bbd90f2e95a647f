# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""What an open backend holds of a database file, for :mod:`multiboard.backends.sqlite`.

It imports the primitives, the errors and its sibling modules.
"""

from __future__ import annotations

import dataclasses

from multiboard import errors
from multiboard.backends.sqlite.client import Connection, SharedFile
from multiboard.backends.sqlite.liveness import SessionLocks
from multiboard.backends.sqlite.settings import SQLiteSettings
from multiboard.primitives import SpentClaims


@dataclasses.dataclass(eq=False)
class OpenBoard:
    """What lasts from an ``open`` of a backend to its ``close``."""

    settings: SQLiteSettings
    path: str
    identity: tuple[int, int]
    #: The board's row in the database, and its incarnation.
    id: int
    incarnation: str
    locks: SessionLocks
    shared: SharedFile
    spent: SpentClaims
    #: The one connection for everything but waiting.
    connection: Connection
    #: The number of the last change that this backend has seen committed.
    position: int = 0
    #: Idle connections for the readers that wait in ``changes``.
    idle: list[Connection] = dataclasses.field(default_factory=list)
    #: This backend's session, or None. Guarded by ``connection``.
    session: str | None = None
    #: Why the board is lost for good: it goes on, and may soon have come as far by other changes.
    lost: str | None = None

    def new_connection(self) -> Connection:
        settings = self.settings
        return Connection(self.path, self.identity, settings.synchronous, settings.busy_timeout)

    def note_position(self, position: int, seen: int) -> None:
        """Note how far the board has come; ``seen`` was noted before the file was read.

        Raises: ``BoardLost`` where it had come farther: somebody put an earlier file back.
        """
        if position < seen and self.lost is None:
            self.lost = (
                f"{self.path} was put back to an earlier state: change {seen} of the board is gone,"
                f" the last one is {position}"
            )
        if self.lost is not None:
            raise errors.BoardLost(self.lost)
        self.position = max(self.position, position)
