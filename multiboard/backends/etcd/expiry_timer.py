# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Ends the timed leases that are over, in each backend that saw one begin.

etcd ends nothing that lasts less than two seconds, and rounds to whole ones. So each backend ends,
by a clock of its own, the timed leases that it gave or received from the feed. The thread starts
with the first of them. This module imports the primitives, the errors and its own siblings.
"""

from __future__ import annotations

import heapq
import logging
import random
import threading

from multiboard import errors
from multiboard.backends.etcd.board import Board
from multiboard.backends.etcd.records import Held
from multiboard.primitives import FailureLog, boottime, interrupts

LOG = logging.getLogger(__name__)

#: Seconds by which several backends spread what they do at a lease's end.
SPREAD = 0.02
#: Seconds after which a failed attempt is repeated.
RETRY_AFTER = 0.2


class ExpiryTimer:
    """The timed leases that one backend has seen, by when they end."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._changed = interrupts.Condition()
        self._held: dict[str, Held] = {}
        #: By boottime, when to look at a lease; the first look is at once.
        self._ends: list[tuple[float, str, int]] = []
        self._thread: threading.Thread | None = None
        self._failures = FailureLog(LOG, "Leases that are over can't be ended, trying again")

    def note(self, held: Held | None) -> None:
        """Take in a lease as it was given or renewed."""
        if held is None or not held.timed or held.hold.since is None:
            return
        span = held.hold.expires_in or 0.0
        seen = self._board.session.clock.first_seen(held.key, held.hold.since)
        with self._changed:
            known = self._held.get(held.key)
            if known is not None and known.revision >= held.revision:
                return
            self._held[held.key] = held
            if len(self._ends) > 2 * len(self._held) + 1000:
                self._ends = [end for end in self._ends if self._current(end[1], end[2])]
                heapq.heapify(self._ends)
            end = seen + span + random.uniform(0.0, SPREAD)
            heapq.heappush(self._ends, (end, held.key, held.revision))
            if self._thread is None and not self._board.session.closed:
                self._thread = threading.Thread(
                    target=self._run, name="multiboard-etcd-expiry", daemon=True
                )
            if self._thread is not None:
                interrupts.begin(self._thread)
            self._changed.notify_all()

    def drop(self, key: str) -> None:
        """Take in that a lease has ended."""
        with self._changed:
            self._held.pop(key, None)

    def close(self) -> None:
        """Let the thread end."""
        with self._changed:
            self._held.clear()
            self._ends.clear()
            self._changed.notify_all()

    def end_due(self) -> int:
        """End what is over now; return a revision by which it is so.

        Raises: ``Unavailable``, ``AccessDenied``, ``BoardLost``, ``Closed``.
        """
        due: list[Held] = []
        over: list[Held] = []
        try:
            with self._changed:
                while self._ends and self._ends[0][0] <= boottime():
                    _, key, revision = self._ends[0]
                    if self._current(key, revision):
                        due.append(self._held[key])
                    heapq.heappop(self._ends)
            if not due:
                return 0
            over = [held for held in due if self._board.left(held) == 0.0]
            revision = self._board.end(over)
        except BaseException:
            self._look_again(due)
            raise
        self._look_again([held for held in due if held not in over])
        with self._changed:
            for held in over:
                if self._current(held.key, held.revision):
                    del self._held[held.key]
        return revision

    def _look_again(self, held: list[Held]) -> None:
        with self._changed:
            for one in held:
                heapq.heappush(self._ends, (boottime() + RETRY_AFTER, one.key, one.revision))

    def _current(self, key: str, revision: int) -> bool:
        held = self._held.get(key)
        return held is not None and held.revision == revision

    def _run(self) -> None:
        while True:
            with self._changed:
                if self._board.session.closed:
                    self._thread = None
                    return
                wait = self._ends[0][0] - boottime() if self._ends else 60.0
                if wait > 0:
                    self._changed.wait(min(wait, 60.0))
                    continue
            try:
                self.end_due()
                self._failures.succeeded()
            except (errors.Closed, errors.BoardLost):
                with self._changed:
                    self._thread = None
                return
            except errors.MultiboardError as error:
                self._failures.failed(error)
                with self._changed:
                    self._changed.wait(RETRY_AFTER)
            except (Exception, SystemExit, KeyboardInterrupt) as error:
                # Without this thread timed leases end only when somebody looks at them.
                self._failures.failed(error, logging.ERROR, trace=True)
                with self._changed:
                    self._changed.wait(RETRY_AFTER)
