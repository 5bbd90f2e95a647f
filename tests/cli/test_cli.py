# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The operators' commands, on every store."""

from __future__ import annotations

import csv
import io
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import servers
from taskflow.conductors import base as conductors
from taskflow.types import entity as entities

import multiboard
from multiboard.cli import opening
from multiboard.cli.main import COMMANDS
from multiboard.config import loading
from multiboard.primitives import NewPosting
from multiboard.runtime.retry import RetryingGuard
from tests.cli.conftest import Answer, Command
from tests.waiting import eventually

SECRET = "hunter2"


@pytest.fixture
def board(store_url: str) -> Iterator[Any]:
    """A board on each store."""
    with multiboard.backend("cli", store_url) as connected:
        yield connected


# -- jobs ------------------------------------------------------------------------------------------


def test_jobs_are_listed_in_order(command: Command, board: Any, store_url: str) -> None:
    board.post("second")
    first = board.post("first", priority="HIGH", details={"password": SECRET})
    board.post("later", delay=600)
    board.claim(first, "me")
    answer = command("jobs", store_url, "-f", "json")
    shown = [
        [row[name] for name in ("Priority", "Name", "State", "Owner", "Attempts")]
        for row in answer.rows
    ]
    assert shown == [
        ["HIGH", "first", "CLAIMED", "me", 1],
        ["NORMAL", "second", "UNCLAIMED", "", 0],
        ["NORMAL", "later", "DELAYED", "", 0],
    ]
    assert answer.rows[0]["UUID"] == first.uuid
    assert 0 <= answer.rows[0]["Age"] < 60
    assert SECRET not in answer.out
    unclaimed = command("jobs", store_url, "--unclaimed", "-f", "json").rows
    assert [row["Name"] for row in unclaimed] == ["second", "later"]


@pytest.mark.usefixtures("board")
def test_an_empty_board_lists_nothing(command: Command, store_url: str) -> None:
    assert command("jobs", store_url, "-f", "json").rows == []


def test_other_formats(command: Command, board: Any, store_url: str) -> None:
    board.post("one")
    answer = command("jobs", store_url, "-f", "csv")
    assert [row["Name"] for row in csv.DictReader(io.StringIO(answer.out))] == ["one"]
    assert "| one " in command("jobs", store_url).out
    assert command("jobs", store_url, "-f", "value", "-c", "Name").out == "one\n"


def test_the_url_may_come_from_the_environment(
    command: Command, board: Any, store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = board.post("one")
    monkeypatch.setenv(opening.URL_VARIABLE, store_url)
    assert [row["UUID"] for row in command("jobs", "-f", "json").rows] == [job.uuid]
    assert command("show", job.uuid, "-f", "json").rows["uuid"] == job.uuid


def test_details_are_shown_only_when_asked_for(
    command: Command, board: Any, store_url: str
) -> None:
    job = board.post("one", details={"password": SECRET})
    board.claim(job, "me", expiry=50)
    answer = command("show", store_url, job.uuid, "-f", "json")
    assert SECRET not in answer.out
    shown = answer.rows
    assert (shown["name"], shown["state"], shown["owner"]) == ("one", "CLAIMED", "me")
    assert shown["token"] == job.lease.token
    assert 0 < shown["expires_in"] <= 50
    assert shown["created_on"].startswith(job.created_on.isoformat(timespec="seconds"))
    asked = command("show", store_url, job.uuid, "--details", "-f", "json").rows
    assert json.loads(asked["details"]) == {"password": SECRET}


def test_trash_restore_and_purge(command: Command, board: Any, store_url: str) -> None:
    jobs = [board.post(name) for name in ("a", "b", "c")]
    for job in jobs:
        board.claim(job, "me")
        board.trash(job, "me")
    trash = command("trash", store_url, "-f", "json").rows
    assert [(row["Name"], row["State"]) for row in trash] == [(n, "TRASHED") for n in "abc"]
    assert command("show", store_url, jobs[0].uuid, "-f", "json").rows["state"] == "TRASHED"
    a, b, c = (job.uuid for job in jobs)
    assert command("restore", store_url, a, b) == Answer(0, f"restored {a}\nrestored {b}\n", "")
    assert command("restore", store_url, a) == Answer(1, "", f"no job {a} in the trash\n")
    assert command("purge", store_url, c, b) == Answer(
        1, f"purged {c}\n", f"no job {b} in the trash\n"
    )
    assert command("trash", store_url, "-f", "json").rows == []
    assert [row["Name"] for row in command("jobs", store_url, "-f", "json").rows] == ["a", "b"]


def test_what_is_not_a_job_is_counted_and_named(
    command: Command, board: Any, store_url: str
) -> None:
    board.post("good")
    guard = RetryingGuard(loading.load(store_url))
    guard.open()
    guard.add([NewPosting("junk", b"no body of ours")])
    guard.close()
    answer = command("jobs", store_url, "-f", "json")
    assert [row["Name"] for row in json.loads(answer.out)] == ["good"]
    assert answer.err == "1 record(s) can't be read; 'multiboard health' names them\n"
    health = command("health", store_url, "-f", "json").rows
    assert health["damaged"].startswith("junk: ")


# -- stores ----------------------------------------------------------------------------------------


def test_health(command: Command, board: Any, store_url: str) -> None:
    jobs = [board.post("one"), board.post("two"), board.post("three", delay=600)]
    board.claim(jobs[0], "me")
    board.trash(jobs[0], "me")
    board.claim(jobs[1], "me")
    shown = command("health", store_url, "-f", "json").rows
    counts = [shown[name] for name in ("jobs", "claimed", "delayed", "trash", "entities")]
    assert counts == [2, 1, 1, 1, 0]
    assert shown["incarnation"] == board.incarnation
    assert shown["store"] == store_url.partition("://")[0]
    assert shown["damaged"] == ""
    assert shown["max_body"] > 0


def test_entities(command: Command, board: Any, store_url: str) -> None:
    kind = conductors.Conductor.ENTITY_KIND
    board.register_entity(entities.Entity(kind, "worker-1", {"pid": 7}))
    (row,) = command("entities", store_url, "-f", "json").rows
    assert (row["Kind"], row["Name"], json.loads(row["Metadata"])) == (
        kind,
        "worker-1",
        {"pid": 7},
    )


def test_backends(command: Command) -> None:
    rows = {row["Name"]: row for row in command("backends", "-f", "json").rows}
    assert {"memory", "sqlite", "redis", "zookeeper", "etcd"} <= rows.keys()
    assert rows["sqlite"]["Shared by"] == "processes"
    assert "session_timeout" in rows["sqlite"]["Options"]
    options = command("backends", "sqlite", "-f", "json").rows
    assert {"namespace", "path", "synchronous"} <= {row["Option"] for row in options}
    assert all(row["Meaning"] for row in options)


def test_watch_prints_events_as_they_happen(command: Command, board: Any, store_url: str) -> None:
    old = board.post("old")
    out = io.StringIO()
    watching = threading.Thread(
        target=command, args=("watch", store_url, "--for", "4"), kwargs={"out": out}
    )
    watching.start()
    try:
        eventually(lambda: "WATCHING" in out.getvalue())
        new = board.post("new", details={"password": SECRET})
        board.claim(new, "me")
        board.abandon(new, "me")
        board.claim(old, "me")
        board.consume(old, "me")
        eventually(lambda: "REMOVED" in out.getvalue())
    finally:
        watching.join()
    lines = [line.split()[1:] for line in out.getvalue().splitlines()]
    events = [words for words in lines if words[0] not in ("WATCHING", "RESET")]
    assert events[0] == ["POSTED", new.uuid, "new"]
    assert events[1][:3] == ["CLAIMED", new.uuid, "new"]
    assert ["RELEASED", new.uuid, "new"] in events
    assert ["CLAIMED", old.uuid, "old"] in [words[:3] for words in events]
    assert events[-1] == ["REMOVED", old.uuid, "old"]
    assert SECRET not in out.getvalue()


def test_watch_goes_on_after_an_outage(command: Command) -> None:
    out = io.StringIO()
    with servers.redis_server() as redis:
        with multiboard.backend("cli", redis.url):
            pass
        words = ("watch", f"{redis.url}?operation_timeout=1&connect_timeout=1", "--for", "12")
        watching = threading.Thread(target=command, args=words, kwargs={"out": out})
        watching.start()
        try:
            eventually(lambda: "WATCHING" in out.getvalue())
            redis.kill()
            eventually(lambda: "UNAVAILABLE" in out.getvalue())
            redis.restart()
            with multiboard.backend("cli", redis.url) as board:
                board.post("after")
            eventually(lambda: " after" in out.getvalue() or "RESET" in out.getvalue())
        finally:
            watching.join()
    assert out.getvalue().count("UNAVAILABLE") == 1


def test_watch_ends_at_ctrl_c(tmp_path: pathlib.Path) -> None:
    with multiboard.backend("cli", f"sqlite://{tmp_path}/b.db"):
        pass
    command = [sys.executable, "-m", "multiboard.cli.main", "watch", f"sqlite://{tmp_path}/b.db"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as watch:
        assert watch.stdout is not None
        assert "WATCHING" in watch.stdout.readline()
        watch.send_signal(signal.SIGINT)
        _, err = watch.communicate(timeout=20)
    assert (watch.returncode, err) == (130, "")


# -- bad input -------------------------------------------------------------------------------------

NOBODY = str(uuid.UUID(int=1))
BAD = [
    (["jobs"], "MULTIBOARD_URL"),
    (["jobs", f"nosuch://user:{SECRET}@host/"], "unknown backend 'nosuch'"),
    (["jobs", f"redis://:{SECRET}@127.0.0.1:1/0?connect_timeout=1"], "127.0.0.1:1"),
    (["watch", f"redis://:{SECRET}@127.0.0.1:1/0?connect_timeout=1"], "127.0.0.1:1"),
    (["health", f"zookeeper://u:{SECRET}@127.0.0.1:1?connect_timeout=1"], "127.0.0.1:1"),
    (["jobs", f"redis://:{SECRET}#x@127.0.0.1:1/0"], "the URL"),
    (["jobs", "memory://x?namspace=y"], "did you mean 'namespace'"),
    (["show", "memory://x", NOBODY], NOBODY),
    (["jobs", "memory://x?namespace=typo"], "no board 'typo' at memory://x; there are: default"),
    (["show", "memory://x"], "name a job by its UUID"),
    (["show", "memory://x", "12"], "'12' is not a UUID"),
    (["restore", "12"], "'12' is not a UUID"),
    (["purge", "memory://x", f"redis://:{SECRET}@h/"], "is not a UUID"),
    (["demo", "--directory", "/nowhere/at/all"], "/nowhere/at/all is not a directory"),
    (["demo", "--url", "memory://x"], "one process only"),
    (["demo", "--url", f"redis://:{SECRET}@127.0.0.1:1/0?connect_timeout=1"], "127.0.0.1:1"),
    (["backends", "nosuch"], "unknown backend"),
]


@pytest.fixture
def _x() -> Iterator[None]:
    """The board ``memory://x``."""
    with multiboard.backend("cli", "memory://x"):
        yield


@pytest.mark.usefixtures("_x")
@pytest.mark.parametrize(("words", "says"), BAD, ids=[" ".join(w)[:40] for w, _ in BAD])
def test_an_error_is_one_line_without_secrets(
    command: Command, words: list[str], says: str
) -> None:
    answer = command(*words)
    assert (answer.status, answer.out) == (1, "")
    assert says in answer.err
    assert answer.err.count("\n") == 1
    assert "Traceback" not in answer.err
    assert SECRET not in answer.err


@pytest.mark.usefixtures("_x")
@pytest.mark.parametrize(("words", "says"), BAD, ids=[" ".join(w)[:40] for w, _ in BAD])
def test_debug_tells_where_but_no_secrets(command: Command, words: list[str], says: str) -> None:
    answer = command("--debug", "-v", "-v", *words)
    assert answer.status == 1
    assert "Traceback" in answer.err
    assert says in answer.err
    assert SECRET not in answer.err + answer.out


def test_a_password_that_works_is_not_shown_either(command: Command) -> None:
    with servers.redis_server(password=SECRET) as redis:
        assert SECRET in redis.url
        with multiboard.backend("cli", redis.url) as board:
            job = board.post("one")
        for words in (["jobs"], ["health"], ["entities"], ["show"], ["watch", "--for", "0.1"]):
            last = [job.uuid] if words == ["show"] else []
            answer = command("--debug", "-v", "-v", words[0], redis.url, *last, *words[1:])
            assert (answer.status, SECRET in answer.out + answer.err) == (0, False), words


def test_a_wrong_option_is_status_2(command: Command) -> None:
    assert command("jobs", "--nosuch").status == 2
    assert command("nosuch").status == 2
    assert command("demo", "--conductors", "1").status == 2


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_has_help(command: Command, name: str) -> None:
    answer = command(*name.split(), "--help")
    assert answer.status == 0
    assert f"usage: multiboard {name}" in answer.out


def test_without_a_command_all_are_listed(command: Command) -> None:
    answer = command()
    assert answer.status == 0
    assert all(f"\n  {name} " in answer.out for name in COMMANDS)


def test_the_installed_command_runs() -> None:
    script = pathlib.Path(sys.executable).with_name("multiboard")
    done = subprocess.run(
        [script, "backends", "-f", "json"], capture_output=True, text=True, env=dict(os.environ)
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert {"sqlite"} <= {row["Name"] for row in json.loads(done.stdout)}


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.4, "0s"), (59.9, "59s"), (60, "1m"), (3725, "1h 2m"), (90061, "1d 1h"), (86401, "1d 1s")],
)
def test_ages_for_people(seconds: float, shown: str) -> None:
    assert opening.span(seconds) == shown
