# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Claims of a jobboard: who gets one, who keeps it, and how it ends.

Imports TaskFlow and the suite's own modules.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from taskflow import exceptions as excp
from taskflow import states

from multiboard import errors
from multiboard_conformance.jobboard.expect import answer_of, eventually, holds, refused, same
from multiboard_conformance.jobboard.guarantees import promise
from multiboard_conformance.jobboard.scene import (
    LOST,
    Scene,
    found,
    lose,
    need,
    need_expiry,
    seen_by_two,
)


@promise("BOARD-3")
def check_one_of_many_claimers_wins(scene: Scene) -> None:
    """Of boards that claim the same jobs in the same instant, one gets each job."""
    poster = scene.board()
    jobs = [poster.post(str(number)) for number in range(6)]
    boards = [scene.board() for _ in range(4)]
    seen = [[found(board, job) for job in jobs] for board in boards]
    with ThreadPoolExecutor(len(boards)) as threads:
        for number in range(len(jobs)):

            def claim(which: int, number: int = number) -> Any:
                return answer_of(lambda: boards[which].claim(seen[which][number], f"w{which}"))

            answers = list(threads.map(claim, range(len(boards))))
            kinds = Counter(type(answer) for answer in answers)
            wanted = Counter({type(None): 1, excp.UnclaimableJob: len(boards) - 1})
            same(wanted, kinds, "what the claimers got")
            winner = answers.index(None)
            same(f"w{winner}", poster.find_owner(jobs[number]), "the owner")


@promise("BOARD-3")
def check_claimed_job_is_unclaimable(scene: Scene) -> None:
    """A claimed job is refused to everybody, its owner's name included."""
    board, other, job, its = seen_by_two(scene)
    board.claim(job, "me")
    for claimer, seen in ((board, job), (other, its)):
        for who in ("me", "you"):
            refused(claimer.claim, seen, who, by=excp.UnclaimableJob)


@promise("BOARD-4")
def check_refused_claim_leaves_the_owner(scene: Scene) -> None:
    """A refused claim leaves the owner, who can finish."""
    board, other, job, its = seen_by_two(scene)
    board.claim(job, "me")
    modified = job.last_modified
    time.sleep(0.05)
    for who in ("me", "you"):
        refused(other.claim, its, who, by=excp.UnclaimableJob)
    same("me", board.find_owner(job), "the owner")
    same(modified, job.last_modified, "last_modified")
    board.consume(job, "me")


@promise("BOARD-4")
def check_refused_claim_leaves_the_expiry(scene: Scene) -> None:
    """A refused claim with a longer expiry leaves the one that stands."""
    board, other, job, its = seen_by_two(scene)
    need_expiry(board)
    board.claim(job, "me", expiry=5)
    for who in ("me", "you"):
        refused(other.claim, its, who, 100, by=excp.UnclaimableJob)
    left = job.expires_in()
    holds(left <= 5, f"after a refused claim the one that stands lasts {left:.0f} s, not 5")


def _stale(scene: Scene, act: Callable[[Any, Any], Any]) -> None:
    board, other = scene.board(), scene.board()
    job = board.post("a")
    its = lose(board, other, job)
    refused(act, board, job, by=LOST)
    same(states.CLAIMED, its.state, "the state under the successor's claim")
    same("me", other.find_owner(its), "the owner")
    other.consume(its, "me")


@promise("BOARD-6")
def check_stale_owner_can_not_consume(scene: Scene) -> None:
    """An owner that lost its claim can not consume its namesake's job."""
    _stale(scene, lambda board, job: board.consume(job, "me"))


@promise("BOARD-6")
def check_stale_owner_can_not_abandon(scene: Scene) -> None:
    """An owner that lost its claim can not give its namesake's job back."""
    _stale(scene, lambda board, job: board.abandon(job, "me"))


@promise("BOARD-6")
def check_stale_owner_can_not_trash(scene: Scene) -> None:
    """An owner that lost its claim can not trash its namesake's job."""
    _stale(scene, lambda board, job: board.trash(job, "me"))


@promise("BOARD-6")
def check_stale_owner_can_not_extend(scene: Scene) -> None:
    """An owner that lost its claim can not extend its namesake's."""
    board, other = scene.board(), scene.board()
    need_expiry(board)
    job = board.post("a")
    need(job, "extend_expiry")
    its = lose(board, other, job)
    answer_of(job.extend_expiry, 300)
    left = its.expires_in()
    holds(left <= 30, f"the successor's claim of 30 s lasts {left:.0f} s now")


@promise("BOARD-9")
def check_expiry_ends_by_itself(scene: Scene) -> None:
    """A claim for half a second is there for that long, and no longer."""
    board, other, job, its = seen_by_two(scene)
    need_expiry(board)
    began = time.monotonic()
    board.claim(job, "me", expiry=0.5)
    left = job.expires_in()
    holds(0 < left <= 0.5, f"a claim for 0.5 s expires in {left} s")
    if time.monotonic() - began < 0.3:
        same(states.CLAIMED, its.state, "the state before it is due")
    eventually(lambda: its.state == states.UNCLAIMED, "the claim of 0.5 s ended", 3.0)
    other.claim(its, "you")


@promise("BOARD-9")
def check_expires_in_always_answers_a_number(scene: Scene) -> None:
    """It does for jobs that are unclaimed, claimed for good, consumed."""
    board = scene.board()
    need_expiry(board)
    job = board.post("a")
    for act in (lambda: None, lambda: board.claim(job, "me"), lambda: board.consume(job, "me")):
        act()
        answer = answer_of(job.expires_in)
        holds(not isinstance(answer, Exception), f"expires_in() raised {answer!r}")
        holds(answer < 1e9, f"expires_in() answered {answer!r}")


@promise("BOARD-10")
def check_extending_uses_its_argument(scene: Scene) -> None:
    """Both the owner and a board that has its name extend by their argument."""
    board, _, job, its = seen_by_two(scene)
    need_expiry(board)
    need(job, "extend_expiry")
    board.claim(job, "me", expiry=5)
    for seen in (job, its):
        for seconds in (60, 10):
            holds(seen.extend_expiry(seconds), "extend_expiry() answered that it did nothing")
            left = its.expires_in()
            holds(
                seconds - 5 < left <= seconds, f"extended to {seconds} s, it ends in {left:.0f} s"
            )


@promise("BOARD-11")
def check_second_consume_is_not_found(scene: Scene) -> None:
    """A second consume, or a claim of what was consumed, raises NotFound."""
    board, other, job, its = seen_by_two(scene)
    board.claim(job, "me")
    board.consume(job, "me")
    refused(board.consume, job, "me", by=excp.NotFound, exactly=True)
    refused(other.claim, its, "me", by=excp.NotFound, exactly=True)


@promise("BOARD-11")
def check_finishing_an_unclaimed_job_is_not_found(scene: Scene) -> None:
    """Nobody can consume, abandon or trash what is not claimed."""
    board = scene.board()
    job = board.post("a")
    for act in (board.consume, board.abandon, board.trash):
        refused(act, job, "me", by=excp.NotFound, exactly=True)
    same(states.UNCLAIMED, job.state, "the state")


@promise("BOARD-11")
def check_finishing_anothers_job_is_a_failure(scene: Scene) -> None:
    """Nobody can consume, abandon or trash what another claimed."""
    board, other, job, its = seen_by_two(scene)
    board.claim(job, "me")
    for act in (other.consume, other.abandon, other.trash):
        refused(act, its, "you")
    same("me", board.find_owner(job), "the owner")


@promise("BOARD-11")
def check_owner_is_a_string_with_something_in_it(scene: Scene) -> None:
    """Who is no string is a TypeError, who is empty a ValueError; nothing changes."""
    board = scene.board()
    job = board.post("a")
    for act in (board.claim, board.consume, board.abandon, board.trash):
        refused(act, job, "", by=ValueError)
        refused(act, job, 7, by=TypeError)
    same(states.UNCLAIMED, job.state, "the state")


@promise("BOARD-26")
def check_owner_may_finish_through_another_object(scene: Scene) -> None:
    """The owner finishes through the jobs of its next listing, and from another board."""
    board, other = scene.board(), scene.board()
    jobs = [board.post(name) for name in ("a", "b", "c")]
    for job in jobs:
        board.claim(job, "me")
    board.consume(found(board, jobs[0]), "me")
    other.abandon(found(other, jobs[1]), "me")
    other.consume(found(other, jobs[2]), "me")
    wanted = [states.COMPLETE, states.UNCLAIMED, states.COMPLETE]
    same(wanted, [job.state for job in jobs], "the states")


@promise("BOARD-8", deadline=60.0)
def check_killed_owners_job_is_freed(scene: Scene) -> None:
    """The claim without an expiry is kept while its process lives, and ends with it."""
    kill = scene.owner()
    board = scene.board()
    job = board.post("a")
    eventually(lambda: job.state == states.CLAIMED, "the process claimed the job")
    for _ in range(10):
        time.sleep(0.5)
        same("owner", board.find_owner(job), "the owner, whose process lives")
    kill()
    eventually(
        lambda: answer_of(lambda: board.claim(job, "heir")) is None,
        "a killed owner's job can be claimed",
        30.0,
    )
    board.consume(job, "heir")


def _try_to_hold(board: Any, other: Any, job: Any) -> None:
    """Break the promise where neither the claimer nor anybody else can get the job."""
    its = found(other, job)
    answers: list[Any] = []

    def somebody_has_it() -> bool:
        answers[:] = [answer_of(board.claim, job, "me"), answer_of(other.claim, its, "you")]
        return None in answers

    try:
        eventually(somebody_has_it, "somebody could claim the job", 12.0)
    except AssertionError as error:
        owner = answer_of(lambda: other.find_owner(its))
        raise AssertionError(
            f"after a lost reply the job is {owner!r}'s, and nobody can claim it: its claimer "
            f"gets {answers[0]!r}"
        ) from error


def _claim_with_lost_replies(scene: Scene, **claim: Any) -> None:
    for number in range(4):
        board, other = scene.alone(), scene.board()
        job = board.post(f"job-{number}")
        answer_of(list, board.iterjobs())
        scene.lose_reply(number)
        answer = answer_of(board.claim, job, "me", **claim)
        scene.proxy.heal()
        if answer is not None:
            _try_to_hold(board, other, job)
        elif not scene.proxy.struck:
            return  # it takes fewer replies than that


@promise("BOARD-5", deadline=90.0)
def check_claim_whose_answer_was_lost_is_not_lost(scene: Scene) -> None:
    """Whichever of a claim's replies is lost, the job is not held by nobody."""
    _claim_with_lost_replies(scene)


@promise("BOARD-5", deadline=90.0)
def check_claim_with_an_expiry_whose_answer_was_lost(scene: Scene) -> None:
    """It is granted to who repeats it, or ends when due."""
    need_expiry(scene.board())
    _claim_with_lost_replies(scene, expiry=3)


class _Unanswered:
    """Before a backend: of a claim the first attempt has no answer, the second no session.

    The third is answered only when the board had time to give back what it leased.
    """

    def __init__(self, settings: Any) -> None:
        super().__init__(settings)  # type: ignore[call-arg] # it is mixed with a backend
        self.attempts = 0
        self.given_back = threading.Event()

    def _attempt(self, claim: Callable[[], Any]) -> Any:
        self.attempts += 1
        if self.attempts == 1:
            raise errors.Indeterminate("the reply was lost")
        if self.attempts == 2:
            raise errors.SessionLost("the session ended")
        answer = claim()
        self.given_back.wait(0.5)
        return answer

    def acquire(self, *arguments: Any) -> Any:
        return self._attempt(lambda: super(_Unanswered, self).acquire(*arguments))  # type: ignore[misc]

    def acquire_next(self, *arguments: Any) -> Any:
        return self._attempt(lambda: super(_Unanswered, self).acquire_next(*arguments))  # type: ignore[misc]

    def release(self, *arguments: Any) -> None:
        super().release(*arguments)  # type: ignore[misc]
        self.given_back.set()


def _stays_claimed(scene: Scene, claim: Callable[[Any, Any], Any]) -> None:
    board = scene.maker.mixed(scene.place, _Unanswered)
    board.connect()
    other = scene.board() if scene.maker.cross_process else board
    job = board.post("a")
    its = found(other, job)
    claim(board, job)
    for _ in range(5):  # now it may look for the attempts that had no answer
        same("me", other.find_owner(its), "the owner of a job whose claim returned")
        time.sleep(0.05)
    board.consume(job, "me")


@promise("BOARD-3")
def check_claim_that_returned_is_not_given_back(scene: Scene) -> None:
    """A claim that returned stays its claimer's, also where earlier attempts had no answer."""
    _stays_claimed(scene, lambda board, job: board.claim(job, "me"))


@promise("BOARD-3")
def check_next_job_that_was_claimed_is_not_given_back(scene: Scene) -> None:
    """So does a job that claim_next() returned."""
    _stays_claimed(scene, lambda board, _: board.claim_next("me"))
