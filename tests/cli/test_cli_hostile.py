# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""What others wrote is shown to an operator, and rules neither the terminal nor the lines."""

from __future__ import annotations

import csv
import io
import json
import threading
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from taskflow.conductors import base as conductors
from taskflow.types import entity as entities

import multiboard
from multiboard.cli import opening
from multiboard.primitives import NewPosting, Shelf
from multiboard.runtime.codec import Body, encode
from tests.cli.conftest import Command
from tests.waiting import eventually

#: Clears the screen, sets the title, begins a line, turns the reading order, returns the cursor.
EVIL = "x\x1b[2J\x1b]0;t\x07\nNORMAL fake\r\x9b31m\u202e\u2028\x85\x00y"
SHOWN = (
    r"x\x1b[2J\x1b]0;t\x07\nNORMAL fake\r\x9b31m\u202e\u2028\x85\x00y"  # as Python would write it
)


@pytest.fixture
def url() -> Iterator[str]:
    """The URL of a board with an evil job on each shelf, claimed by an evil owner, and others."""
    url = f"memory://{uuid.uuid4().hex}"
    with multiboard.backend("cli", url) as board:
        backend = board._here.backend  # without the guard, as another program could
        for number in range(2):
            job = board.post(EVIL, details={uuid.UUID(int=0): EVIL, "s": {1}})
            lease = backend.acquire(job.key, EVIL, f"c-{number}", 60.0)
            if number:
                backend.remove([lease], Shelf.TRASH)
        board.register_entity(entities.Entity(conductors.Conductor.ENTITY_KIND, EVIL, {EVIL: 1}))
        yield url


def _is_harmless(text: str) -> bool:
    return all(line.isprintable() for line in text.split("\n"))


@pytest.mark.parametrize("form", ["table", "value", "csv"])
def test_a_listing_has_one_line_for_a_job(
    command: Command, url: str, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "1000")  # or a table would be cut
    for verb in ("jobs", "trash"):
        status, out, err = command(verb, url, "-f", form)
        assert (status, err) == (0, "")
        assert _is_harmless(out.replace("\r\n", "\n"))  # the line ends of csv
        lines = [line for line in out.splitlines() if "NORMAL" in line]
        assert len(lines) == 1
        shown = SHOWN.replace("\\", "\\\\") if form == "csv" else SHOWN  # cliff's csv escapes it
        assert lines[0].count(shown) == (2 if verb == "jobs" else 1)
    _, out, _ = command("entities", url, "-f", form)
    assert _is_harmless(out.replace("\r\n", "\n"))
    assert "x\\" in out
    if form == "csv":
        out = command("jobs", url, "-f", "csv")[1]
        [row] = csv.DictReader(io.StringIO(out), escapechar="\\")
        assert (row["Name"], row["Owner"]) == (SHOWN, SHOWN)


def test_json_keeps_names_as_they_are(command: Command, url: str) -> None:
    [row] = json.loads(command("jobs", url, "-f", "json")[1])
    assert (row["Name"], row["Owner"]) == (EVIL, EVIL)
    for form in ("json", "yaml"):
        assert _is_harmless(command("jobs", url, "-f", form)[1])


@pytest.mark.parametrize("form", ["table", "value", "shell", "json", "yaml"])
def test_one_job_is_shown_without_harm(command: Command, url: str, form: str) -> None:
    [row] = json.loads(command("jobs", url, "-f", "json")[1])
    status, out, err = command("show", url, row["UUID"], "--details", "-f", form)
    assert (status, err) == (0, "")
    assert _is_harmless(out)
    assert str(uuid.UUID(int=0)) in out


def test_a_job_that_can_not_be_read_is_named(command: Command, url: str) -> None:
    with multiboard.backend("cli", url) as board:
        key = str(uuid.uuid4())
        board._here.guard.add([NewPosting(key, b"junk")])
        status, out, err = command("show", url, key)
    assert (status, out) == (1, "")
    assert f"the job {key} can't be read: it does not begin with the mark" in err


def test_damage_is_named_a_line_each(command: Command, url: str) -> None:
    with multiboard.backend("cli", url) as board:
        board._here.guard.add([NewPosting(key, b"junk") for key in ("a", "b")])
        for form in ("table", "json"):
            out = command("health", url, "-f", form, "-c", "damaged")[1]
            assert _is_harmless(out)
            assert "a: it does not" in out
    assert opening.Lines(["a", EVIL]).human_readable() == f"a\n{SHOWN}"


def test_watching_prints_one_line_for_an_event(command: Command, url: str) -> None:
    out = io.StringIO()
    watching = threading.Thread(
        target=command, args=("watch", url, "--for", "3"), kwargs={"out": out}
    )
    with multiboard.backend("cli", url) as board:
        watching.start()
        try:
            eventually(lambda: "WATCHING" in out.getvalue())
            body = Body(str(uuid.uuid4()), EVIL, {}, {})
            board._here.guard.add([NewPosting(body.uuid, encode(body))])
            board._here.backend.acquire(body.uuid, EVIL, "c-9", 60.0)
            eventually(lambda: out.getvalue().count("CLAIMED") == 1)
        finally:
            watching.join()
    assert _is_harmless(out.getvalue())
    [line] = [line for line in out.getvalue().splitlines() if "CLAIMED" in line]
    assert line.endswith(f"{SHOWN} by {SHOWN}")


def test_a_job_in_a_log_line_is_one_line(url: str) -> None:
    with multiboard.backend("cli", url) as board:
        [job] = board.iterjobs(ensure_fresh=True)
        assert str(job) == f"Job: {SHOWN} (priority=NORMAL, uuid={job.uuid})"
        assert job.name == EVIL


BAD_WORDS: list[list[Any]] = [
    ["watch", "memory://x", "--for", "nan"],
    ["watch", "memory://x", "--for", "inf"],
    ["watch", "memory://x", "--for", "-1"],
    ["watch", "memory://x", "--for", "1e300"],
    ["watch", "memory://x", "--for", "soon"],
    ["show", "memory://x", "\x1b[2J"],
    ["show", "memory://x", "x\ny"],
    ["restore", "memory://x", ""],
    ["purge", "memory://x", "not-a-uuid"],
    ["jobs", "memory://a%00b"],
    ["jobs", "\x1b[2J"],
    ["jobs", "memory://x?namespace=a%0Ab"],
    ["jobs", "memory://x?session_timeout=nan"],
    ["jobs", "\udce9"],
    ["jobs", ""],
    ["backends", "\x1b[2J"],
    ["backends", ""],
    ["health", "nothing://x"],
    ["entities", ":"],
    ["demo", "--jobs", "nan"],
    ["demo", "--jobs", "0"],
    ["demo", "--jobs", "9" * 30],
    ["demo", "--conductors", "1"],
    ["demo", "--conductors", "1000000000"],
    ["demo", "--conductors", "1.5"],
    ["demo", "--url", "memory://x?y=\x1b[2J"],
]


@pytest.mark.parametrize("words", BAD_WORDS, ids=[ascii(words) for words in BAD_WORDS])
def test_words_that_can_not_be_used_are_refused(
    command: Command, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, err = command(*words)
    err += capsys.readouterr().err
    assert status in (1, 2)
    assert out == ""
    assert err.strip()
    assert "Traceback" not in err
    assert _is_harmless(err)
