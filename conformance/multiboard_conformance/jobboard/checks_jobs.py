# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Jobs of a jobboard: how they are listed, waited for, described and reported.

Imports TaskFlow and the suite's own modules.
"""

from __future__ import annotations

import datetime
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from taskflow import exceptions as excp
from taskflow import states
from taskflow.jobs import base

from multiboard_conformance.jobboard.expect import (
    answer_of,
    eventually,
    holds,
    names,
    refused,
    same,
    within,
)
from multiboard_conformance.jobboard.guarantees import promise
from multiboard_conformance.jobboard.scene import Scene, found, need, seen_by_two

PRIORITIES = ("VERY_HIGH", "HIGH", "NORMAL", "LOW", "VERY_LOW")


def _post_in_disorder(board: Any) -> list[str]:
    for priority in ("LOW", "VERY_HIGH", "NORMAL", "VERY_LOW", "HIGH"):
        for number in range(3):
            board.post(f"{priority}-{number}", priority=priority)
    return [f"{priority}-{number}" for priority in PRIORITIES for number in range(3)]


@promise("BOARD-1")
def check_order_is_priority_then_age(scene: Scene) -> None:
    """The poster and another board list in the same, documented order."""
    board, other = scene.board(), scene.board()
    order = _post_in_disorder(board)
    same(order, names(board.iterjobs(ensure_fresh=True)), "the poster's list")
    same(order, names(other.iterjobs(ensure_fresh=True)), "another board's list")


@promise("BOARD-1")
def check_jobs_of_one_priority_are_oldest_first(scene: Scene) -> None:
    """Twelve jobs come in the order in which they were posted (job 10 after job 9)."""
    board = scene.board()
    posted = [board.post(str(number)).name for number in range(12)]
    same(posted, names(scene.board().iterjobs(ensure_fresh=True)), "the list")


@promise("BOARD-2")
def check_waiting_lists_in_order(scene: Scene) -> None:
    """What wait() returns has the order of iterjobs()."""
    order = _post_in_disorder(scene.board())
    other = scene.board()
    list(other.iterjobs(ensure_fresh=True))
    same(len(order), other.job_count, "the number of jobs")
    same(order, names(other.wait(10.0)), "what wait() lists")


@promise("BOARD-2")
def check_waiting_sees_what_was_there_before(scene: Scene) -> None:
    """A board that was connected a moment ago waits for no job that is there already."""
    scene.board().post("a")
    listed = within(10.0, lambda: names(scene.board().wait(5.0)), "wait(5)")
    same(["a"], listed, "what wait(5) lists")


@promise("BOARD-2")
def check_waiting_ends_with_a_job_or_in_time(scene: Scene) -> None:
    """An empty board is NotFound when the time is up; a job of another board ends the wait."""
    board, other = scene.board(), scene.board()
    answer = within(3.0, lambda: board.wait(0.2), "wait(0.2)")
    same(excp.NotFound, type(answer), "what wait(0.2) raised")
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(lambda: names(board.wait(30.0)))
        time.sleep(1.0)
        other.post("a")
        posted = time.monotonic()
        same(["a"], waiting.result(), "what wait() lists")
        took = time.monotonic() - posted
        holds(took < 2.0, f"wait() returned {took:.1f} s after the post")


@promise("BOARD-12")
def check_posted_is_told_once_in_order(scene: Scene) -> None:
    """A hundred postings are a hundred events on the poster's board and on another."""
    boards = [scene.board(), scene.board()]
    events = _listen(boards, base.POSTED)
    posted = [boards[0].post(str(number)).name for number in range(100)]
    eventually(
        lambda: all(set(posted) <= set(each) for each in events), "both boards reported all jobs"
    )
    time.sleep(1.0)
    for board, received in zip(("poster's", "other"), events, strict=True):
        twice = {name: count for name, count in Counter(received).items() if count > 1}
        same({}, twice, f"what the {board} board reported more than once")
        same(posted, received, f"the order on the {board} board")


@promise("BOARD-13")
def check_removal_is_told_on_every_board(scene: Scene) -> None:
    """A consumed and a trashed job are reported once each, on both boards."""
    boards = [scene.board(), scene.board()]
    events = _listen(boards, base.REMOVAL)
    jobs = [boards[0].post(name) for name in ("consumed", "trashed")]
    for job in jobs:
        found(boards[1], job)
        boards[0].claim(job, "me")
    boards[0].consume(jobs[0], "me")
    boards[0].trash(jobs[1], "me")
    eventually(
        lambda: all(len(names_) >= 2 for names_ in events), "both boards reported both removals"
    )
    time.sleep(1.0)
    same(
        [["consumed", "trashed"]] * 2,
        [sorted(names_) for names_ in events],
        "the removals reported",
    )


def _listen(boards: list[Any], event: str) -> list[list[str]]:
    events: list[list[str]] = [[] for _ in boards]
    for board, names_ in zip(boards, events, strict=True):
        need(board, "notifier")
        board.notifier.register(
            event, lambda _event, details, names_=names_: names_.append(details["job"].name)
        )
        list(board.iterjobs(ensure_fresh=True))
    return events


@promise("BOARD-14")
def check_waiting_for_a_job_ends_with_it(scene: Scene) -> None:
    """Who has waited for six seconds is still notified at once that the job is complete."""
    board, _, job, its = seen_by_two(scene)
    holds(not its.wait(0.05), "wait(0.05) answered that an unclaimed job is complete")
    with ThreadPoolExecutor(2) as threads:
        waits = [threads.submit(job.wait, 30.0), threads.submit(its.wait, 30.0)]
        time.sleep(6.0)
        board.claim(job, "me")
        board.consume(job, "me")
        consumed = time.monotonic()
        same([True, True], [wait.result() for wait in waits], "what wait() answered")
        took = time.monotonic() - consumed
        holds(took < 2.0, f"wait() returned {took:.1f} s after the end")


@promise("BOARD-21")
def check_state_is_read_live(scene: Scene) -> None:
    """A job object of another board shows each change at once."""
    board, other = scene.board(), scene.board()
    job, doomed = board.post("a"), board.post("b")
    its, bad = found(other, job), found(other, doomed)
    same(states.UNCLAIMED, its.state, "the state of a posted job")
    board.claim(job, "me")
    same(states.CLAIMED, its.state, "the state of a claimed job")
    same("me", other.find_owner(its), "the owner")
    board.abandon(job, "me")
    same(states.UNCLAIMED, its.state, "the state of an abandoned job")
    board.claim(job, "me")
    board.consume(job, "me")
    same(states.COMPLETE, its.state, "the state of a consumed job")
    board.claim(doomed, "me")
    board.trash(doomed, "me")
    same(states.COMPLETE, bad.state, "the state of a trashed job")


@promise("BOARD-21")
def check_owner_of_what_nobody_claims_is_none(scene: Scene) -> None:
    """find_owner() answers None for a job that is unclaimed, and for one that is complete."""
    board = scene.board()
    job = board.post("a")
    same(None, answer_of(board.find_owner, job), "the owner of an unclaimed job")
    board.claim(job, "me")
    same("me", board.find_owner(job), "the owner of a claimed job")
    board.consume(job, "me")
    same(None, answer_of(board.find_owner, job), "the owner of a consumed job")


@promise("BOARD-21")
def check_state_after_closing_is_a_failure(scene: Scene) -> None:
    """A closed board has no state to give, and raises."""
    board = scene.board()
    job = board.post("a")
    board.close()
    refused(lambda: job.state)


@promise("BOARD-22")
def check_fresh_iteration_sees_what_was_acknowledged(scene: Scene) -> None:
    """Each of twenty jobs is seen right after its post returned, and not after its consume."""
    board, other = scene.board(), scene.board()
    list(other.iterjobs())
    for number in range(20):
        job = board.post(str(number))
        seen = names(other.iterjobs(ensure_fresh=True))
        same([job.name], seen, "a fresh list right after a post")
        board.claim(job, "me")
        seen = names(other.iterjobs(only_unclaimed=True, ensure_fresh=True))
        same([], seen, "a fresh list of the unclaimed right after a claim")
        board.consume(job, "me")
        seen = names(other.iterjobs(ensure_fresh=True))
        same([], seen, "a fresh list right after a consume")


@promise("BOARD-22")
def check_poster_sees_its_own_job_at_once(scene: Scene) -> None:
    """No wait, no refresh: what this board did is in its next list."""
    board = scene.board()
    list(board.iterjobs())
    for number in range(20):
        job = board.post(str(number))
        same([job.name], names(board.iterjobs(only_unclaimed=True)), "the list after a post")
        board.claim(job, "me")
        same([], names(board.iterjobs(only_unclaimed=True)), "the list after a claim")
        board.consume(job, "me")
        same([], names(board.iterjobs()), "the list after a consume")


@promise("BOARD-22")
def check_reading_deletes_no_job(scene: Scene) -> None:
    """A job that post() took is there after others have listed, whatever its details are."""
    board, other = scene.board(), scene.board()
    posted = [
        answer_of(board.post, "a", details=details)
        for details in ({7: "seven"}, {"a": {7: "seven"}}, {"when": datetime.datetime(2026, 1, 2)})
    ]
    for _ in range(4):
        answer_of(lambda: list(other.iterjobs(ensure_fresh=True)))
    for job in posted:
        if not isinstance(job, Exception):
            same(states.UNCLAIMED, job.state, f"the state of a job with the details {job.details}")


@promise("BOARD-23")
def check_details_come_back(scene: Scene) -> None:
    """Unicode, nesting, numbers, and half a megabyte."""
    details = {
        "text": "naïve ☃",
        "nested": {"list": [1, 2.5, None, True]},
        "large": "x" * 500_000,
    }
    board, other = scene.board(), scene.board()
    job = board.post("a", details=details, priority=base.JobPriority.HIGH)
    its = found(other, job)
    same(details, its.details, "the details")
    same(("a", base.JobPriority.HIGH), (its.name, its.priority), "name and priority")
    same({}, found(other, board.post("b")).details, "details that were not given")


@promise("BOARD-23")
def check_details_keep_their_types(scene: Scene) -> None:
    """Keys that are numbers stay numbers, and a date stays a date; or the post is refused."""
    board, other = scene.board(), scene.board()
    for details in ({7: "seven"}, {"when": datetime.datetime(2026, 1, 2, 3, 4, 5)}):
        if not isinstance(job := answer_of(board.post, "a", details=details), Exception):
            same(details, found(other, job).details, "the details")


@promise("BOARD-23")
def check_details_that_can_not_be_encoded_are_refused(scene: Scene) -> None:
    """A lock, or an object, can't be sent to anybody: post() raises."""
    board, other = scene.board(), scene.board()
    for value in (object(), threading.Lock()):
        answer = answer_of(board.post, "a", details={"value": value})
        listed = [job.details for job in other.iterjobs(ensure_fresh=True)]
        holds(isinstance(answer, Exception), f"{value!r} was posted; what came of it is {listed!r}")
        same([], listed, "the details of what is on the board")


@promise("BOARD-24")
def check_created_on_is_the_same_everywhere(scene: Scene) -> None:
    """The poster and others see when a job was posted."""
    _, _, job, its = seen_by_two(scene)
    for seen in (job, its):
        created = answer_of(getattr, seen, "created_on")
        holds(isinstance(created, datetime.datetime), f"created_on is {created!r}")
    same(job.created_on, its.created_on, "created_on")


@promise("BOARD-24")
def check_last_modified_rises(scene: Scene) -> None:
    """A claim and an abandonment are changes of a job."""
    board = scene.board()
    job = board.post("a")
    times = [answer_of(lambda: job.last_modified)]
    for act in (board.claim, board.abandon):
        time.sleep(0.05)
        act(job, "me")
        times.append(answer_of(lambda: job.last_modified))
    holds(
        all(isinstance(each, datetime.datetime) for each in times[1:])
        and times[1] < times[2]
        and (times[0] is None or times[0] < times[1]),
        f"posted, claimed, abandoned: last_modified is {times!r}",
    )


@promise("BOARD-25")
def check_jobs_are_equal_by_posting(scene: Scene) -> None:
    """Two boards' objects of one job are one member of a set; two jobs are two."""
    board, other = scene.board(), scene.board()
    first, second = board.post("a"), board.post("a")
    its = found(other, first)
    holds(first == its and hash(first) == hash(its), "two objects of one job differ")
    holds(first != second, "two jobs are equal")
    same(2, len({first, second, its, found(board, first)}), "the size of a set of two jobs")
