# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Bad input and lost races: what is refused, with which error, on every store."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from taskflow import exceptions as excp
from taskflow import states

import multiboard
from multiboard.jobboard.board import JobBoard
from multiboard.jobboard.exceptions import RefusedJob
from multiboard.jobboard.job import JobSpec

Maker = Callable[..., JobBoard]


def test_every_lost_claim_is_an_unclaimable_job(board: JobBoard, other: JobBoard) -> None:
    job = board.post("a")
    board.claim(job, "me")
    for claimer in (board, other):
        for who in ("me", "you"):
            with pytest.raises(excp.UnclaimableJob):
                claimer.claim(job, who)


def test_a_second_consume_is_exactly_not_found(board: JobBoard) -> None:
    job = board.post("a")
    board.claim(job, "me")
    board.consume(job, "me")
    with pytest.raises(excp.NotFound) as caught:
        board.consume(job, "me")
    assert type(caught.value) is excp.NotFound


def test_finishing_an_unclaimed_job_is_exactly_not_found(board: JobBoard) -> None:
    job = board.post("a")
    for finish in (board.abandon, board.consume, board.trash):
        with pytest.raises(excp.NotFound) as caught:
            finish(job, "me")
        assert type(caught.value) is excp.NotFound
    assert job.state == states.UNCLAIMED


def test_claiming_a_consumed_job_is_not_found(board: JobBoard, other: JobBoard) -> None:
    job = board.post("a")
    [seen] = other.iterjobs()
    board.claim(job, "me")
    board.consume(job, "me")
    with pytest.raises(excp.NotFound):
        other.claim(seen, "me")


def test_finishing_somebody_elses_job_fails_and_changes_nothing(
    board: JobBoard, other: JobBoard
) -> None:
    job = board.post("a")
    board.claim(job, "me")
    for claimer in (board, other):
        for finish in (claimer.abandon, claimer.consume, claimer.trash):
            with pytest.raises(excp.JobFailure):
                finish(job, "you")
    assert board.find_owner(job) == "me"


def test_who_must_be_a_string_with_something_in_it(board: JobBoard) -> None:
    job = board.post("a")
    for act in (board.claim, board.consume, board.abandon, board.trash):
        with pytest.raises(ValueError, match="non-empty"):
            act(job, "")
        with pytest.raises(TypeError):
            act(job, 7)
    with pytest.raises(ValueError, match="non-empty"):
        board.claim_next("")


@pytest.mark.parametrize("expiry", [0, -1, float("nan"), float("inf"), "soon"])
def test_an_expiry_is_a_number_above_zero(board: JobBoard, expiry: Any) -> None:
    job = board.post("a")
    with pytest.raises(ValueError, match="expires_in"):
        board.claim(job, "me", expiry=expiry)
    with pytest.raises(ValueError, match="expires_in"):
        board.claim_next("me", expiry=expiry)
    assert job.state == states.UNCLAIMED


def test_what_can_not_be_posted_is_refused_and_nothing_is_posted(board: JobBoard) -> None:
    with pytest.raises(RefusedJob, match=r"details\[key 0\] is a"):
        board.post("a", details={"callback": object()})
    with pytest.raises(RefusedJob, match="limit"):
        board.post("a", details={"x": "x" * 20_000_000})
    with pytest.raises(ValueError, match="not a valid priority"):
        board.post("a", priority="URGENT")
    with pytest.raises(RefusedJob, match="details are a dict"):
        board.post("a", details=["x"])
    with pytest.raises(RefusedJob):
        board.post_many([JobSpec("fine"), JobSpec("not", details={"x": object()})])
    assert list(board.iterjobs(ensure_fresh=True)) == []


def test_a_job_of_another_board_is_refused(board: JobBoard, tmp_path: Any) -> None:
    with multiboard.backend("elsewhere", f"sqlite://{tmp_path}/elsewhere.db") as elsewhere:
        stranger = elsewhere.post("a")
        for act in (board.claim, board.consume, board.abandon, board.trash):
            with pytest.raises(excp.JobFailure, match="another board"):
                act(stranger, "me")
        with pytest.raises(excp.JobFailure, match="another board"):
            board.find_owner(stranger)


def test_a_board_that_is_not_connected_fails_clearly(store_url: str) -> None:
    board = multiboard.fetch("b", store_url)
    for use in (
        lambda: board.post("a"),
        lambda: list(board.iterjobs()),
        lambda: board.job_count,
        lambda: board.wait(0.1),
        lambda: board.claim_next("me"),
        lambda: board.trashed(),
    ):
        with pytest.raises(excp.JobFailure, match="not connected"):
            use()


def test_after_close_a_jobs_state_is_a_job_failure(make_board: Maker) -> None:
    board = make_board()
    job = board.post("a")
    board.close()
    with pytest.raises(excp.JobFailure):
        _ = job.state
