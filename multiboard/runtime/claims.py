# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The claims of one board: made, kept by the lease keeper, and ended.

It knows postings, leases and the objects that the board made of them, and nothing of TaskFlow.
"""

from __future__ import annotations

import itertools
import os
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from multiboard import errors
from multiboard.primitives import ChangeKind, Lease, Posting, Shelf, Spread, boottime
from multiboard.runtime.deadlines import Stamp
from multiboard.runtime.guard import Guard
from multiboard.runtime.lease_keeper import LeaseKeeper
from multiboard.runtime.view import ASK_AGAIN, ASK_AGAIN_AT_MOST, View

#: How many claims that were lost are remembered, so that their holders are refused.
REMEMBERED = 10_000
#: Seconds for which a posting that can't be read is not handed out again.
QUARANTINE = 3600.0

T = TypeVar("T")


@dataclass(slots=True)
class Claim:
    """A lease of this board, and the job that it is for."""

    lease: Lease
    job: Any
    #: Why it ended, or may have, without being given back; None while it has not.
    lost: str | None = None


class ClaimManager:
    """The claims of one board.

    ``interpret`` makes a job of a posting, or raises ``ValueError``; ``on_lost`` is called for each
    claim that ended, or may have.
    """

    def __init__(
        self,
        guard: Guard,
        keeper: LeaseKeeper,
        view: View,
        interpret: Callable[[Posting], Any],
        on_lost: Callable[[Claim, str], None],
    ) -> None:
        self.guard = guard
        self.keeper = keeper
        self.view = view
        self._interpret = interpret
        self._on_lost = on_lost
        # A claim id has to differ from all others, not to be a secret: chance is asked for once,
        # since asking the system for it costs as much as all the rest of a claim here.
        self._chance = os.urandom(12).hex()
        self._attempts = itertools.count(1)
        #: Where to try next, on a store where the view shows what is free.
        self._spread = Spread()
        #: A lost claim stays, so that its holder is refused.
        self._claims: OrderedDict[str, Claim] = OrderedDict()

    def __len__(self) -> int:
        """How many claims stand at this instant."""
        return sum(self.lease_of(key) is not None for key in list(self._claims))

    # -- claiming ----------------------------------------------------------------------------

    def acquire(self, job: Any, who: str, expiry: float | None) -> Lease:
        """Lease the posting of a job and keep the lease.

        Raises: as :meth:`multiboard.primitives.LeaseLock.acquire`.
        """
        claim_id = self._claim_id()
        won: list[Lease] = []

        def attempt() -> Lease:
            stamp = self.keeper.stamp()
            lease = self.guard.acquire(job.key, who, claim_id, expiry)
            won.append(lease)
            self._hold(Claim(lease, job), stamp)
            return lease

        def claim() -> Lease:
            lease = self.keeper.run_in_session(attempt)
            self.view.note_lease(lease)
            return lease

        return self._claiming([claim_id], job.key, won, claim)

    def _claim_id(self) -> str:
        return f"{self._chance}-{next(self._attempts)}"

    def take(self, who: str, limit: int, expiry: float | None) -> list[Any]:
        """Lease the first postings that are due and unleased, and return what they mean.

        Raises: as :meth:`multiboard.primitives.LeaseLock.acquire_next`.
        """
        many = limit > 1 and self.guard.claims_many
        if not (many or self.guard.traits.native_claim_next):
            taken = self._take_from_view(who, limit, expiry)
            if taken:
                return taken
            # The view may be behind; that there is nothing is for the store to say.
        while True:
            won = self._take_from_store(who, limit, expiry)
            taken = [job for job in won if job is not None]
            if taken or not won:
                return taken
            # None of them can be read: what is behind them in the order must not wait for it.

    def _take_from_store(self, who: str, limit: int, expiry: float | None) -> list[Any]:
        """Lease the first postings; one that means nothing is None, and was given back."""
        claim_ids = [self._claim_id() for _ in range(limit)]
        won: list[Lease] = []

        def attempt() -> list[Any]:
            stamp = self.keeper.stamp()
            answer = self.guard.acquire_next(who, claim_ids, expiry)
            won.extend(lease for _, lease in answer)
            jobs = [self._take_over(posting, lease, stamp) for posting, lease in answer]
            if self.view.started:
                self.view.note_present([posting for posting, _ in answer], tick)
            return jobs

        with self.view.asking() as tick:
            return self._claiming(claim_ids, None, won, lambda: self.keeper.run_in_session(attempt))

    def take_in_time(self, who: str, limit: int, expiry: float | None, give_up: float) -> list[Any]:
        """Do as :meth:`take`, and where there is nothing wait for it until ``give_up`` (boottime).

        Raises: as :meth:`take`.
        """
        again = ASK_AGAIN
        while True:
            seen = self.view.openings
            jobs = self.take(who, limit, expiry)
            left = give_up - boottime()
            if jobs or left <= 0:
                return jobs
            if not self.view.started:
                self.view.load(left)
                continue  # what was posted before the view began is seen by asking again
            opened = self.view.wait_for_opening(seen, left, again)
            again = ASK_AGAIN if opened else min(2 * again, ASK_AGAIN_AT_MOST)

    def _claiming(
        self, claim_ids: Sequence[str], key: str | None, won: list[Lease], claim: Callable[[], T]
    ) -> T:
        """Claim with these ids; ``claim`` adds to ``won`` what was answered.

        Where it fails its caller does not learn what was leased: that is given back.
        """
        try:
            self.keeper.begin_claims(claim_ids)
            answer = claim()
            self.keeper.end_claims(claim_ids)
            return answer
        except errors.MultiboardError:
            for lease in won:
                held = self._claims.get(lease.key)
                if held is not None and held.lease.token == lease.token:
                    self._drop(lease.key)
            if won:
                self.keeper.note_unconfirmed(claim_ids, key)
            self.keeper.end_claims(claim_ids)
            raise
        except BaseException:
            self._interrupted(claim_ids, key)
            raise

    def _interrupted(self, claim_ids: Sequence[str], key: str | None = None) -> None:
        """Give back what was leased as one of these: who asked for it was interrupted."""
        for name, claim in list(self._claims.items()):
            if claim.lease.claim_id in claim_ids:
                self._claims.pop(name, None)
        self.keeper.interrupted(claim_ids, key)

    def _take_over(self, posting: Posting, lease: Lease, stamp: Stamp) -> Any:
        entry = self.view.find(posting.key)
        try:
            job = self._interpret(posting) if entry is None else entry.item
        except ValueError as error:
            self.view.quarantine(posting.key, str(error))
            try:
                self.guard.release(lease, QUARANTINE)
            except (errors.LeaseLost, errors.PostingNotFound):
                pass  # it has ended, which is all that is wanted
            except errors.BackendError:
                self.keeper.give_back(lease)  # what else was won must not be lost with it
            return None
        try:
            self._hold(Claim(lease, job), stamp)
        except (errors.LeaseLost, errors.PostingNotFound):
            return None  # it ended before the answer came
        return job

    def _take_from_view(self, who: str, limit: int, expiry: float | None) -> list[Any]:
        self.view.load(self.guard.settings.operation_timeout)
        taken: list[Any] = []
        free = (
            entry
            for entry in self.view.entries()
            if entry.leased is None and entry.due_at <= boottime()
        )
        for entry in self._spread.over(free, lambda one: one.posting.key):
            if len(taken) == limit:
                break
            if entry.leased is None:  # by now
                try:
                    self.acquire(entry.item, who, expiry)
                except (errors.LeaseHeld, errors.LeaseLost, errors.PostingNotFound):
                    self._spread.met()
                    continue  # somebody was faster, and the view will receive it
                except errors.BackendError:
                    if taken:
                        break  # the caller gets what was claimed before
                    raise
                taken.append(entry.item)
        return taken

    def _hold(self, claim: Claim, stamp: Stamp) -> None:
        self._claims[claim.lease.key] = claim
        try:
            self.keeper.keep(claim.lease, stamp)
        except BaseException:
            self._drop(claim.lease.key)
            raise
        if len(self._claims) > REMEMBERED:
            self._forget_lost()

    def _forget_lost(self) -> None:
        for key, claim in list(self._claims.items())[: len(self._claims) // 2]:
            if not self.keeper.has(claim.lease):
                self._claims.pop(key, None)

    def lost(self, lease: Lease, why: str) -> None:
        """Take note that a lease ended, or may have, without being given back."""
        claim = self._claims.get(lease.key)
        if claim is not None and claim.lease.token == lease.token:
            claim.lost = why
            self._on_lost(claim, why)

    def lease_of(self, key: str) -> Lease | None:
        """Return the lease with which this board claims a posting; None where it does not."""
        claim = self._claims.get(key)
        if claim is None or claim.lost is not None or not self.keeper.keeps(claim.lease):
            return None
        return claim.lease

    def watch(self, key: str) -> Callable[[], str | None]:
        """Return a function that answers at any time why the claim on a posting was lost.

        It answers None where it was not. It asks the clock: no thread has to have come round to
        it, and neither the store nor a listener can hold it up.
        """
        claim = self._claims.get(key)

        def why_lost() -> str | None:
            if claim is None or claim.lost is not None:
                return None if claim is None else claim.lost
            current = self._claims.get(key)
            if current is not None and current.lease.token != claim.lease.token:
                return "it was claimed again"
            return "it was not renewed in time" if self.keeper.is_overdue(claim.lease) else None

        return why_lost

    # -- renewing and finishing ----------------------------------------------------------------

    def extend(self, key: str, expiry: float) -> bool:
        """Let the claim on a posting end later; return whether there was one.

        Raises: ``BackendError``, ``Closed``, ``InvalidArgument``.
        """
        claim = self._claims.get(key)
        if claim is None:
            posting = self.guard.get([key])[0]
            lease = None if posting is None else posting.lease
        else:
            lease = claim.lease
        if lease is None:
            return False
        if claim is not None and claim.lost is not None:
            return False  # its holder received it, and another one may have it at any moment
        stamp = self.keeper.stamp()
        try:
            renewed = self.guard.renew(lease, expiry)
        except (errors.LeaseLost, errors.PostingNotFound):
            return False
        if claim is not None and renewed.session is None and self._claims.get(key) is claim:
            try:
                self.keeper.keep(renewed, stamp)
            except (errors.LeaseLost, errors.PostingNotFound):
                return False
            claim.lease = renewed
        return True

    def remove(
        self, keys: Sequence[str], who: str, to: Shelf | None
    ) -> Sequence[errors.MultiboardError | None]:
        """Remove postings that ``who`` holds; the answers are as of the primitive.

        Raises: ``BackendError``, ``Closed``.
        """
        proofs = self._proofs(keys, who)
        leases = [proof for proof in proofs if isinstance(proof, Lease)]
        try:
            done = iter(self.guard.remove(leases, to) if leases else ())
        except errors.BackendError:
            self._give_back(leases)
            raise
        answers = [next(done) if isinstance(proof, Lease) else proof for proof in proofs]
        kind = ChangeKind.REMOVED if to is None else ChangeKind.TRASHED
        for key, proof, answer in zip(keys, proofs, answers, strict=True):
            if answer is None and isinstance(proof, Lease):
                self._gone(key, kind, proof.token)
            elif isinstance(answer, errors.PostingNotFound) and isinstance(proof, Lease):
                self._gone(key)
        return answers

    def release(self, key: str, who: str, delay: float) -> None:
        """Give back the lease that ``who`` holds on a posting.

        Raises: ``PostingNotFound``, ``LeaseLost``, ``BackendError``, ``Closed``.
        """
        lease = self._proofs([key], who)[0]
        if isinstance(lease, errors.MultiboardError):
            raise lease
        try:
            self.guard.release(lease, delay)
        except errors.PostingNotFound:
            self._gone(key)
            raise
        except errors.BackendError:
            self._give_back([lease])
            raise
        except errors.MultiboardError:
            raise
        except BaseException:  # whoever gave it up was interrupted, and has given it up
            self._give_back([lease])
            raise
        self._drop(key)
        self.view.note_release(lease, delay)

    def _proofs(self, keys: Sequence[str], who: str) -> Sequence[Lease | errors.MultiboardError]:
        """Return the lease with which ``who`` may act on each posting, or why there is none."""
        own = {key: self._claims[key].lease for key in keys if key in self._claims}
        asked = [key for key in keys if key not in own]
        found = dict(zip(asked, self.guard.get(asked) if asked else (), strict=True))
        proofs: list[Lease | errors.MultiboardError] = []
        for key in keys:
            posting = found.get(key)
            lease = own.get(key) or (None if posting is None else posting.lease)
            if lease is None:
                why = "it is no longer posted" if posting is None else "nobody claims it"
                proofs.append(errors.PostingNotFound(key, why))
            elif lease.holder != who:
                why = f"it is claimed by {lease.holder!r}, not by {who!r}"
                proofs.append(errors.LeaseLost(key, lease.token, why))
            else:
                proofs.append(lease)
        return proofs

    def _give_back(self, leases: Sequence[Lease]) -> None:
        """Give leases back when the store answers again, which it did not.

        A conductor reports once that it is done with a job, and logs it when that fails. To keep
        the job's lease then would lock it for as long as this process lives.
        """
        for lease in leases:
            claim = self._claims.get(lease.key)
            if claim is not None and claim.lease.token == lease.token:
                self.keeper.give_back(lease)

    def _gone(
        self, key: str, kind: ChangeKind = ChangeKind.REMOVED, token: int | None = None
    ) -> None:
        self._drop(key)
        if self.view.started:
            self.view.note_absent(key, kind, token)

    def _drop(self, key: str) -> None:
        self._claims.pop(key, None)
        self.keeper.forget(key)
