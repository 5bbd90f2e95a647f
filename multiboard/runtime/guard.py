# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The guard before every backend: arguments and sizes are checked, errors are multiboard's.

A backend may rely on it: what is promised downward in :mod:`multiboard.primitives` is checked
here, once for all stores. A caller may rely on it: whatever the store's client raises arrives as
one of :mod:`multiboard.errors`. It repeats nothing: that is :mod:`multiboard.runtime.retry`. It
knows no store and imports the primitives and the errors.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from multiboard import errors
from multiboard.primitives import (
    Backend,
    Changes,
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
    """Any backend, with its arguments checked and its errors mapped; each operation once."""

    def __init__(self, backend: Backend) -> None:
        super().__init__(backend.settings)
        self.backend = backend
        #: Whether an operation found that the store lost the board, or was put back.
        self.board_lost = False

    @property
    def traits(self) -> Traits:
        return self.backend.traits

    @property
    def claims_many(self) -> bool:
        """Whether the backend has its own way to claim several postings at once."""
        return type(self.backend).acquire_next is not Backend.acquire_next

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
        answers = iter(self._in_parts(lambda part: self.backend.add(part, shelf), fitting))
        return [
            next(answers)
            if len(new.body) <= limit
            else errors.PostingTooLarge(new.key, len(new.body), limit)
            for new in postings
        ]

    def get(self, keys: Sequence[str]) -> Sequence[Posting | None]:
        for key in keys:
            arguments.check_key(key)
        return self._in_parts(self.backend.get, keys)

    def list(
        self, shelf: Shelf = Shelf.LIVE, *, after: Place | None = None, limit: int | None = None
    ) -> Page:
        if limit is not None:
            arguments.check_count("limit", limit, most=2**31 - 1)
        return self._do(lambda: self.backend.list(shelf, after=after, limit=limit))

    def count(self, shelf: Shelf = Shelf.LIVE) -> int:
        return self._do(lambda: self.backend.count(shelf))

    def remove(
        self, leases: Sequence[Lease], to: Shelf | None = None
    ) -> Sequence[errors.MultiboardError | None]:
        if to not in (None, Shelf.TRASH):
            raise errors.InvalidArgument(f"a posting can't be removed to {to}; only to the trash")
        return self._in_parts(lambda part: self.backend.remove(part, to), leases)

    def restore(self, key: str) -> Posting:
        arguments.check_key(key)
        return self._do(lambda: self.backend.restore(key))

    def purge(self, keys: Sequence[str], shelf: Shelf = Shelf.TRASH) -> Sequence[bool]:
        if shelf is Shelf.LIVE:
            raise errors.InvalidArgument("a live posting is removed by its lease, never purged")
        for key in keys:
            arguments.check_key(key)
        return self._in_parts(lambda part: self.backend.purge(part, shelf), keys)

    # -- lock --------------------------------------------------------------------------------

    def acquire(
        self, key: str, holder: str, claim_id: str, expires_in: float | None = None
    ) -> Lease:
        arguments.check_key(key)
        check_claim(holder, [claim_id], expires_in)
        return self._do(lambda: self.backend.acquire(key, holder, claim_id, expires_in))

    def acquire_next(
        self, holder: str, claim_ids: Sequence[str], expires_in: float | None = None
    ) -> Sequence[tuple[Posting, Lease]]:
        check_claim(holder, claim_ids, expires_in)
        return self._in_parts(
            lambda part: self.backend.acquire_next(holder, part, expires_in), claim_ids
        )

    def renew(self, lease: Lease, expires_in: float) -> Lease:
        arguments.check_duration("expires_in", expires_in)
        return self._do(lambda: self.backend.renew(lease, expires_in))

    def release(self, lease: Lease, delay: float = 0.0) -> None:
        arguments.check_duration("delay", delay, least=0.0)
        self._do(lambda: self.backend.release(lease, delay))

    # -- feed --------------------------------------------------------------------------------

    def changes(self, cursor: str | None, timeout: float) -> Changes:
        arguments.check_duration("timeout", timeout, least=0.0)
        return self._once(lambda: self.backend.changes(cursor, timeout))

    # -- how -----------------------------------------------------------------------------------

    def _do(self, operation: Callable[[], T]) -> T:
        """Do what may be repeated as a whole; here it is not."""
        return self._once(operation)

    def _in_parts(
        self, operation: Callable[[Sequence[Any]], Sequence[T]], items: Sequence[Any]
    ) -> Sequence[T]:
        """Do an operation on many items, a bounded number of them at a time."""
        answers: list[T] = []
        for start in range(0, len(items), BATCH):
            part = items[start : start + BATCH]
            answers.extend(self._do(functools.partial(operation, part)))
        return answers

    def _once(self, operation: Callable[[], T]) -> T:
        """Do an operation; what it raises is one of multiboard's errors, or an interrupt."""
        before = sys.exc_info()[1]
        try:
            return operation()
        except errors.MultiboardError as error:
            if isinstance(error, errors.BoardLost):
                self.board_lost = True
            is_foreign = functools.partial(self._is_foreign, raised=error)
            interrupt = interrupts.behind(error, before, is_foreign)
            if interrupt is None:
                raise
        except Exception as error:
            if interrupts.is_interrupt(error) or self._is_foreign(error, error):
                raise
            raise errors.Indeterminate(
                f"{type(self.backend).__name__} failed in a way it does not explain: {error!r}"
            ) from error
        raise interrupt  # it looked to the backend like its client's

    def _is_foreign(self, error: BaseException, raised: BaseException) -> bool:
        """Tell whether an exception is neither the store's nor a defect: somebody's time limit.

        The store's are known by their packages: those that the backend's package uses, or that of
        the code that ``raised`` came through, since a backend may stand for another one.
        """
        if not interrupts.is_foreign(error, ()):
            return False  # as nearly always: what the backend uses is looked up for the rest
        own = {type(self.backend).__module__.partition(".")[0], *interrupts.packages_of(raised)}
        used = set(own)
        for name, module in list(sys.modules.items()):
            if name.partition(".")[0] in own:
                for value in list(vars(module).values()):
                    named = getattr(value, "__name__", None)
                    origin = getattr(value, "__module__", named)
                    used.add(str(origin).partition(".")[0])
        return interrupts.is_foreign(error, used)


def _check_new(new: NewPosting) -> None:
    arguments.check_key(new.key)
    if not isinstance(new.body, bytes):
        raise errors.InvalidArgument(f"the body of {new.key!r} is not bytes")
    arguments.check_rank(new.rank)
    arguments.check_duration("delay", new.delay, least=0.0)


def check_claim(holder: str, claim_ids: Sequence[str], expires_in: float | None) -> None:
    """Refuse what a claim can't be made with."""
    arguments.check_holder(holder)
    arguments.check_claim_ids(claim_ids)
    arguments.check_expiry(expires_in)
