# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""A thread that does one thing whenever it is due, for :mod:`multiboard.runtime.lease_keeper`.

It knows nothing of what is due.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable

from multiboard.primitives import boottime, interrupts

#: The longest sleep, in seconds, where something will be due: the clock by which a thread sleeps
#: stands still while the machine is suspended, the one that decides does not.
NAP = 1.0


class Timer:
    """A thread that calls ``work`` whenever the instant that ``due`` names has come.

    Both are called on the thread; ``due`` with ``changed`` held, ``work`` without. ``due`` returns
    an instant of ``boottime()``, or None where nothing is due ever. The thread begins with the
    first :meth:`wake`, and ends with :meth:`stop` or when ``work`` returns False.
    """

    def __init__(
        self,
        name: str,
        changed: interrupts.Condition,
        due: Callable[[], float | None],
        work: Callable[[], bool],
    ) -> None:
        self._name = name
        self._due = due
        self._work = work
        self._changed = changed
        self._stopped = False
        self._thread: threading.Thread | None = None
        #: By boottime, while the thread sleeps; 0 while it is at work, and looks round after.
        self._sleeps_until = 0.0

    def wake(self, due: float) -> None:
        """Have the thread look round for what is due then; called with the lock held.

        Not where it sleeps until no later than that: a switch of threads for each claim would
        cost as much as the claim.
        """
        if self._stopped:
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        interrupts.begin(self._thread)
        if due < self._sleeps_until:
            self._sleeps_until = 0.0
            self._changed.notify_all()

    def pause(self, seconds: float) -> None:
        """Wait, on the thread, unless it is to stop; called without the lock held."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopped, seconds)

    def stop(self) -> None:
        """Let the thread end, without waiting for it; called with the lock held."""
        self._stopped = True
        self._changed.notify_all()

    def join(self, timeout: float) -> None:
        """Wait until the thread has ended, unless it is the one that asks."""
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            with contextlib.suppress(RuntimeError):  # it has not even begun
                thread.join(timeout)

    def _run(self) -> None:
        going_on = True
        while going_on:
            with self._changed:
                while not self._stopped:
                    due, now = self._due(), boottime()
                    if due is not None and due <= now:
                        break
                    self._sleeps_until = float("inf") if due is None else due
                    self._changed.wait(None if due is None else min(NAP, due - now))
                    self._sleeps_until = 0.0
                if self._stopped:
                    return
            going_on = self._work()
