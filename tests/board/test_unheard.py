# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Claims that were made and of which the board never heard: nobody may wait for them for ever."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Callable, Iterator, Sequence

import pytest
from taskflow import exceptions as excp
from waiting import eventually

import multiboard
from multiboard import doubts, errors
from multiboard.backends.sqlite import SQLiteBackend
from multiboard.board import JobBoard
from multiboard.primitives import Lease, Posting


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


def test_a_claim_that_arrives_when_its_job_was_given_back_is_given_back(
    boards: list[JobBoard], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doubts, "LATE", 0.5)
    board, other = boards
    held, job = board.post("held"), board.post("job")
    board.claim(held, "me")
    late: list[Callable[[], object]] = []
    monkeypatch.setattr(Unheard, "late", late)
    board.claim(job, "me")  # the repeat was answered
    board.abandon(job, "me")
    late[0]()
    assert other.find_owner(job) == "me"
    eventually(lambda: other.find_owner(job) is None)
    assert other.find_owner(held) == "me"


def test_a_claim_whose_repeat_was_answered_is_kept(
    boards: list[JobBoard], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doubts, "LATE", 0.3)
    board, other = boards
    job = board.post("job")
    monkeypatch.setattr(Unheard, "late", [])
    board.claim(job, "me")
    with pytest.raises(AssertionError, match="in time"):  # not even when it was looked for
        eventually(lambda: other.find_owner(job) is None, 1.0)
    board.consume(job, "me")
