# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Until when a lease is certain to stand, by this machine's clock; for the lease keeper.

It has neither a lock nor a thread: the keeper has both.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from multiboard.primitives import Lease, boottime

#: The part of a granted time after which a lease that was not renewed counts as lost.
SAFE = 0.8
#: A session is renewed after this part of its time.
RENEW = 0.3
#: A timed lease is looked at after this part of the time until its deadline: somebody else may
#: have renewed it.
LOOK = 0.75
#: Seconds before its end at which a timed lease counts as lost, at most: however late it was looked
#: at, there is time to report its loss.
MARGIN = 0.5


class Stamp(NamedTuple):
    """When something was asked of the store, and of which session: the keeper hands it out."""

    #: By boottime.
    asked_at: float
    #: How many sessions had been lost before.
    losses: int


@dataclass(slots=True)
class Kept:
    """A lease that a board holds."""

    lease: Lease
    #: By boottime, for a timed lease: when it may have ended, and when to look at it again.
    deadline: float | None = None
    look_at: float | None = None
    #: The longest time that it was granted, in seconds.
    span: float = 0.0
    #: Why it is lost when its deadline has passed.
    why: str = "its time ran out"

    def last(self, asked_at: float, ends_in: float) -> None:
        """Take in that it ends so many seconds after it was asked for, or later."""
        self.span = max(self.span, ends_in)
        margin = min(MARGIN, (1 - SAFE) * self.span)
        certain = min(SAFE * ends_in, ends_in - margin)
        self.deadline = asked_at + certain
        self.look_at = asked_at + LOOK * certain if certain > 0.05 else None
        self.why = "its time ran out"


@dataclass(slots=True)
class Session:
    """What the session leases of a board live by."""

    id: str | None = None
    #: The seconds that it, or an earlier one, was granted last.
    granted: float | None = None
    #: By boottime: when the renewal that counts was sent, when to renew again, and when the
    #: session may have ended.
    renewed_at: float = 0.0
    renew_at: float | None = None
    deadline: float | None = None

    def renewed(self, asked_at: float, granted: float) -> None:
        """Take in that it lasts so many seconds from when that was asked for, or longer."""
        self.renewed_at, self.granted = asked_at, granted
        self.renew_at = asked_at + RENEW * granted
        self.deadline = asked_at + SAFE * granted

    def end(self) -> None:
        """Forget a session that ended."""
        self.id = self.renew_at = self.deadline = None


class KeptLeases(dict[str, Kept]):
    """The leases that a board holds, by their keys, and the session that some of them live by.

    What asks may ask without the keeper's lock; what changes it is called with the lock held.
    """

    def __init__(self) -> None:
        super().__init__()
        self.session = Session()
        #: The keys of those that may have ended: the store is to be asked.
        self.doubtful: set[str] = set()

    def has(self, lease: Lease) -> bool:
        """Return whether a lease is kept and was not reported lost, overdue or not."""
        kept = self.get(lease.key)
        return kept is not None and kept.lease.token == lease.token

    def is_overdue(self, lease: Lease) -> bool:
        """Return whether a lease that is kept may have ended, reported or not."""
        kept = self.get(lease.key)
        if kept is None or kept.lease.token != lease.token:
            return False
        deadline = self.session.deadline if kept.lease.session else kept.deadline
        return deadline is None or boottime() >= deadline

    def by_session(self) -> Iterator[Lease]:
        """Yield the leases that live by the session."""
        return (kept.lease for kept in self.values() if kept.lease.session)

    def forget(self, key: str) -> None:
        """Keep the lease on ``key`` no more."""
        self.pop(key, None)
        self.doubtful.discard(key)

    def drop(self, lease: Lease) -> None:
        """Keep a lease no more; a newer one on its key stays."""
        if self.has(lease):
            self.forget(lease.key)

    def next_deadline(self) -> float | None:
        """Return when the first of them may have ended, by boottime."""
        times = [kept.deadline for kept in self.values() if kept.deadline is not None]
        if self.session.deadline is not None and any(self.by_session()):
            times.append(self.session.deadline)
        return min(times, default=None)

    def look_times(self) -> list[float]:
        """Return when timed leases are to be looked at, by boottime."""
        return [kept.look_at for kept in self.values() if kept.look_at is not None]

    def to_look_at(self) -> tuple[set[str], dict[str, int]]:
        """Return the keys whose time to be looked at has come; and all to ask for, with tokens."""
        now = boottime()
        due = {k for k, kept in self.items() if kept.look_at is not None and kept.look_at <= now}
        self.doubtful.intersection_update(self)
        return due, {key: self[key].lease.token for key in sorted(due | self.doubtful)}
