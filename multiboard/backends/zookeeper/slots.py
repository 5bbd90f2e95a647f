# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The nodes of one session that hold commit markers, one for each write in flight.

A transaction writes its marker, a few bytes of its own, into a slot beside all else that it does.
So a lost reply can be distinguished from a lost request: the marker is in the slot, or it is not.
This module imports the primitives.
"""

from __future__ import annotations

from typing import Any

from multiboard.primitives import interrupts


class Slots:
    """Which slots a session has, and which of them no write uses now."""

    def __init__(self) -> None:
        #: The path of the folder; it is known only after the first reads.
        self.folder = ""
        self._lock = interrupts.Condition()
        self._free: list[int] = []
        self._count = 0
        #: The slots whose node has been made.
        self.made: set[int] = set()

    def take(self) -> int:
        """Return a slot that no write uses now."""
        with self._lock:
            if self._free:
                return self._free.pop()
            slot, self._count = self._count, self._count + 1
            return slot

    def free(self, slot: int) -> None:
        """Make a slot available again; a negative one stands for none."""
        if slot >= 0:
            with self._lock:
                self._free.append(slot)

    def settle(self, write: Any, applied: bool) -> bool:
        """Note of an unconfirmed write whether it was applied; return whether nobody had before.

        What another thread read of the slot after that may be of another write.
        """
        with self._lock:
            first = write.applied is None
            if first:
                write.applied = applied
            return first

    def path(self, session_id: str, slot: int) -> str:
        """Return the path of a slot's node."""
        return f"{self.folder}/{session_id}-{slot}"
