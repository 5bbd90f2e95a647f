# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Attempts to claim whose outcome nobody received.

The caller got an error that it is not known, and went on without the job; or a repeat was answered,
its job done or given back, and then the first attempt arrived. Where such an attempt was done all
the same, its lease lives by a session that is kept for other jobs: nobody could have that job for
as long as this process lives. It has no lock and no thread: the keeper has both.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from multiboard import errors
from multiboard.primitives import Backend, Lease

#: Seconds after which an attempt is looked for a second time, and the last: what was still on its
#: way when the store answered again has arrived by then, or never will.
LATE = 60.0


@dataclass(slots=True)
class _Attempt:
    """An attempt whose outcome is not known."""

    #: What it was to lease; None where the store was to choose.
    key: str | None
    #: By boottime: when to look for its lease.
    look_at: float
    #: Whether that will be the last time.
    last: bool = False


class UnconfirmedClaims:
    """The attempts in doubt, by their claim ids, which are of one attempt each."""

    def __init__(self) -> None:
        self._open: dict[str, _Attempt] = {}
        #: Of the calls under way: whoever waits for their answers still may get them.
        self._in_flight: set[str] = set()

    def begin(self, claim_ids: Iterable[str]) -> None:
        """Take attempts in hand: they are not looked for before :meth:`end`."""
        self._in_flight.update(claim_ids)

    def end(self, claim_ids: Iterable[str]) -> bool:
        """Note that the attempts were answered; return whether any of them is unconfirmed."""
        self._in_flight.difference_update(claim_ids)
        return not self._open.keys().isdisjoint(claim_ids)

    def note(
        self, claim_ids: Iterable[str], key: str | None, now: float, *, late: bool = False
    ) -> None:
        """Have attempts looked for, at once and once more; ``late``: not at once."""
        for claim_id in claim_ids:
            self._open[claim_id] = _Attempt(key, now + LATE if late else now, late)

    @property
    def next_look(self) -> float | None:
        """When to look next, by boottime; None where nothing is in doubt."""
        looks = (d.look_at for claim, d in self._open.items() if claim not in self._in_flight)
        return min(looks, default=None)

    def due(self, now: float) -> dict[str, str | None]:
        """Return the claim ids to look for now, with the key of each."""
        return {
            claim: doubt.key
            for claim, doubt in self._open.items()
            if doubt.look_at <= now and claim not in self._in_flight
        }

    def looked(self, claim_ids: Iterable[str], now: float) -> None:
        """Note that attempts were looked for, and that what was found of them was given back."""
        for claim_id in claim_ids:
            doubt = self._open[claim_id]
            if doubt.last:
                del self._open[claim_id]
            else:
                doubt.look_at, doubt.last = now + LATE, True


def leases_of(backend: Backend, claims: dict[str, str | None]) -> Sequence[Lease]:
    """Return the leases that stand by these claim ids: one look at their keys, if those are known.

    Raises: as :meth:`multiboard.primitives.PostingDirectory.list`.
    """
    keys = sorted({key for key in claims.values() if key is not None})
    found = list(backend.get(keys)) if keys else []
    if None in claims.values():
        found += backend.list().postings
    leases = {p.lease.claim_id: p.lease for p in found if p is not None and p.lease is not None}
    return [lease for claim_id, lease in leases.items() if claim_id in claims]


def give_back(backend: Backend, lease: Lease) -> None:
    """Release a lease, or find that it is over, which is all that is wanted.

    Raises: ``BackendError``, ``Closed``.
    """
    with contextlib.suppress(errors.LeaseLost, errors.PostingNotFound, errors.BoardLost):
        backend.release(lease)
