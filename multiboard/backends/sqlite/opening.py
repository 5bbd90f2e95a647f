# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""An open backend's share of a database file, for :mod:`multiboard.backends.sqlite`.

It imports the primitives, the errors and its sibling modules.
"""

from __future__ import annotations

import dataclasses
import sqlite3
from collections.abc import Callable
from typing import TypeVar

from multiboard import errors
from multiboard.backends.sqlite import files as files
from multiboard.backends.sqlite import schema
from multiboard.backends.sqlite.liveness import SessionLocks
from multiboard.primitives import boottime

T = TypeVar("T")


@dataclasses.dataclass(eq=False)
class Opening:
    """What lasts from an ``open`` of a backend to its ``close``."""

    path: str
    identity: tuple[int, int]
    board: int
    incarnation: str
    session_timeout: float
    locks: SessionLocks
    hub: files.Hub
    #: The one connection for everything but waiting.
    link: files.Link
    #: Connections for those who wait in ``changes``: the idle ones.
    spare: list[files.Link] = dataclasses.field(default_factory=list)
    #: This backend's session, or None. Guarded by ``link``.
    session: str | None = None
    #: The number of the last change that this backend knows to be committed.
    seen: int = 0
    #: Why the board is lost for good: it goes on, and may soon have come as far by other changes.
    lost: str | None = None

    def note(self, told: int, seen: int) -> None:
        """Note how far the board has come; ``seen`` was known before the look at it began.

        Raises: ``BoardLost`` where it had come farther: somebody put an earlier file back.
        """
        if told < seen and self.lost is None:
            self.lost = (
                f"{self.path} was put back to an earlier state: change {seen} of the board is gone,"
                f" the last one is {told}"
            )
        if self.lost is not None:
            raise errors.BoardLost(self.lost)
        self.seen = max(self.seen, told)


def read(opening: Opening, patience: float, look: Callable[[sqlite3.Connection, float], T]) -> T:
    """Look at one instant of the board, by a connection and a time just before that instant.

    A function that calls another one: a generator that holds a lock would not survive interrupts.
    """
    try:
        with opening.link.lock:
            connection = opening.link.opened()
            now = boottime()
            seen = opening.seen
            try:
                connection.execute("BEGIN")
                arguments = (opening.board, opening.incarnation)
                row = files.patiently(connection, schema.BOARD, arguments, patience).fetchone()
                if row is None:
                    raise errors.BoardLost("the board's row is gone from the database")
                if isinstance(row[0], int):
                    opening.note(row[0], seen)
                return look(connection, now)
            finally:
                try:  # noqa: SIM105 - nothing may come between
                    connection.rollback()
                except sqlite3.Error:
                    pass
    except sqlite3.Error as error:
        raise files.translate(error, opening.path) from error
