# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""What a board has while it is connected, in one process: its guard, view, keeper and claims.

It knows postings and what the board made of them, and nothing of TaskFlow.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable
from typing import Any, TypeVar

from multiboard import errors
from multiboard.primitives import (
    Backend,
    ChangeKind,
    Damage,
    Lease,
    NewPosting,
    Page,
    Posting,
    Shelf,
    boottime,
)
from multiboard.runtime.claims import Claim, ClaimManager
from multiboard.runtime.guard import Guard
from multiboard.runtime.lease_keeper import LeaseKeeper
from multiboard.runtime.retry import RetryingGuard
from multiboard.runtime.view import View

LOG = logging.getLogger(__name__)

#: The boards whose store's settings were looked at in this process, by incarnation.
_looked_at: set[str] = set()

T = TypeVar("T")


def open_backend(backend: Backend) -> None:
    """Open a backend, once, and log what endangers the board in its store's settings.

    That is logged once a board and a process.

    Raises: as :meth:`multiboard.primitives.Backend.open`.
    """
    guard = Guard(backend)
    guard.open()
    if guard.incarnation in _looked_at:
        return
    _looked_at.add(guard.incarnation)
    with contextlib.suppress(errors.MultiboardError):
        for name, text in guard.server_info().items():
            if name.startswith("warning"):
                LOG.warning("%s", text)


class OpenBoard:
    """A board that is connected to its store.

    ``interpret`` makes a job of a posting, or raises ``ValueError``; ``on_change`` is called for
    each change of the board, ``on_lost`` for each claim of it that ended, or may have.
    """

    def __init__(
        self,
        backend: Backend,
        interpret: Callable[[Posting], Any],
        on_change: Callable[[ChangeKind, Any], None],
        on_lost: Callable[[Claim, str], None],
        before: OpenBoard | None = None,
    ) -> None:
        """Connect through a backend that is open; ``before`` is what the board had last."""
        self.pid = os.getpid()
        self.backend = backend
        self.incarnation = backend.incarnation
        #: How far the board had come when this was closed. Where the next connection finds it less
        #: far, another era begins: what was posted in the last one may be gone without being done.
        self._reached = 0
        self.era = 0
        if before is not None:
            # A store that was put back goes on, and may have come as far again by now: whoever was
            # refused for it need not compare.
            self.era = before.era + (before.found_lost or backend.position < before.reached)
        # The keeper comes round again by itself: waiting for one lease must not end the others.
        self._keepers_guard = Guard(backend)
        self.keeper = LeaseKeeper(self._keepers_guard, self._lost)
        self.guard = RetryingGuard(backend, on_unconfirmed=self.keeper.note_unconfirmed)
        self.view = View(self.guard, interpret, on_change)
        self.claims = ClaimManager(self.guard, self.keeper, self.view, interpret, on_lost)

    def _lost(self, lease: Lease, why: str) -> None:
        self.claims.lost(lease, why)

    @property
    def reached(self) -> int:
        """How far the board had come, as far as this connection knew it."""
        return max(self._reached, self.backend.position)

    @property
    def found_lost(self) -> bool:
        """Whether an operation of this connection found that the board is lost."""
        return self.guard.board_lost or self._keepers_guard.board_lost

    def health(self) -> dict[str, Any]:
        """Return what an operator wants to know: nothing of it is asked of the store."""
        return {
            "connected": True,
            "incarnation": self.incarnation,
            "feed_age": self.view.age,
            "jobs_seen": len(self.view) if self.view.started else None,
            "claims": len(self.claims),
            "session_seconds_left": self.keeper.seconds_left,
            "damaged": self.view.damage,
            "board_lost": self.found_lost,
        }

    # -- looking -----------------------------------------------------------------------------

    def look(self, job: Any) -> Posting | None:
        """Return a job's posting; None where it is complete.

        Raises: ``BackendError``, ``Closed``.
        """
        posting = self.guard.get([job.key])[0]
        if posting is None:
            self._check_gone(job)
        return posting

    def wait_gone(self, job: Any, timeout: float | None) -> bool:
        """Wait until a job is complete; return whether it is.

        Raises: ``BackendError``, ``Closed``.
        """
        gone = self._wait_absent(job.key, timeout)
        if gone:
            self._check_gone(job)
        return gone

    def _check_gone(self, job: Any) -> None:
        """Raise ``BoardLost`` where a job that is not there may not be done for all that."""
        if job.era != self.era:
            raise errors.BoardLost(
                "it is not there, and the store was put back to an earlier state since it was seen"
            )

    def close(self) -> None:
        """Close the backend, which wakes the threads, and see them end."""
        self._reached = self.backend.position
        self.keeper.stop()
        self.guard.close()
        self.keeper.close()
        self.view.close()

    def restore(self, key: str, interpret: Callable[[Posting], T]) -> T:
        """Put a trashed posting back, and return what it means.

        Raises: as :meth:`multiboard.primitives.PostingDirectory.restore`.
        """
        with self.view.asking() as asked_at:
            posting = self.guard.restore(key)
            restored = interpret(posting)
            if self.view.started:
                self.view.note_present([posting], asked_at, [restored])
        return restored

    def read(self, page: Page, interpret: Callable[[Posting], T]) -> list[T]:
        """Return what the postings of a page mean; what can't be read is reported."""
        found: list[T] = []
        damaged = list(page.damaged)
        for posting in page.postings:
            try:
                found.append(interpret(posting))
            except ValueError as error:
                damaged.append(Damage(posting.key, str(error)))
        for damage in damaged:
            self.view.quarantine(damage.where, damage.why)
        return found

    def enter(self, entity: NewPosting) -> None:
        """Put an entity on its shelf and keep it there as long as the connection lasts.

        Raises: as :meth:`multiboard.primitives.PostingDirectory.add`.
        """

        def attempt() -> None:
            stamp = self.keeper.stamp()
            answer = self.guard.add([entity], Shelf.ENTITIES)[0]
            if isinstance(answer, errors.MultiboardError):
                raise answer
            self.keeper.keep_entity(entity, stamp)

        try:
            self.keeper.run_in_session(attempt)
        except errors.MultiboardError:
            raise
        except BaseException:
            self.keeper.interrupted()
            raise

    def _wait_absent(self, key: str, timeout: float | None) -> bool:
        give_up = None if timeout is None else boottime() + timeout
        patience = self.guard.settings.operation_timeout
        if self.guard.get([key])[0] is None:
            return True
        if not self.view.started:
            try:
                self.view.load(patience if timeout is None else min(timeout, patience))
            except errors.Unavailable:
                if timeout is not None and timeout < patience:
                    return False
                raise
        with self.view.asking() as asked_at:
            posting = self.guard.get([key])[0]
            if posting is None:
                return True
            self.view.note_present([posting], asked_at)
        left = None if give_up is None else max(0.0, give_up - boottime())
        return self.view.wait(lambda: self.view.find(key) is None, left)
