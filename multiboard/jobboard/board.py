# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The one jobboard: TaskFlow's API over the primitives of any store.

It knows no store. What it needs of one is in :mod:`multiboard.primitives`.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from taskflow import exceptions as excp
from taskflow import logging
from taskflow.jobs import base
from taskflow.types import entity as entities

from multiboard import errors
from multiboard.config import loading
from multiboard.jobboard.entities import entity_of, posting_of
from multiboard.jobboard.events import EVENTS, BoardNotifier
from multiboard.jobboard.exceptions import (
    RefusedJob,
    check_who,
    raising_taskflow_errors,
    translate,
    value_of,
)
from multiboard.jobboard.job import Job, JobIterator, JobSpec
from multiboard.primitives import (
    Backend,
    ChangeKind,
    Lease,
    Posting,
    Shelf,
    arguments,
    boottime,
    interrupts,
)
from multiboard.runtime import codec
from multiboard.runtime.claims import Claim
from multiboard.runtime.open_board import OpenBoard, open_backend

LOG = logging.getLogger(__name__)


class JobBoard(base.NotifyingJobBoard):  # type: ignore[misc]
    """A :class:`taskflow.jobs.base.NotifyingJobBoard` on any store.

    ``conf`` holds ``url``, and may hold the backend's options by name; any value may be a string.
    ``client`` is a backend to use in place of the one that ``url`` names. Nothing is connected
    before :meth:`connect`.

    ``who`` names an owner and is a label; the proof of a claim is its fencing token, which the
    board remembers. A board whose claim was lost can't act on its successor's, whatever the names.
    A board that never claimed a job may act for the owner that it names.

    Raises: :class:`multiboard.errors.ConfigError` for a URL or an option that can't be used.
    """

    def __init__(
        self,
        name: str,
        conf: Mapping[str, Any],
        client: Backend | None = None,
        persistence: Any = None,
    ) -> None:
        if not isinstance(name, str):
            raise errors.ConfigError(f"a board's name is a string, not {arguments.shown(name)}")
        super().__init__(name, conf)
        self._persistence = persistence
        self._make_backend = loading.backend_maker(conf, client)
        self.settings = self._make_backend().settings
        self.notifier = BoardNotifier(self._on_register)
        self._lock = threading.RLock()
        self._open: OpenBoard | None = None
        self._before: OpenBoard | None = None

    # -- connection ----------------------------------------------------------------------------

    @property
    def connected(self) -> bool:
        """Whether the board was connected and not closed since; the store may be away."""
        return self._open is not None

    def connect(self) -> None:
        """Connect to the store; a board that is connected already stays as it is.

        Raises: ``JobFailure`` within the ``connect_timeout``, naming what is wrong.
        """
        with raising_taskflow_errors("connect to the board"):
            interrupts.uninterrupted(self._connect_once)  # a half-open one would never be closed
        self._on_register()

    def _connect_once(self) -> None:
        with self._lock:
            if self._open is None:
                backend = self._make_backend()
                open_backend(backend)
                self._open = self._connect(backend)

    def close(self) -> None:
        """End the connection and every claim that was made without an expiry.

        Claims with an expiry go on until they end. The board can be connected again.
        """
        interrupts.uninterrupted(self._close)

    def _close(self) -> None:
        with self._lock:
            connection, self._open = self._open, None
            self._before = connection or self._before
        if connection is not None:
            connection.close()
            self.notifier.stop()

    def _connect(self, backend: Backend) -> OpenBoard:
        before = self._open or self._before
        return OpenBoard(backend, self._job, self._on_change, self._on_lost, before)

    @property
    def _here(self) -> OpenBoard:
        """The connection, in this process.

        Raises: ``Closed``.
        """
        here = self._open
        if here is None:
            raise errors.Closed(f"the board {self._name!r} is not connected")
        if here.pid != os.getpid():
            # A forked child has none of its parent's threads and none of its claims, and the
            # parent's locks may be held for ever.
            self._lock = threading.RLock()
            self.notifier.forget_threads()
            here = self._open = self._connect(here.backend)
            self._on_register()
        return here

    @property
    def incarnation(self) -> str:
        """The id that the board got when it was made in the store; empty while not connected."""
        return "" if self._open is None else self._open.incarnation

    @property
    def era(self) -> int:
        """How often the store was found to be put back when this board was connected again."""
        here = self._open or self._before
        return 0 if here is None else here.era

    def _on_register(self) -> None:
        here = self._open
        if here is not None and len(self.notifier):
            here.view.start(prompt=True)

    def _on_change(self, kind: ChangeKind, job: Job) -> None:
        if not len(self.notifier):
            return
        for event in EVENTS[kind]:
            self.notifier.announce(event, {"job": job})

    def _on_lost(self, claim: Claim, why: str) -> None:
        self.notifier.announce_loss({"job": claim.job, "lease": claim.lease, "reason": why})

    # -- posting ---------------------------------------------------------------------------------

    def post(
        self,
        name: str,
        book: Any = None,
        details: Mapping[Any, Any] | None = None,
        priority: Any = base.JobPriority.NORMAL,
        delay: float = 0.0,
    ) -> Job:
        """Post a job; nobody can claim it before ``delay`` seconds, by the store's clock.

        Raises: ``ValueError`` for an unknown priority; :class:`RefusedJob` for details that can't
        be encoded or are too large (nothing was sent); ``JobFailure`` when the store did not
        take it, or when it is not known whether it did.
        """
        return self.post_many([JobSpec(name, book, details, priority, delay)])[0]

    def post_many(self, jobs: Iterable[JobSpec]) -> list[Job]:
        """Post many jobs at the price of few: one round trip or one pipeline for hundreds.

        All are checked before the first is sent. They are posted in the order given, each in one
        step of its own.

        Raises: as :meth:`post`; then those before the one that failed are posted.
        """
        with raising_taskflow_errors("post a job"):
            specs = arguments.list_of("jobs", jobs, "JobSpecs")
            for spec in specs:
                arguments.check_instance("one of the jobs", spec, JobSpec, "a JobSpec")
            here = self._here
            prepared = [spec.prepare() for spec in specs]
            new = [posting for _, posting in prepared]
            limit = here.guard.traits.max_body
            for posting in new:
                if len(posting.body) > limit:
                    raise errors.PostingTooLarge(posting.key, len(posting.body), limit)
            with here.view.asking() as asked_at:
                answers = here.guard.add(new)
                posted = [value_of(answer) for answer in answers]
                made = [
                    Job(self, posting, body, self._persistence, spec.book)
                    for posting, (body, _), spec in zip(posted, prepared, specs, strict=True)
                ]
                if here.view.started:
                    here.view.note_present(posted, asked_at, made)
            return made

    def _job(self, posting: Posting) -> Job:
        """Make the job that a posting means; a ``ValueError`` states why it means none."""
        return Job(self, posting, codec.decode(posting.body), self._persistence)

    # -- claiming --------------------------------------------------------------------------------

    def claim(self, job: Job, who: str, expiry: float | None = None) -> None:
        """Claim a job: until this board closes or its process dies, or for ``expiry`` seconds.

        A claim without an expiry is kept alive by the board. One with an expiry is not: it ends by
        the store's clock, its process living or not, unless it is extended.

        Raises: ``UnclaimableJob`` (claimed already, also by ``who``; or not due yet),
        ``NotFound`` (no longer posted), ``ValueError`` for an expiry that is not above 0,
        ``JobFailure``.
        """
        with raising_taskflow_errors("claim", job):
            check_who(who)
            arguments.check_expiry(expiry)
            here = self._here
            self._check_job(job)
            entry = here.view.find(job.key)
            wait = (job.due_at if entry is None else entry.due_at) - boottime()
            if wait > 0:
                raise excp.UnclaimableJob(f"{job} is not due before {wait:.1f} s")
            here.claims.acquire(job, who, expiry)

    def claim_next(
        self, who: str, limit: int = 1, timeout: float | None = 0.0, expiry: float | None = None
    ) -> list[Job]:
        """Claim the first jobs of the order that are due and unclaimed, up to ``limit`` of them.

        ``limit`` is at most 10,000. Where there is none, wait for up to ``timeout`` seconds for the
        first, or for ever where it is None. Workers that ask together get different jobs.

        Raises: ``JobFailure``, ``TypeError`` and ``ValueError`` as :meth:`claim`.
        """
        with raising_taskflow_errors("claim the next job"):
            check_who(who)
            arguments.check_count("limit", limit)
            arguments.check_wait("timeout", timeout)
            arguments.check_expiry(expiry)
            give_up = boottime() + (arguments.LONGEST if timeout is None else timeout)
            return self._here.claims.take_in_time(who, limit, expiry, give_up)

    # -- finishing -------------------------------------------------------------------------------

    def consume(self, job: Job, who: str) -> None:
        """Remove a job that is done from the board.

        Raises: ``NotFound`` (no longer posted, or not claimed), ``JobFailure`` (claimed by
        somebody else, or the claim of this board was lost).
        """
        with raising_taskflow_errors("consume", job):
            check_who(who)
            value_of(self._finish([job], who)[0])

    def consume_many(self, jobs: Sequence[Job], who: str) -> list[Exception | None]:
        """Consume many jobs at the price of few.

        The answers stand in the order of ``jobs``: None, or the error that :meth:`consume` would
        have raised. What concerns all of them (the store is away) is raised.
        """
        with raising_taskflow_errors("consume jobs"):
            check_who(who)
            jobs = arguments.list_of("jobs", jobs, "jobs")
            answers = self._finish(jobs, who)
        return [
            None if answer is None else translate(f"consume {job}", answer)
            for job, answer in zip(jobs, answers, strict=True)
        ]

    def trash(self, job: Job, who: str) -> None:
        """Set a job aside: it is not handed out until it is restored; see :meth:`trashed`.

        Raises: as :meth:`consume`.
        """
        with raising_taskflow_errors("trash", job):
            check_who(who)
            value_of(self._finish([job], who, Shelf.TRASH)[0])

    def abandon(self, job: Job, who: str, delay: float = 0.0) -> None:
        """Give a claim back; nobody can claim the job again before ``delay`` seconds.

        Raises: as :meth:`consume`.
        """
        with raising_taskflow_errors("abandon", job):
            check_who(who)
            arguments.check_duration("delay", delay, least=0.0)
            self._check_job(job)
            self._here.claims.release(job.key, who, delay)
            job.due_at = boottime() + delay

    def _finish(
        self, jobs: Sequence[Job], who: str, to: Shelf | None = None
    ) -> Sequence[errors.MultiboardError | None]:
        for job in jobs:
            self._check_job(job)
        return self._here.claims.remove([job.key for job in jobs], who, to)

    # -- looking -----------------------------------------------------------------------------------

    def iterjobs(self, only_unclaimed: bool = False, ensure_fresh: bool = False) -> JobIterator:
        """Iterate over the jobs: higher priority first, then oldest first.

        It reads the board's view: no question to the store for each job. ``ensure_fresh`` first
        brings it up to date, so that everything acknowledged to anyone before is seen.

        Raises: while iterating, ``JobFailure``.
        """
        return JobIterator(
            self,
            LOG,
            # Looked up at each call: the function may be replaced on a board.
            board_fetch_func=lambda ensure_fresh=False: self._fetch_jobs(ensure_fresh),
            only_unclaimed=only_unclaimed,
            ensure_fresh=ensure_fresh,
        )

    def _fetch_jobs(self, ensure_fresh: bool = False) -> list[Job]:
        with raising_taskflow_errors("list the jobs"):
            view = self._here.view
            if not view.loaded:
                view.load(self.settings.operation_timeout)
            elif ensure_fresh:
                view.refresh()
            return [entry.item for entry in view.entries()]

    def wait(self, timeout: float | None = None) -> JobIterator:
        """Wait for the board to hold jobs, and iterate over them, in the order of :meth:`iterjobs`.

        Raises: ``NotFound`` when ``timeout`` seconds pass before; ``JobFailure``.
        """
        with raising_taskflow_errors("wait for jobs"):
            arguments.check_wait("timeout", timeout)
            view = self._here.view
            view.start()
            if not view.wait(lambda: len(view) > 0, timeout):
                raise excp.NotFound(f"no jobs arrived within {timeout:g} s")
            jobs = [entry.item for entry in view.entries()]
        return JobIterator(self, LOG, board_fetch_func=lambda **_: jobs)

    @property
    def job_count(self) -> int:
        """How many jobs are on the board, as of moments ago."""
        with raising_taskflow_errors("count the jobs"):
            view = self._here.view
            view.load(self.settings.operation_timeout)
            return len(view)

    def find_owner(self, job: Job) -> str | None:
        """Return who claims a job; None where nobody does, or it is complete.

        Raises: ``JobFailure``.
        """
        posting = self.look(job)
        return None if posting is None or posting.lease is None else posting.lease.holder

    def look(self, job: Job) -> Posting | None:
        """Return a job's posting as the store has it now; None where it is complete.

        Raises: ``JobFailure``.
        """
        with raising_taskflow_errors("look at", job):
            here = self._here
            self._check_job(job)
            return here.look(job)

    def seen_leased(self, job: Job) -> bool | None:
        """Return whether a job is claimed as far as is seen here; None where it is gone."""
        with raising_taskflow_errors("look at", job):
            arguments.check_instance("job", job, Job, "a job of a multiboard board")
            entry = self._here.view.find(job.key)
            return None if entry is None else entry.leased is not None

    def lease_of(self, job: Job) -> Lease | None:
        """Return the lease with which this board claims a job; None where it does not."""
        with raising_taskflow_errors("look at"):
            arguments.check_instance("job", job, Job, "a job of a multiboard board")
        here = self._open
        return None if here is None else here.claims.lease_of(job.key)

    def watch_claim(self, job: Job) -> Callable[[], str | None]:
        """Return a function that answers at any time why this board's present claim was lost."""
        here = self._open
        return (lambda: None) if here is None else here.claims.watch(job.key)

    def extend(self, job: Job, expiry: float) -> bool:
        """Do what :meth:`multiboard.jobboard.job.Job.extend_expiry` promises."""
        with raising_taskflow_errors("extend the claim on", job):
            arguments.check_duration("expiry: expires_in", expiry)
            self._check_job(job)
            return self._here.claims.extend(job.key, expiry)

    def wait_complete(self, job: Job, timeout: float | None) -> bool:
        """Do what :meth:`multiboard.jobboard.job.Job.wait` promises."""
        with raising_taskflow_errors("wait for", job):
            arguments.check_wait("timeout", timeout)
            self._check_job(job)
            return self._here.wait_gone(job, timeout)

    def _check_job(self, job: Job) -> None:
        """Refuse what is not a job of this very board: to it, such a job would seem complete."""
        if not isinstance(job, Job):
            raise RefusedJob(f"{arguments.shown(job)} is not a job of a multiboard board")
        if job.incarnation != self._here.incarnation:
            raise RefusedJob(f"{job} is another board's, or from before the store lost this board")

    # -- trash, entities, health ------------------------------------------------------------

    def trashed(self) -> list[Job]:
        """Return the jobs that were set aside, in order.

        Raises: ``JobFailure``.
        """
        with raising_taskflow_errors("list the trash"):
            here = self._here
            return here.read(here.guard.list(Shelf.TRASH), self._job)

    def restore(self, job: Job) -> Job:
        """Put a trashed job back, the last of its priority; return it as it stands there.

        Raises: ``NotFound`` (not in the trash), ``JobFailure``.
        """
        with raising_taskflow_errors("restore", job):
            here = self._here
            self._check_job(job)
            return here.restore(job.key, self._job)

    def purge(self, jobs: Sequence[Job]) -> list[bool]:
        """Delete trashed jobs for good; the answers are which of them were there.

        Raises: ``JobFailure``.
        """
        with raising_taskflow_errors("purge the trash"):
            jobs = arguments.list_of("jobs", jobs, "jobs")
            for job in jobs:
                self._check_job(job)
            return list(self._here.guard.purge([job.key for job in jobs]))

    def register_entity(self, entity: entities.Entity) -> None:
        """Show a conductor on the board for as long as this board is connected.

        Raises: ``taskflow.exceptions.NotImplementedError`` for any other kind of entity;
        ``JobFailure``.
        """
        with raising_taskflow_errors("register an entity"):
            self._here.enter(posting_of(entity))

    def entities(self) -> list[entities.Entity]:
        """Return the conductors that are present, those of other processes too.

        Raises: ``JobFailure``.
        """
        with raising_taskflow_errors("list the entities"):
            here = self._here
            return here.read(here.guard.list(Shelf.ENTITIES), entity_of)

    def health(self) -> dict[str, Any]:
        """Return what an operator wants to know: nothing of it is asked of the store.

        ``feed_age`` is how many seconds ago the change feed answered last (it answers at least
        every 15 s when all is well; None before the first listing). ``session_seconds_left`` is
        how long the session certainly lives. ``damaged`` names what was skipped, and why;
        ``board_lost`` is true once the store was found to have lost the board.
        """
        here = self._open
        return {"connected": False} if here is None else here.health()
