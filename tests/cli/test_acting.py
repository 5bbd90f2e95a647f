# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The commands that end claims and jobs: by the token that was shown, and after a question."""

from __future__ import annotations

import os
import pathlib
import pty
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from taskflow import exceptions as excp
from taskflow import states

import multiboard
from tests.cli.conftest import Answer, Command, Terminal
from tests.waiting import eventually

NOBODY = str(uuid.UUID(int=1))


@pytest.fixture
def board(store_url: str) -> Iterator[Any]:
    """A board on each store."""
    with multiboard.backend("holder", store_url) as connected:
        yield connected


# -- on every store --------------------------------------------------------------------------------


@pytest.mark.parametrize("expiry", [None, 300.0], ids=["session", "timed"])
def test_a_claim_is_ended_and_its_holder_is_refused(
    expiry: float | None, command: Command, board: Any, store_url: str
) -> None:
    job = board.post("one")
    board.claim(job, "me", expiry=expiry)
    assert command("abandon", store_url, job.uuid, "--yes") == Answer(
        0, f"abandoned {job.uuid}\n", ""
    )
    assert job.state == states.UNCLAIMED
    with pytest.raises((excp.JobFailure, excp.NotFound)):
        board.consume(job, "me")
    assert job.state == states.UNCLAIMED


def test_a_claim_that_has_changed_hands_is_left_alone(
    command: Command, board: Any, store_url: str
) -> None:
    job = board.post("one")
    board.claim(job, "first")
    token = str(command("show", store_url, job.uuid, "-f", "json").rows["token"])
    board.abandon(job, "first")
    board.claim(job, "second")
    for verb in ("abandon", "consume", "trash"):
        answer = command(verb, store_url, job.uuid, "--token", token, "--yes")
        assert (answer.status, answer.out) == (1, "")
        assert answer.err.count("\n") == 1
        assert f"claimed by 'second', token {job.lease.token}" in answer.err
    board.consume(job, "second")


@pytest.mark.parametrize("claimed", [True, False], ids=["claimed", "unclaimed"])
@pytest.mark.parametrize("verb", ["consume", "trash"])
def test_a_job_is_taken_off_the_board(
    verb: str, claimed: bool, command: Command, board: Any, store_url: str
) -> None:
    job, other = board.post("one"), board.post("other")
    if claimed:
        board.claim(job, "me")
    answer = command(verb, store_url, job.uuid, "--yes")
    assert answer == Answer(0, f"{verb}{'ed' if verb == 'trash' else 'd'} {job.uuid}\n", "")
    assert (job.state, other.state) == (states.COMPLETE, states.UNCLAIMED)
    assert board.trashed() == ([job] if verb == "trash" else [])


# -- what is asked ---------------------------------------------------------------------------------


def test_without_a_leave_and_without_a_terminal_nothing_is_done(
    command: Command, here: Any, url: str
) -> None:
    job = here.post("one")
    here.claim(job, "me")
    for words in (
        ["abandon", url, job.uuid],
        ["consume", url, job.uuid],
        ["trash", url, job.uuid],
        ["purge", url, "--all"],
        ["restore", url, "--all"],
    ):
        answer = command(*words)
        assert (answer.status, answer.out) == (2, "")
        assert answer.err == "say --yes: there is no terminal to ask on\n"
    assert job.lease is not None
    here.consume(job, "me")


@pytest.mark.parametrize("typed", ["n\n", "\n", "", "yess\n"])
def test_any_answer_but_yes_does_nothing(typed: str, command: Command, here: Any, url: str) -> None:
    job = here.post("one\x1b[2J")
    here.claim(job, "me")
    answer = command("consume", url, job.uuid, stdin=Terminal(typed))
    assert (answer.status, answer.out) == (1, "")
    assert "claimed by 'me', token " in answer.err
    assert answer.err.endswith("Consume this job? [y/N] nothing was done\n")
    assert "\x1b" not in answer.err
    assert here.find_owner(job) == "me"


def test_yes_on_a_terminal_acts(command: Command, here: Any, url: str) -> None:
    jobs = [here.post("a"), here.post("b")]
    answer = command("consume", url, *(job.uuid for job in jobs), stdin=Terminal("y\n"))
    assert answer.status == 0
    assert "Consume these 2 jobs?" in answer.err
    assert here.job_count == 0


@pytest.mark.parametrize("verb", ["abandon", "consume", "trash"])
def test_what_changes_while_the_question_stands_is_left_alone(
    verb: str, command: Command, here: Any, url: str
) -> None:
    job, gone = here.post("one"), here.post("gone")
    here.claim(job, "first")
    here.claim(gone, "first")

    def change() -> None:
        here.abandon(job, "first")
        here.claim(job, "second")
        here.consume(gone, "first")

    answer = command(verb, url, job.uuid, gone.uuid, stdin=Terminal("yes\n", change))
    assert (answer.status, answer.out) == (1, "")
    assert "it is claimed by 'second'" in answer.err
    assert f"{gone.uuid} is not as it was shown any more; it is gone" in answer.err
    here.consume(job, "second")


def test_a_job_that_is_claimed_while_the_question_stands_is_left_alone(
    command: Command, here: Any, url: str
) -> None:
    job = here.post("one")
    answer = command(
        "consume", url, job.uuid, stdin=Terminal("y\n", lambda: here.claim(job, "fast"))
    )
    assert (answer.status, answer.out) == (1, "")
    assert "it is claimed by 'fast'" in answer.err
    here.consume(job, "fast")


def test_what_is_not_there_is_named_and_the_rest_is_done(
    command: Command, here: Any, url: str
) -> None:
    job, free = here.post("one"), here.post("free")
    here.claim(job, "me")
    answer = command("abandon", url, NOBODY, free.uuid, job.uuid, "--yes", "--delay", "10m")
    assert (answer.status, answer.out) == (1, f"abandoned {job.uuid}\n")
    assert answer.err == (
        f"no job {NOBODY} on the board\nnobody claims the job {free.uuid}: nothing was done\n"
    )
    [row] = command("jobs", url, "--state", "delayed", "-f", "json").rows
    assert row["UUID"] == job.uuid


# -- the trash -------------------------------------------------------------------------------------


@pytest.fixture
def trash(here: Any) -> list[Any]:
    """Jobs in the trash."""
    jobs = [here.post(name) for name in ("a-1", "a-2", "b-1")]
    for job in jobs:
        here.claim(job, "me")
        here.trash(job, "me")
    return jobs


def test_many_are_restored_or_purged_at_once(
    command: Command, here: Any, url: str, trash: list[Any]
) -> None:
    answer = command("restore", url, "--all", "--older-than", "1h", "--yes")
    assert answer == Answer(0, "0 of 0 jobs in the trash\n", "")
    answer = command("restore", url, "--all", "--name", "a-*", stdin=Terminal("y\n"))
    assert answer.status == 0
    assert "Restore 2 jobs in the trash? [y/N]" in answer.err
    assert answer.out.splitlines()[:2] == [f"restored {job.uuid}" for job in trash[:2]]
    assert [job.name for job in here.iterjobs()] == ["a-1", "a-2"]
    assert command("purge", url, "--all", stdin=Terminal("n\n")).status == 1
    assert len(here.trashed()) == 1
    answer = command("purge", url, "--all", "--yes")
    assert answer == Answer(0, f"purged {trash[2].uuid}\n1 of 1 job in the trash\n", "")
    assert here.trashed() == []


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["purge"], "name a job by its UUID"),
        (["purge", "--name", "a*"], "goes with --all"),
        (["restore", NOBODY, "--all"], "not both"),
        (["trash", "--token", "3"], "name the jobs to set aside"),
        (["abandon", NOBODY, str(uuid.UUID(int=2)), "--token", "3", "--yes"], "name one job"),
    ],
)
@pytest.mark.usefixtures("here")
def test_words_that_contradict_each_other(
    words: list[str], says: str, command: Command, url: str
) -> None:
    answer = command(words[0], url, *words[1:])
    assert (answer.status, answer.out) == (1, "")
    assert says in answer.err
    assert answer.err.count("\n") == 1


# -- real terminals --------------------------------------------------------------------------------


@pytest.fixture
def asked(tmp_path: pathlib.Path) -> Iterator[Callable[[str], tuple[int, Any]]]:
    """Ask on a real terminal whether to consume a job, type an answer; return status and job."""
    with multiboard.backend("holder", f"sqlite://{tmp_path}/b.db") as board:
        job = board.post("one")

        def ask(typed: str) -> tuple[int, Any]:
            main, terminal = pty.openpty()
            words = ["consume", f"sqlite://{tmp_path}/b.db", job.uuid]
            with subprocess.Popen(
                [sys.executable, "-m", "multiboard.cli.main", *words],
                stdin=terminal,
                stdout=terminal,
                stderr=terminal,
                start_new_session=True,
                preexec_fn=_own_terminal,
            ) as process:
                os.close(terminal)
                seen = b""

                def is_asked() -> bool:
                    nonlocal seen
                    seen += os.read(main, 1024)
                    return b"[y/N]" in seen

                eventually(is_asked)
                os.write(main, typed.encode())
                status = process.wait(30)
            os.close(main)
            return status, job

        yield ask


def _own_terminal() -> None:
    """Make the input the terminal of this session, so that Ctrl-C is a signal."""
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def test_a_real_terminal_is_asked(asked: Callable[[str], tuple[int, Any]]) -> None:
    status, job = asked("y\n")
    assert (status, job.state) == (0, states.COMPLETE)


def test_ctrl_c_at_the_question_does_nothing(asked: Callable[[str], tuple[int, Any]]) -> None:
    status, job = asked("\x03")
    assert (status, job.state, job.attempts) == (130, states.UNCLAIMED, 0)
