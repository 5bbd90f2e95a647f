# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The end of a fault run: the store is put back to a backup, and every board has to notice."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from servers.clusters import Cluster
from taskflow import exceptions as excp
from taskflow import states

import multiboard
from multiboard import errors
from multiboard.primitives import boottime

#: Seconds within which a board must get an answer after its store was put back.
ANSWERED_WITHIN = 60.0
JOBS = 5


@dataclass
class PutBack:
    """What boards said that were open while their store was put back to an earlier state."""

    #: Questions that were answered with ``BoardLost``.
    noticed: int = 0
    #: What was answered as if nothing had happened, each a sentence.
    deceived: list[str] = field(default_factory=list)


def put_back(cluster: Cluster, settings: Mapping[str, Any]) -> PutBack:
    """Post, back up, post and consume, put the backup back, and ask two boards about it."""
    found = PutBack()
    conf = {"url": cluster.url, **settings}
    with (
        tempfile.TemporaryDirectory() as folder,
        multiboard.backend("writer", conf) as writer,
        multiboard.backend("watcher", conf) as watcher,
    ):
        before = [writer.post(f"before {number}") for number in range(JOBS)]
        assert len(list(watcher.iterjobs(ensure_fresh=True))) == JOBS
        cluster.back_up(folder)
        since = [_again(lambda: writer.post("since")) for _ in range(JOBS)]
        _again(lambda: writer.claim(before[0], "me"))
        _again(lambda: writer.consume(before[0], "me"))
        seen = _again(lambda: list(watcher.iterjobs(ensure_fresh=True)))
        assert [job.uuid for job in seen] == [job.uuid for job in [*before[1:], *since]]
        cluster.put_back(folder)
        for board, jobs in ((writer, since), (watcher, seen[-JOBS:])):
            questions: dict[str, Callable[[], Any]] = {
                f"the state of {jobs[0]}": lambda jobs=jobs: jobs[0].state,
                f"the end of {jobs[1]}": lambda jobs=jobs: jobs[1].wait(0.5),
                "the jobs": lambda board=board: list(board.iterjobs(ensure_fresh=True)),
                "a claim": lambda board=board: board.claim_next("me"),
            }
            for what, question in questions.items():
                _judge(found, f"{board.name} was asked for {what}", question)
        for board in (writer, watcher):  # whoever comes back works with what is there
            board.close()
            _again(board.connect)
            left = _again(lambda board=board: list(board.iterjobs(ensure_fresh=True)))
            if [job.uuid for job in left] != [job.uuid for job in before]:
                found.deceived.append(f"{board.name}, connected anew, lists {left}")
            for job in since:
                with contextlib.suppress(excp.JobFailure):
                    if job.state == states.COMPLETE:
                        found.deceived.append(f"{job} is COMPLETE, and was never done")
    return found


def _judge(found: PutBack, what: str, question: Callable[[], Any]) -> None:
    try:
        answer = _again(question)
    except excp.JobFailure as error:
        if isinstance(error.__cause__, errors.BoardLost):
            found.noticed += 1
        else:
            found.deceived.append(f"{what}, and failed: {error}")
    else:
        found.deceived.append(f"{what}, and answered {answer}")


def _again(question: Callable[[], Any]) -> Any:
    """Ask until the store answers: it was stopped just now."""
    give_up = boottime() + ANSWERED_WITHIN
    while True:
        try:
            return question()
        except excp.JobFailure as error:
            away = (errors.Unavailable, errors.Indeterminate, errors.SessionLost)
            if not isinstance(error.__cause__, away) or boottime() > give_up:
                raise
        time.sleep(0.1)
