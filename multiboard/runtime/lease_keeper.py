# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Keeps a board's session and leases, and reports each that may be lost before others can have it.

A holder must know that it may have lost a lease before anyone else can hold it. So every lease has
a deadline on this machine's own clock: the instant before the last successful renewal was sent,
plus four fifths of what the store then granted. It knows neither jobs nor TaskFlow.

Nothing that waits for the store may hold that up: one thread watches the deadlines and never calls
the store, one renews the session and does nothing else, one does all other errands (ADR 0020).

The reasoning is that of leases with bounded clock drift (Gray and Cheriton, SOSP 1989).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

from multiboard import errors
from multiboard.primitives import (
    Backend,
    FailureLog,
    Lease,
    NewPosting,
    Shelf,
    boottime,
    interrupts,
)
from multiboard.runtime.deadlines import RENEW, SAFE, Kept, KeptLeases, Stamp
from multiboard.runtime.timer import Timer
from multiboard.runtime.unconfirmed import UnconfirmedClaims, give_back, leases_of

LOG = logging.getLogger(__name__)

T = TypeVar("T")

#: The part of the time until its deadline that one renewal of a session may take, so that a second
#: one can be tried, and the seconds that it may take at least.
SHARE = 2 / 3
LEAST = 0.05
#: Seconds after which the lease of an interrupted attempt is looked for: it may be in flight.
ON_ITS_WAY = 0.3


class LeaseKeeper:
    """Keeps the session of one backend as long as anything lives by it.

    The backend should not repeat operations: the next renewal comes soon, and must not wait for
    anything else. ``on_lost`` is called for each lease that ended, or may have ended,
    without being given back; it must not block.
    """

    def __init__(self, backend: Backend, on_lost: Callable[[Lease, str], None]) -> None:
        self._backend = backend
        self._on_lost = on_lost
        self._lock = interrupts.Condition()
        self._kept = KeptLeases()
        due = self._kept.next_deadline
        self._clock = Timer("multiboard-deadlines", self._lock, due, self._expire)
        self._renewer = Timer("multiboard-keeper", self._lock, self._next_renewal, self._renew)
        self._errands = Timer("multiboard-errands", self._lock, self._next_errand, self._run)
        self._closed = False
        self._entities: dict[str, NewPosting] = {}
        #: What is to be released, and when, by boottime.
        self._returns: dict[str, tuple[Lease, float]] = {}
        self._unconfirmed = UnconfirmedClaims()
        self._session = self._kept.session
        self._enter_again = False
        again = "The leases are kept again"
        self._failures = {
            timer: FailureLog(LOG, "The leases can't be kept, trying again", again)
            for timer in (self._renewer, self._errands)
        }
        self._losses = 0

    # -- what is kept ----------------------------------------------------------------------------

    def stamp(self) -> Stamp:
        """Return the stamp of this instant, for what is about to be asked of the store."""
        return Stamp(boottime(), self._losses)

    def begin_claims(self, claim_ids: Sequence[str]) -> None:
        """Take note that somebody claims with these ids, and waits for the answers.

        Until :meth:`end_claims` nobody takes the leases for such as nobody received.
        """
        with self._lock:
            self._unconfirmed.begin(claim_ids)

    def end_claims(self, claim_ids: Sequence[str]) -> None:
        """Take note that what these ids leased is kept now, or that nobody will keep it."""
        with self._lock:
            if self._unconfirmed.end(claim_ids):
                self._wake_for_unconfirmed()

    def keep(self, lease: Lease, stamp: Stamp) -> None:
        """Keep a lease; ``stamp`` is from before it was asked for.

        Where the answer took so long that the lease may have ended since, the store is asked first.

        Raises: ``SessionLost``, ``LeaseLost``, ``PostingNotFound`` (the lease has ended),
        ``BackendError``, ``Closed``.
        """
        if lease.session is None:
            self._keep_timed(lease, stamp.asked_at)
            return
        half = stamp.asked_at + SAFE * self._session_time() / 2
        if half <= boottime() and not self._lives(lease):
            half = self._confirm_session(stamp)
        lost: Sequence[Lease] = ()
        with self._lock:
            if stamp.losses != self._losses:  # by what it lives may be what was lost
                self._kept.doubtful.add(lease.key)
                self._errands.wake(0.0)
            elif lease.session != self._session.id:
                lost = self._begin_session(lease.session)
            # Until the first renewal shows better: a lease begins with at least half of its
            # session's time, see LeaseLock.
            deadline = self._session.deadline = max(self._session.deadline or 0.0, half)
            self._kept[lease.key] = Kept(lease)
            self._clock.wake(deadline)
            self._renewer.wake(self._session.renew_at or 0.0)
        self._report([(old, "its session ended") for old in lost])

    def _keep_timed(self, lease: Lease, asked_at: float) -> None:
        assert lease.ends_in is not None
        kept = Kept(lease)
        kept.last(asked_at, lease.ends_in)
        if kept.deadline is not None and kept.deadline <= boottime():
            asked_at = boottime()
            [posting] = self._backend.get([lease.key])
            if posting is None:
                raise errors.PostingNotFound(lease.key)
            if posting.lease is None or posting.lease.token != lease.token:
                raise errors.LeaseLost(lease.key, lease.token)
            kept.last(asked_at, posting.lease.ends_in or 0.0)
        with self._lock:
            self._kept[lease.key] = kept
            self._wake_for(kept)

    def _session_time(self) -> float:
        configured, granted = self._backend.session_time, self._session.granted
        return configured if granted is None else min(configured, granted)

    def _lives(self, lease: Lease) -> bool:
        with self._lock:
            deadline = self._session.deadline
            known = lease.session == self._session.id and deadline is not None
            return known and boottime() < (deadline or 0.0)

    def _confirm_session(self, stamp: Stamp) -> float:
        asked = stamp._replace(asked_at=boottime())
        granted = self._backend.keepalive()
        self._renewed(asked, granted)
        return asked.asked_at + SAFE * granted

    def _begin_session(self, session: str) -> Sequence[Lease]:
        """Drop, and return, the leases of earlier sessions; called with the lock held.

        A backend has one session at a time: a lease of this one proves the others gone.
        """
        lost: Sequence[Lease] = ()
        if self._session.id is not None:
            lost = self._end_session()
        self._session.id = session
        return lost

    def keep_entity(self, entity: NewPosting, stamp: Stamp) -> None:
        """Keep an entity that was added: it is added again whenever its session was lost."""
        with self._lock:
            self._entities[entity.key] = entity
            if stamp.losses != self._losses:
                self._enter_again = True
                self._errands.wake(0.0)
            self._renewer.wake(self._session.renew_at or 0.0)

    def forget(self, key: str) -> None:
        """Keep the lease on ``key`` no more: it was given back, or its posting is gone."""
        with self._lock:
            self._kept.forget(key)

    def give_back(self, lease: Lease) -> None:
        """Release a lease as soon as the store can be reached.

        It is for a holder that is done with a job and could not say so: renewing its session for
        ever would lock that job until this process ends.
        """
        with self._lock:
            self._kept.drop(lease)
            self._returns[lease.key] = (lease, 0.0)
            self._errands.wake(0.0)

    def note_unconfirmed(
        self, claim_ids: Sequence[str], key: str | None = None, answered: bool = False
    ) -> None:
        """Give back what attempts have leased of which nobody knows what became.

        ``key`` is the posting that they were for; None where the store was to choose. With
        ``answered`` a repeat has an answer, and its leases are about to be kept: what an attempt
        leases that comes after it is looked for later.
        """
        with self._lock:
            self._unconfirmed.note(claim_ids, key, boottime(), late=answered)
            self._wake_for_unconfirmed()

    def interrupted(self, claim_ids: Sequence[str] = (), key: str | None = None) -> None:
        """Put right what may be wrong since somebody was interrupted who used the session.

        What was leased as one of ``claim_ids`` nobody received: it is given back. All else is
        verified: the interrupted caller may have lost the one reply that the session ended.
        """
        with self._lock:
            for kept in list(self._kept.values()):
                if kept.lease.claim_id in claim_ids:
                    self._kept.drop(kept.lease)
            self._kept.doubtful.update(self._kept)
            self._enter_again = bool(self._entities)
            self._unconfirmed.note(claim_ids, key, boottime() + ON_ITS_WAY)
            self._unconfirmed.end(claim_ids)
            self._errands.wake(0.0)

    def keeps(self, lease: Lease) -> bool:
        """Return whether a lease is kept, and certain to stand at this instant."""
        return self.has(lease) and not self.is_overdue(lease)

    def is_overdue(self, lease: Lease) -> bool:
        """Return whether a lease that is kept may have ended, reported or not."""
        return self._kept.is_overdue(lease)

    def has(self, lease: Lease) -> bool:
        """Return whether a lease is kept and was not reported lost, overdue or not."""
        return self._kept.has(lease)

    def stop(self) -> None:
        """Stop keeping, without waiting for the threads to see it."""
        with self._lock:
            self._closed = True
            for timer in (self._clock, self._renewer, self._errands):
                timer.stop()

    def close(self) -> None:
        """Stop keeping. The leases end when their session does."""
        self.stop()
        give_up = boottime() + 1.0
        for timer in (self._clock, self._renewer, self._errands):
            timer.join(max(0.0, give_up - boottime()))

    @property
    def seconds_left(self) -> float | None:
        """Seconds for which the session is certain to live; None without one."""
        deadline = self._session.deadline
        return None if deadline is None else max(0.0, deadline - boottime())

    # -- the clock: it never calls the store -------------------------------------------------------

    def _expire(self) -> bool:
        """Report the leases as lost that may have ended in silence."""
        lost: list[tuple[Lease, str]] = []
        with self._lock:
            now = boottime()
            for kept in list(self._kept.values()):
                if kept.deadline is not None and kept.deadline <= now:
                    lost.append((kept.lease, kept.why))
            if self._session.deadline is not None and self._session.deadline <= now:
                self._session.deadline = None
                lapsed = list(self._kept.by_session())
                lost += [(lease, "its session could not be renewed in time") for lease in lapsed]
                # The session may turn out to live, kept for other leases. Nobody works on these any
                # more, so they are given back; not before they could have ended by themselves.
                rest = (1 - SAFE) * self._session_time()
                self._returns.update((lease.key, (lease, now + rest)) for lease in lapsed)
                self._errands.wake(now + rest)
            for lease, _ in lost:
                self._kept.drop(lease)
        self._report(lost)
        return True

    def _report(self, lost: Sequence[tuple[Lease, str]]) -> None:
        if self._closed:
            return  # whoever closes the board gives its claims up
        for lease, why in lost:
            try:
                self._on_lost(lease, why)
            except (Exception, SystemExit, KeyboardInterrupt):
                LOG.exception("Reporting the loss of %s failed", lease.key)
        for lease, why in lost:  # after all reports: a log may be slow
            LOG.warning(
                "The lease of %r on %s (token %d) may be lost: %s",
                lease.holder, lease.key, lease.token, why,
            )  # fmt: skip

    # -- the session -------------------------------------------------------------------------------

    def _next_renewal(self) -> float | None:
        needed = bool(self._entities) or any(self._kept.by_session())
        return (self._session.renew_at or 0.0) if needed else None

    def _renew(self) -> bool:
        """Renew the session, in a part of the time that is left."""
        with self._lock:
            stamp, deadline = self.stamp(), self._session.deadline
            left = None if deadline is None else deadline - stamp.asked_at
        needed = left is not None and any(self._kept.by_session())
        within = max(LEAST, SHARE * (left or 0.0)) if needed else None

        def renew() -> None:
            try:
                granted = self._backend.keepalive(within)
            except errors.SessionLost:
                self.session_lost(stamp)  # and the next one begins when there is need of it
            else:
                self._renewed(stamp, granted)

        return self._attempt(renew, self._renewer)

    def _renewed(self, stamp: Stamp, granted: float) -> None:
        asked_at = stamp.asked_at
        with self._lock:
            session = self._session
            if stamp.losses != self._losses or asked_at < session.renewed_at:
                return  # it may have been another session
            deadline = session.deadline
            session.renewed(asked_at, granted)
            if self._kept.doubtful:  # what was lost meanwhile may be among what is kept
                session.deadline, session.renew_at = deadline, asked_at + RENEW * granted / 4

    def run_in_session(self, operation: Callable[[], T]) -> T:
        """Do what needs a session; where that had ended, do it again in the next one."""
        stamp = self.stamp()
        try:
            return operation()
        except errors.SessionLost:
            self.session_lost(stamp)
            return operation()

    def session_lost(self, stamp: Stamp) -> None:
        """Take note that what was asked with this stamp found its session ended."""
        with self._lock:
            if stamp.losses != self._losses:
                # Another one noted it, and maybe began the next session, whose leases may stand.
                self._kept.doubtful.update(lease.key for lease in self._kept.by_session())
                self._errands.wake(0.0)
                return
            lost = self._end_session()
        self._report([(lease, "its session ended") for lease in lost])

    def _end_session(self) -> Sequence[Lease]:
        """Drop, and return, the session leases; called with the lock held."""
        lost = list(self._kept.by_session())
        for lease in lost:
            self._kept.drop(lease)
        self._losses += 1
        self._session.end()
        if self._entities:
            self._enter_again = True
            self._errands.wake(0.0)
            self._renewer.wake(0.0)
        return lost

    # -- errands -----------------------------------------------------------------------------------

    def _wake_for(self, kept: Kept) -> None:
        if kept.deadline is not None:
            self._clock.wake(kept.deadline)
        if kept.look_at is not None:
            self._errands.wake(kept.look_at)

    def _wake_for_unconfirmed(self) -> None:
        due = self._unconfirmed.next_look
        if due is not None:
            self._errands.wake(due)

    def _next_errand(self) -> float | None:
        if self._kept.doubtful or self._enter_again:
            return 0.0
        times = self._kept.look_times()
        times += [due for _, due in self._returns.values()]
        if self._unconfirmed.next_look is not None:
            times.append(self._unconfirmed.next_look)
        return min(times, default=None)

    def _run(self) -> bool:
        def run() -> None:
            refused: list[errors.AccessDenied] = []
            for errand in (self._check, self._enter_all, self._give_back_all, self._settle):
                try:
                    errand()
                except errors.AccessDenied as error:
                    refused.append(error)  # another right may suffice for the others
            if refused:
                raise refused[0]

        return self._attempt(run, self._errands)

    def _attempt(self, work: Callable[[], None], timer: Timer) -> bool:
        """Do what calls the store; where that fails, pause. Return whether to go on."""
        failures = self._failures[timer]
        try:
            work()
        except errors.Closed:
            return False
        except errors.MultiboardError as error:
            failures.failed(error)
        except (Exception, SystemExit, KeyboardInterrupt) as error:
            # Whatever it is: without this thread every lease ends.
            failures.failed(error, logging.ERROR, trace=True)
        else:
            failures.succeeded()
            return True
        left = self.seconds_left
        timer.pause(0.2 if left is None else max(0.02, min(0.2, left / 10)))
        return True

    def _enter_all(self) -> None:
        """Add the entities again, which went with their session."""
        with self._lock:
            if not self._enter_again:
                return
            self._enter_again = False
            entities = list(self._entities.values())
        try:
            self._backend.add(entities, Shelf.ENTITIES)
        except BaseException:
            self._enter_again = True
            raise

    def _check(self) -> None:
        """Look whether leases are still ours: somebody else may have renewed or ended them."""
        with self._lock:
            due, keys = self._kept.to_look_at()
        if not keys:
            return
        asked_at = boottime()
        try:
            postings = self._backend.get(list(keys))
        except errors.MultiboardError:
            with self._lock:
                for key in due & self._kept.keys():
                    self._kept[key].why = "the store can't be asked whether it still stands"
            raise
        lost: list[tuple[Lease, str]] = []
        with self._lock:
            for key, posting in zip(keys, postings, strict=True):
                self._kept.doubtful.discard(key)
                kept = self._kept.get(key)
                if kept is None or kept.lease.token != keys[key]:
                    continue  # given back, and maybe leased anew, since the store was asked
                current = None if posting is None else posting.lease
                if current is None or current.token != kept.lease.token:
                    self._kept.drop(kept.lease)
                    # Where the posting is gone, whoever removed it held this lease's token.
                    if posting is not None:
                        why = "its session ended" if kept.lease.session else "its time ran out"
                        lost.append((kept.lease, why))
                elif current.ends_in is not None:
                    kept.last(asked_at, current.ends_in)
                    self._wake_for(kept)
        self._report(lost)

    def _give_back_all(self) -> None:
        for key, (lease, due) in list(self._returns.items()):
            if due > boottime():
                continue
            give_back(self._backend, lease)
            with self._lock:
                if self._returns.get(key) == (lease, due):
                    del self._returns[key]

    def _settle(self) -> None:
        with self._lock:
            now = boottime()
            claims = self._unconfirmed.due(now)
        if claims:
            found = leases_of(self._backend, claims)
            for lease in [lease for lease in found if not self.has(lease)]:
                LOG.warning("%s is given back: nobody received the claim", lease.key)
                give_back(self._backend, lease)
            with self._lock:
                self._unconfirmed.looked(claims, now)
