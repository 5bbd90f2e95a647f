# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""A jobboard in doubt: what had no answer, and what was leased and nobody holds.

Imports TaskFlow, the errors and the suite's own modules.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from taskflow import exceptions as excp
from taskflow import states

from multiboard import errors
from multiboard_conformance.jobboard import faults
from multiboard_conformance.jobboard.expect import answer_of, eventually, holds, names, same, within
from multiboard_conformance.jobboard.faults import Fault, Faults
from multiboard_conformance.jobboard.guarantees import promise
from multiboard_conformance.jobboard.scene import Scene, found

#: The settings of a board that gives a call up soon: a claim, its session, and a doubt about it.
SOON = {"operation_timeout": "1", "session_timeout": "3"}


def _claims(board: Any, job: Any) -> dict[str, Callable[[], Any]]:
    """Return the ways to claim a job that is alone on its board, those that end included."""
    ways: dict[str, Callable[[], Any]] = {
        "claim()": lambda: board.claim(job, "me"),
        "claim(expiry=30)": lambda: board.claim(job, "me", expiry=30),
    }
    if hasattr(board, "claim_next"):
        ways["claim_next()"] = lambda: same([job], board.claim_next("me"), "what claim_next() got")
    return ways


@promise("BOARD-33")
def check_claim_whose_first_answer_was_lost_is_had(scene: Scene) -> None:
    """It was done, and its repeat is the same claim: it is granted and stays."""
    board, its = scene.faulty()
    other = scene.board()
    for name in _claims(board, None):
        job = board.post(name)
        its.set(faults.first(faults.unanswered), "acquire", "acquire_next")
        answer = answer_of(_claims(board, job)[name])
        theirs = found(other, job)
        same(None, answer, f"what {name} answered, whose first answer was lost")
        for _ in range(5):  # now it may look for the attempt that had no answer
            same("me", other.find_owner(theirs), f"the owner of a job that {name} got")
            time.sleep(0.05)
        holds(job.lease is not None, f"the board does not know that {name} got the job")
        board.consume(job, "me")
        same(states.COMPLETE, job.state, "the state of a consumed job")


def _is_given_back(other: Any, job: Any, what: str) -> None:
    its = found(other, job)
    eventually(lambda: its.state == states.UNCLAIMED, f"a job is free again: {what}", 15.0)
    other.claim(its, "heir")
    other.consume(its, "heir")


def _interrupted(_faults: Faults, do: Callable[[], Any], _limit: float) -> Any:
    do()
    raise KeyboardInterrupt


@promise("BOARD-32", deadline=90.0)
def check_claim_that_nobody_received_is_given_back(scene: Scene) -> None:
    """No attempt was answered, or its caller was interrupted; the board goes on beside it."""
    board, its = scene.faulty(**SOON)
    other = scene.board()
    board.claim(board.post("kept, and the session with it"), "me")
    for what, fault in (("no answer", faults.unanswered), ("an interrupt", _interrupted)):
        for name in _claims(board, None):
            job = board.post(f"{name}: {what}")
            its.set(fault, "acquire", "acquire_next")
            try:
                answer = answer_of(_claims(board, job)[name])
            except KeyboardInterrupt as error:
                answer = error
            wanted = excp.JobFailure if fault is faults.unanswered else KeyboardInterrupt
            same(wanted, type(answer), f"what {name} raised ({what})")
            its.heal()
            _is_given_back(other, job, f"{name}, of which its caller got {what}")


@promise("BOARD-32", deadline=90.0)
def check_claim_whose_owner_is_done_is_given_back(scene: Scene) -> None:
    """It could not be consumed, trashed or abandoned while the store was away."""
    board, its = scene.faulty(**SOON)
    other = scene.board()
    board.claim(board.post("kept, and the session with it"), "me")
    acts = ("consume", "trash", "abandon")
    jobs = [board.post(act) for act in acts]
    for act, job in zip(acts, jobs, strict=True):
        board.claim(job, "me")
        its.set(faults.refused, "remove", "release")
        answer = answer_of(getattr(board, act), job, "me")
        same(excp.JobFailure, type(answer), f"what {act}() raised while the store is away")
        its.heal()
    for act, job in zip(acts, jobs, strict=True):
        _is_given_back(other, job, f"{act}() had failed")


@promise("BOARD-32", deadline=90.0)
def check_claim_that_was_reported_lost_is_given_back(scene: Scene) -> None:
    """Its session turns out to live, and is kept for another claim from then on."""
    board, its = scene.faulty(session_timeout="3")
    other = scene.board()
    job = board.post("a")
    board.claim(job, "me")
    eventually(lambda: its.renewals, "the claim is renewed")
    its.set(faults.unanswered, "keepalive", "release")
    eventually(lambda: job.lease is None, "the claim counts as lost", 30.0)
    its.heal()
    board.claim(board.post("kept, and the session with it"), "me")
    _is_given_back(other, job, "it was reported lost")


@promise("BOARD-33", deadline=60.0)
def check_what_is_unknown_is_not_reported_as_refused(scene: Scene) -> None:
    """One attempt had no answer and the last was refused: then it may have been done."""
    board, its = scene.faulty(**SOON)
    other = scene.board()
    job = board.post("a")
    board.claim(job, "me")
    acts: dict[str, tuple[str, Callable[[], Any]]] = {
        "post()": ("add", lambda: board.post("b")),
        "consume()": ("remove", lambda: board.consume(job, "me")),
    }
    for name, (verb, act) in acts.items():
        its.set(faults.first(faults.unanswered, faults.refused), verb)
        answer = within(20.0, act, name)
        its.heal()
        same(excp.JobFailure, type(answer), f"what {name} raised")
        cause = type(answer.__cause__)
        same(errors.Indeterminate, cause, f"the cause of what {name} raised, which was done")
    same(states.COMPLETE, found(other, board.post("c")) and job.state, "the state of the job")
    same(["b", "c"], names(other.iterjobs(ensure_fresh=True)), "the jobs")


def _broken(_faults: Faults, _do: Callable[[], Any], _limit: float) -> Any:
    raise ConnectionResetError("the client library raised it")


@promise("BOARD-33", deadline=120.0)
def check_store_that_is_away_answers_nothing(scene: Scene) -> None:
    """No call answers that a job is done, gone or free; each raises JobFailure, in time."""
    away: dict[str, Fault] = {
        "refuses": faults.refused, "is silent": faults.silent, "breaks off": _broken
    }  # fmt: skip
    made = {what: scene.faulty(**SOON) for what in away}
    with ThreadPoolExecutor() as threads:
        judged = [threads.submit(_is_away, what, *made[what], away[what]) for what in away]
        for each in judged:
            each.result()


def _is_away(what: str, board: Any, its: Faults, fault: Fault) -> None:
    job, held, finished = (board.post(f"{what}: {name}") for name in ("a", "b", "c"))
    board.claim(held, "me", expiry=60)
    board.claim(finished, "me", expiry=60)
    its.set(fault)
    calls: dict[str, Callable[[], Any]] = {
        "post()": lambda: board.post("d"),
        "claim()": lambda: board.claim(job, "me"),
        "consume()": lambda: board.consume(finished, "me"),
        "state": lambda: job.state,
        "find_owner()": lambda: board.find_owner(held),
        "expires_in()": lambda: held.expires_in(),
        "iterjobs()": lambda: list(board.iterjobs(ensure_fresh=True)),
        "wait()": lambda: job.wait(0.2),
    }
    with ThreadPoolExecutor(len(calls)) as threads:
        answers = {name: threads.submit(within, 20.0, call, name) for name, call in calls.items()}
        for name, answer in answers.items():
            got = answer.result()
            if name != "wait()" or got is not False:
                same(excp.JobFailure, type(got), f"what {name} raised while the store {what}")
    its.heal()
    eventually(
        lambda: job in answer_of(lambda: list(board.iterjobs(ensure_fresh=True))),
        f"the board goes on after its store that {what}",
    )
