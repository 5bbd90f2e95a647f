# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Posting, looking and waiting, on every store."""

from __future__ import annotations

import datetime
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from taskflow import exceptions as excp
from taskflow import states
from taskflow.jobs import base

from multiboard.jobboard.board import JobBoard
from multiboard.jobboard.job import JobSpec
from tests.waiting import eventually

Maker = Callable[..., JobBoard]


def test_a_job_comes_back_as_it_was_posted(board: JobBoard, other: JobBoard) -> None:
    details = {
        "text": "naïve ☃",
        7: {"set": {1, 2}},
        "when": datetime.datetime(2026, 1, 2, 3, 4, 5),
        "id": uuid.UUID(int=5),
        "large": "x" * 500_000,
    }
    posted = board.post("a", details=details, priority=base.JobPriority.HIGH)
    [seen] = other.iterjobs()
    assert seen.details == details
    assert (seen.uuid, seen.name, seen.priority) == (posted.uuid, "a", base.JobPriority.HIGH)
    assert seen == posted
    assert hash(seen) == hash(posted)
    assert seen.created_on == posted.created_on
    assert abs(seen.created_on - datetime.datetime.utcnow()) < datetime.timedelta(minutes=1)
    assert isinstance(seen, base.Job)


def test_details_that_were_not_given_are_empty(board: JobBoard, other: JobBoard) -> None:
    assert board.post("a").details == {}
    assert [job.details for job in other.iterjobs()] == [{}]


def test_last_modified_moves_on_claim_and_abandon(board: JobBoard) -> None:
    job = board.post("a")
    times = [job.last_modified]
    for act in (board.claim, board.abandon):
        time.sleep(0.02)
        act(job, "me")
        times.append(job.last_modified)
    assert times == sorted(times)
    assert len(set(times)) == 3
    assert job.created_on <= times[0]


def test_the_order_is_priority_then_age(board: JobBoard, other: JobBoard) -> None:
    wanted = {}
    for priority in ("LOW", "VERY_HIGH", "NORMAL", "VERY_LOW", "HIGH"):
        for number in range(3):
            wanted[priority, number] = board.post(f"{priority}-{number}", priority=priority)
    order = [
        f"{priority}-{number}"
        for priority in ("VERY_HIGH", "HIGH", "NORMAL", "LOW", "VERY_LOW")
        for number in range(3)
    ]
    assert [job.name for job in board.iterjobs()] == order
    assert [job.name for job in other.iterjobs()] == order
    assert [job.name for job in other.wait(1)] == order
    assert sorted(other.iterjobs()) == list(other.iterjobs())
    assert [board.claim_next("me")[0].name for _ in order] == order


def test_a_just_posted_job_is_seen_at_once(board: JobBoard) -> None:
    list(board.iterjobs())
    for number in range(20):
        job = board.post(str(number))
        assert job in list(board.iterjobs(only_unclaimed=True))
        board.claim(job, "me")
        assert job not in list(board.iterjobs(only_unclaimed=True))
        board.abandon(job, "me")
        assert job in list(board.iterjobs(only_unclaimed=True))


def test_fresh_iteration_sees_what_was_acknowledged_before(
    board: JobBoard, other: JobBoard
) -> None:
    list(other.iterjobs())
    for number in range(20):
        job = board.post(str(number))
        assert job in list(other.iterjobs(ensure_fresh=True))


def test_the_fetch_function_may_be_replaced(board: JobBoard) -> None:
    board.post("a")
    board._fetch_jobs = lambda ensure_fresh=False: []  # noqa: ARG005
    iterator = board.iterjobs(only_unclaimed=True, ensure_fresh=True)
    assert list(iterator) == []
    assert isinstance(iterator, base.JobBoardIterator)
    assert (iterator.board, iterator.only_unclaimed, iterator.ensure_fresh) == (board, True, True)


def test_iterating_does_nothing_before_the_first_job_is_asked_for(make_board: Maker) -> None:
    board = make_board()
    iterator = board.iterjobs()
    board.post("a")
    assert len(list(iterator)) == 1


def test_state_is_read_live(board: JobBoard, other: JobBoard) -> None:
    job = board.post("a")
    [seen] = other.iterjobs()
    assert seen.state == states.UNCLAIMED
    board.claim(job, "me")
    assert seen.state == states.CLAIMED
    assert seen.attempts == 1
    board.consume(job, "me")
    assert seen.state == states.COMPLETE
    assert other.find_owner(seen) is None


def test_waiting_for_a_job_ends_with_its_consumption(board: JobBoard, other: JobBoard) -> None:
    job = board.post("a")
    [seen] = other.iterjobs()
    assert not seen.wait(0.05)
    with ThreadPoolExecutor() as pool:
        waits = [pool.submit(job.wait, 10), pool.submit(seen.wait, 10)]
        time.sleep(0.1)
        board.claim(job, "me")
        board.consume(job, "me")
        consumed_at = time.monotonic()
        assert [wait.result() for wait in waits] == [True, True]
        assert time.monotonic() - consumed_at < 2
    assert job.wait()


def test_waiting_for_jobs(board: JobBoard, other: JobBoard) -> None:
    with pytest.raises(excp.NotFound):
        board.wait(0.05)
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(lambda: [job.name for job in board.wait(10)])
        time.sleep(0.1)
        other.post("a")
        assert waiting.result() == ["a"]


def test_the_job_count(board: JobBoard, other: JobBoard) -> None:
    assert other.job_count == 0
    board.post_many([JobSpec(str(number)) for number in range(7)])
    assert board.job_count == 7
    assert eventually(lambda: other.job_count == 7)
