# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Claims that were made and of which the board never heard: nobody may wait for them for ever."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import uuid
from collections.abc import Callable, Iterator, Sequence

import pytest
from taskflow import exceptions as excp

import multiboard
from multiboard import errors
from multiboard.backends.memory import MemoryBackend
from multiboard.backends.sqlite import SQLiteBackend
from multiboard.jobboard.board import JobBoard
from multiboard.primitives import Lease, NewPosting, Posting, Traits
from multiboard.runtime import unconfirmed
from tests.waiting import eventually


class Unheard(SQLiteBackend):
    """A backend whose answers to a claim can be lost, the first time and every time."""

    lost = False
    #: What is on its way and nobody waits for any more; None where nothing is delayed.
    late: list[Callable[[], object]] | None = None

    def acquire(
        self, key: str, holder: str, claim_id: str, expires_in: float | None = None
    ) -> Lease:
        if self.late == []:
            again = super().acquire
            self.late.append(lambda: again(key, holder, claim_id, expires_in))
            raise errors.Indeterminate("no answer yet")
        lease = super().acquire(key, holder, claim_id, expires_in)
        if self.lost:
            raise errors.Indeterminate("the answer was lost")
        return lease

    def acquire_next(
        self, holder: str, claim_ids: Sequence[str], expires_in: float | None = None
    ) -> Sequence[tuple[Posting, Lease]]:
        won = super().acquire_next(holder, claim_ids, expires_in)
        if self.lost:
            raise errors.Indeterminate("the answer was lost")
        return won


@pytest.fixture
def boards(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[JobBoard]]:
    """A board whose answers can be lost, and the same board as others see it."""
    monkeypatch.setattr(Unheard, "lost", False)
    path = tmp_path / "board.db"
    with contextlib.ExitStack() as stack:
        options = "operation_timeout=0.3&session_timeout=60"
        yield [
            stack.enter_context(multiboard.backend("b", f"{scheme}?path={path}&{options}"))
            for scheme in (f"{__name__}:Unheard", "sqlite://")
        ]


@pytest.mark.parametrize(
    "claim",
    [
        lambda board, job: board.claim(job, "me"),
        lambda board, job: board.claim(job, "me", expiry=600),
        lambda board, _: board.claim_next("me", limit=3),
    ],
)
def test_a_claim_of_which_nobody_heard_is_given_back(
    boards: list[JobBoard], claim: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    board, other = boards
    held = board.post("held")
    board.claim(held, "me")  # it keeps the session, for as long as the process lives
    job = board.post("job")
    monkeypatch.setattr(Unheard, "lost", True)
    with pytest.raises(excp.JobFailure, match="the answer was lost"):
        claim(board, job)
    monkeypatch.setattr(Unheard, "lost", False)
    eventually(lambda: other.find_owner(job) is None)
    assert other.find_owner(held) == "me"
    other.claim(job, "you")
    other.consume(job, "you")
    board.consume(held, "me")


def test_a_claim_that_arrives_when_its_job_was_given_back_leases_nothing(
    boards: list[JobBoard], monkeypatch: pytest.MonkeyPatch
) -> None:
    board, other = boards
    held, job = board.post("held"), board.post("job")
    board.claim(held, "me")
    late: list[Callable[[], object]] = []
    monkeypatch.setattr(Unheard, "late", late)
    board.claim(job, "me")  # the repeat was answered
    board.abandon(job, "me")
    with pytest.raises(errors.LeaseLost, match="had its lease"):
        late[0]()
    assert other.find_owner(job) is None
    assert other.find_owner(held) == "me"


def test_a_claim_whose_repeat_was_answered_is_kept(
    boards: list[JobBoard], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unconfirmed, "LATE", 0.3)
    board, other = boards
    job = board.post("job")
    monkeypatch.setattr(Unheard, "late", [])
    board.claim(job, "me")
    with pytest.raises(AssertionError, match="in time"):  # not even when it was looked for
        eventually(lambda: other.find_owner(job) is None, 1.0)
    board.consume(job, "me")


class Failing(MemoryBackend):
    """A backend whose claims are made one by one, from the view, and fail from some on."""

    #: How many claims are answered; None for all.
    answered: int | None = None

    @property
    def traits(self) -> Traits:
        return dataclasses.replace(super().traits, native_claim_next=False)

    def acquire(
        self, key: str, holder: str, claim_id: str, expires_in: float | None = None
    ) -> Lease:
        """Lease, as long as claims are answered."""
        if self.answered is not None:
            if not self.answered:
                raise errors.Unavailable("away")
            self.answered -= 1
        return super().acquire(key, holder, claim_id, expires_in)


@pytest.fixture
def failing() -> Iterator[JobBoard]:
    """A board whose claims can fail."""
    url = f"{__name__}:Failing?name={uuid.uuid4().hex}&operation_timeout=0.1"
    with multiboard.backend("b", url) as board:
        yield board


def test_jobs_that_were_claimed_before_a_failure_are_returned(failing: JobBoard) -> None:
    jobs = [failing.post(str(number)) for number in range(3)]
    assert len(list(failing.iterjobs())) == 3
    backend = failing._here.backend
    assert isinstance(backend, Failing)
    backend.answered = 2
    assert failing.claim_next("me", limit=3) == jobs[:2]
    with pytest.raises(excp.JobFailure, match="away"):
        failing.claim_next("me")


class Interrupted(KeyboardInterrupt):
    """What a signal handler raises."""


def test_a_claim_that_is_interrupted_behind_its_answer_is_given_back(
    failing: JobBoard, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = failing.post("job")

    def interrupt(_: Lease) -> None:
        raise Interrupted

    with monkeypatch.context() as patched:
        patched.setattr(failing._here.view, "note_lease", interrupt)
        with pytest.raises(Interrupted):
            failing.claim(job, "me")
    eventually(lambda: failing.find_owner(job) is None)
    assert job.lease is None


def test_a_posting_that_can_not_be_read_costs_no_other_claim(tmp_path: pathlib.Path) -> None:
    """Not even where the lease on it has ended by the time that it is given back."""
    url = f"sqlite://{tmp_path / 'board.db'}"
    with multiboard.backend("b", url) as board:
        backend = board._here.backend
        backend.add([NewPosting("rubbish", b"\xff", rank=0)])
        job = board.post("job")
        release = backend.release

        def lose(lease: Lease, delay: float = 0.0) -> None:
            release(lease, delay)
            raise errors.LeaseLost(lease.key, lease.token)

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(backend, "release", lose)
            assert board.claim_next("me", limit=2) == [job]
        assert board.find_owner(job) == "me"
