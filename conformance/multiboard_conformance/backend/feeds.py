# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""A reader of the change feed, as checks use it. Imports the primitives only."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from multiboard.primitives import Backend, Change, ChangeKind, boottime

#: Seconds within which "within moments" must be, on a machine that is busy with other tests.
MOMENTS = 5.0
#: Seconds by which such a machine may make us late in noticing what is over.
BUSY = 2.0

T = TypeVar("T")


class Start(threading.Event):
    """An event that records when it was first set."""

    #: By boottime; None before.
    at: float | None = None

    def set(self) -> None:
        if self.at is None:
            self.at = boottime()
        super().set()


class Limit:
    """A time limit that begins at once, or at the instant at which an event is set.

    Not when somebody first asks afterwards: a reader that is stuck in a call asks nothing.
    """

    def __init__(self, within: float, since: Start | None = None) -> None:
        self._within = within
        self._since = since
        self._began = boottime()

    def left(self) -> float:
        """Return the seconds that are left: all of them where the time has not begun."""
        began = self._began if self._since is None else self._since.at
        return self._within if began is None else began + self._within - boottime()


@contextlib.contextmanager
def beside(
    *calls: Callable[[Start], T],
) -> Iterator[tuple[list[Future[T]], Start]]:
    """Run calls in threads; each gets the event that the body sets when their time begins."""
    begun = Start()
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

    def start(self) -> Reader:
        """Read from now on."""
        self.cursor = self.backend.changes(None, 0.0).cursor
        return self

    def read(self, timeout: float) -> None:
        """Make one call."""
        changes = self.backend.changes(self.cursor, timeout)
        self.received += changes.events
        self.resets += changes.reset
        self.cursor = changes.cursor

    def until(
        self,
        condition: Callable[[], object],
        within: float = MOMENTS,
        since: Start | None = None,
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
        since: Start | None = None,
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
