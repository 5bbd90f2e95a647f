# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""``multiboard conductor run``, in processes of its own as a service manager has them."""

from __future__ import annotations

import contextlib
import os
import pathlib
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
import servers
from taskflow import states

import multiboard
from multiboard.jobboard.logbooks import open_logbooks
from tests.cli import patient_flow
from tests.waiting import eventually

ROOT = pathlib.Path(__file__).resolve().parents[2]
SECRET = "hunter2"
Run = Callable[..., "subprocess.Popen[str]"]


class Site:
    """A folder with a board, logbooks and a configuration for both."""

    def __init__(self, folder: pathlib.Path, url: str) -> None:
        self.folder = folder
        self.config = folder / "service.conf"
        self.config.write_text(
            f"[multiboard]\nbackend_url = {url}\npersistence_connection = dir://{folder}/books\n"
        )
        self.url = url
        self.persistence = open_logbooks(f"dir://{folder}/books")

    def go(self) -> None:
        """Let the tasks that wait go on."""
        (self.folder / "go").touch()

    def begun(self, label: str) -> bool:
        """Tell whether a job's first task was begun."""
        return (self.folder / f"{label}.begun").exists()

    def done(self, label: str) -> int:
        """Tell how often a job's last task was run."""
        file = self.folder / f"{label}.done"
        return file.read_text().count("done") if file.exists() else 0


@pytest.fixture
def site(tmp_path: pathlib.Path) -> Site:
    """A site on SQLite."""
    return Site(tmp_path, f"sqlite://{tmp_path}/board.db")


@pytest.fixture
def board(site: Site) -> Iterator[Any]:
    """The site's board."""
    with multiboard.backend("test", site.url, persistence=site.persistence) as made:
        yield made


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "multiboard.cli.main", *words]


@pytest.fixture
def run(site: Site) -> Iterator[Run]:
    """Start conductors of the site; wait until they are ready."""
    started: list[subprocess.Popen[str]] = []

    def run(*words: str, **env: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            command("conductor", "run", "--config-file", str(site.config), *words),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, **env},
        )
        started.append(process)
        assert process.stdout is not None
        assert "takes jobs as" in process.stdout.readline()
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Wait for a process to end; return its status and what it wrote since."""
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def said(process: subprocess.Popen[str]) -> str:
    """Return the next line that a process writes."""
    assert process.stdout is not None
    return process.stdout.readline()


# -- the tests -------------------------------------------------------------------------------------


def test_a_drained_conductor_finishes_what_it_runs(site: Site, board: Any, run: Run) -> None:
    process = run("--name", "w-1", "--max-jobs", "1", "--grace", "100")
    job = patient_flow.post(board, site.persistence, site.folder, "a")
    later = patient_flow.post(board, site.persistence, site.folder, "b")
    eventually(lambda: site.begun("a"))
    assert board.find_owner(job) == "w-1"
    process.send_signal(signal.SIGTERM)
    assert "drains: 1 job(s) may run for 100 s" in said(process)
    eventually(lambda: board.entities()[0].metadata.get("draining"))
    assert board.entities()[0].metadata["running"] == [{"name": "a", "uuid": job.uuid}]
    site.go()
    status, out, err = ended(process)
    assert (status, err) == (0, "")
    assert "0 job(s) handed back" in out
    assert (job.state, later.state) == (states.COMPLETE, states.UNCLAIMED)
    assert (site.done("a"), site.begun("b")) == (1, False)


def test_what_is_not_done_within_the_grace_is_handed_back(site: Site, board: Any, run: Run) -> None:
    process = run("--grace", "0.1")
    job = patient_flow.post(board, site.persistence, site.folder, "a")
    eventually(lambda: site.begun("a"))
    process.send_signal(signal.SIGTERM)
    assert "drains" in said(process)
    # The task is not cut short; the grace is over long before it is let go on.
    (site.folder / "a.begun").unlink()
    eventually(lambda: board.entities()[0].metadata.get("draining"))
    site.go()
    status, out, _ = ended(process)
    assert (status, "1 job(s) handed back" in out) == (4, True)
    assert (job.state, job.attempts, site.done("a")) == (states.UNCLAIMED, 1, 0)
    run("--name", "next")  # it goes on where the first one was suspended
    assert job.wait(60)
    assert (site.done("a"), site.begun("a")) == (1, False)


def test_a_second_signal_ends_at_once(site: Site, board: Any, run: Run) -> None:
    process = run("--grace", "1000")
    job = patient_flow.post(board, site.persistence, site.folder, "a")
    eventually(lambda: site.begun("a"))
    process.send_signal(signal.SIGTERM)
    assert "drains" in said(process)
    process.send_signal(signal.SIGTERM)
    status, out, err = ended(process)
    assert (status, err) == (4, "")
    assert "1 job(s) are left unfinished" in out
    eventually(lambda: job.state == states.UNCLAIMED)
    assert site.done("a") == 0


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)], ids=["term", "ctrl-c"]
)
def test_an_idle_conductor_ends_when_it_is_told_to(
    number: signal.Signals, status: int, run: Run
) -> None:
    process = run()
    process.send_signal(number)
    found, out, err = ended(process)
    assert (found, err) == (status, "")
    assert "0 job(s) handed back" in out


def test_a_service_manager_is_notified(run: Run, tmp_path: pathlib.Path) -> None:
    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as manager:
        manager.bind(f"{tmp_path}/notify")
        manager.settimeout(30)
        process = run(NOTIFY_SOCKET=f"{tmp_path}/notify")
        assert b"READY=1" in manager.recv(4096).splitlines()
        process.send_signal(signal.SIGTERM)
        assert b"STOPPING=1" in manager.recv(4096).splitlines()
        assert ended(process)[0] == 0


@pytest.mark.parametrize("mode", ["stop", "reopen"])
def test_a_store_that_lost_its_data(mode: str, tmp_path: pathlib.Path) -> None:
    """FLUSHALL under a running conductor, with the session's usual time-out."""
    with servers.redis_server() as server:
        site = Site(tmp_path, server.url)
        with multiboard.backend("test", site.url, persistence=site.persistence) as board:
            words = ["--config-file", str(site.config), "--on-board-lost", mode]
            process = subprocess.Popen(
                command("conductor", "run", *words),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                cwd=ROOT,
            )
            assert process.stdout is not None
            assert "takes jobs as" in process.stdout.readline()
            eventually(lambda: board.entities() != [])
        with contextlib.closing(redis.Redis.from_url(server.url)) as client:
            client.flushall()
        try:
            if mode == "stop":
                status, _, err = ended(process)
                assert status == 1
                assert err.count("\n") == 1
                assert "The board is lost, and this conductor ends" in err
                return
            with multiboard.backend("test", site.url, persistence=site.persistence) as board:
                site.go()
                job = patient_flow.post(board, site.persistence, site.folder, "a")
                assert job.wait(60)
            assert site.done("a") == 1
            process.send_signal(signal.SIGTERM)
            assert ended(process)[0] == 0
        finally:
            process.kill()
            process.communicate()


BAD = [
    (["--config-file", "/nowhere/x.conf"], "/nowhere/x.conf"),
    (["--config-file", "{broken}"], "line 2"),
    (["--config-file", "{empty}"], "persistence_connection"),
    (["--config-file", "{good}", "--import", "nosuch.module"], "can't import the module"),
    (["--config-file", "{good}", "--import", "tests.cli.broken_import"], "can't import the module"),
    (["--config-file", "{good}", "--import", ""], "can't import the module"),
    (["--config-file", "{good}", "--name", "a\nb"], "is not an owner's name"),
    (
        ["--config-file", "{good}", "--url", f"redis://:{SECRET}@127.0.0.1:1/?connect_timeout=1"],
        ":1",
    ),
    (["--config-file", "{good}", "--url", f"nosuch://:{SECRET}@h"], "unknown backend"),
    (["--config-file", "{database}"], "the logbooks at mysql+pymysql://"),
]


@pytest.mark.parametrize(("words", "says"), BAD, ids=[" ".join(w)[14:50] for w, _ in BAD])
def test_what_can_not_be_used_is_one_line_before_any_claim(
    words: list[str], says: str, site: Site, board: Any, tmp_path: pathlib.Path
) -> None:
    job = patient_flow.post(board, site.persistence, site.folder, "a")
    files = {name: str(tmp_path / f"{name}.conf") for name in ("broken", "empty", "database")}
    pathlib.Path(files["broken"]).write_text(f"[multiboard]\n{SECRET}\n")
    pathlib.Path(files["empty"]).write_text("[multiboard]\n")
    pathlib.Path(files["database"]).write_text(
        f"[multiboard]\npersistence_connection = mysql+pymysql://u:{SECRET}@127.0.0.1:1/x\n"
    )
    given = [word.format(good=site.config, **files) if "{" in word else word for word in words]
    done = subprocess.run(
        command("conductor", "run", *given), cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert says in done.stderr
    assert done.stderr.count("\n") == 1
    assert SECRET not in done.stderr
    assert (job.state, job.attempts) == (states.UNCLAIMED, 0)


@pytest.mark.parametrize(
    "words",
    [[], ["--config-file", "x", "--grace", "-1"], ["--config-file", "x", "--max-jobs", "0"]],
)
def test_words_that_are_not_allowed_are_status_2(words: list[str]) -> None:
    done = subprocess.run(
        command("conductor", "run", *words), cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (2, "")
