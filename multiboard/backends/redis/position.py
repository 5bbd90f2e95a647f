# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""How far a board had come: a server on which a backup was restored shows less than that."""

from __future__ import annotations

from typing import Any


class HighWaterMark:
    """The highest number of a change that the server of the board has shown. Thread-safe.

    It belongs to that one server. Where another one took over, what its replica missed is lost by
    the contract, readers receive a reset, and the mark begins anew: see ADR 0022.
    """

    def __init__(self) -> None:
        #: One value, so that it is read and written in one step.
        self._known: tuple[Any, int] = (None, 0)

    def of(self, server: Any) -> int:
        """Return the number of the last change that a server has shown; 0 for another server."""
        known, number = self._known
        return number if known == server else 0

    def note(self, server: Any, number: int) -> None:
        """Note what a server has shown."""
        self._known = (server, max(number, self.of(server)))

    @property
    def position(self) -> int:
        """The number of the last change that was shown."""
        return self._known[1]
