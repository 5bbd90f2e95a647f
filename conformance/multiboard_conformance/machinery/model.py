# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""What the verbs of the primitives mean, as plain sequential code: the random programs' model.

It is written from the contract (:mod:`multiboard.primitives.interface`), shares no code with any
backend, and is slow and short on purpose: one caller at a time, nothing is forgotten, nothing
fails. :class:`Board` is the specification, in values, with the time as an argument;
:class:`ModelBackend` lets the programs call it as they call a backend. Where the contract leaves
a choice the model takes one answer, and the programs allow the others. Imports the primitives and
the errors only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from multiboard import errors, primitives
from multiboard.primitives import Change, ChangeKind, Lease, NewPosting, Page, Posting, Shelf

LIVE, TRASH, ENTITIES = Shelf.LIVE, Shelf.TRASH, Shelf.ENTITIES


@dataclass
class Held:
    """A lease as the store knows it."""

    lease: Lease
    #: The instant at which a timed lease ends; None for a session lease.
    ends_at: float | None

    def seen(self, now: float) -> Lease:
        """Return what a reader gets of it."""
        lease = self.lease
        left = None if self.ends_at is None else self.ends_at - now
        return Lease(
            lease.key, lease.holder, lease.claim_id, lease.token, lease.session, ends_in=left
        )


@dataclass
class Job:
    """A posting or an entry, wherever it is."""

    new: NewPosting
    shelf: Shelf | None
    serial: int
    created: float
    modified: float
    due_at: float
    attempts: int = 0
    deaths: int = 0
    held: Held | None = None
    #: The session that an entry lives by.
    session: str | None = None

    def seen(self, now: float) -> Posting:
        """Return what a reader gets of it."""
        return Posting(
            self.new.key, self.new.rank, self.serial, self.new.body, self.attempts, self.deaths,
            self.created, self.modified, max(0.0, self.due_at - now),
            None if self.held is None else self.held.seen(now),
        )  # fmt: skip


@dataclass
class Board:
    """One board; each verb takes the time at which it happens."""

    #: Live, trashed and finished postings, by key; ``shelf`` is None for the finished ones.
    jobs: dict[str, Job] = field(default_factory=dict)
    entries: dict[str, Job] = field(default_factory=dict)
    #: How each lease ended: RELEASED, EXPIRED, REMOVED or TRASHED.
    ends: dict[tuple[str, int], ChangeKind] = field(default_factory=dict)
    #: The claim ids whose lease was released or removed the posting, and that lease's token.
    spent: dict[str, int] = field(default_factory=dict)
    feed: list[Change] = field(default_factory=list)
    #: Serials, tokens and names of sessions are numbers of one sequence.
    last: int = 0

    def number(self) -> int:
        """Return a number higher than all before."""
        self.last += 1
        return self.last

    def tick(self, now: float) -> None:
        """Let the timed leases end that are over."""
        for job in self.jobs.values():
            if job.held is not None and job.held.ends_at is not None and job.held.ends_at <= now:
                self._end(job, ChangeKind.EXPIRED, now)

    def end_session(self, session: str, now: float) -> None:
        """Let all end that lives by a session."""
        for job in self.jobs.values():
            if job.held is not None and job.held.lease.session == session:
                self._end(job, ChangeKind.EXPIRED, now)
        for key in [key for key, entry in self.entries.items() if entry.session == session]:
            del self.entries[key]

    def _end(self, job: Job, how: ChangeKind, now: float) -> None:
        assert job.held is not None
        lease, job.held, job.modified = job.held.lease, None, now
        self.ends[lease.key, lease.token] = how
        if how is ChangeKind.EXPIRED:
            job.deaths += 1
        else:
            self.spent[lease.claim_id] = lease.token
        self.feed.append(Change(how, lease.key, lease.token))

    def on(self, shelf: Shelf) -> list[Job]:
        """Return a shelf in its order."""
        everything = self.entries if shelf is ENTITIES else self.jobs
        there = [job for job in everything.values() if job.shelf is shelf]
        return sorted(there, key=lambda job: (job.new.rank, job.serial))

    def live(self, key: str) -> Job | None:
        """Return a live posting."""
        job = self.jobs.get(key)
        return job if job is not None and job.shelf is LIVE else None

    def _current(self, lease: Lease) -> Job | errors.MultiboardError:
        """Return the posting of which this is the lease, or why it is not."""
        job = self.live(lease.key)
        if job is None:
            return errors.PostingNotFound(lease.key)
        if job.held is None or job.held.lease.token != lease.token:
            return errors.LeaseLost(lease.key, lease.token)
        return job

    # -- the verbs ---------------------------------------------------------------------------

    def add(self, new: NewPosting, now: float) -> Posting | errors.MultiboardError:
        """Add a posting, or find it."""
        job = self.jobs.get(new.key)
        if job is None:
            job = Job(new, LIVE, self.number(), now, now, now + new.delay)
            self.jobs[new.key] = job
            self.feed.append(Change(ChangeKind.POSTED, new.key))
        elif (job.new.rank, job.new.body) != (new.rank, new.body):
            return errors.PostingExists(new.key)
        elif job.shelf is None:
            return errors.PostingNotFound(new.key)
        return job.seen(now)

    def enter(self, new: NewPosting, session: str, now: float) -> Posting:
        """Put an entry in the place of any that has its key."""
        entry = Job(new, ENTITIES, self.number(), now, now, now, session=session)
        self.entries[new.key] = entry
        return entry.seen(now)

    def acquire(
        self, key: str, holder: str, claim: str, session: str | None, span: float | None, now: float
    ) -> Lease | errors.MultiboardError:
        """Lease a posting, or find the lease of the same claim."""
        job = self.live(key)
        if job is None:
            return errors.PostingNotFound(key)
        if job.held is not None:
            lease = job.held.lease
            if (lease.claim_id, lease.session) != (claim, session):
                return errors.LeaseHeld(key, lease.holder)
            return job.held.seen(now)
        if claim in self.spent:
            return errors.LeaseLost(key, self.spent[claim])
        lease = Lease(key, holder, claim, self.number(), session)
        job.held = Held(lease, None if span is None else now + span)
        job.attempts += 1
        job.modified = now
        self.feed.append(Change(ChangeKind.CLAIMED, key, lease.token))
        return job.held.seen(now)

    def acquire_next(
        self, holder: str, claims: Sequence[str], session: str | None, span: float | None,
        now: float,
    ) -> list[tuple[Posting, Lease]]:  # fmt: skip
        """Return what the claims hold already, then the first that are due and free."""
        chosen = [
            (job, job.held.lease.claim_id)
            for job in self.on(LIVE)
            if job.held is not None
            and job.held.lease.session == session
            and job.held.lease.claim_id in claims
        ]
        found = {claim for _, claim in chosen}
        unused = [claim for claim in claims if claim not in found and claim not in self.spent]
        free = [job for job in self.on(LIVE) if job.held is None and job.due_at <= now]
        chosen += zip(free, unused, strict=False)
        answers = []
        for job, claim in chosen:
            lease = self.acquire(job.new.key, holder, claim, session, span, now)
            assert isinstance(lease, Lease)
            answers.append((job.seen(now), lease))
        return answers

    def renew(self, lease: Lease, span: float, now: float) -> Lease | errors.MultiboardError:
        """Let a timed lease end so many seconds from now."""
        job = self._current(lease)
        if not isinstance(job, Job):
            return job
        assert job.held is not None
        if job.held.ends_at is not None:
            job.held.ends_at = now + span
        return job.held.seen(now)

    def release(self, lease: Lease, delay: float, now: float) -> errors.MultiboardError | None:
        """End a lease; the posting is due later."""
        if self.ends.get((lease.key, lease.token)) is ChangeKind.RELEASED:
            return None
        job = self._current(lease)
        if not isinstance(job, Job):
            return job
        self._end(job, ChangeKind.RELEASED, now)
        job.due_at = now + delay
        return None

    def remove(self, lease: Lease, to: Shelf | None, now: float) -> errors.MultiboardError | None:
        """End a lease with its posting, or put the posting on the trash shelf."""
        how = ChangeKind.TRASHED if to is TRASH else ChangeKind.REMOVED
        if self.ends.get((lease.key, lease.token)) is how:
            return None
        job = self._current(lease)
        if not isinstance(job, Job):
            return job
        self._end(job, how, now)
        job.shelf, job.due_at = to, now
        return None

    def restore(self, key: str, now: float) -> Posting | errors.MultiboardError:
        """Put a trashed posting last of its rank on the live shelf, or find it there."""
        job = self.jobs.get(key)
        if job is None or job.shelf is None:
            return errors.PostingNotFound(key)
        if job.shelf is TRASH:
            job.shelf, job.serial, job.modified, job.due_at = LIVE, self.number(), now, now
            self.feed.append(Change(ChangeKind.RESTORED, key))
        return job.seen(now)

    def purge(self, key: str, shelf: Shelf) -> bool:
        """Delete a trashed posting or an entry for good."""
        if shelf is ENTITIES:
            return self.entries.pop(key, None) is not None
        job = self.jobs.get(key)
        if job is None or job.shelf is not TRASH:
            return False
        job.shelf = None
        return True


class ModelBackend(primitives.Backend):
    """A caller of the model. Its clock is that of the process; a session ends by close alone."""

    traits = primitives.Traits(
        durable=False, cross_process=False, cross_host=False, max_body=1024 * 1024, lease_slack=0.0
    )
    incarnation = "model"

    def __init__(self, board: Board) -> None:
        super().__init__(primitives.Settings(namespace="model"))
        self._board = board
        self._session: str | None = None

    def _now(self) -> float:
        now = primitives.boottime()
        self._board.tick(now)
        return now

    def _own_session(self) -> str:
        if self._session is None:
            self._session = f"session {self._board.number()}"
        return self._session

    def open(self) -> None:
        pass

    def close(self) -> None:
        if self._session is not None:
            self._board.end_session(self._session, self._now())
            self._session = None

    def keepalive(self, within: float | None = None) -> float:
        self._own_session()
        return self.settings.session_timeout

    def add(
        self, postings: Sequence[NewPosting], shelf: Shelf = LIVE
    ) -> Sequence[Posting | errors.MultiboardError]:
        now = self._now()
        if shelf is ENTITIES:
            return [self._board.enter(new, self._own_session(), now) for new in postings]
        return [self._board.add(new, now) for new in postings]

    def get(self, keys: Sequence[str]) -> Sequence[Posting | None]:
        now = self._now()
        jobs = [self._board.live(key) for key in keys]
        return [None if job is None else job.seen(now) for job in jobs]

    def list(
        self,
        shelf: Shelf = LIVE,
        *,
        after: primitives.Place | None = None,
        limit: int | None = None,
    ) -> Page:
        now = self._now()
        postings = [job.seen(now) for job in self._board.on(shelf)]
        rest = [posting for posting in postings if after is None or posting.place > after]
        page = rest[:limit]
        return Page(page, after=page[-1].place if len(page) < len(rest) else None)

    def count(self, shelf: Shelf = LIVE) -> int:
        self._now()
        return len(self._board.on(shelf))

    def acquire(
        self, key: str, holder: str, claim_id: str, expires_in: float | None = None
    ) -> Lease:
        session = self._own_session() if expires_in is None else None
        now = self._now()
        answer = self._board.acquire(key, holder, claim_id, session, expires_in, now)
        if isinstance(answer, errors.MultiboardError):
            raise answer
        return answer

    def acquire_next(
        self, holder: str, claim_ids: Sequence[str], expires_in: float | None = None
    ) -> Sequence[tuple[Posting, Lease]]:
        session = self._own_session() if expires_in is None else None
        return self._board.acquire_next(holder, claim_ids, session, expires_in, self._now())

    def renew(self, lease: Lease, expires_in: float) -> Lease:
        answer = self._board.renew(lease, expires_in, self._now())
        if isinstance(answer, errors.MultiboardError):
            raise answer
        return answer

    def release(self, lease: Lease, delay: float = 0.0) -> None:
        answer = self._board.release(lease, delay, self._now())
        if answer is not None:
            raise answer

    def remove(
        self, leases: Sequence[Lease], to: Shelf | None = None
    ) -> Sequence[errors.MultiboardError | None]:
        now = self._now()
        return [self._board.remove(lease, to, now) for lease in leases]

    def restore(self, key: str) -> Posting:
        answer = self._board.restore(key, self._now())
        if isinstance(answer, errors.MultiboardError):
            raise answer
        return answer

    def purge(self, keys: Sequence[str], shelf: Shelf = TRASH) -> Sequence[bool]:
        self._now()
        return [self._board.purge(key, shelf) for key in keys]

    def changes(self, cursor: str | None, timeout: float) -> primitives.Changes:
        """Return at once what is there: nobody else could add to it meanwhile."""
        self._now()
        feed = self._board.feed
        if cursor is None:
            return primitives.Changes((), str(len(feed)), reset=True)
        return primitives.Changes(tuple(feed[int(cursor) :]), str(len(feed)))
