# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Trash, entities, events and health, on every store."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from taskflow import exceptions as excp
from taskflow import states
from taskflow.jobs import base
from taskflow.types import entity

from multiboard.jobboard.board import JobBoard
from multiboard.jobboard.events import ABANDONED, CLAIMED, EXPIRED, LEASE_LOST, TRASHED
from tests.waiting import eventually

Maker = Callable[..., JobBoard]


def test_trash_and_restore(board: JobBoard, other: JobBoard) -> None:
    first, second = board.post("first"), board.post("second")
    board.claim(first, "me")
    board.trash(first, "me")
    assert first.state == states.COMPLETE
    assert eventually(lambda: list(other.iterjobs()) == [second])
    [kept] = other.trashed()
    assert (kept, kept.attempts) == (first, 0)
    restored = other.restore(kept)
    assert other.trashed() == []
    assert eventually(lambda: [job.name for job in board.iterjobs()] == ["second", "first"])
    board.claim(restored, "me")
    assert restored.attempts == 2
    board.trash(restored, "me")
    assert board.purge(board.trashed()) == [True]
    assert board.trashed() == []
    with pytest.raises(excp.NotFound):
        board.restore(restored)


def test_entities_live_as_long_as_their_board(make_board: Maker) -> None:
    board, other = make_board(), make_board("other")
    conductor = entity.Entity("conductor", "c@host:1", {"pid": 1})
    board.register_entity(conductor)
    board.register_entity(conductor)
    assert [(e.kind, e.name, e.metadata) for e in other.entities()] == [
        ("conductor", "c@host:1", {"pid": 1})
    ]
    board.close()
    eventually(lambda: other.entities() == [])
    with pytest.raises(excp.NotImplementedError):
        other.register_entity(entity.Entity("engine", "e", {}))


def test_events_come_in_order_once_each_on_every_board(make_board: Maker) -> None:
    heard: dict[str, list[tuple[str, str]]] = {"board": [], "other": []}
    boards = {name: make_board(name) for name in heard}
    for name, its in boards.items():
        its.notifier.register(
            "*", lambda event, details, name=name: heard[name].append((event, details["job"].name))
        )
    eventually(lambda: all(its.health()["feed_age"] is not None for its in boards.values()))
    board, other = boards["board"], boards["other"]
    job = board.post("a")
    board.claim(job, "me")
    eventually(lambda: len(heard["other"]) == 2)
    board.abandon(job, "me")
    other.claim(job, "me")
    eventually(lambda: len(heard["board"]) == 4)
    other.consume(job, "me")
    # What a board does itself it announces at once, and may be ahead of what others did before.
    eventually(lambda: len(heard["board"]) == 5)
    trashed = board.post("b")
    board.claim(trashed, "me")
    board.trash(trashed, "me")
    expected = [
        (base.POSTED, "a"),
        (CLAIMED, "a"),
        (ABANDONED, "a"),
        (CLAIMED, "a"),
        (base.REMOVAL, "a"),
        (base.POSTED, "b"),
        (CLAIMED, "b"),
        (TRASHED, "b"),
        (base.REMOVAL, "b"),
    ]
    eventually(lambda: len(heard["board"]) >= len(expected))
    assert heard["board"] == expected
    # The other board may hear of "b" when it is gone already: a job that nobody can see any more
    # is not announced.
    eventually(lambda: heard["other"][:5] == expected[:5])
    time.sleep(0.2)
    assert [e for e in heard["other"][5:] if e not in expected[5:]] == []
    assert len(heard["other"]) == len(set(heard["other"])) + 1  # "a" was claimed twice


def test_an_expired_claim_is_told_to_everybody_and_lost_to_its_owner(
    board: JobBoard, other: JobBoard
) -> None:
    lost: list[Any] = []
    expired: list[str] = []
    board.notifier.register(LEASE_LOST, lambda _event, details: lost.append(details))
    other.notifier.register(EXPIRED, lambda _event, details: expired.append(details["job"].name))
    eventually(lambda: other.health()["feed_age"] is not None)
    job = board.post("a")
    board.claim(job, "me", expiry=0.4)
    eventually(lambda: lost and expired)
    assert (lost[0]["job"], lost[0]["lease"].holder, expired) == (job, "me", ["a"])


def test_a_callback_that_blocks_harms_no_claim(make_board: Maker) -> None:
    board = make_board(session_timeout=1.0)
    release = threading.Event()
    board.notifier.register(base.POSTED, lambda *_, **__: release.wait(20))
    job = board.post("a")
    board.claim(job, "me")
    time.sleep(2)
    assert board.find_owner(job) == "me"
    assert job in list(board.iterjobs())
    release.set()
    board.consume(job, "me")


def test_secrets_in_details_are_in_no_log_line(
    board: JobBoard, other: JobBoard, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    job = board.post("a", details={"password": "hunter2-secret"})
    [seen] = other.iterjobs()
    board.claim(job, "me")
    for act in (other.claim, other.consume, other.abandon):
        with pytest.raises(excp.JobFailure) as caught:
            act(seen, "you")
        logging.getLogger("service").error("failed: %s %r", seen, job, exc_info=caught.value)
    logging.getLogger("service").info("%s %r %s", board.health(), job.lease, board.look(job))
    assert "hunter2" not in caplog.text


def test_health_tells_the_truth(board: JobBoard) -> None:
    assert board.health()["feed_age"] is None
    board.claim(board.post("a"), "me")
    list(board.iterjobs())
    health = board.health()
    assert (health["connected"], health["jobs_seen"], health["claims"]) == (True, 1, 1)
    assert health["damaged"] == {}
    assert health["feed_age"] < 15
    board.close()
    assert board.health() == {"connected": False}
