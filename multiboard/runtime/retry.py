# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The guard that repeats whole operations, so that a short outage is ridden out.

Every verb may be repeated with the same key, claim id or lease. Callers that pace themselves
(the lease keeper, the opening of a board) use :mod:`multiboard.runtime.guard` alone.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, MutableSequence, Sequence
from typing import TypeVar

import tenacity

from multiboard import errors
from multiboard.primitives import Backend, FailureLog, Lease, Posting, interrupts
from multiboard.runtime.guard import Guard

LOG = logging.getLogger(__name__)

T = TypeVar("T")


class RetryingGuard(Guard):
    """A guard that repeats an operation until its outcome is known, for a bounded time.

    An operation that fails with ``Unavailable`` or ``Indeterminate`` is repeated as a whole, with
    the same key, claim id or lease, until ``operation_timeout`` has passed. Where no attempt got
    a reply and one of them may have been applied, the error is ``Indeterminate``.
    :meth:`changes` and :meth:`keepalive` are not repeated: their callers do that at a pace of
    their own.
    """

    def __init__(
        self,
        backend: Backend,
        patience: float | None = None,
        on_unconfirmed: Callable[[Sequence[str], str | None, bool], None] = lambda *_: None,
    ) -> None:
        """Guard a backend; ``patience`` takes the place of ``operation_timeout``.

        ``on_unconfirmed`` receives the claims of which an attempt got no reply: their claim ids,
        the key where there was one, and whether a repeat got one. That attempt may have leased
        something, or may do so yet.
        """
        super().__init__(backend)
        self._on_unconfirmed = on_unconfirmed
        self._patience = backend.settings.operation_timeout if patience is None else patience
        self._closing = interrupts.Event()
        self._failures = FailureLog(LOG, f"Trying again for up to {self._patience:g} s")

    def close(self) -> None:
        self._closing.set()
        super().close()

    def acquire(
        self, key: str, holder: str, claim_id: str, expires_in: float | None = None
    ) -> Lease:
        with self._claiming([claim_id], key) as once:
            return once.acquire(key, holder, claim_id, expires_in)

    def acquire_next(
        self, holder: str, claim_ids: Sequence[str], expires_in: float | None = None
    ) -> Sequence[tuple[Posting, Lease]]:
        with self._claiming(claim_ids) as once:
            return once.acquire_next(holder, claim_ids, expires_in)

    @contextlib.contextmanager
    def _claiming(self, claim_ids: Sequence[str], key: str | None = None) -> Iterator[Guard]:
        """Yield what to claim through; report it where an attempt may have leased unnoticed."""
        claiming = _Claiming(self)
        try:
            yield claiming
        except errors.MultiboardError:
            if claiming.lost:
                self._on_unconfirmed(claim_ids, key, False)
            raise
        except BaseException:  # whoever waited for the reply was interrupted
            self._on_unconfirmed(claim_ids, key, False)
            raise
        if claiming.lost:
            self._on_unconfirmed(claim_ids, key, True)

    def _do(self, operation: Callable[[], T]) -> T:
        return self.repeat(operation, [])

    def repeat(self, operation: Callable[[], T], lost: MutableSequence[errors.Indeterminate]) -> T:
        """Do an operation, repeating it while the store is away or its reply is lost.

        What attempts raised that may have been applied is added to ``lost``.
        """
        try:
            done = self._once(operation)  # tenacity costs more than a call that succeeds
        except (errors.Unavailable, errors.Indeterminate) as error:
            if isinstance(error, errors.Indeterminate):
                lost.append(error)
            if self._closing.is_set():
                raise  # and it is not logged: nobody waits for it
            self._failures.failed(error)
        else:
            if self._failures.failing:
                self._failures.succeeded()
            return done

        def note(state: tenacity.RetryCallState) -> None:
            outcome = state.outcome
            assert outcome is not None
            error = outcome.exception()
            if isinstance(error, errors.Indeterminate):
                lost.append(error)

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type((errors.Unavailable, errors.Indeterminate)),
            wait=tenacity.wait_random_exponential(multiplier=0.02, max=1.0),
            stop=tenacity.stop_any(
                tenacity.stop_after_delay(self._patience),
                tenacity.stop_when_event_set(self._closing),
            ),
            sleep=tenacity.sleep_using_event(self._closing),
            after=note,
            reraise=True,
        )
        self._closing.wait(0.02)
        try:
            answer: T = retrying(self._once, operation)
        except errors.Unavailable as error:
            if lost:
                raise errors.Indeterminate(f"{error}; an earlier attempt got no answer") from error
            raise
        self._failures.succeeded()
        return answer


class _Claiming(Guard):
    """The guard of one claim: it collects what attempts raised that may have leased something."""

    def __init__(self, guard: RetryingGuard) -> None:
        super().__init__(guard.backend)
        self._guard = guard
        self._done = False
        self.lost: list[errors.Indeterminate] = []

    def _do(self, operation: Callable[[], T]) -> T:
        try:
            answer = self._guard.repeat(operation, self.lost)
        except errors.BackendError as error:
            if self._done:  # what the parts before leased, nobody receives
                self.lost.append(errors.Indeterminate(f"{error}; other parts were done"))
            raise
        self._done = True
        return answer
