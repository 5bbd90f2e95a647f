# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The guard before every backend: arguments, sizes, errors, and the repetition of operations.

A backend may rely on it: what is promised downward in :mod:`multiboard.primitives` is checked
here, once for all stores. A caller may rely on it: whatever the store's client raises arrives as
one of :mod:`multiboard.errors`, and a short outage is ridden out. It knows no store and imports
the primitives, the errors and tenacity.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import re
import sys
from collections.abc import Callable, Iterator, Mapping, MutableSequence, Sequence
from typing import Any, TypeVar

import tenacity

from multiboard import errors
from multiboard.primitives import (
    Backend,
    Changes,
    FailureLog,
    Lease,
    NewPosting,
    Page,
    Place,
    Posting,
    Shelf,
    Traits,
    arguments,
    interrupts,
)

LOG = logging.getLogger(__name__)

#: Items of one call to the backend: bounds how long one step can keep a store busy.
BATCH = 500

_NAMESPACE = re.compile(r"[A-Za-z0-9._/-]{1,200}")

T = TypeVar("T")


class Guard(Backend):
    """Any backend, with its arguments checked and its operations repeated while it is in doubt.

    An operation that fails with ``Unavailable`` or ``Indeterminate`` is repeated as a whole, with
    the same key, claim id or lease, until ``operation_timeout`` has passed. Where no attempt got
    an answer and one of them may have been applied, the error is ``Indeterminate``.
    :meth:`changes` and :meth:`keepalive` are not repeated: their callers do that at a pace of
    their own.
    """

    def __init__(
        self,
        backend: Backend,
        patience: float | None = None,
        on_unconfirmed: Callable[[Sequence[str], str | None, bool], None] = lambda *_: None,
    ) -> None:
        """Guard a backend; ``patience`` takes the place of ``operation_timeout``, 0 is none.

        ``on_unconfirmed`` is told of claims of which an attempt was not answered: their claim ids, the
        key where there was one, and whether a repeat was answered. That attempt may have leased
        something, or may do so yet.
        """
        super().__init__(backend.settings)
        self.backend = backend
        self._on_unconfirmed = on_unconfirmed
        self._patience = backend.settings.operation_timeout if patience is None else patience
        self._closing = interrupts.Event()
        self._failures = FailureLog(LOG, f"Trying again for up to {self._patience:g} s")

    @property
    def traits(self) -> Traits:
        return self.backend.traits

    @property
    def incarnation(self) -> str:
        return self.backend.incarnation

    def server_info(self) -> Mapping[str, str]:
        return self._once(self.backend.server_info)

    def open(self) -> None:
        try:
            self._once(self.backend.open)
        except errors.BoardNotFound as error:
            if error.boards is not None:
                raise
            with contextlib.suppress(errors.MultiboardError):  # then they are not named
                error = errors.BoardNotFound(error.namespace, error.place, self.boards())
            raise error from error.__cause__

    def boards(self) -> Sequence[str]:
        # What else is there was not made by us, and may be anything.
        return [name for name in self._once(self.backend.boards) if _NAMESPACE.fullmatch(name)]

    def close(self) -> None:
        self._closing.set()
        try:
            self.backend.close()
        except Exception:
            LOG.warning("Closing the %s failed", type(self.backend).__name__, exc_info=True)

    @property
    def session_time(self) -> float:
        return self.backend.session_time

    def keepalive(self, within: float | None = None) -> float:
        return self._once(lambda: self.backend.keepalive(within))

    # -- directory ---------------------------------------------------------------------------

    def add(
        self, postings: Sequence[NewPosting], shelf: Shelf = Shelf.LIVE
    ) -> Sequence[Posting | errors.MultiboardError]:
        if shelf is Shelf.TRASH:
            raise errors.InvalidArgument("postings are added to LIVE or ENTITIES, not to TRASH")
        limit = self.backend.traits.max_body
        for new in postings:
            _check_new(new)
        fitting = [new for new in postings if len(new.body) <= limit]
        answers = iter(self._batches(lambda part: self.backend.add(part, shelf), fitting))
        return [
            next(answers)
            if len(new.body) <= limit
            else errors.PostingTooLarge(new.key, len(new.body), limit)
            for new in postings
        ]

    def get(self, keys: Sequence[str]) -> Sequence[Posting | None]:
        for key in keys:
            arguments.check_key(key)
        return self._batches(self.backend.get, keys)

    def list(
        self, shelf: Shelf = Shelf.LIVE, *, after: Place | None = None, limit: int | None = None
    ) -> Page:
        if limit is not None:
            arguments.check_count("limit", limit, most=2**31 - 1)
        return self._repeat(lambda: self.backend.list(shelf, after=after, limit=limit))

    def count(self, shelf: Shelf = Shelf.LIVE) -> int:
        return self._repeat(lambda: self.backend.count(shelf))

    def remove(
        self, leases: Sequence[Lease], to: Shelf | None = None
    ) -> Sequence[errors.MultiboardError | None]:
        if to not in (None, Shelf.TRASH):
            raise errors.InvalidArgument(f"a posting can't be removed to {to}; only to the trash")
        return self._batches(lambda part: self.backend.remove(part, to), leases)

    def restore(self, key: str) -> Posting:
        arguments.check_key(key)
        return self._repeat(lambda: self.backend.restore(key))

    def purge(self, keys: Sequence[str], shelf: Shelf = Shelf.TRASH) -> Sequence[bool]:
        if shelf is Shelf.LIVE:
            raise errors.InvalidArgument("a live posting is removed by its lease, never purged")
        for key in keys:
            arguments.check_key(key)
        return self._batches(lambda part: self.backend.purge(part, shelf), keys)

    # -- lock --------------------------------------------------------------------------------

    def acquire(
        self, key: str, holder: str, claim_id: str, expires_in: float | None = None
    ) -> Lease:
        arguments.check_key(key)
        _check_claim(holder, [claim_id], expires_in)
        with self._claiming([claim_id], key) as lost:
            return self._repeat(
                lambda: self.backend.acquire(key, holder, claim_id, expires_in), lost
            )

    def acquire_next(
        self, holder: str, claim_ids: Sequence[str], expires_in: float | None = None
    ) -> Sequence[tuple[Posting, Lease]]:
        _check_claim(holder, claim_ids, expires_in)
        with self._claiming(claim_ids) as lost:
            return self._batches(
                lambda part: self.backend.acquire_next(holder, part, expires_in), claim_ids, lost
            )

    def renew(self, lease: Lease, expires_in: float) -> Lease:
        arguments.check_duration("expires_in", expires_in)
        return self._repeat(lambda: self.backend.renew(lease, expires_in))

    def release(self, lease: Lease, delay: float = 0.0) -> None:
        arguments.check_duration("delay", delay, least=0.0)
        self._repeat(lambda: self.backend.release(lease, delay))

    # -- feed --------------------------------------------------------------------------------

    def changes(self, cursor: str | None, timeout: float) -> Changes:
        arguments.check_duration("timeout", timeout, least=0.0)
        return self._once(lambda: self.backend.changes(cursor, timeout))

    # -- how -----------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _claiming(
        self, claim_ids: Sequence[str], key: str | None = None
    ) -> Iterator[MutableSequence[errors.Indeterminate]]:
        """Claim, and tell of it where an attempt may have done so unheard."""
        lost: MutableSequence[errors.Indeterminate] = []
        try:
            yield lost
        except errors.MultiboardError:
            if lost:
                self._on_unconfirmed(claim_ids, key, False)
            raise
        except BaseException:  # whoever waited for the answer was interrupted
            self._on_unconfirmed(claim_ids, key, False)
            raise
        if lost:
            self._on_unconfirmed(claim_ids, key, True)

    def _batches(
        self,
        operation: Callable[[Sequence[Any]], Sequence[T]],
        items: Sequence[Any],
        lost: MutableSequence[errors.Indeterminate] | None = None,
    ) -> Sequence[T]:
        """Do an operation on many items, a bounded number of them at a time."""
        answers: list[T] = []
        for start in range(0, len(items), BATCH):
            part = items[start : start + BATCH]
            attempt = functools.partial(operation, part)
            try:
                answers.extend(self._repeat(attempt, lost))
            except errors.BackendError as error:
                if answers and lost is not None:  # what was leased before is answered to nobody
                    lost.append(errors.Indeterminate(f"{error}; other parts were done"))
                raise
        return answers

    def _once(self, operation: Callable[[], T]) -> T:
        """Do an operation; what it raises is one of multiboard's errors, or an interrupt."""
        before = sys.exc_info()[1]
        try:
            return operation()
        except errors.MultiboardError as error:
            interrupt = interrupts.behind(error, before, self._is_foreign)
            if interrupt is None:
                raise
        except Exception as error:
            if interrupts.is_interrupt(error) or self._is_foreign(error):
                raise
            raise errors.Indeterminate(
                f"{type(self.backend).__name__} failed in a way it does not explain: {error!r}"
            ) from error
        raise interrupt  # it looked to the backend like its client's

    def _is_foreign(self, error: BaseException) -> bool:
        """Tell whether an exception is neither the store's nor a defect: somebody's time limit.

        What is set from another thread has no handler's frame. It is known by its class, which is
        of a package that the backend does not use.
        """
        package = type(error).__module__.partition(".")[0]
        if package in sys.stdlib_module_names or package in interrupts.packages_of(error):
            return False
        own = type(self.backend).__module__.partition(".")[0]
        used = {own}
        for name, module in list(sys.modules.items()):
            if name.partition(".")[0] == own:
                for value in list(vars(module).values()):
                    named = getattr(value, "__name__", None)
                    origin = getattr(value, "__module__", named)
                    used.add(str(origin).partition(".")[0])
        return package not in used

    def _repeat(
        self, operation: Callable[[], T], lost: MutableSequence[errors.Indeterminate] | None = None
    ) -> T:
        """Do an operation, repeating it while the store is away or its answer is lost.

        What attempts raised that may have been applied is added to ``lost``.
        """
        doubts: MutableSequence[errors.Indeterminate] = [] if lost is None else lost
        try:
            done = self._once(operation)  # no machinery on the way that nearly every call takes
        except (errors.Unavailable, errors.Indeterminate) as error:
            if isinstance(error, errors.Indeterminate):
                doubts.append(error)
            # One that was closed meanwhile is not worth another word: nobody waits for it.
            if not self._patience or self._closing.is_set():
                raise
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
                doubts.append(error)

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
            if doubts:
                raise errors.Indeterminate(f"{error}; an earlier attempt got no answer") from error
            raise
        self._failures.succeeded()
        return answer


def _check_new(new: NewPosting) -> None:
    arguments.check_key(new.key)
    if not isinstance(new.body, bytes):
        raise errors.InvalidArgument(f"the body of {new.key!r} is not bytes")
    arguments.check_rank(new.rank)
    arguments.check_duration("delay", new.delay, least=0.0)


def _check_claim(holder: str, claim_ids: Sequence[str], expires_in: float | None) -> None:
    arguments.check_holder(holder)
    arguments.check_claim_ids(claim_ids)
    arguments.check_expiry(expires_in)
