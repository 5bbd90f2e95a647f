# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The store's clock, as far as etcd has one.

No call of etcd returns the time. What passes in it is the life of its leases, in whole seconds by
the leader's monotonic clock, and a new leader begins all of them anew. One lease that nobody renews
is the board's clock: the part of its life that is over is the time, and the raft term says since
when. An instant is the pair of both, and of the time only bounds are known. They are a second apart
after one reading and come closer with each.

Nothing is ever taken to be over too early. That it is over may be noticed late, up to two seconds
by whoever did not see it begin, and by up to its whole span where the leader changed meanwhile.
Whoever saw it begin measures by a clock of its own. This module imports the errors and its own
siblings.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import OrderedDict
from typing import NamedTuple

from multiboard import errors
from multiboard.backends.etcd.client import Client
from multiboard.backends.etcd.messages import M
from multiboard.primitives import boottime

#: Seconds of the life of the clock's lease: sixty-eight years.
LIFE = 2**31 - 1
#: Seconds between two readings, while the bounds are wide and when they are close.
EAGER, LAZY = 0.05, 5.0
#: Seconds by which a record may be younger than the term after the one that its stamp names: its
#: writer had read the clock up to LAZY before, and its call took up to half of this.
GRACE = 60.0
CLOSE = 0.15
#: By how much two clocks may run apart.
DRIFT = 1e-4
#: Records whose beginning is remembered.
REMEMBERED = 100_000


def wall_clock() -> float:
    """Return the time of day of this machine, for people to read: etcd has none to read."""
    return time.time()


class Stamp(NamedTuple):
    """An instant that is not later than this, in a term of the cluster."""

    term: int
    latest: float


class Clock:
    """The time in the store, within the bounds that one backend has measured."""

    def __init__(self, client: Client, lease: int) -> None:
        self._client = client
        self._lease = lease
        self._lock = threading.Lock()
        self._term = -1
        self._low = self._high = 0.0  # the store's time minus ours
        self._read_at = float("-inf")
        self._seen: OrderedDict[tuple[str, Stamp], float] = OrderedDict()

    # -- what was seen to begin --------------------------------------------------------------------

    def first_seen(self, key: str, since: Stamp) -> float:
        """Return when, by boottime, a span had surely begun; note it, if it is new."""
        now = boottime()
        with self._lock:
            seen = self._seen.setdefault((key, since), now)
            while len(self._seen) > REMEMBERED:
                self._seen.popitem(last=False)
        return seen

    # -- the clock ---------------------------------------------------------------------------------

    def stamp(self) -> Stamp:
        """Return an instant that is not earlier than now.

        Raises: ``Unavailable``, ``Indeterminate``, ``AccessDenied``, ``Closed``.
        """
        self._refresh()
        with self._lock:
            return Stamp(self._term, boottime() + self._high)

    def passed(self, key: str, since: Stamp) -> float:
        """Return the seconds that have surely passed since a record was written."""
        own = max(0.0, boottime() - self.first_seen(key, since))
        self._refresh(since.term)
        with self._lock:
            if since.term > self._term:
                return own  # the member that replied had not received the new term
            # In a later term the clock began anew, not long after the record was written.
            base = since.latest if since.term == self._term else GRACE
            return max(own, boottime() + self._low - base)

    def _refresh(self, term: int = -1) -> None:
        """Read the time, where what is known of it is old, wide, or older than a term."""
        now = boottime()
        with self._lock:
            last, pause = self._read_at, EAGER if self._high - self._low > CLOSE else LAZY
            # Before the first reply nothing is known at all.
            if self._term >= 0 and now - last < pause and term <= self._term:
                return
            self._read_at = now
        answer = self._read()
        if answer is None:
            request = M["LeaseGrantRequest"](ID=self._lease, TTL=LIFE)
            with contextlib.suppress(errors.BackendError):  # another was faster
                self._client.call("LeaseGrant", request, write=True)
            answer = self._read()
        if answer is None:
            raise errors.Unavailable("the lease that is the board's clock could not be made")
        term, low, high = answer
        with self._lock:
            # What was known before, less sure by now.
            aged = DRIFT * (now - last) if self._term >= 0 else 0.0
            before = (self._low - aged, self._high + aged)
            if term == self._term and low <= before[1] and high >= before[0]:
                low, high = max(low, before[0]), min(high, before[1])
            self._term, self._low, self._high = term, low, high

    def _read(self) -> tuple[int, float, float] | None:
        sent = boottime()
        answer = self._client.call(
            "LeaseTimeToLive", M["LeaseTimeToLiveRequest"](ID=self._lease), write=False
        )
        got = boottime()
        if answer.TTL < 0:
            return None
        # What is left was rounded down: the time is above LIFE - TTL - 1, and not above LIFE - TTL.
        over = float(LIFE - answer.TTL)
        return int(answer.header.raft_term), over - 1.0 - got, over - sent
