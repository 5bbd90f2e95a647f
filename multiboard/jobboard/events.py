# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""A board's notifier: a job's events in order, once each, on a thread that user code may block.

A listener may also raise what it likes, ``SystemExit`` included: it is logged, the other listeners
are called, and the thread goes on. Of TaskFlow's private names this module uses ``_topics``.

What the board itself does it announces at once; the events of other jobs, which others did shortly
before, may still be on their way then. LEASE_LOST is a warning that must arrive before another
owner does: each listener for it has a queue and a thread of its own, so that it overtakes the
events that another listener holds up. It knows TaskFlow's notifier and no board.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from taskflow.jobs import base
from taskflow.types import notifier

from multiboard.primitives import ChangeKind, FailureLog, interrupts

#: Notifier events beyond TaskFlow's POSTED and REMOVAL; ``details`` hold the ``job``.
CLAIMED = "CLAIMED"
ABANDONED = "ABANDONED"
EXPIRED = "EXPIRED"
TRASHED = "TRASHED"
#: A claim of this very board ended, or may have: ``details`` also hold ``lease`` and ``reason``.
#: It waits for no other event and no other listener.
LEASE_LOST = "LEASE_LOST"

LOG = logging.getLogger(__name__)

_LOSSES = "multiboard-lease-lost"

#: What a change of the board's picture is called by its notifier.
EVENTS: Mapping[ChangeKind, Sequence[str]] = {
    ChangeKind.POSTED: (base.POSTED,),
    ChangeKind.CLAIMED: (CLAIMED,),
    ChangeKind.RELEASED: (ABANDONED,),
    ChangeKind.EXPIRED: (EXPIRED,),
    ChangeKind.REMOVED: (base.REMOVAL,),
    ChangeKind.TRASHED: (TRASHED, base.REMOVAL),
}


class _Lane:
    """Calls, one after the other, on a thread that begins with the first."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._lock = threading.RLock()

    def put(self, call: Callable[[], None]) -> None:
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, args=(self._calls,), name=self._name, daemon=True
                )
            interrupts.begin(self._thread)
            self._calls.put(call)

    def stop(self) -> threading.Thread | None:
        """Let the thread end behind the calls so far, and return it; later calls begin another."""
        with self._lock:
            thread, self._thread = self._thread, None
            calls, self._calls = self._calls, queue.SimpleQueue()
        if thread is not None:
            calls.put(None)
        return thread

    @staticmethod
    def _run(calls: queue.SimpleQueue[Callable[[], None] | None]) -> None:
        while (call := calls.get()) is not None:
            call()


class BoardNotifier(notifier.Notifier):  # type: ignore[misc]
    """TaskFlow's notifier, with a thread of its own from the first event on.

    ``on_register`` is called after each registration: a board that nobody listens to need not
    watch its store.
    """

    def __init__(self, on_register: Callable[[], None]) -> None:
        super().__init__()
        self._on_register = on_register
        #: The listeners that raised when they were called last.
        self._failing: list[tuple[Any, FailureLog]] = []
        self.forget_threads()

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
            self._call(listener, event_type, details or {})

    def _call(self, listener: Any, event: str, details: Mapping[str, Any]) -> None:
        try:
            listener(event, dict(details))
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
        if len(self):
            self._events.put(functools.partial(self.notify, event, details))

    def announce_loss(self, details: Mapping[str, Any]) -> None:
        """Call the callbacks of LEASE_LOST, each on a thread of its own. Does not block."""
        concerned = [
            listener
            for event, listeners in list(self.listeners_iter())
            for listener in list(listeners)
            if event in (self.ANY, LEASE_LOST)
        ]
        for listener in concerned:
            _, lane = self._losses.setdefault(id(listener), (listener, _Lane(_LOSSES)))
            lane.put(functools.partial(self._call, listener, LEASE_LOST, dict(details)))
        for listener, lane in list(self._losses.values()):
            if not any(listener is one for one in concerned):  # it was deregistered
                self._losses.pop(id(listener), None)
                lane.stop()

    def stop(self) -> None:
        """Let the threads end once they called what happened so far; a later event starts others.

        It waits a moment for that, unless a callback is the one who asks.
        """
        threads = [lane.stop() for lane in (self._events, *self._lanes())]
        give_up = time.monotonic() + 0.2
        for thread in threads:
            if thread is not None and thread is not threading.current_thread():
                with contextlib.suppress(RuntimeError):  # it has not even begun
                    thread.join(timeout=max(0.0, give_up - time.monotonic()))

    def forget_threads(self) -> None:
        """Begin anew in a forked child, which has no threads of its parent's."""
        self._events = _Lane("multiboard-notifier")
        #: By the id of the listener, which is held as long as its lane is.
        self._losses: dict[int, tuple[Any, _Lane]] = {}

    def _lanes(self) -> Sequence[_Lane]:
        losses, self._losses = self._losses, {}
        return [lane for _, lane in losses.values()]
