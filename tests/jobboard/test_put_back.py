# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""A board whose store is put back to an earlier state: what was posted since is not complete."""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import servers
from taskflow import exceptions as excp
from taskflow import states

import multiboard
from multiboard import errors
from tests.waiting import eventually


class _File:
    """An SQLite file; a backup is copied over it while it is open."""

    def __init__(self, path: pathlib.Path) -> None:
        self.url = f"sqlite://{path}"
        self._path = path

    def back_up(self, backup: str) -> None:
        self._settle()
        shutil.copyfile(self._path, backup)

    def put_back(self, backup: str) -> None:
        self._settle()
        shutil.copyfile(backup, self._path)

    def _settle(self) -> None:
        def emptied() -> bool:
            with contextlib.closing(sqlite3.connect(self._path)) as connection:
                busy: int = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
                return busy == 0

        assert eventually(emptied)


@pytest.fixture(params=["sqlite", "redis", "zookeeper", "etcd"])
def store(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Iterator[Any]:
    """A store that can be backed up and put back."""
    if request.param == "sqlite":
        yield _File(tmp_path / "board.db")
    else:
        with servers.server(request.param) as started:
            yield started


def _is_lost(operation: Callable[[], Any]) -> bool:
    with pytest.raises(excp.JobFailure) as caught:
        operation()
    return isinstance(caught.value.__cause__, errors.BoardLost)


def _shows_nothing(board: Any) -> bool:
    """Tell whether the view is no longer shown: it shows what it saw last until it notices."""
    try:
        list(board.iterjobs())
        return False
    except excp.JobFailure as error:
        return isinstance(error.__cause__, errors.BoardLost)


def test_what_was_posted_since_a_backup_is_not_complete(store: Any, tmp_path: pathlib.Path) -> None:
    options = {"url": store.url, "operation_timeout": 20.0, "session_timeout": 4.0}
    backup = str(tmp_path / "backup")
    with multiboard.backend("b", options) as board, multiboard.backend("b", options) as other:
        old, done = board.post("old"), board.post("done")
        assert list(other.iterjobs()) == [old, done]  # its view follows the feed from here on
        store.back_up(backup)
        new, held = board.post("new"), board.post("held")
        board.claim(held, "me", expiry=60)
        board.claim(done, "me", expiry=60)
        board.consume(done, "me")
        assert eventually(lambda: list(other.iterjobs()) == [old, new, held], 30)
        seen = list(other.iterjobs())[1]
        store.put_back(backup)

        # Right after the start a server may still be away; no job ever reads as COMPLETE.
        for operation in (
            lambda: new.state,
            lambda: seen.state,
            lambda: new.wait(5.0),
            lambda: seen.wait(5.0),
            lambda: board.consume(held, "me"),
            lambda: board.claim_next("me"),
            lambda: board.post("c"),
        ):
            assert eventually(lambda: _is_lost(operation), 30), operation  # noqa: B023
        assert eventually(lambda: _shows_nothing(other), 30)

        board.close()
        board.connect()
        assert [job.name for job in board.iterjobs()] == ["old", "done"]
        assert old.state == states.UNCLAIMED
        assert _is_lost(lambda: new.state)
        assert _is_lost(lambda: new.wait(0.1))
        fresh = board.post("fresh")
        board.claim(fresh, "me")
        board.consume(fresh, "me")
        assert fresh.state == states.COMPLETE
        assert fresh.wait(5.0)


def test_a_forked_child_knows_what_its_parent_knew(store: Any, tmp_path: pathlib.Path) -> None:
    backup = str(tmp_path / "backup")
    with multiboard.backend("b", {"url": store.url, "operation_timeout": 20.0}) as board:
        board.post("old")
        store.back_up(backup)
        new = board.post("new")
        store.put_back(backup)
        child = os.fork()
        if child == 0:
            lost = False
            with contextlib.suppress(BaseException):
                lost = eventually(lambda: _is_lost(lambda: new.state), 30)
            os._exit(0 if lost else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_job_is_complete_also_where_its_board_was_connected_again(store: Any) -> None:
    with multiboard.backend("b", store.url) as board:
        job = board.post("a")
        board.claim(job, "me")
        board.consume(job, "me")
        for _ in range(2):
            board.close()
            board.connect()
            assert job.state == states.COMPLETE
