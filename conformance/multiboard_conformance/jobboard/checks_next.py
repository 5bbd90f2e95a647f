# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""claim_next() of a jobboard: which jobs it hands out, to whom, and when it wakes.

Imports TaskFlow, the primitives and the suite's own modules.
"""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from taskflow import exceptions as excp
from taskflow import states

from multiboard.primitives import LeaseLock
from multiboard_conformance.jobboard.expect import eventually, holds, names, refused, same
from multiboard_conformance.jobboard.guarantees import promise
from multiboard_conformance.jobboard.scene import Scene, found, need

#: Seconds within which who waits for a job gets it, once it can be had.
SOON = 5.0


class _ByTheView:
    """Before a backend: it has no native way to claim the next job, so that the board looks."""

    @property
    def traits(self) -> Any:
        return dataclasses.replace(super().traits, native_claim_next=False)  # type: ignore[misc]

    acquire_next = LeaseLock.acquire_next


def _boards(scene: Scene) -> dict[str, Any]:
    """Return a board that asks its store for the next job, and one that looks for it."""
    board = scene.board()
    need(board, "claim_next")
    looking = scene.maker.mixed(scene.place, _ByTheView)
    looking.connect()
    return {"as it is": board, "by its view": looking}


@promise("BOARD-34")
def check_next_jobs_come_in_order(scene: Scene) -> None:
    """The most urgent first, then the oldest; as many as are asked for, and no more."""
    for how, board in _boards(scene).items():
        for priority in ("LOW", "VERY_HIGH", "NORMAL", "VERY_LOW", "HIGH"):
            for number in range(2):
                board.post(f"{priority}-{number}", priority=priority)
        order = [f"{p}-{n}" for p in ("VERY_HIGH", "HIGH", "NORMAL", "LOW", "VERY_LOW")
                 for n in range(2)]  # fmt: skip
        first = board.claim_next("me")
        jobs = [*first, *board.claim_next("me", limit=4), *board.claim_next("me", limit=40)]
        same(1, len(first), f"how many jobs were claimed without a limit ({how})")
        same(order, names(jobs), f"the jobs, in the order in which they were claimed ({how})")
        same([], board.claim_next("me", limit=40), f"what is left ({how})")
        for job in jobs:
            same("me", board.find_owner(job), f"the owner of a job that was claimed ({how})")
            board.consume(job, "me")


@promise("BOARD-34")
def check_workers_get_different_jobs(scene: Scene) -> None:
    """Boards that ask together share the jobs out, none twice and none left out."""
    boards = [*_boards(scene).values(), scene.board()]
    posted = [boards[0].post(str(number)).name for number in range(24)]

    def work(board: Any) -> list[str]:
        got: list[str] = []
        while jobs := board.claim_next("me", limit=2, timeout=0.5):
            got += names(jobs)
            for job in jobs:
                board.consume(job, "me")
        return got

    with ThreadPoolExecutor(len(boards)) as threads:
        done = Counter(name for got in threads.map(work, boards) for name in got)
    same(Counter(posted), done, "how often each job was handed out")


@promise("BOARD-34", deadline=90.0)
def check_waiting_for_the_next_job_ends_with_it(scene: Scene) -> None:
    """With one that is posted, that is due, that was abandoned, and whose claim ended."""
    for how, board in _boards(scene).items():
        other = scene.board()
        held = [other.post(name) for name in ("abandoned", "expired")]
        for job in held:
            other.claim(job, "you", expiry=60)
        freed: dict[str, Callable[[], object]] = {
            "posted": lambda other=other: other.post("posted"),
            "delayed": lambda other=other: other.post("delayed", delay=1.0),
            "abandoned": lambda other=other, held=held: other.abandon(held[0], "you"),
            "expired": lambda held=held: held[1].extend_expiry(0.5),
        }
        same([], board.claim_next("me"), f"what can be had ({how})")
        with ThreadPoolExecutor(1) as threads:
            for what, free in freed.items():
                waiting = threads.submit(board.claim_next, "me", timeout=30.0)
                time.sleep(0.3)
                holds(not waiting.done(), f"claim_next() did not wait for the job ({how})")
                free()
                began = time.monotonic()
                same([what], names(waiting.result()), f"the job that became free ({how})")
                took = time.monotonic() - began
                holds(took < 1.0 + SOON, f"{what}: {took:.1f} s later it was claimed ({how})")
        for job in list(board.iterjobs(ensure_fresh=True)):
            board.consume(job, "me")


@promise("BOARD-34")
def check_job_is_not_claimed_before_it_is_due(scene: Scene) -> None:
    """Neither one that was posted with a delay, nor one that was abandoned with one."""
    for how, board in _boards(scene).items():
        delayed = board.post("delayed", delay=3600)
        later = board.post("abandoned")
        board.claim(later, "me")
        board.abandon(later, "me", delay=3600)
        list(board.iterjobs(ensure_fresh=True))
        same([], board.claim_next("me", limit=5), f"what can be had before it is due ({how})")
        same([], board.claim_next("me", timeout=0.5), f"what can be had a moment later ({how})")
        other = scene.board()
        for job in (delayed, later):
            for claimer, its in ((board, job), (other, found(other, job))):
                refused(claimer.claim, its, "me", by=excp.UnclaimableJob)
            same(states.UNCLAIMED, job.state, "the state of a job that is not due")
        due = board.post("due")
        same([due], board.claim_next("me", limit=5), f"what is due ({how})")
        board.consume(due, "me")


@promise("BOARD-34")
def check_next_job_is_behind_what_can_not_be_read(scene: Scene) -> None:
    """Records that mean nothing stand before the others: they are passed over, and stay."""
    for how, board in _boards(scene).items():
        job = board.post("before")
        read = scene.maker.damage(board, job)
        written = read()
        board.claim(job, "me")
        board.consume(job, "me")
        behind = board.post("behind", priority="VERY_LOW")
        got: list[Any] = []

        def gets(board: Any = board, got: list[Any] = got) -> bool:
            got += board.claim_next("me")
            return bool(got)

        eventually(gets, f"the job behind them is handed out ({how})")
        same([behind], got, f"the job behind what can't be read ({how})")
        board.consume(behind, "me")
        same(written, read(), "the records that can't be read")
