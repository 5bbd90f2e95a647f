# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""What a jobboard shows and reports, where its listing and what happens meanwhile meet.

Imports TaskFlow and the suite's own modules.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from taskflow.jobs import base

from multiboard_conformance.jobboard import faults
from multiboard_conformance.jobboard.expect import eventually, names, same
from multiboard_conformance.jobboard.guarantees import promise
from multiboard_conformance.jobboard.scene import Scene, need


def _shown(board: Any) -> dict[str, bool]:
    """Return the jobs that a board shows without asking, and which of them it shows as free."""
    free = names(board.iterjobs(only_unclaimed=True))
    return {name: name in free for name in names(board.iterjobs())}


def _shows(board: Any, wanted: dict[str, bool], what: str) -> None:
    try:
        eventually(lambda: _shown(board) == wanted, what)
    except AssertionError as error:
        raise AssertionError(f"{error}: expected {wanted}, found {_shown(board)}") from None


def _change(board: Any, jobs: dict[str, Any], whose: str) -> None:
    """Do one of each to jobs while a listing is under way that shows them as they were."""
    board.claim(jobs[f"{whose} claimed"], whose)
    board.claim(jobs[f"{whose} consumed"], whose)
    board.consume(jobs[f"{whose} consumed"], whose)
    board.claim(jobs[f"{whose} trashed"], whose)
    board.trash(jobs[f"{whose} trashed"], whose)
    board.claim(jobs[f"{whose} abandoned"], whose)
    board.abandon(jobs[f"{whose} abandoned"], whose)
    board.post(f"{whose} posted")


KINDS = ("claimed", "consumed", "trashed", "abandoned")


def _wanted(whose: str) -> dict[str, bool]:
    return {f"{whose} claimed": False, f"{whose} abandoned": True, f"{whose} posted": True}


@promise("BOARD-36", deadline=60.0)
def check_first_listing_meets_changes(scene: Scene) -> None:
    """Jobs are posted, claimed, consumed and trashed while the first listing is under way."""
    board, its = scene.faulty()
    need(board, "lease_of")
    other = scene.board()
    mine = {
        f"{who} {kind}": board.post(f"{who} {kind}") for kind in KINDS for who in ("we", "they")
    }
    theirs = {job.name: job for job in other.iterjobs(ensure_fresh=True)}
    listed, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        listed.set()
        go_on.wait(30.0)

    its.set(faults.after(hold), "list")
    with ThreadPoolExecutor(1) as threads:
        listing = threads.submit(functools.partial(_shown, board))
        eventually(listed.is_set, "the board lists its store")
        _change(board, mine, "we")
        _change(other, theirs, "they")
        go_on.set()
        listing.result()
    _shows(board, _wanted("we") | _wanted("they"), "the board shows what happened meanwhile")


@promise("BOARD-36", deadline=60.0)
def check_later_listing_meets_changes(scene: Scene) -> None:
    """A listing after an interruption of the feed is no newer than what was done meanwhile."""
    board, its = scene.faulty()
    need(board, "lease_of")
    jobs = {f"we {kind}": board.post(f"we {kind}") for kind in KINDS}
    _shows(board, dict.fromkeys(jobs, True), "the board shows its jobs")
    listed, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        listed.set()
        go_on.wait(30.0)

    its.set(faults.after(hold), "list")
    its.set(faults.first(faults.forgotten), "changes")
    awake: dict[str, bool] = {}

    def lists() -> bool:
        awake[board.post(f"wakes the feed {len(awake)}").name] = True
        return listed.wait(0.1)

    eventually(lists, "the board lists its store anew where its feed was interrupted", 30.0)
    _change(board, jobs, "we")
    go_on.set()
    last = board.post("last")
    eventually(lambda: last in list(board.iterjobs(ensure_fresh=True)), "the board goes on")
    _shows(board, _wanted("we") | awake | {"last": True}, "the board shows what happened meanwhile")


@promise("BOARD-36", deadline=60.0)
def check_each_change_is_reported_once_by_its_kind(scene: Scene) -> None:
    """Posted, claimed, abandoned, claimed, expired, claimed and trashed: here and elsewhere."""
    boards = [scene.board(), scene.board()]
    for board in boards:
        need(board, "lease_of")
    received: list[list[str]] = [[], []]
    for board, events in zip(boards, received, strict=True):
        for event in (base.POSTED, "CLAIMED", "ABANDONED", "EXPIRED", "TRASHED", base.REMOVAL):
            board.notifier.register(event, _note(events))
        list(board.iterjobs(ensure_fresh=True))
    board, other = boards
    job = board.post("a")
    (its,) = other.iterjobs(ensure_fresh=True)
    wanted = [base.POSTED]

    def reported(*more: str) -> None:
        wanted.extend(more)
        eventually(lambda: all(len(each) >= len(wanted) for each in received), f"{more} came")
        same([wanted] * 2, received, "the events on both boards")

    reported()
    board.claim(job, "me")
    reported("CLAIMED")
    board.abandon(job, "me")
    reported("ABANDONED")
    other.claim(its, "you", expiry=1)
    reported("CLAIMED", "EXPIRED")
    other.claim(its, "you")
    reported("CLAIMED")
    other.trash(its, "you")
    reported("TRASHED", base.REMOVAL)
    other.post("last")
    reported(base.POSTED)


def _note(events: list[str]) -> Callable[..., None]:
    def note(event: str, details: dict[str, Any]) -> None:  # noqa: ARG001 - TaskFlow's name
        events.append(event)

    return note
