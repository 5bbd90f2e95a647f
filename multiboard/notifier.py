# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""A board's notifier: a job's events in order, once each, on a thread that user code may block.

What the board itself does it announces at once; the events of other jobs, which others did shortly
before, may still be on their way then. It knows TaskFlow's notifier and no board.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from taskflow.jobs import base
from taskflow.types import notifier

from multiboard import interrupts
from multiboard.primitives import ChangeKind

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

    def register(self, *args: Any, **kwargs: Any) -> None:
        """Register a callback; see :meth:`taskflow.types.notifier.Notifier.register`."""
        super().register(*args, **kwargs)
        self._on_register()

    def announce(self, event: str, details: Mapping[str, Any]) -> None:
        """Call the callbacks of an event, later and on another thread. Does not block."""
        if not len(self):
            return
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._run, args=(self._events,), name="multiboard-notifier", daemon=True
            )
        interrupts.begin(self._thread)
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
                with contextlib.suppress(RuntimeError):  # it has not even begun
                    thread.join(timeout=0.2)

    def forget_thread(self) -> None:
        """Begin anew in a forked child, which has no threads of its parent's."""
        self._thread, self._events = None, queue.SimpleQueue()

    def _run(self, events: queue.SimpleQueue[tuple[str, Mapping[str, Any]] | None]) -> None:
        while (item := events.get()) is not None:
            self.notify(*item)
