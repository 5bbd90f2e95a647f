# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The demonstration: it works on every store, and its verdict is not a matter of course."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import pty
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import multiboard
from multiboard import errors
from multiboard.demo import files as demo_files
from multiboard.demo import flow as demo_flow
from multiboard.demo import run as demo_run
from multiboard.demo.ledger import Ledger
from multiboard.demo.processes import Report
from tests.processes import lives
from tests.waiting import eventually

FILES = 30


@pytest.fixture
def files(tmp_path: pathlib.Path) -> pathlib.Path:
    """A folder with something to work on."""
    folder = tmp_path / "files"
    (folder / "deeper").mkdir(parents=True)
    for number in range(FILES):
        path = folder / ("deeper" if number % 2 else ".") / f"{number:02}.txt"
        path.write_text(f"line of {number}\n" * 500)
    return folder


class Demo:
    """``multiboard demo`` in a process of its own, whose output is read as it comes."""

    def __init__(self, tmp_path: pathlib.Path, *words: str, stdout: Any = subprocess.PIPE) -> None:
        self.result = tmp_path / "result.json"
        self.scratch = tmp_path / "scratch"
        self.scratch.mkdir()
        command = [sys.executable, "-m", "multiboard.cli.main", "demo", "--json", self.result]
        self.process = subprocess.Popen(
            [*command, *words],
            stdout=stdout,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "TMPDIR": str(self.scratch), "COLUMNS": "120"},
            start_new_session=True,
        )
        self.lines: list[str] = []
        self._thread = threading.Thread(target=self._read, daemon=True)
        if self.process.stdout is not None:
            self._thread.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip())

    @property
    def output(self) -> str:
        return "\n".join(self.lines)

    def wait_for(self, text: str) -> None:
        eventually(lambda: text in self.output or self.process.poll() is not None, 60.0)
        assert text in self.output

    def workers(self) -> list[int]:
        """Return the processes that it started and that live."""
        pid = self.process.pid
        listed = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text()
        return [int(word) for word in listed.split()]

    def end(self) -> int:
        """Wait for the end; nothing is left in the temporary folder."""
        status = self.process.wait(timeout=90)
        if self.process.stdout is not None:
            self._thread.join()
            self.process.stdout.close()
        assert list(self.scratch.iterdir()) == []
        return status


@pytest.fixture
def start(tmp_path: pathlib.Path) -> Iterator[Callable[..., Demo]]:
    """Start demonstrations, and end those that a failed test left."""
    started: list[Demo] = []

    def begin(*words: str, **kwargs: Any) -> Demo:
        started.append(Demo(tmp_path, *words, **kwargs))
        return started[-1]

    yield begin
    for one in started:
        if one.process.poll() is None:
            one.process.kill()  # its workers end when their input does
            one.process.wait()


def url_of(store: str, tmp_path: pathlib.Path, request: pytest.FixtureRequest) -> str:
    if store == "sqlite":
        return f"sqlite://{tmp_path}/board.db"
    return str(request.getfixturevalue(f"{store}_url"))


# -- the whole of it -------------------------------------------------------------------------------


@pytest.mark.parametrize("store", ["sqlite", "redis", "zookeeper", "etcd"])
def test_a_killed_conductors_flow_goes_on_elsewhere(
    store: str,
    start: Callable[..., Demo],
    files: pathlib.Path,
    tmp_path: pathlib.Path,
    request: pytest.FixtureRequest,
) -> None:
    url = f"{url_of(store, tmp_path, request)}?namespace=demo-{tmp_path.name}"
    run = start("--url", url, "--directory", str(files))
    assert run.end() == 0, run.output
    result = json.loads(run.result.read_text())
    assert (result["posted"], result["lost"], result["twice"], result["failed"]) == (
        FILES, [], [], {},
    )  # fmt: skip
    assert result["faults"] == []
    assert sum(result["consumed"].values()) == FILES
    (killed,) = result["killed"]
    # On a machine that is too busy another conductor may lose its session as well.
    (takeover,) = [one for one in result["takeovers"] if one["from"] == killed]
    assert takeover["to"] != killed
    assert 0 < takeover["seconds"] < 60
    # The logbook: what the killed one had done is not done again.
    assert (takeover["tasks_before"], takeover["tasks_after"]) == (["read", "compress"], ["verify"])
    assert f"{FILES} of {FILES} files" in run.output
    assert "No job was lost, and none was completed twice." in run.output
    with multiboard.backend("after", url) as board:
        assert demo_run.left_on(board) == []


def test_one_command_without_arguments_is_enough(start: Callable[..., Demo]) -> None:
    run = start()
    assert run.end() == 0, run.output
    result = json.loads(run.result.read_text())
    assert (result["posted"], len(result["takeovers"])) == (200, 1)


def test_a_single_file_is_enough(start: Callable[..., Demo], files: pathlib.Path) -> None:
    run = start("--directory", str(files), "--jobs", "1", "--conductors", "2")
    assert run.end() == 0, run.output
    assert f"1 of {FILES} files" in run.output
    assert len(json.loads(run.result.read_text())["takeovers"]) == 1


def test_on_a_terminal_it_is_live(start: Callable[..., Demo], files: pathlib.Path) -> None:
    terminal, inside = pty.openpty()
    run = start("--directory", str(files), stdout=inside)
    os.close(inside)
    shown = b""
    with contextlib.suppress(OSError):  # how Linux says that the other side is closed
        while data := os.read(terminal, 65536):
            shown += data
    os.close(terminal)
    assert run.end() == 0
    text = shown.decode()
    assert f"0 of {FILES}" in text
    assert "\x1b[" in text
    assert "No job was lost, and none was completed twice." in text


# -- when things go wrong --------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_leaves_nothing_behind(
    number: signal.Signals, start: Callable[..., Demo], tmp_path: pathlib.Path
) -> None:
    url = f"sqlite://{tmp_path}/board.db?namespace=stopped"
    run = start("--url", url)
    run.wait_for("jobs posted")
    workers = run.workers()
    assert len(workers) == 3
    run.process.send_signal(number)
    assert run.end() == 130
    assert [pid for pid in workers if lives(pid)] == []
    assert "interrupted" in run.output
    assert "Traceback" not in run.output
    with multiboard.backend("after", url) as board:
        assert demo_run.left_on(board) == []


def test_no_conductor_outlives_a_killed_demonstration(start: Callable[..., Demo]) -> None:
    run = start()
    run.wait_for("jobs posted")
    workers = run.workers()
    run.process.kill()
    run.process.wait()
    eventually(lambda: not any(lives(pid) for pid in workers), 60.0)


def test_a_lost_job_is_found(
    start: Callable[..., Demo], files: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    url = f"sqlite://{tmp_path}/board.db?namespace=thief"
    with multiboard.backend("thief", url) as board:
        run = start("--url", url, "--directory", str(files))
        stolen = board.claim_next("thief", timeout=60.0)
        board.consume_many(stolen, "thief")
        assert run.end() == 1
    result = json.loads(run.result.read_text())
    assert result["lost"] == [job.name for job in stolen] != []
    assert [fault.partition(" ")[0] for fault in result["faults"]] == result["lost"]
    assert "was lost" in run.output
    assert "No job was lost" not in run.output


def test_a_conductor_that_dies_by_itself_is_shown(
    start: Callable[..., Demo], files: pathlib.Path
) -> None:
    run = start("--directory", str(files))
    run.wait_for("jobs posted")
    os.kill(run.workers()[0], signal.SIGKILL)
    assert run.end() == 1
    result = json.loads(run.result.read_text())
    assert (result["lost"], result["twice"]) == ([], [])
    assert result["faults"] == ["conductor-1 ended with status -9"]
    assert "conductor-1 ended with status -9" in run.output


def test_a_board_in_use_is_left_alone(start: Callable[..., Demo], tmp_path: pathlib.Path) -> None:
    url = f"sqlite://{tmp_path}/board.db?namespace=production"
    with multiboard.backend("production", url) as board:
        job = board.post("precious")
        run = start("--url", url)
        assert run.end() == 1
        assert "holds 1 jobs already" in run.output
        assert [left.uuid for left in board.iterjobs(ensure_fresh=True)] == [job.uuid]


def test_a_board_gets_a_namespace_of_its_own_unless_one_is_given() -> None:
    conf = demo_run.board_conf("sqlite:///board.db")
    assert conf["namespace"] != demo_run.board_conf("sqlite:///board.db")["namespace"]
    assert conf["session_timeout"] == demo_run.SESSION_TIMEOUT
    given = "sqlite:///board.db?namespace=x&session_timeout=9"
    assert demo_run.board_conf(given) == {"url": given}
    with pytest.raises(errors.ConfigError, match="one process only"):
        demo_run.board_conf("memory://x")


# -- the parts -------------------------------------------------------------------------------------


def test_the_standard_librarys_sources_are_the_default() -> None:
    chosen = demo_files.choose(None, 50)
    assert len(chosen.files) == 50
    assert chosen.found > 150
    assert all(path.suffix == ".py" and path.is_relative_to(chosen.folder) for path in chosen.files)


def test_only_what_can_be_worked_on_is_chosen(tmp_path: pathlib.Path) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "link").symlink_to(tmp_path / "good")
    (tmp_path / "good").write_text("x")
    os.mkfifo(tmp_path / "pipe")
    good = [tmp_path / "good"]
    assert demo_files.choose(str(tmp_path), 9) == demo_files.Choice(tmp_path, good, 1)
    (tmp_path / "good").unlink()
    with pytest.raises(errors.ConfigError, match="holds no files"):
        demo_files.choose(str(tmp_path), 9)


def test_a_damaged_archive_is_found(tmp_path: pathlib.Path) -> None:
    source, packed = tmp_path / "source", tmp_path / "packed"
    source.write_text("one")
    digest, size = demo_flow.Read("read").execute(str(source))
    assert size == 3
    demo_flow.Compress("compress").execute(str(source), str(packed))
    demo_flow.Verify("verify").execute(str(packed), digest)
    source.write_text("two")
    demo_flow.Compress("compress").execute(str(source), str(packed))
    with pytest.raises(ValueError, match="is not what was read"):
        demo_flow.Verify("verify").execute(str(packed), digest)


def ledger(*said: tuple[Any, ...]) -> Ledger:
    """Return the books of two jobs, ``a`` and ``b``, after some reports."""
    books = Ledger(names={"1": "a", "2": "b"})
    for worker, event, job, *rest in said:
        books.note(Report(worker, event, {"job": job, "at": 12.0, **(rest[0] if rest else {})}))
        if event == "killed":
            books.note_kill(worker, 10.0)
    return books


def a_flow(worker: str, job: str, *tasks: str) -> list[tuple[Any, ...]]:
    done = [(worker, "done", job, {"task": task}) for task in tasks]
    return [(worker, "claimed", job), *done]


ALL = demo_flow.TASKS
GOOD = [
    *a_flow("x", "1", *ALL), ("x", "consumed", "1"),
    *a_flow("x", "2", "read"), ("x", "killed", ""),
    *a_flow("y", "2", "compress", "verify"), ("y", "consumed", "2"),
]  # fmt: skip


def test_a_good_run_has_no_faults() -> None:
    books = ledger(*GOOD)
    assert books.faults([]) == []
    (takeover,) = books.takeovers
    assert (takeover.frm, takeover.to, takeover.seconds) == ("x", "y", 2.0)
    assert (takeover.before, takeover.after) == (["read"], ["compress", "verify"])
    assert books.consumed_by == {"x": 1, "y": 1}


@pytest.mark.parametrize(
    ("said", "left", "fault"),
    [
        (GOOD[:-1], [], "b (2) was lost"),
        (GOOD[:-1], ["2"], "b (2) is still on the board"),
        (GOOD, ["2"], "b (2) was consumed and is on the board"),
        ([*GOOD, ("x", "consumed", "1")], [], "a (1) was consumed 2 times"),
        ([*GOOD[:-2], GOOD[-1]], [], "b (2) was consumed before its flow was done"),
        (
            [*GOOD, ("y", "failed", "2", {"task": "verify", "why": "no"})],
            [],
            "b (2) failed: verify: no",
        ),
        ([*GOOD, ("y", "ended", "", {"status": 3})], [], "y ended with status 3"),
        (
            [*GOOD[:5], *a_flow("x", "2", *ALL), ("x", "consumed", "2")],
            [],
            "no job was taken over",
        ),
    ],
)
def test_every_fault_is_found(said: list[tuple[Any, ...]], left: list[str], fault: str) -> None:
    assert ledger(*said).faults(left) == [fault]


def test_a_job_that_was_given_back_was_not_taken_over() -> None:
    books = ledger(("x", "claimed", "1"), ("x", "abandoned", "1"), ("y", "claimed", "1"))
    assert books.takeovers == []
