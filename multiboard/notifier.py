# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""A board's notifier: a job's events in order, once each, on a thread that user code may block.

A listener may also raise what it likes, ``SystemExit`` included: it is logged, the other listeners
are called, and the thread goes on. Of TaskFlow's private names this module uses ``_topics``.

What the board itself does it announces at once; the events of other jobs, which others did shortly
before, may still be on their way then. It knows TaskFlow's notifier and no board.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from taskflow.jobs import base
from taskflow.types import notifier

from multiboard.primitives import ChangeKind, FailureLog

LOG = logging.getLogger(__name__)

#: Notifier events beyond TaskFlow's POSTED and REMOVAL; ``details`` hold the ``job``.
CLAIMED = "CLAIMED"
ABANDONED = "ABANDONED"
EXPIRED = "EXPIRED"
TRASHED = "TRASHED"
#: A claim of this very board ended, or may have: ``details`` also hold ``lease`` and ``reason``.
LEASE_LOST = "LEASE_LOST"

#: What a change of the board's picture is called by its notifier.
EVENTS: Mapping[ChangeKind, Sequence[str]] = {
    ChangeKind.POSTED: (base.POSTED,),
    ChangeKind.CLAIMED: (CLAIMED,),
    ChangeKind.RELEASED: (ABANDONED,),
    ChangeKind.EXPIRED: (EXPIRED,),
    ChangeKind.REMOVED: (base.REMOVAL,),
    ChangeKind.TRASHED: (TRASHED, base.REMOVAL),
}


class BoardNotifier(notifier.Notifier):  # type: ignore[misc]
    """TaskFlow's notifier, with a thread of its own from the first event on.

    ``on_register`` is called after each registration: a board that nobody listens to need not
    watch its store.
    """

    def __init__(self, on_register: Callable[[], None]) -> None:
        super().__init__()
        self._on_register = on_register
        self._events: queue.SimpleQueue[tuple[str, Mapping[str, Any]] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        #: The listeners that raised when they were called last.
        self._failing: list[tuple[Any, FailureLog]] = []

    def register(self, *args: Any, **kwargs: Any) -> None:
        """Register a callback; see :meth:`taskflow.types.notifier.Notifier.register`."""
        super().register(*args, **kwargs)
        self._on_register()

    def notify(self, event_type: str, details: Mapping[str, Any] | None) -> None:
        """Call the callbacks of an event, all of them whatever any of them raises."""
        # TaskFlow's lets through what is no Exception: the listener that calls sys.exit() would
        # end the thread of all others.
        if not self.can_trigger_notification(event_type):
            return
        found = (self._topics.get(topic, ()) for topic in (self.ANY, event_type))
        for listener in [one for listeners in found for one in listeners]:
            try:
                listener(event_type, dict(details or {}))
            except BaseException as error:
                main = threading.current_thread() is threading.main_thread()
                if main and not isinstance(error, Exception):
                    raise  # somebody else's call, and an interrupt of it
                self._log_of(listener).failed(error, trace=True)
            else:
                if self._failing:
                    self._failing = [pair for pair in self._failing if pair[0] is not listener]

    def _log_of(self, listener: Any) -> FailureLog:
        for known, log in self._failing:
            if known is listener:
                return log
        log = FailureLog(LOG, f"The listener {listener.callback!r} failed")
        registered = [one for listeners in list(self._topics.values()) for one in listeners]
        still = [pair for pair in self._failing if any(pair[0] is one for one in registered)]
        self._failing = [*still, (listener, log)]
        return log

    def announce(self, event: str, details: Mapping[str, Any]) -> None:
        """Call the callbacks of an event, later and on another thread. Does not block."""
        if not len(self):
            return
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._run, args=(self._events,), name="multiboard-notifier", daemon=True
            )
            self._thread.start()
        self._events.put((event, details))

    def stop(self) -> None:
        """Let the thread end once it has told what happened so far; a later event starts another.

        It waits a moment for that, unless a callback is the one who asks.
        """
        thread, self._thread = self._thread, None
        events, self._events = self._events, queue.SimpleQueue()
        if thread is not None:
            events.put(None)
            if thread is not threading.current_thread():
                thread.join(timeout=0.2)

    def forget_thread(self) -> None:
        """Begin anew in a forked child, which has no threads of its parent's."""
        self._thread, self._events = None, queue.SimpleQueue()

    def _run(self, events: queue.SimpleQueue[tuple[str, Mapping[str, Any]] | None]) -> None:
        while (item := events.get()) is not None:
            self.notify(*item)
