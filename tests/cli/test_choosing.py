# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Which jobs are listed, in how wide a table; which boards there are."""

from __future__ import annotations

import json
from typing import Any

import pytest
import servers
from rich.cells import cell_len

import multiboard
from multiboard.cli import fitting, selecting
from tests.cli.conftest import Command


@pytest.fixture
def board(here: Any) -> Any:
    """The board in memory, with some jobs."""
    for name, priority, delay in (
        ("resize-1", "NORMAL", 0.0),
        ("resize-2", "HIGH", 0.0),
        ("Resize-3", "NORMAL", 600.0),
        ("delete-1", "LOW", 0.0),
    ):
        here.post(name, priority=priority, delay=delay)
    here.claim(next(iter(here.iterjobs())), "w-1")  # resize-2
    return here


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ([], ["resize-2", "resize-1", "Resize-3", "delete-1"]),
        (["--state", "claimed"], ["resize-2"]),
        (["--state", "DELAYED", "--state", "CLAIMED"], ["resize-2", "Resize-3"]),
        (["--unclaimed"], ["resize-1", "Resize-3", "delete-1"]),
        (["--owner", "w-1"], ["resize-2"]),
        (["--owner", "w-2"], []),
        (["--priority", "low", "--priority", "HIGH"], ["resize-2", "delete-1"]),
        (["--name", "resize-*"], ["resize-2", "resize-1"]),
        (["--name", "resize-*", "--state", "unclaimed"], ["resize-1"]),
        (["--older-than", "0"], ["resize-2", "resize-1", "Resize-3", "delete-1"]),
        (["--older-than", "10m"], []),
    ],
)
@pytest.mark.usefixtures("board")
def test_jobs_are_chosen(words: list[str], names: list[str], command: Command, url: str) -> None:
    rows = command("jobs", url, "-f", "json", *words).rows
    assert [row["Name"] for row in rows] == names


@pytest.mark.parametrize(
    ("words", "shown", "more"),
    [
        (["--limit", "1"], 1, 3),
        (["--limit", "0"], 0, 4),
        (["--limit", "1", "--all"], 4, 0),
        (["--limit", "1", "--name", "resize-*"], 1, 1),
        (["--limit", "4"], 4, 0),
    ],
)
@pytest.mark.usefixtures("board")
def test_how_many_more_there_are_is_written(
    words: list[str], shown: int, more: int, command: Command, url: str
) -> None:
    answer = command("jobs", url, "-f", "json", *words)
    assert (answer.status, len(json.loads(answer.out))) == (0, shown)
    assert answer.err == (f"{more} more; --all or --limit shows them\n" if more else "")


def test_more_than_a_page(
    command: Command, url: str, board: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selecting, "PAGE", 3)
    for number in range(300):
        board.post(f"n-{number}")
    answer = command("jobs", url, "-f", "json")
    assert (answer.status, len(json.loads(answer.out))) == (0, 200)
    assert answer.err == "104 more; --all or --limit shows them\n"
    names = [row["Name"] for row in command("jobs", url, "-f", "json", "--all").rows]
    assert len(names) == len(set(names)) == 304


@pytest.mark.parametrize(
    "words",
    [
        ["--older-than", "soon"],
        ["--older-than", "-1"],
        ["--older-than", "1e400"],
        ["--limit", "-1"],
        ["--state", "LOST"],
        ["--priority", "1"],
    ],
)
def test_what_can_not_be_chosen_by_is_status_2(words: list[str], command: Command) -> None:
    assert command("jobs", "memory://x", *words).status == 2


# -- boards ----------------------------------------------------------------------------------------


def test_boards_are_listed_and_none_is_made(command: Command, store_url: str) -> None:
    with multiboard.backend("b", store_url):
        names = [row["Board"] for row in command("boards", store_url, "-f", "json").rows]
        assert store_url.rpartition("=")[2] in names
        other = f"{store_url}-typo"
        assert command("boards", other, "-f", "json").rows == [{"Board": name} for name in names]
        answer = command("jobs", other)
        assert (answer.status, answer.out) == (1, "")
        assert "-typo' at " in answer.err
        assert "; there are: " in answer.err


def test_where_there_are_no_boards(command: Command, url: str) -> None:
    answer = command("boards", url, "-f", "json")
    assert (answer.status, answer.out, answer.err) == (0, "[]\n", "there are no boards\n")


# -- the width -------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [80, 100, 140])
def test_a_listing_fits_the_terminal(
    width: int, command: Command, board: Any, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    wide = board.post("数" * 80 + "\x1b[2J\u202e", priority="VERY_HIGH")
    board.claim(wide, "o" * 250)
    board.post("v" * 300, priority="VERY_LOW")
    for verb in ("jobs", "entities", "health", "backends", "trash"):
        lines = command(verb, url).out.splitlines()
        assert max(map(cell_len, lines), default=0) <= width
        assert all(line.isprintable() for line in lines)
    out = command("jobs", url).out
    assert wide.uuid in out
    assert "…" in out
    assert len(out.splitlines()) == 10  # a line each
    assert cell_len(command("jobs", url, "-c", "name").out.splitlines()[0]) <= width
    [row, *_] = command("jobs", url, "-f", "json").rows
    assert row["Name"] == wide.name


@pytest.mark.usefixtures("board")
def test_what_goes_to_no_terminal_is_not_cut(command: Command, url: str) -> None:
    with multiboard.backend("b", url) as board:
        board.post("v" * 300)
        assert "v" * 300 in command("jobs", url).out


def test_fitting() -> None:
    names, rows = fitting.fit(["A", "B"], [["x" * 30, "y" * 20]], 40, ["A", "B"], [])
    assert names == ["A", "B"]
    assert sorted(len(cell) for cell in rows[0]) == [16, 17]
    names, rows = fitting.fit(["A", "N"], [["x" * 30, 1]], 30, ["A"], ["N"])
    assert (names, rows) == (["A", "N"], [["x" * 21 + "…", 1]])
    names, rows = fitting.fit(["A", "N"], [["x" * 30, "n" * 30]], 30, ["A"], ["N"])
    assert (names, rows) == (["A"], [["x" * 25 + "…"]])


# -- health ----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("board")
def test_a_board_within_its_limits_is_well(command: Command, url: str) -> None:
    limits = ["--max-age", "10m", "--max-trash", "0", "--max-damaged", "0"]
    for words in (["--check"], ["--check", *limits], limits):
        answer = command("health", url, *words)
        assert (answer.status, answer.err) == (0, "")
        assert answer.out.startswith("well: 4 job(s), 1 claimed, oldest due ")
        assert answer.out.count("\n") == 1


def test_each_limit_that_is_passed_has_a_line(command: Command, board: Any, url: str) -> None:
    job = board.claim_next("me")[0]
    board.trash(job, "me")
    limits = ["--max-age", "0", "--max-trash", "0", "--need-conductors", "1", "--max-damaged", "0"]
    answer = command("health", url, "--check", *limits)
    assert (answer.status, answer.err) == (3, "")
    first, second, third = answer.out.splitlines()
    assert first.startswith("age: a job that is due and unclaimed was posted ")
    assert second == "trash: 1 job(s) set aside, the limit is 0"
    assert third == "conductors: 0 present, 1 needed"


def test_a_board_that_can_not_be_reached_is_status_1(command: Command) -> None:
    with servers.redis_server(password="hunter2") as redis:
        away = redis.url
        for url, says in (
            (redis.url, "no board 'default'"),
            (redis.url.replace("hunter2", "wrong"), "redis://127.0.0.1"),
            (redis.url.replace("redis", "nosuch"), "unknown backend"),
        ):
            answer = command("health", url, "--check")
            assert (answer.status, answer.out, answer.err.count("\n")) == (1, "", 1)
            assert says in answer.err
    answer = command("health", f"{away}?connect_timeout=1", "--check")
    assert (answer.status, answer.out, answer.err.count("\n")) == (1, "", 1)
    assert "hunter2" not in answer.err
