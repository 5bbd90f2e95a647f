# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""A reader of the change feed, as checks use it. Imports the primitives only."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from multiboard.primitives import Backend, Change, ChangeKind, boottime
from multiboard_conformance.machinery.resets import accept_reset

#: Seconds within which "within moments" must be, on a machine that is busy with other tests.
MOMENTS = 5.0
#: Seconds by which such a machine may make us late in noticing what is over.
BUSY = 2.0

T = TypeVar("T")


class Limit:
    """A time limit that begins at once, or when an event is set."""

    def __init__(self, within: float, since: threading.Event | None = None) -> None:
        self._within = within
        self._since = since
        self._give_up = boottime() + within if since is None else None

    def left(self) -> float:
        """Return the seconds that are left: all of them where the time has not begun."""
        if self._give_up is None:
            assert self._since is not None
            if not self._since.is_set():
                return self._within
            self._give_up = boottime() + self._within
        return self._give_up - boottime()


@contextlib.contextmanager
def beside(
    *calls: Callable[[threading.Event], T],
) -> Iterator[tuple[list[Future[T]], threading.Event]]:
    """Run calls in threads; each gets the event that the body sets when their time begins."""
    begun = threading.Event()
    with ThreadPoolExecutor(len(calls)) as threads:
        futures = [threads.submit(call, begun) for call in calls]
        try:
            yield futures, begun
        finally:
            begun.set()  # where the body fails nobody waits for ever


class Reader:
    """One cursor on one backend, and all that it received."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.received: list[Change] = []
        self.resets = 0
        self.cursor: str | None = None
        #: The longest that one call waits. A long one shows whether the backend wakes by itself.
        self.call = 2.0
        #: The backend that answered last, its cursor, and when: a reset must be due only there.
        self._given: tuple[Backend, str, float] | None = None

    def start(self) -> Reader:
        """Read from now on."""
        began = boottime()
        self.cursor = self.backend.changes(None, 0.0).cursor
        self._given = (self.backend, self.cursor, began)
        return self

    def read(self, timeout: float) -> None:
        """Make one call; a reset must be due, where the cursor is of this reader and backend.

        Raises: ``ResetNotDue``.
        """
        began = boottime()
        changes = self.backend.changes(self.cursor, timeout)
        if changes.reset and self._given is not None:
            backend, cursor, since = self._given
            if backend is self.backend and cursor == self.cursor:
                accept_reset(backend, since, began, timeout)
        self.received += changes.events
        self.resets += changes.reset
        self.cursor = changes.cursor
        self._given = (self.backend, self.cursor, began)

    def until(
        self,
        condition: Callable[[], object],
        within: float = MOMENTS,
        since: threading.Event | None = None,
    ) -> bool:
        """Read until a condition holds; return whether it did within the time.

        The time begins at once, or where ``since`` is given when that is set: whoever waits while
        something is done has a limit for what follows, not for how long that takes.
        """
        limit = Limit(within, since)
        while not condition():
            left = limit.left()
            if left <= 0:
                return False
            self.read(min(left, self.call))
        return True

    def receives(
        self,
        kind: ChangeKind,
        key: str,
        within: float = MOMENTS,
        since: threading.Event | None = None,
    ) -> bool:
        """Read until a change comes; return whether it did."""
        return self.until(lambda: kind in self.story(key), within, since)

    def story(self, key: str) -> list[ChangeKind]:
        """Return the changes of one posting, in order."""
        return [change.kind for change in self.received if change.key == key]

    def keys(self, kind: ChangeKind) -> list[str]:
        """Return the postings that had a change, in order."""
        return [change.key for change in self.received if change.kind is kind]

    def tale(self, key: str, length: int, within: float = MOMENTS) -> list[ChangeKind]:
        """Read until so many changes of a posting came; return them."""
        self.until(lambda: len(self.story(key)) >= length, within)
        return self.story(key)
