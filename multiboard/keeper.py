# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""One thread that keeps a board's session and leases, and finds out when one may be lost.

A holder must know that it may have lost a lease before anyone else can hold it. So every lease has
a deadline on this machine's own clock: the instant before the last successful renewal was sent,
plus four fifths of what the store then granted. It knows neither jobs nor TaskFlow.

The reasoning is that of leases with bounded clock drift (Gray and Cheriton, SOSP 1989).
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from multiboard import errors, interrupts
from multiboard.doubts import Doubts, give_back, leases_of
from multiboard.primitives import Backend, Lease, NewPosting, Shelf, boottime

LOG = logging.getLogger(__name__)

#: The part of a granted time after which a lease that was not renewed counts as lost.
SAFE = 0.8
#: A session is renewed after this part of its time.
RENEW = 0.3
#: Seconds after which is looked for what an interrupted attempt leased: it may be on its way yet.
ON_ITS_WAY = 0.3


@dataclass(slots=True)
class _Kept:
    """A lease that this board holds."""

    lease: Lease
    #: By boottime, for a timed lease: when to look whether somebody else has renewed it.
    deadline: float | None


class Keeper:
    """Keeps the session of one backend as long as anything lives by it.

    The backend should not repeat operations: the session comes round again soon, and must not
    wait for anything else. ``on_lost`` is called for each lease that ended, or may have ended,
    without being given back; it must not block.
    """

    def __init__(self, backend: Backend, on_lost: Callable[[Lease, str], None]) -> None:
        self._backend = backend
        self._on_lost = on_lost
        self._wake = interrupts.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._kept: dict[str, _Kept] = {}
        self._entities: dict[str, NewPosting] = {}
        self._returns: dict[str, Lease] = {}
        self._doubts = Doubts()
        #: What the session leases that are kept live by.
        self._session: str | None = None
        #: By boottime: when to renew the session, and when it may have ended; None without one.
        self._renew_at: float | None = None
        self._session_deadline: float | None = None
        self._verify: set[str] = set()
        self._enter_again = False
        self._troubled = False
        #: By boottime, while the thread sleeps; 0 while it is at work, and looks round after.
        self._sleeps_until = 0.0
        self._losses = 0

    # -- what is kept ----------------------------------------------------------------------------

    @property
    def losses(self) -> int:
        """How many sessions were lost; read it before acquiring a lease that is to be kept."""
        return self._losses

    def keep(self, lease: Lease, asked_at: float, losses: int) -> None:
        """Keep a lease that was asked for at ``asked_at`` (boottime), ``losses`` losses ago."""
        lost: Sequence[Lease] = ()
        with self._wake:
            if lease.session is None:
                assert lease.ends_in is not None
                due = asked_at + SAFE * lease.ends_in
                self._kept[lease.key] = _Kept(lease, due)
            else:
                if lease.session != self._session:
                    lost = self._begin_session(lease.session)
                due = self._renew_at or 0.0
                self._kept[lease.key] = _Kept(lease, None)
                if self._session_deadline is None:
                    # Until the first renewal tells better: a lease begins with at least half of
                    # its session's time, see LeaseLock.
                    granted = self._backend.settings.session_timeout / 2
                    self._session_deadline = asked_at + SAFE * granted
                if losses != self._losses:
                    self._verify.add(lease.key)
            self._start(due)
        if lost:
            self._report(lost, "its session ended")

    def _begin_session(self, session: str) -> Sequence[Lease]:
        """Drop, and return, the leases of earlier sessions; called with the lock held.

        A backend has one session at a time: a lease of this one proves the others gone.
        """
        self._session = session
        lost = [kept.lease for kept in self._kept.values() if kept.lease.session]
        for lease in lost:
            del self._kept[lease.key]
        return lost

    def keep_entity(self, entity: NewPosting) -> None:
        """Keep an entity that was added: it is added again whenever its session was lost."""
        with self._wake:
            self._entities[entity.key] = entity
            self._start(self._renew_at or 0.0)

    def forget(self, key: str) -> None:
        """Keep the lease on ``key`` no more: it was given back, or its posting is gone."""
        with self._wake:
            self._kept.pop(key, None)
            self._verify.discard(key)

    def give_back(self, lease: Lease) -> None:
        """Release a lease as soon as the store can be reached.

        It is for a holder that is done with a job and could not say so: renewing its session for
        ever would lock that job until this process ends.
        """
        with self._wake:
            self._kept.pop(lease.key, None)
            self._returns[lease.key] = lease
            self._start(0.0)

    def doubt(
        self, claim_ids: Sequence[str], key: str | None = None, answered: bool = False
    ) -> None:
        """Give back what attempts have leased of which nobody knows what became.

        ``key`` is the posting that they were for; None where the store was to choose. With
        ``answered`` a repeat has an answer, and its leases are about to be kept: what an attempt
        leases that comes after it is looked for later.
        """
        with self._wake:
            self._doubts.note(claim_ids, key, boottime(), late=answered)
            self._start(0.0)

    def interrupted(self, claim_ids: Sequence[str] = (), key: str | None = None) -> None:
        """Put right what may be wrong since somebody was interrupted who used the session.

        What was leased as one of ``claim_ids`` nobody received: it is given back. All else is
        looked at: the store may have said that the session ended, and says it once.
        """
        with self._wake:
            for kept in list(self._kept.values()):
                if kept.lease.claim_id in claim_ids:
                    self._drop(kept.lease)
            self._verify.update(self._kept)
            self._enter_again = bool(self._entities)
            self._doubts.note(claim_ids, key, boottime() + ON_ITS_WAY)
            self._start(0.0)

    def keeps(self, lease: Lease) -> bool:
        """Return whether a lease is kept and not known to be lost."""
        kept = self._kept.get(lease.key)
        return kept is not None and kept.lease.token == lease.token

    def stop(self) -> None:
        """Stop keeping, without waiting for the thread to see it."""
        with self._wake:
            self._closed = True
            self._wake.notify_all()

    def close(self) -> None:
        """Stop keeping. The leases end when their session does."""
        self.stop()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            with contextlib.suppress(RuntimeError):  # it has not even begun
                thread.join(timeout=1.0)

    @property
    def seconds_left(self) -> float | None:
        """Seconds for which the session is certain to live; None without one."""
        deadline = self._session_deadline
        return None if deadline is None else max(0.0, deadline - boottime())

    # -- the thread ------------------------------------------------------------------------------

    def _start(self, due: float) -> None:
        """Have the thread look round for what is due then; called with the lock held.

        Not where it sleeps until no later than that: a switch of threads for each claim would
        cost as much as the claim.
        """
        if self._thread is None and not self._closed:
            self._thread = threading.Thread(target=self._run, name="multiboard-keeper", daemon=True)
        if self._thread is not None:
            interrupts.begin(self._thread)
        if due < self._sleeps_until or self._urgent():
            self._sleeps_until = 0.0
            self._wake.notify_all()

    def _run(self) -> None:
        while True:
            with self._wake:
                if not self._closed and not self._urgent():
                    self._sleeps_until = self._next_due()
                    self._wake.wait(max(0.0, self._sleeps_until - boottime()))
                    self._sleeps_until = 0.0
                if self._closed:
                    return
                session_due = self._needs_session() and boottime() >= (self._renew_at or 0.0)
                to_check = self._to_check()
            try:
                if session_due:
                    self._renew_session()
                if to_check:
                    self._check(to_check)
                if self._enter_again:
                    self._enter_all()
                if self._returns:
                    self._give_back_all()
                self._settle_doubts()
                if self._troubled and (session_due or to_check):
                    self._troubled = False
                    LOG.info("The leases are kept again")
            except errors.Closed:
                return
            except errors.MultiboardError as error:
                # Once an outage: this comes round several times a second.
                level = logging.DEBUG if self._troubled else logging.WARNING
                LOG.log(level, "The leases can't be kept, trying again: %s", error)
                self._troubled = True
                self._pause()
            except Exception:
                LOG.exception("Keeping the leases failed, trying again")
                self._pause()
            self._give_up_on_session()

    def _pause(self) -> None:
        with self._wake:
            left = self.seconds_left
            pause = 0.2 if left is None else max(0.02, min(0.2, left / 10))
            self._wake.wait_for(lambda: self._closed, pause)

    def _needs_session(self) -> bool:
        return bool(self._entities) or any(k.lease.session for k in self._kept.values())

    def _urgent(self) -> bool:
        look_at = self._doubts.next_look
        doubtful = look_at is not None and look_at <= boottime()
        return doubtful or bool(self._returns or self._verify or self._enter_again)

    def _next_due(self) -> float:
        """Return when something has to be done; called with the lock held."""
        times = [kept.deadline for kept in self._kept.values() if kept.deadline is not None]
        if self._needs_session():
            times.append(self._renew_at or 0.0)
            if self._session_deadline is not None:
                times.append(self._session_deadline)
        if self._doubts.next_look is not None:
            times.append(self._doubts.next_look)
        return min(times, default=boottime() + 3600.0)

    def _renew_session(self) -> None:
        with self._wake:
            kept_before = [kept.lease for kept in self._kept.values() if kept.lease.session]
        asked_at = boottime()
        try:
            granted = self._backend.keepalive()
        except errors.SessionLost:
            self._session_lost(kept_before)
            asked_at = boottime()
            granted = self._backend.keepalive()  # begins the next one
        with self._wake:
            self._renew_at = asked_at + RENEW * granted
            self._session_deadline = asked_at + SAFE * granted

    def session_lost(self) -> None:
        """Take note that an operation found the session ended."""
        with self._wake:
            kept = [kept.lease for kept in self._kept.values() if kept.lease.session]
        self._session_lost(kept)

    def _session_lost(self, leases: Sequence[Lease]) -> None:
        with self._wake:
            self._losses += 1
            self._renew_at = self._session_deadline = None
            for lease in leases:
                self._drop(lease)
            self._enter_again = bool(self._entities)
            self._wake.notify_all()
        self._report(leases, "its session ended")

    def _enter_all(self) -> None:
        """Add the entities again, which went with their session."""
        self._enter_again = False
        try:
            self._backend.add(list(self._entities.values()), Shelf.ENTITIES)
        except errors.MultiboardError:
            self._enter_again = True
            raise

    def _give_up_on_session(self) -> None:
        """Report the session leases as lost when the session may have ended in silence."""
        with self._wake:
            deadline = self._session_deadline
            if deadline is None or boottime() < deadline:
                return
            self._session_deadline = None
            doubtful = [kept.lease for kept in self._kept.values() if kept.lease.session]
            for lease in doubtful:
                self._drop(lease)
        self._report(doubtful, "its session could not be renewed in time")

    def _to_check(self) -> Sequence[str]:
        """Return the leases to look at in the store; called with the lock held."""
        now = boottime()
        due = {
            key
            for key, kept in self._kept.items()
            if kept.deadline is not None and kept.deadline <= now
        }
        return sorted(due | (self._verify & self._kept.keys()))

    def _check(self, keys: Sequence[str]) -> None:
        """Look whether leases are still ours: somebody else may have renewed or ended them."""
        with self._wake:
            before = {key: self._kept[key].lease.token for key in keys if key in self._kept}
        asked_at = boottime()
        try:
            postings = self._backend.get(keys)
        except errors.MultiboardError:
            self._lose_overdue(keys)
            raise
        lost: list[Lease] = []
        with self._wake:
            for key, posting in zip(keys, postings, strict=True):
                self._verify.discard(key)
                kept = self._kept.get(key)
                if kept is None or kept.lease.token != before.get(key):
                    continue  # given back, and maybe leased anew, since the store was asked
                current = None if posting is None else posting.lease
                if current is None or current.token != kept.lease.token:
                    self._drop(kept.lease)
                    # Where the posting is gone, whoever removed it held this lease's token.
                    if posting is not None:
                        lost.append(kept.lease)
                elif current.ends_in is not None:
                    kept.deadline = asked_at + SAFE * current.ends_in
                    if SAFE * current.ends_in < 0.05:
                        self._drop(kept.lease)
                        lost.append(kept.lease)
        self._report(lost, "its time ran out")

    def _lose_overdue(self, keys: Sequence[str]) -> None:
        with self._wake:
            now = boottime()
            kept = [self._kept[key] for key in keys if key in self._kept]
            lost = [k.lease for k in kept if k.deadline is not None and k.deadline <= now]
            for lease in lost:
                self._drop(lease)
        self._report(lost, "the store can't be asked whether it still stands")

    def _give_back_all(self) -> None:
        for key, lease in list(self._returns.items()):
            give_back(self._backend, lease)
            with self._wake:
                if self._returns.get(key) is lease:
                    del self._returns[key]

    def _settle_doubts(self) -> None:
        with self._wake:
            now = boottime()
            claims = self._doubts.due(now)
        if claims:
            found = leases_of(self._backend, claims)
            for lease in [lease for lease in found if not self.keeps(lease)]:
                LOG.warning("%s is given back: nobody heard that it was claimed", lease.key)
                give_back(self._backend, lease)
            with self._wake:
                self._doubts.looked(claims, now)

    def _drop(self, lease: Lease) -> None:
        """Stop keeping a lease unless the key has a newer one; called with the lock held."""
        kept = self._kept.get(lease.key)
        if kept is not None and kept.lease.token == lease.token:
            del self._kept[lease.key]
            self._verify.discard(lease.key)

    def _report(self, lost: Sequence[Lease], why: str) -> None:
        if self._closed:
            return  # whoever closes the board gives its claims up
        for lease in lost:
            LOG.warning(
                "The lease of %r on %s (token %d) may be lost: %s",
                lease.holder, lease.key, lease.token, why,
            )  # fmt: skip
            self._on_lost(lease, why)
