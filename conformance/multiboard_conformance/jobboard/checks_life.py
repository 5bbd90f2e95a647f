# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The life of a jobboard: opening, closing, its neighbours, what it leaves behind.

Imports TaskFlow and the suite's own modules.
"""

from __future__ import annotations

import gc
import os
import threading
from typing import Any

from taskflow import exceptions as excp
from taskflow import states
from taskflow.types import entity

from multiboard_conformance.jobboard.expect import eventually, holds, names, refused, same, within
from multiboard_conformance.jobboard.guarantees import promise
from multiboard_conformance.jobboard.scene import Scene, seen_by_two


def _work_side_by_side(first: Any, second: Any) -> None:
    for number in range(2):
        mine, theirs = first.post(f"mine-{number}"), second.post(f"theirs-{number}")
        same([mine.name], names(first.iterjobs(ensure_fresh=True)), "the first board's jobs")
        same([theirs.name], names(second.iterjobs(ensure_fresh=True)), "the second board's jobs")
        for board, job in ((first, mine), (second, theirs)):
            board.claim(job, "me")
            board.trash(job, "me")
            same(states.COMPLETE, job.state, "the state of a trashed job")


@promise("BOARD-15")
def check_boards_beside_each_other_share_nothing(scene: Scene) -> None:
    """Boards with neighbouring names post and trash their own jobs."""
    _work_side_by_side(*scene.beside("jobs-a", "jobs-b"))


@promise("BOARD-15")
def check_boards_within_each_others_names_share_nothing(scene: Scene) -> None:
    """So do boards of which one's name begins with the other's."""
    _work_side_by_side(*scene.beside("a", "a/jobs"))
    _work_side_by_side(*scene.beside("b/jobs", "b/jobs/job"))


@promise("BOARD-15")
def check_name_that_ends_another_shares_nothing(scene: Scene) -> None:
    """So do boards of which one's name is the beginning of the other's last word."""
    _work_side_by_side(*scene.beside("jobs", "jobs2"))


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@promise("BOARD-16", deadline=90.0)
def check_short_visits_leave_nothing(scene: Scene) -> None:
    """Fifty boards are opened, used and closed beside one that stays."""
    long_lived = scene.board()
    long_lived.post("a")

    def visit() -> None:
        board = scene.board()
        list(board.iterjobs(ensure_fresh=True))
        board.close()

    visit()
    threads, descriptors = threading.active_count(), _descriptors()
    for _ in range(50):
        visit()
    eventually(
        lambda: threading.active_count() <= threads + 1,
        f"the threads of 50 boards ended (there were {threads})",
    )
    gc.collect()
    eventually(
        lambda: _descriptors() <= descriptors + 1,
        f"the descriptors of 50 boards were closed (there were {descriptors})",
    )


@promise("BOARD-16")
def check_closing_ends_what_was_begun(scene: Scene) -> None:
    """A board that listened and waited closes within five seconds; its threads end."""
    threads = threading.active_count()
    board = scene.board()
    board.post("a")
    list(board.wait(5.0))
    answer = within(5.0, board.close, "close()")
    same(None, answer, "what close() answered")
    eventually(lambda: threading.active_count() <= threads, "the board's threads ended")


@promise("BOARD-16")
def check_connecting_again_works(scene: Scene) -> None:
    """After closing and connecting again a board works, and remembers no job that is gone."""
    board, other, _, its = seen_by_two(scene)
    board.close()
    holds(not board.connected, "a closed board reports that it is connected")
    other.claim(its, "me")
    other.consume(its, "me")
    board.connect()
    holds(board.connected, "a connected board reports that it is not")
    same([], names(board.iterjobs()), "the jobs")
    second = board.post("b")
    eventually(lambda: names(other.iterjobs()) == ["b"], "the other board sees the next job")
    board.claim(second, "me")
    board.consume(second, "me")


@promise("BOARD-17")
def check_entities(scene: Scene) -> None:
    """A conductor is registered, twice too; anything else is refused."""
    board = scene.board()
    conductor = entity.Entity("conductor", "c@host:1", {"pid": 1})
    board.register_entity(conductor)
    board.register_entity(conductor)
    engine = entity.Entity("engine", "e", {})
    refused(board.register_entity, engine, by=excp.NotImplementedError)


@promise("BOARD-27")
def check_process_that_forgets_to_close_ends(scene: Scene) -> None:
    """A program that ends without closing its board ends."""

    def forget() -> None:
        board = scene.board()
        board.claim(board.post("a"), "me")
        list(board.iterjobs())

    process = scene.process(forget, alone=True)
    process.join(15.0)
    holds(process.exitcode is not None, "15 s after its last line the process still runs")
    same(0, process.exitcode, "the exit status")
