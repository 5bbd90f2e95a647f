# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Connecting, closing and connecting again, on every store."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from taskflow import exceptions as excp

import multiboard
from multiboard.errors import ConfigError
from multiboard.jobboard.board import JobBoard
from tests.waiting import eventually

Maker = Callable[..., JobBoard]


def test_connect_after_close_works_again(make_board: Maker) -> None:
    board = make_board()
    job = board.post("a")
    assert [j.uuid for j in board.iterjobs()] == [job.uuid]
    board.close()
    assert not board.connected
    other = make_board()
    other.claim(job, "me")
    other.consume(job, "me")
    board.connect()
    assert list(board.iterjobs()) == []


def test_the_configuration_may_be_strings(store_url: str) -> None:
    conf = {"board": "multiboard", "url": store_url, "session_timeout": "3.5"}
    assert JobBoard("b", conf).settings.session_timeout == 3.5
    with pytest.raises(ConfigError, match="did you mean 'session_timeout'"):
        JobBoard("b", {"url": store_url, "session_time_out": "3"})
    with pytest.raises(ConfigError, match="names its store"):
        JobBoard("b", {"board": "multiboard"})


def test_closing_takes_milliseconds_and_wakes_who_waits(make_board: Maker) -> None:
    board = make_board()
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(board.wait, 30)
        claiming = pool.submit(board.claim_next, "me", 1, 30)
        eventually(lambda: board.health()["feed_age"] is not None)
        begun = time.monotonic()
        board.close()
        assert time.monotonic() - begun < 2
        for future in (waiting, claiming):
            assert isinstance(future.exception(timeout=2), excp.JobFailure)


def test_many_short_connections_leave_nothing(make_board: Maker, store_url: str) -> None:
    make_board()  # a long-lived one beside them

    def visit() -> None:
        board = multiboard.fetch("visitor", store_url)
        board.connect()
        board.post("a")
        board.close()

    visit()
    threads, files = threading.active_count(), _open_files()
    for _ in range(40):
        visit()
    eventually(lambda: threading.active_count() <= threads)
    eventually(lambda: _open_files() <= files)


def _open_files() -> int:
    return len(os.listdir("/proc/self/fd"))
