# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""A reader of the change feed, as checks use it. Imports the primitives only."""

from __future__ import annotations

from collections.abc import Callable

from multiboard.primitives import Backend, Change, ChangeKind, boottime

#: Seconds within which "within moments" must be, on a machine that is busy with other tests.
MOMENTS = 5.0
#: Seconds by which such a machine may make us late in noticing what is over.
BUSY = 2.0


class Reader:
    """One cursor on one backend, and all that it was told."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.heard: list[Change] = []
        self.resets = 0
        self.cursor: str | None = None
        #: The longest that one call waits. A long one shows whether the backend wakes by itself.
        self.call = 2.0

    def start(self) -> Reader:
        """Read from now on."""
        self.cursor = self.backend.changes(None, 0.0).cursor
        return self

    def read(self, timeout: float) -> None:
        """Make one call."""
        changes = self.backend.changes(self.cursor, timeout)
        self.heard += changes.events
        self.resets += changes.reset
        self.cursor = changes.cursor

    def until(self, condition: Callable[[], object], within: float = MOMENTS) -> bool:
        """Read until a condition holds; tell whether it did within the time."""
        give_up = boottime() + within
        while not condition():
            left = give_up - boottime()
            if left <= 0:
                return False
            self.read(min(left, self.call))
        return True

    def hears(self, kind: ChangeKind, key: str, within: float = MOMENTS) -> bool:
        """Read until a change is told; tell whether it was."""
        return self.until(lambda: kind in self.story(key), within)

    def story(self, key: str) -> list[ChangeKind]:
        """Return what was told of one posting, in order."""
        return [change.kind for change in self.heard if change.key == key]

    def keys(self, kind: ChangeKind) -> list[str]:
        """Return of which postings a change was told, in order."""
        return [change.key for change in self.heard if change.kind is kind]

    def tale(self, key: str, length: int, within: float = MOMENTS) -> list[ChangeKind]:
        """Read until so many changes of a posting were told; return them."""
        self.until(lambda: len(self.story(key)) >= length, within)
        return self.story(key)
