# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Postings that can't be read: they are set aside and reported, and stop nobody."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
import uuid
from typing import Any

import pytest

from multiboard.jobboard.board import JobBoard
from multiboard.primitives import NewPosting, Shelf
from multiboard.runtime.retry import RetryingGuard
from tests.hostile import BODIES

pytestmark = pytest.mark.long

#: The smaller ones: a store may take no more.
HOSTILE = {name: body for name, (body, _) in BODIES.items() if len(body) < 200_000}


def add_hostile(board: JobBoard) -> dict[str, bytes]:
    """Put hostile postings on a board, before all others of the order, as another program could."""
    postings = {str(uuid.uuid4()): body for body in HOSTILE.values()}
    with_guard = RetryingGuard(board._make_backend())
    with_guard.open()
    with_guard.add([NewPosting(key, body, rank=0) for key, body in postings.items()])
    with_guard.close()
    return postings


def test_workers_pass_over_what_can_not_be_read(board: JobBoard, other: JobBoard) -> None:
    bad = add_hostile(board)
    good = [board.post("good"), board.post("better", priority="VERY_HIGH")]
    won = other.claim_next("me", limit=2)
    won += other.claim_next("me", limit=2) if len(won) < 2 else []  # one place was taken in vain
    assert [job.name for job in won] == ["better", "good"]
    assert {job.uuid for job in board.iterjobs(ensure_fresh=True)} == {job.uuid for job in good}
    damaged = board.health()["damaged"]
    assert set(damaged) == set(bad)
    assert any("levels" in why for why in damaged.values())


def test_a_worker_that_does_not_wait_gets_the_job_behind_them(board: JobBoard) -> None:
    bad = add_hostile(board)
    board.post("good")
    assert [job.name for job in board.claim_next("me")] == ["good"]
    assert board.claim_next("me") == []
    # Nobody gets them again soon, and none of them was lost.
    assert all(posting is not None for posting in board._here.guard.get(list(bad)))


def test_what_can_not_be_read_in_the_trash_is_reported(board: JobBoard) -> None:
    add_hostile(board)
    guard = board._here.guard
    for number, posting in enumerate(guard.list().postings):
        lease = guard.acquire(posting.key, "me", f"c-{number}")
        assert guard.remove([lease], Shelf.TRASH) == [None]
    assert board.trashed() == []
    assert len(board.health()["damaged"]) == len(HOSTILE)


WORKER = """
import json, sys
import multiboard
with multiboard.backend("b", sys.argv[1]) as board:
    names = [job.name for job in board.iterjobs(ensure_fresh=True)]
    claimed = [job.name for job in board.claim_next("me", limit=5, timeout=5)]
    json.dump([names, claimed, len(board.health()["damaged"])], sys.stdout)
"""


@pytest.mark.parametrize("command", ["jobs", "health", "worker"])
def test_a_process_that_meets_them_lives(tmp_path: pathlib.Path, command: str) -> None:
    import multiboard

    url = f"sqlite://{tmp_path / 'board.db'}"
    with multiboard.backend("b", url) as board:
        add_hostile(board)
        board.post("good")
    words: list[Any] = [sys.executable, "-c", WORKER, url]
    if command != "worker":
        words = [sys.executable, "-m", "multiboard.cli.main", command, url, "-f", "json"]
    run = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, f"it died: {run.returncode} {run.stderr[-1000:]}"
    shown = json.loads(run.stdout)
    if command == "worker":
        assert shown == [["good"], ["good"], len(HOSTILE)]
    elif command == "jobs":
        assert [row["Name"] for row in shown] == ["good"]
        assert f"{len(HOSTILE)} record(s) can't be read" in run.stderr
    else:
        assert shown["damaged"].count("\n") == len(HOSTILE) - 1
