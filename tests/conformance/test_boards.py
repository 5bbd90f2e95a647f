# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The checks of a jobboard: on ours, on TaskFlow's, and what was committed of them."""

from __future__ import annotations

import json
import os
import pathlib
import re
import subprocess
import sys
from typing import Any

import pytest
from multiboard_conformance.backend.guarantees import GUARANTEES
from multiboard_conformance.jobboard.guarantees import PROMISES
from multiboard_conformance.jobboard.runner import checks

ROOT = pathlib.Path(__file__).resolve().parents[2]
REPORTS = ROOT / "conformance" / "reports" / "boards"
RECORD = (ROOT / "conformance" / "TRACK_RECORD.md").read_text()
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "conformance")])}

#: What has no server to stand before, and what no two processes can share.
NEEDS_SERVER = {"BOARD-5", "BOARD-18", "BOARD-19", "BOARD-20", "BOARD-28", "BOARD-29"}
NOT_EXERCISED = {"memory": NEEDS_SERVER | {"BOARD-8"}, "sqlite": NEEDS_SERVER}


def run(folder: pathlib.Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a folder."""
    return subprocess.run(
        [sys.executable, "-m", "multiboard_conformance.main", *arguments],
        cwd=folder,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def judge(folder: pathlib.Path, *arguments: str) -> tuple[int, dict[str, Any], str]:
    """Judge a board; return the exit status, the report and what was printed."""
    path = folder / "report.json"
    done = run(folder, "--taskflow-board", *arguments, "--report", str(path))
    printed = done.stdout + done.stderr
    assert path.exists(), printed
    return done.returncode, json.loads(path.read_text()), printed


def verdicts(report: dict[str, Any]) -> dict[str, str]:
    """Return the verdict on each promise."""
    return {name: entry["verdict"] for name, entry in report["promises"].items()}


@pytest.mark.timeout(240)
def test_our_board_keeps_every_promise(store_url: str, tmp_path: pathlib.Path) -> None:
    store = store_url.partition(":")[0]
    url = store_url.partition("?")[0]
    status, judged, printed = judge(tmp_path, "multiboard", "--conf", f"url={url}")
    away = NOT_EXERCISED.get(store, set())
    expected = {name: "not exercised" if name in away else "passed" for name in PROMISES}
    assert (status, verdicts(judged)) == (0, expected), printed
    assert judged["result"] == ("partial" if away else "conformant")
    assert judged["facts"]["board"] == "multiboard"


def test_known_bugs_of_taskflows_board_are_found(redis_url: str, tmp_path: pathlib.Path) -> None:
    broken = ("BOARD-1", "BOARD-4", "BOARD-6", "BOARD-7", "BOARD-22")
    only = [f"--only={name}" for name in (*broken, "BOARD-3", "BOARD-13")]
    status, judged, printed = judge(tmp_path, "redis", "--conf", f"url={redis_url}", *only)
    assert (status, judged["result"]) == (1, "failed"), printed
    found = verdicts(judged)
    assert {found[name] for name in broken} == {"failed"}, printed
    assert (found["BOARD-3"], found["BOARD-13"], found["BOARD-2"]) == (
        "passed",
        "not supported",
        "not run",
    )
    assert judged["why"]["check_removal_is_told_on_every_board"] == "no notifier on a RedisJobBoard"
    assert "BOARD-6: An owner that lost its claim can not consume" in printed


@pytest.mark.parametrize(
    "arguments",
    [
        ["redis", "--conf", "url=redis://127.0.0.1:1"],
        ["multiboard", "--conf", "url=redis://127.0.0.1:1"],
        ["multiboard"],
        ["redis", "--conf", "port"],
        ["redis", "--only", "LEASE-1"],
        ["redis", "--waive", "BOARD-1=so"],
        ["mysql"],
        ["multiboard", "--conf", "url=memory://", "-k", "no_check_has_this_name"],
        ["no_such_module:Maker"],
        ["json:JSONDecoder"],
    ],
)
def test_what_can_not_be_judged_is_2(tmp_path: pathlib.Path, arguments: list[str]) -> None:
    assert run(tmp_path, "--taskflow-board", *arguments).returncode == 2


def test_promises_are_listed(tmp_path: pathlib.Path) -> None:
    printed = run(tmp_path, "--taskflow-board", "redis", "--list").stdout
    assert [line.split()[0] for line in printed.splitlines()] == list(PROMISES)


def test_check_that_hangs_or_dies_is_a_failure() -> None:
    program = """
import os, threading, time
from multiboard_conformance.jobboard import fetch, runner
from multiboard_conformance.jobboard.runner import Check

def hang(_scene):
    threading.Thread(target=time.sleep, args=(60,)).start()
    time.sleep(60)

checks = [Check("hangs", ("BOARD-1",), hang, 2.0)]
checks.append(Check("dies", ("BOARD-1",), lambda _scene: os._exit(3), 30.0))
checks.append(Check("raises", ("BOARD-1",), lambda _scene: {}["x"], 30.0))
maker = fetch.make("multiboard", {"url": "memory://"})
for outcome in runner.run_checks(checks, maker, 3):
    print(outcome.check, outcome.verdict, outcome.why)
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=40,
        check=False,
    )
    assert sorted(done.stdout.splitlines()) == [
        "dies failed its process ended with status 3",
        "hangs failed no answer within 2 s",
        "raises failed KeyError: 'x'",
    ], done.stderr


def test_board_that_looks_for_attempts_in_hand_is_found() -> None:
    """A mutant of our board: it gives back what a claim that is under way has leased."""
    program = """
from multiboard.runtime import unconfirmed
from multiboard_conformance.jobboard import fetch, runner

(claims,) = [each for each in vars(unconfirmed).values() if hasattr(each, "begin")]
claims.begin = lambda *_: None
checks = [each for each in runner.checks() if each.name.endswith("_is_not_given_back")]
maker = fetch.make("multiboard", {"url": "memory://"})
for outcome in runner.run_checks(checks, maker, 2):
    print(outcome.check, outcome.verdict, outcome.why)
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=40,
        check=False,
    )
    why = "failed the owner of a job whose claim returned: expected 'me', found None"
    assert sorted(done.stdout.splitlines()) == [
        f"check_claim_that_returned_is_not_given_back {why}",
        f"check_next_job_that_was_claimed_is_not_given_back {why}",
    ], done.stderr


# -- what is committed -------------------------------------------------------------------------


def _committed() -> dict[str, dict[str, Any]]:
    return {path.stem: json.loads(path.read_text()) for path in REPORTS.glob("*.json")}


def test_every_promise_has_a_check() -> None:
    covered = {name for check in checks() for name in check.ids}
    assert covered == set(PROMISES)
    names = [check.name for check in checks()]
    assert len(names) == len(set(names))
    assert all(check.sentence for check in checks())


def test_committed_reports_know_every_promise_and_check() -> None:
    """Where this fails, the side-by-side page is stale: ``tools/side-by-side``."""
    current = {name: {check.name for check in checks() if name in check.ids} for name in PROMISES}
    made = _committed()
    stores = ("memory", "sqlite", "redis", "zookeeper", "etcd")
    ours = {f"multiboard-{store}" for store in stores}
    assert set(made) == ours | {"taskflow-redis", "taskflow-zookeeper", "taskflow-etcd"}
    for report in made.values():
        judged = {name: set(entry["checks"]) for name, entry in report["promises"].items()}
        assert judged == current
    assert {verdict for name in ours for verdict in verdicts(made[name]).values()} <= {
        "passed",
        "not exercised",
    }
    for name in ("multiboard-redis", "multiboard-zookeeper", "multiboard-etcd"):
        assert set(verdicts(made[name]).values()) == {"passed"}


def _checks_of_the_suite() -> dict[str, list[str]]:
    """Ask in another process: this pytest does not have the suite's markers."""
    program = """
import json
from multiboard_conformance.backend import catalogue
print(json.dumps({name: ids for name, _, ids in catalogue.checks()}))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], env=ENVIRONMENT, stdout=subprocess.PIPE, check=True
    )
    known: dict[str, list[str]] = json.loads(done.stdout)
    return known


def test_track_record_names_checks_that_exist() -> None:
    known = _checks_of_the_suite()
    known.update({check.name: list(check.ids) for check in checks()})
    named = re.findall(r"\b([A-Z]+-\d+) `(check_\w+)`", RECORD)
    assert len(named) > 60
    assert [(name, check) for name, check in named if name not in known.get(check, [])] == []
    assert set(re.findall(r"`(check_\w+)`", RECORD)) <= set(known)
    ids = {name for name, _ in named}
    assert ids <= set(GUARANTEES) | set(PROMISES)


def test_bugs_of_taskflows_boards_in_the_track_record_were_seen() -> None:
    made = _committed()
    part = RECORD.partition("## TaskFlow's jobboards")[2].partition("\n## ")[0]
    rows = [line.split(" | ") for line in part.splitlines() if "`check_" in line and "|" in line]
    assert len(rows) > 25
    for _what, boards, _how, found_by in rows:
        promise, check = re.findall(r"(BOARD-\d+) `(check_\w+)`", found_by)[0]
        for board in boards.split(", "):
            entry = made[f"taskflow-{board.strip()}"]["promises"][promise]
            assert entry["checks"][check] == "failed", (board, check)
