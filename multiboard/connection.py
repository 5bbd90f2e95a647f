# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""What a board has while it is connected, in one process: its guard, view, keeper and claims.

It knows postings, leases and the objects that the board made of them, and nothing of TaskFlow.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from multiboard import errors
from multiboard.guard import Guard
from multiboard.keeper import Keeper
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
from multiboard.view import View

#: How many claims that were lost are remembered, so that their holders are told so.
REMEMBERED = 10_000
#: Seconds for which a posting that can't be read is not handed out again.
QUARANTINE = 3600.0

LOG = logging.getLogger(__name__)

#: The boards whose store's settings were looked at in this process, by incarnation.
_looked_at: set[str] = set()

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Claim:
    """A lease of this board, and the job that it is for."""

    lease: Lease
    job: Any


class Connection:
    """A board's connection to its store.

    ``interpret`` makes a job of a posting, or raises ``ValueError``; ``tell`` hears what happens
    on the board; ``on_lost`` hears of each claim of this board that ended, or may have.
    """

    def __init__(
        self,
        backend: Backend,
        interpret: Callable[[Posting], Any],
        tell: Callable[[ChangeKind, Any], None],
        on_lost: Callable[[Claim, str], None],
    ) -> None:
        self.pid = os.getpid()
        # A claim id has to differ from all others, not to be a secret: chance is asked for once,
        # since asking the system for it costs as much as all the rest of a claim here.
        self._chance = os.urandom(12).hex()
        self._attempts = itertools.count(1)
        self.backend = backend
        self.incarnation = backend.incarnation
        # The keeper comes round again by itself: waiting for one lease must not end the others.
        self.keeper = Keeper(Guard(backend, patience=0), self._lost)
        self.guard = Guard(backend, on_doubt=self.keeper.doubt)
        self.view = View(self.guard, interpret, tell)
        self._interpret = interpret
        self._on_lost = on_lost
        #: The claims of this board; a lost one stays, so that its holder is refused.
        self.claims: OrderedDict[str, Claim] = OrderedDict()

    def warn(self) -> None:
        """Log what endangers the board in its store's settings: once a board and a process."""
        if self.incarnation in _looked_at:
            return
        _looked_at.add(self.incarnation)
        with contextlib.suppress(errors.MultiboardError):
            for name, text in self.guard.facts().items():
                if name.startswith("warning"):
                    LOG.warning("%s", text)

    def close(self) -> None:
        """Close the backend, which wakes the threads, and see them end."""
        self.keeper.stop()
        self.guard.close()
        self.keeper.close()
        self.view.close()

    # -- claiming ----------------------------------------------------------------------------

    def acquire(self, job: Any, who: str, expiry: float | None) -> Lease:
        """Lease the posting of a job and keep the lease.

        Raises: as :meth:`multiboard.primitives.LeaseLock.acquire`.
        """
        claim_id = self._claim_id()
        asked_at, losses = boottime(), self.keeper.losses
        lease = self.with_session(lambda: self.guard.acquire(job.key, who, claim_id, expiry))
        self._hold(Claim(lease, job), asked_at, losses)
        self.view.note_lease(lease)
        return lease

    def _claim_id(self) -> str:
        return f"{self._chance}-{next(self._attempts)}"

    def take(self, who: str, limit: int, expiry: float | None) -> list[Any]:
        """Lease the first postings that are due and unleased, and return what they mean.

        Raises: as :meth:`multiboard.primitives.LeaseLock.acquire_next`.
        """
        if not self.guard.traits.native_claim_next:
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
        asked_at, losses = boottime(), self.keeper.losses
        with self.view.asking() as tick:
            won = self.with_session(lambda: self.guard.acquire_next(who, claim_ids, expiry))
            jobs = [self._take_over(posting, lease, asked_at, losses) for posting, lease in won]
            if self.view.started:
                self.view.note_present([posting for posting, _ in won], tick)
        return jobs

    def _take_over(self, posting: Posting, lease: Lease, asked_at: float, losses: int) -> Any:
        entry = self.view.find(posting.key)
        try:
            job = self._interpret(posting) if entry is None else entry.item
        except ValueError as error:
            self.view.quarantine(posting.key, str(error))
            try:
                self.guard.release(lease, QUARANTINE)
            except errors.BackendError:
                self.keeper.give_back(lease)  # what else was won must not be lost with it
            return None
        self._hold(Claim(lease, job), asked_at, losses)
        return job

    def _take_from_view(self, who: str, limit: int, expiry: float | None) -> list[Any]:
        self.view.load(self.guard.settings.operation_timeout)
        taken: list[Any] = []
        for entry in self.view.entries():
            if len(taken) == limit:
                break
            if entry.leased is None and entry.due_at <= boottime():
                try:
                    self.acquire(entry.item, who, expiry)
                except (errors.LeaseHeld, errors.PostingNotFound):
                    continue  # somebody was faster, and the view will hear of it
                taken.append(entry.item)
        return taken

    def with_session(self, operation: Callable[[], T]) -> T:
        """Do what needs a session; where that had ended, do it again in the next one."""
        try:
            return operation()
        except errors.SessionLost:
            self.keeper.session_lost()
            return operation()

    def _hold(self, claim: Claim, asked_at: float, losses: int) -> None:
        self.claims[claim.lease.key] = claim
        self.keeper.keep(claim.lease, asked_at, losses)
        if len(self.claims) > REMEMBERED:
            self._forget_lost()

    def _forget_lost(self) -> None:
        for key, claim in list(self.claims.items())[: len(self.claims) // 2]:
            if not self.keeper.keeps(claim.lease):
                self.claims.pop(key, None)

    def _lost(self, lease: Lease, why: str) -> None:
        claim = self.claims.get(lease.key)
        if claim is not None and claim.lease.token == lease.token:
            self._on_lost(claim, why)

    # -- renewing and finishing ----------------------------------------------------------------

    def extend(self, key: str, expiry: float) -> bool:
        """Let the claim on a posting end later; return whether there was one.

        Raises: ``BackendError``, ``Closed``, ``InvalidArgument``.
        """
        claim = self.claims.get(key)
        if claim is None:
            posting = self.guard.get([key])[0]
            lease = None if posting is None else posting.lease
        else:
            lease = claim.lease
        if lease is None:
            return False
        asked_at, losses = boottime(), self.keeper.losses
        try:
            renewed = self.guard.renew(lease, expiry)
        except (errors.LeaseLost, errors.PostingNotFound):
            return False
        if claim is not None and self.keeper.keeps(lease):
            self._hold(Claim(renewed, claim.job), asked_at, losses)
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
        self._drop(key)
        self.view.note_release(lease, delay)

    def _proofs(self, keys: Sequence[str], who: str) -> Sequence[Lease | errors.MultiboardError]:
        """Return the lease with which ``who`` may act on each posting, or why there is none."""
        own = {key: self.claims[key].lease for key in keys if key in self.claims}
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

        A conductor says once that it is done with a job, and logs it when that fails. To keep
        the job's lease then would lock it for as long as this process lives.
        """
        for lease in leases:
            claim = self.claims.get(lease.key)
            if claim is not None and claim.lease.token == lease.token:
                self.keeper.give_back(lease)

    def _gone(
        self, key: str, kind: ChangeKind = ChangeKind.REMOVED, token: int | None = None
    ) -> None:
        self._drop(key)
        if self.view.started:
            self.view.note_absent(key, kind, token)

    def _drop(self, key: str) -> None:
        self.claims.pop(key, None)
        self.keeper.forget(key)

    # -- the rest ------------------------------------------------------------------------------

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
        answer = self.with_session(lambda: self.guard.add([entity], Shelf.ENTITIES))[0]
        if isinstance(answer, errors.MultiboardError):
            raise answer
        self.keeper.keep_entity(entity)

    def wait_absent(self, key: str, timeout: float | None) -> bool:
        """Wait until a posting is gone from the live shelf; return whether it is.

        Raises: ``BackendError``, ``Closed``.
        """
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
