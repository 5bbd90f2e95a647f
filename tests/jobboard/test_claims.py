# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Claims, their ends and their owners, on every store."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from taskflow import exceptions as excp
from taskflow import states

from multiboard.jobboard.board import JobBoard
from multiboard.jobboard.job import Job, JobSpec, NoExpiry
from tests.waiting import eventually

Maker = Callable[..., JobBoard]


def test_an_expiry_ends_by_itself(board: JobBoard, other: JobBoard) -> None:
    job = board.post("a")
    board.claim(job, "me", expiry=0.5)
    assert 0 < job.expires_in() <= 0.5
    assert job.state == states.CLAIMED
    time.sleep(0.6)
    assert job.state == states.UNCLAIMED
    assert job.expires_in() is NoExpiry.NOT_CLAIMED
    assert not job.extend_expiry(5)
    assert eventually(lambda: list(other.iterjobs(only_unclaimed=True))) == [job]
    other.claim(job, "me")


def test_extending_uses_its_argument(board: JobBoard, other: JobBoard) -> None:
    job = board.post("a")
    board.claim(job, "me", expiry=2)
    [seen] = other.iterjobs()
    for extend in (job.extend_expiry, seen.extend_expiry):
        assert extend(50)
        assert 45 < seen.expires_in() <= 50
        assert extend(5)
        assert 3 < job.expires_in() <= 5
    with pytest.raises(ValueError, match="expires_in"):
        job.extend_expiry(0)


@pytest.mark.long
def test_a_claim_without_expiry_does_not_expire(make_board: Maker) -> None:
    board = make_board(session_timeout=1.0)
    job = board.post("a")
    board.claim(job, "me")
    assert job.expires_in() is NoExpiry.DOES_NOT_EXPIRE
    assert job.expires_in() < 10
    assert job.extend_expiry(1)
    time.sleep(2.5)
    assert (job.state, board.find_owner(job)) == (states.CLAIMED, "me")
    board.consume(job, "me")


def test_a_claim_ends_when_its_board_is_closed(board: JobBoard, other: JobBoard) -> None:
    job = board.post("a")
    board.claim(job, "me")
    timed = board.post("b")
    board.claim(timed, "me", expiry=30)
    board.close()
    eventually(lambda: other.claim_next("you") == [job])
    assert other.find_owner(timed) == "me"


def test_a_refused_claim_leaves_the_claim_that_stands_alone(
    board: JobBoard, other: JobBoard
) -> None:
    job = board.post("a")
    board.claim(job, "me", expiry=2)
    with pytest.raises(excp.UnclaimableJob):
        other.claim(job, "you", expiry=100)
    assert job.expires_in() <= 2
    assert board.find_owner(job) == "me"


@pytest.mark.parametrize("finish", ["consume", "abandon", "trash"])
def test_a_stale_owner_can_not_act_on_its_successors_claim(
    board: JobBoard, other: JobBoard, finish: str
) -> None:
    job = board.post("a")
    board.claim(job, "me", expiry=0.2)
    eventually(lambda: job.state == states.UNCLAIMED)
    other.claim(job, "me", expiry=30)
    with pytest.raises(excp.JobFailure):
        getattr(board, finish)(job, "me")
    assert not job.extend_expiry(100)
    assert job.lease is None or job.lease.token < _token(other, job)
    assert 20 < job.expires_in() <= 30
    assert other.find_owner(job) == "me"
    other.consume(job, "me")
    assert job.state == states.COMPLETE


def _token(board: JobBoard, job: Job) -> int:
    lease = board.lease_of(job)
    assert lease is not None
    return lease.token


def test_a_board_that_never_claimed_may_act_for_the_owner_it_names(
    board: JobBoard, other: JobBoard
) -> None:
    jobs = [board.post("a"), board.post("b"), board.post("c")]
    for job in jobs:
        board.claim(job, "me")
    other.consume(jobs[0], "me")
    other.abandon(jobs[1], "me")
    other.trash(jobs[2], "me")
    assert [job.state for job in jobs] == [states.COMPLETE, states.UNCLAIMED, states.COMPLETE]


def test_the_claim_belongs_to_the_board_not_to_the_job_object(board: JobBoard) -> None:
    board.claim(board.post("a"), "me")
    [fresh] = board.iterjobs()
    board.consume(fresh, "me")


@pytest.mark.long
def test_octavias_claim(board: JobBoard, other: JobBoard) -> None:
    """Octavia replaces ``claim`` and extends through another board of the same process."""
    board.claim = functools.partial(board.claim, expiry=3)
    job = board.post("a")
    board.claim(job, "me")
    for _ in range(7):  # for longer than the claim would last
        time.sleep(0.5)
        for seen in other.iterjobs():
            if other.find_owner(seen) == "me" and seen.expires_in() < 10:
                assert seen.extend_expiry(3)
    assert job.state == states.CLAIMED
    assert job.lease is not None
    board.consume(job, "me")


def test_looking_after_a_job_that_ends_in_that_instant_never_raises(
    board: JobBoard, other: JobBoard
) -> None:
    list(other.iterjobs())
    stop = threading.Event()

    def look_after() -> int:
        looks = 0
        while not stop.is_set():
            for seen in other.iterjobs():
                other.find_owner(seen)
                assert seen.expires_in() < 100
                assert seen.extend_expiry(30) in (True, False)
                looks += 1
        return looks

    with ThreadPoolExecutor() as pool:
        looking = pool.submit(look_after)
        try:
            for number in range(30):
                job = board.post(str(number))
                board.claim(job, "me", expiry=30)
                board.consume(job, "me")
        finally:
            stop.set()
        looking.result()


def test_delayed_jobs_are_not_claimed_before_their_time(board: JobBoard, other: JobBoard) -> None:
    begun = time.monotonic()
    job = board.post("a", delay=0.5)
    assert list(other.iterjobs()) == [job]
    [seen] = other.iterjobs()
    for claimer, its in ((board, job), (other, seen)):
        with pytest.raises(excp.UnclaimableJob, match="not due"):
            claimer.claim(its, "me")
    assert other.claim_next("me") == []
    assert other.claim_next("me", timeout=10) == [job]
    assert 0.45 < time.monotonic() - begun < 5
    other.abandon(job, "me", delay=0.5)
    with pytest.raises(excp.UnclaimableJob, match="not due"):
        other.claim(job, "me")
    assert board.claim_next("me", timeout=10) == [job]
    assert time.monotonic() - begun > 0.95


def test_claim_next_hands_out_different_jobs(board: JobBoard, other: JobBoard) -> None:
    jobs = board.post_many([JobSpec(str(number)) for number in range(40)])

    def drain(worker: JobBoard, who: str) -> list[Job]:
        done: list[Job] = []
        while taken := worker.claim_next(who, limit=3):
            assert worker.consume_many(taken, who) == [None] * len(taken)
            done += taken
        return done

    with ThreadPoolExecutor() as pool:
        parts = [
            pool.submit(drain, board, "one"),
            pool.submit(drain, other, "two"),
            pool.submit(drain, board, "three"),
        ]
        done = [job for part in parts for job in part.result()]
    assert sorted(done) == jobs


def test_claim_next_wakes_when_something_comes_free(board: JobBoard, other: JobBoard) -> None:
    job = board.post("a")
    board.claim(job, "me")
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(other.claim_next, "you", 1, 20)
        time.sleep(0.2)
        board.abandon(job, "me")
        assert waiting.result() == [job]
        waiting = pool.submit(board.claim_next, "me", 1, 20)
        time.sleep(0.2)
        second = other.post("b")
        assert waiting.result() == [second]


def test_consume_many_answers_for_each(board: JobBoard, other: JobBoard) -> None:
    mine, theirs, free, gone = board.post_many([JobSpec(n) for n in "abcd"])
    board.claim(mine, "me")
    other.claim(theirs, "you")
    board.claim(gone, "me")
    board.consume(gone, "me")
    answers = board.consume_many([mine, theirs, free, gone], "me")
    assert [type(answer) for answer in answers] == [
        type(None),
        excp.JobFailure,
        excp.NotFound,
        excp.NotFound,
    ]
    assert sorted(board.iterjobs(ensure_fresh=True)) == sorted([theirs, free])
