# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""``multiboard post``, and ``watch -f json``, which shows what comes of it."""

from __future__ import annotations

import io
import json
import pathlib
import threading
import uuid
from typing import Any

import pytest

import multiboard
from tests.cli.conftest import Command
from tests.waiting import eventually

SECRET = "hunter2"


def test_a_job_is_posted(command: Command, store_url: str) -> None:
    answer = command("post", store_url, "one")
    assert (answer.status, answer.out) == (1, "")  # it makes no board unasked
    assert "no board" in answer.err
    answer = command("post", store_url, "one", "--create", "--details", '{"server": 42}')
    assert (answer.status, answer.err) == (0, "")
    with multiboard.backend("holder", store_url) as board:
        [job] = board.iterjobs(ensure_fresh=True)
        assert answer.out == f"posted {job.uuid}\n"
        assert (job.name, job.details, job.priority.value) == ("one", {"server": 42}, "NORMAL")


def test_everything_about_a_job(
    command: Command, here: Any, url: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    book = str(uuid.uuid4())
    (tmp_path / "d.json").write_text('\ufeff{"a": [1, null, "é"]}', encoding="utf-8")
    monkeypatch.setenv("MULTIBOARD_URL", url)
    words = ["--priority", "high", "--delay", "10m", "--book", book]
    answer = command("post", "two words", "--details", f"@{tmp_path}/d.json", *words)
    assert (answer.status, answer.err) == (0, "")
    [job] = here.iterjobs(ensure_fresh=True)
    assert (job.name, job.details) == ("two words", {"a": [1, None, "é"]})
    assert (job.priority.value, job.book_uuid) == ("HIGH", book)
    assert here.claim_next("me") == []


BAD = [
    (["--details", '{"a": 1,}'], "line 1, column "),
    (["--details", f'{{"a": "{SECRET}"\n "b": 1}}'], "line 2, column 2"),
    (["--details", "[1]"], "should be an object in JSON"),
    (["--details", '{"a": NaN}'], "NaN is no number"),
    (["--details", '{"a": 1, "a": 2}'], "stands twice"),
    (["--details", '{"a":' * 5000], "JSON"),
    (["--details", "@{folder}/none.json"], "No such file"),
    (["--details", "@{folder}"], "Is a directory"),
    (["--details", "@{folder}/bad.json"], "not UTF-8, at byte 2"),
    (["--details", '{"a": "' + "x" * 20_000_000 + '"}'], "the limit is"),
    (["--book", "12"], "not a UUID of a logbook"),
    (["more"], "one name"),
]


@pytest.mark.parametrize(("words", "says"), BAD, ids=[" ".join(w)[:24] for w, _ in BAD])
def test_what_can_not_be_posted_is_one_line(
    words: list[str], says: str, command: Command, here: Any, url: str, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "bad.json").write_bytes(b'{"\xff": 1}')
    given = [word.replace("{folder}", str(tmp_path)) for word in words]
    answer = command("post", url, "one", *given)
    assert (answer.status, answer.out, answer.err.count("\n")) == (1, "", 1)
    assert says in answer.err
    assert SECRET not in answer.err
    assert here.job_count == 0


def test_a_url_alone_is_no_name(command: Command, url: str) -> None:
    answer = command("post", url)
    assert (answer.status, answer.err) == (1, "name the job behind the URL\n")


def test_watching_in_json(command: Command, here: Any, url: str) -> None:
    out = io.StringIO()
    words = ("watch", url, "-f", "json", "--for", "4")
    watching = threading.Thread(target=command, args=words, kwargs={"out": out})
    watching.start()
    try:
        eventually(lambda: "WATCHING" in out.getvalue())
        evil = "x\x1b[2J\n\u202e"
        job = here.post(evil)
        here.claim(job, "me")
        eventually(lambda: "CLAIMED" in out.getvalue())
        here.consume(job, "me")
        eventually(lambda: "REMOVED" in out.getvalue())
    finally:
        watching.join()
    lines = out.getvalue().splitlines()
    assert all(line.isascii() and line.isprintable() for line in lines)
    events = [json.loads(line) for line in lines]
    assert events[0]["namespace"] == "default"
    times = [event.pop("time") for event in events]
    assert times == sorted(times)
    job_events = [event for event in events if "uuid" in event]
    assert job_events[0] == {"event": "POSTED", "uuid": job.uuid, "name": evil}
    assert job_events[1] == {"event": "CLAIMED", "uuid": job.uuid, "name": evil, "owner": "me"}
    assert job_events[-1] == {"event": "REMOVED", "uuid": job.uuid, "name": evil}
