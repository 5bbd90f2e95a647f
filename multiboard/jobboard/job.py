# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""A job on a board, and the iterator over a board's jobs.

A job asks its board, and never a store.
"""

from __future__ import annotations

import datetime
import enum
import functools
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from taskflow import states
from taskflow.jobs import base

from multiboard import errors
from multiboard.primitives import Lease, NewPosting, Posting, arguments, boottime
from multiboard.runtime import codec
from multiboard.runtime.codec import Body

#: A posting's rank is its priority's place here: the most urgent one is handed out first.
PRIORITIES: tuple[Any, ...] = (
    base.JobPriority.VERY_HIGH,
    base.JobPriority.HIGH,
    base.JobPriority.NORMAL,
    base.JobPriority.LOW,
    base.JobPriority.VERY_LOW,
)


class NoExpiry(enum.IntEnum):
    """What :meth:`Job.expires_in` answers where there are no seconds; below any number."""

    #: The claim lives as long as its owner's session does.
    DOES_NOT_EXPIRE = -1
    #: Nobody claims the job, or it is complete.
    NOT_CLAIMED = -2


@dataclass(frozen=True)
class JobSpec:
    """A job to post with :meth:`JobBoard.post_many`."""

    name: str
    book: Any = None
    details: Mapping[Any, Any] | None = None
    priority: Any = base.JobPriority.NORMAL
    #: Seconds, by the store's clock, before which nobody can claim it.
    delay: float = 0.0

    def prepare(self) -> tuple[Body, NewPosting]:
        """Return what to post, with a key of its own.

        Raises: ``InvalidArgument`` naming what can't be posted.
        """
        arguments.check_instance("a job's name", self.name, str, "a string")
        optional = (Mapping, type(None))
        arguments.check_instance("details", self.details, optional, "a dict: details are a dict")
        arguments.check_duration("delay", self.delay, least=0.0)
        try:
            rank = PRIORITIES.index(base.JobPriority.convert(self.priority))
        except ValueError as error:
            raise errors.InvalidArgument(str(error)) from None
        book: dict[str, Any] = {}
        if self.book is not None:
            book = {what: getattr(self.book, what, None) for what in ("name", "uuid")}
            if not all(isinstance(text, str) for text in book.values()):
                raise errors.InvalidArgument(
                    f"book is {arguments.shown(self.book)}; it should be a logbook, with a name"
                    " and a uuid, or None"
                )
        body = Body(str(uuid.uuid4()), self.name, dict(self.details or {}), book)
        return body, NewPosting(body.uuid, codec.encode(body), rank, self.delay)


class Board(Protocol):
    """What a job asks of its board. All but the properties raise ``JobFailure``."""

    @property
    def incarnation(self) -> str:
        """The id that the board got when it was made in the store."""

    @property
    def era(self) -> int:
        """How often the store was found to be put back to an earlier state."""

    def look(self, job: Job) -> Posting | None:
        """Return a job's posting as the store has it now; None where it is complete."""

    def seen_leased(self, job: Job) -> bool | None:
        """Return whether a job is claimed as far as is seen here; None where it is gone."""

    def lease_of(self, job: Job) -> Lease | None:
        """Return the lease with which the board claims a job; None where it does not."""

    def extend(self, job: Job, expiry: float) -> bool:
        """Do what :meth:`Job.extend_expiry` promises."""

    def wait_complete(self, job: Job, timeout: float | None) -> bool:
        """Do what :meth:`Job.wait` promises."""


@functools.total_ordering
class Job(base.Job):  # type: ignore[misc]
    """A job as it was posted; what may change is asked of the store.

    Two jobs are equal when they are the same posting, whichever board object they come from.
    They sort in the order in which they are handed out.
    """

    def __init__(
        self,
        board: Board,
        posting: Posting,
        body: Body,
        persistence: Any = None,
        book: Any = None,
    ) -> None:
        super().__init__(
            board,
            body.name,
            uuid=body.uuid,
            details=body.details,
            backend=persistence,
            book=book,
            book_data=body.book,
        )
        self.key = posting.key
        self.incarnation = board.incarnation
        self.era = board.era
        self._place = posting.place
        self._created_on = posting.created_on
        self._modified_on = posting.modified_on
        self.due_at = boottime() + posting.due_in

    @property
    def priority(self) -> Any:
        """The :class:`taskflow.jobs.base.JobPriority` with which it was posted."""
        return PRIORITIES[min(self._place[0], len(PRIORITIES) - 1)]

    @property
    def sequence(self) -> int:
        """A number that rises with every posting of one board; gaps are allowed."""
        return self._place[1]

    @property
    def created_on(self) -> datetime.datetime:
        """When it was posted: UTC by the store's clock, without a time zone as TaskFlow's are."""
        return _utc(self._created_on)

    @property
    def last_modified(self) -> datetime.datetime:
        """When it was last posted, claimed or given back: UTC by the store's clock.

        The store is asked; where the job is complete, it is what was known last.

        Raises: ``JobFailure``.
        """
        posting = self._board.look(self)
        if posting is not None:
            self._modified_on = posting.modified_on
        return _utc(self._modified_on)

    @property
    def state(self) -> str:
        """UNCLAIMED, CLAIMED or COMPLETE (no longer posted), as the store has it now.

        Raises: ``JobFailure``.
        """
        posting = self._board.look(self)
        if posting is None:
            return str(states.COMPLETE)
        return str(states.UNCLAIMED if posting.lease is None else states.CLAIMED)

    @property
    def attempts(self) -> int:
        """How often it was claimed, the present claim included; 0 when it is complete.

        Raises: ``JobFailure``.
        """
        posting = self._board.look(self)
        return 0 if posting is None else posting.attempts

    @property
    def lease(self) -> Lease | None:
        """The lease with which this job's board claims it; None where it does not.

        None, too, from the instant on in which the lease may have ended by itself, whether that
        was reported yet or not. It is certain: neither the store is asked nor any thread.
        """
        return self._board.lease_of(self)  # type: ignore[no-any-return]

    def expires_in(self) -> float:
        """Return the seconds until the claim ends by itself, by the store's clock.

        :class:`NoExpiry`, which is a number below zero, where the claim lives by its owner's
        session, or where there is none. Whose claim it is does not matter.

        Raises: ``JobFailure`` when the store can't be asked.
        """
        posting = self._board.look(self)
        if posting is None or posting.lease is None:
            return NoExpiry.NOT_CLAIMED
        ends_in = posting.lease.ends_in
        return NoExpiry.DOES_NOT_EXPIRE if ends_in is None else ends_in

    def extend_expiry(self, expiry: float) -> bool:
        """Let the claim end ``expiry`` seconds from now; return whether there was one to extend.

        A claim that was made without an expiry lives by its owner's session and needs nothing;
        it is left as it is and True is returned. A board that claimed the job and lost it extends
        nothing, not even in the last moments, in which the store might still allow it; a board that
        never claimed it extends the claim that stands.

        Raises: ``ValueError`` for an expiry that is not above 0; ``JobFailure`` when the store
        can't be asked.
        """
        return bool(self._board.extend(self, expiry))

    def wait(
        self,
        timeout: float | None = None,
        delay: float = 0.01,
        delay_multiplier: float = 2.0,
        max_delay: float = 60.0,
        sleep_func: Callable[[float], None] | None = None,
    ) -> bool:
        """Wait until the job is complete; return False when ``timeout`` seconds pass before.

        The board's change feed reports it: there are no delays, and the arguments that TaskFlow
        has for them are not used. None waits for ever.

        Raises: ``JobFailure``, which is a ``ValueError`` too for a ``timeout`` that can't be.
        """
        return bool(self._board.wait_complete(self, timeout))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Job):
            return NotImplemented
        return (self.key, self.incarnation) == (other.key, other.incarnation)

    def __lt__(self, other: object) -> bool:
        if not isinstance(other, Job):
            return NotImplemented
        return self._place < other._place

    def __hash__(self) -> int:
        return hash((self.key, self.incarnation))

    def __str__(self) -> str:
        # Without the details, unlike TaskFlow's: conductors log jobs, and services keep secrets
        # there.
        name = arguments.printable(self.name)
        return f"Job: {name} (priority={self.priority.value}, uuid={self.uuid})"

    def __repr__(self) -> str:
        return f"<{self}>"


class JobIterator(base.JobBoardIterator):  # type: ignore[misc]
    """Iterates over jobs of a board; states come from the view, not from a question each."""

    def _next_job(self) -> Any:
        while self._jobs:
            job = self._jobs.popleft()
            if not isinstance(job, Job):
                # Whoever replaced the board's fetch function gets TaskFlow's way with its jobs.
                self._jobs.appendleft(job)
                return super()._next_job()
            leased = self._board.seen_leased(job)
            if leased is not None and not (self.only_unclaimed and leased):
                return job
        return None


def _utc(seconds: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc).replace(tzinfo=None)
