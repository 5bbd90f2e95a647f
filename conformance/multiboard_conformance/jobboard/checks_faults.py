# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""A jobboard in trouble: the store goes away, replies are lost, records are damaged.

Imports TaskFlow and the suite's own modules.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

from taskflow import exceptions as excp
from taskflow import states

from multiboard_conformance.jobboard.expect import answer_of, eventually, holds, names, same, within
from multiboard_conformance.jobboard.guarantees import promise
from multiboard_conformance.jobboard.scene import Scene, found
from multiboard_conformance.machinery.proxy import Mode

#: Seconds within which a call answers while the store is away.
BOUND = 20.0


def _fresh(board: Any) -> list[str]:
    return names(board.iterjobs(ensure_fresh=True))


# -- damaged records ---------------------------------------------------------------------------


def _go_on_beside(scene: Scene, harm: Callable[[Any, Any], Callable[[], object]]) -> None:
    board, listener = scene.board(), scene.board()
    list(listener.iterjobs())
    job = board.post("before")
    read = harm(board, job)
    written = read()
    after = board.post("after")
    for other in (board, scene.board(), listener):
        for _ in range(2):
            listed = answer_of(_fresh, other)
            holds(not isinstance(listed, Exception), f"iterjobs() raised {listed!r}")
            same([], [n for n in ("before", "after") if n not in listed], "jobs that are not seen")
    same(written, read(), "the damaged records")
    eventually(lambda: {"before", "after"} <= set(names(listener.iterjobs())), "all are listed")
    last = board.post("last")
    eventually(lambda: "last" in names(listener.iterjobs()), "a board that listens goes on")
    for its in (job, after, last):
        board.claim(its, "me")
        board.consume(its, "me")
    same(written, read(), "the damaged records")


@promise("BOARD-7")
def check_damaged_records_are_left_alone(scene: Scene) -> None:
    """Rubbish and a record cut in half stand beside jobs that are listed, claimed, consumed."""
    _go_on_beside(scene, scene.maker.damage)


@promise("BOARD-7")
def check_unknown_priority_is_left_alone(scene: Scene) -> None:
    """A whole record with a priority that this version can't read is not lost."""
    _go_on_beside(scene, scene.maker.misprioritize)


# -- the store is away -------------------------------------------------------------------------


def _fails(call: Callable[[], Any], what: str) -> None:
    answer = within(BOUND, call, what)
    holds(isinstance(answer, Exception), f"{what} answered {answer!r}")
    same(excp.JobFailure, type(answer), f"what {what} raised ({answer})")


@promise("BOARD-18", deadline=120.0)
def check_refused_connections_are_job_failures(scene: Scene) -> None:
    """While nobody listens, post, claim, consume and state raise JobFailure in time."""
    board = scene.board(proxied=True)
    job, held = board.post("a"), board.post("b")
    board.claim(held, "me")
    scene.proxy.set(Mode.REFUSE)
    _fails(lambda: board.post("c"), "post()")
    _fails(lambda: board.claim(job, "me"), "claim()")
    _fails(lambda: board.consume(held, "me"), "consume()")
    _fails(lambda: job.state, "state")


@promise("BOARD-18", deadline=60.0)
def check_silence_is_a_job_failure(scene: Scene) -> None:
    """While the store is silent and connections stay open, a post raises JobFailure in time."""
    board = scene.board(proxied=True)
    board.post("a")
    scene.proxy.set(Mode.BLACK_HOLE)
    _fails(lambda: board.post("b"), "post()")


@promise("BOARD-18", deadline=60.0)
def check_connecting_to_nobody_is_a_job_failure(scene: Scene) -> None:
    """A server that is not there is reported by connect()."""
    board = scene.make(proxied=True)
    scene.proxy.set(Mode.REFUSE)
    _fails(board.connect, "connect()")


@promise("BOARD-19", deadline=60.0)
def check_unreachable_board_does_not_look_empty(scene: Scene) -> None:
    """A fresh iteration raises or lists what was seen last; an empty list would be a lie."""
    board = scene.board(proxied=True)
    board.post("a")
    same(["a"], names(board.iterjobs(ensure_fresh=True)), "the list")
    scene.proxy.set(Mode.REFUSE)
    looks = (_fresh, lambda board: names(board.iterjobs()))
    for look in looks:
        listed = within(BOUND, functools.partial(look, board), "iterjobs()")
        holds(isinstance(listed, Exception) or listed == ["a"], f"iterjobs() listed {listed!r}")


@promise("BOARD-20", deadline=90.0)
def check_board_goes_on_after_an_outage(scene: Scene) -> None:
    """When the store is back, the same board works and sees what others posted."""
    board, other = scene.board(proxied=True), scene.board()
    job = board.post("a")
    list(board.iterjobs(ensure_fresh=True))
    scene.proxy.set(Mode.REFUSE)
    other.post("b")
    time.sleep(1.0)
    scene.proxy.heal()
    other.post("c")
    wanted = {"a", "b", "c"}
    seen: list[Any] = []

    def sees() -> bool:
        seen[:] = [answer_of(lambda: set(names(board.iterjobs())))]
        return bool(seen == [wanted])

    try:
        eventually(sees, "the board sees what others posted", 20.0)
    except AssertionError as error:
        raise AssertionError(f"{error}; it lists {seen[0]!r}") from error
    board.claim(job, "me")
    board.consume(job, "me")


# -- lost replies ------------------------------------------------------------------------------


@promise("BOARD-28", deadline=90.0)
def check_post_whose_answer_was_lost_is_there_once(scene: Scene) -> None:
    """Whichever of a post's replies is lost, there is no second job."""
    other = scene.board()
    for number in range(4):
        board = scene.alone()
        scene.lose_reply(number)
        answer = answer_of(board.post, f"job-{number}")
        scene.proxy.heal()
        count = names(other.iterjobs(ensure_fresh=True)).count(f"job-{number}")
        if isinstance(answer, Exception):
            holds(count <= 1, f"one post, {count} jobs")
        else:
            same(1, count, "jobs on the board for one post that returned")
            if not scene.proxy.struck:
                return  # it takes fewer replies than that


@promise("BOARD-29", deadline=90.0)
def check_consume_whose_answer_was_lost(scene: Scene) -> None:
    """Whichever of its replies is lost, it ends well, or raises JobFailure and can be repeated."""
    other = scene.board()
    for number in range(3):
        board = scene.alone()
        job = board.post(f"job-{number}")
        its = found(other, job)
        board.claim(job, "me")
        scene.lose_reply(number)
        answer = answer_of(board.consume, job, "me")
        scene.proxy.heal()
        if answer is not None:
            same(excp.JobFailure, type(answer), f"what consume() raised ({answer})")

        def done(board: Any = board, job: Any = job, its: Any = its) -> bool:
            answer_of(lambda: board.consume(job, "me"))
            return bool(its.state == states.COMPLETE)

        eventually(done, "the job was consumed", 15.0)
        if answer is None and not scene.proxy.struck:
            return  # it takes fewer replies than that
