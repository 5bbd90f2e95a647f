# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Every broken backend must fail the suite, by the ids that it names and by no strange one."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from tests.mutants import (
    memory_mutants,  # noqa: F401 - each fills the list
    memory_mutants_feed,  # noqa: F401
    memory_mutants_shelves,  # noqa: F401
    memory_mutants_traits,  # noqa: F401
    served,
    served_mutants,  # noqa: F401
    served_mutants_answers,  # noqa: F401
)
from tests.mutants.mutants import MUTANTS

ROOT = pathlib.Path(__file__).resolve().parents[2]
PATHS = os.pathsep.join([str(ROOT), str(ROOT / "conformance")])


@pytest.fixture(scope="session")
def port() -> Iterator[int]:
    """The port of a server for the mutants that need one."""
    process = served.start_server(PATHS)
    try:
        assert process.stdout is not None
        yield int(process.stdout.readline())
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def target(request: pytest.FixtureRequest, name: str) -> list[str]:
    """The arguments of the command for a mutant."""
    if not name.startswith("tests.mutants.served"):
        return [name, "--harness", "tests.conformance.short_histories:MemoryHarness"]
    return [
        f"{name}?port={request.getfixturevalue('port')}",
        "--harness",
        "tests.mutants.served:ServedHarness",
    ]


def judge(
    folder: pathlib.Path, *arguments: str, effort: Sequence[str] = ("--quick",)
) -> tuple[int, dict[str, Any], str]:
    """Run the suite on a mutant; return the exit status, the report and what was printed."""
    path = folder / "report.json"
    done = subprocess.run(
        [sys.executable, "-m", "multiboard_conformance.main", *effort,
         "--shards", "2", "--seed", "1", "--report", str(path), *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": PATHS},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )  # fmt: skip
    printed = done.stdout + done.stderr
    assert path.exists(), printed
    return done.returncode, json.loads(path.read_text()), printed


#: The mutants that the quick suite does not find, and why; each is a hole to be closed.
SURVIVORS = {
    "memory_mutants_feed:RenewalWakesNobody": "memory's waiters look for themselves every second",
}


def _marked(name: str) -> Any:
    why = SURVIVORS.get(name.removeprefix("tests.mutants."))
    marks = () if why is None else (pytest.mark.xfail(reason=why, strict=False),)
    return pytest.param(name, marks=marks)


def _failed(judged: dict[str, Any]) -> set[str]:
    return {one for one, entry in judged["guarantees"].items() if entry["verdict"] == "failed"}


@pytest.mark.full
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", map(_marked, MUTANTS))
def test_mutant_is_caught(tmp_path: pathlib.Path, name: str, target: list[str]) -> None:
    expected = MUTANTS[name].expected
    status, judged, printed = judge(tmp_path, *target, *[f"--only={one}" for one in expected])
    assert (status, set(expected) - _failed(judged)) == (1, set()), printed


@pytest.mark.strict
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_dies_by_its_ids_alone(tmp_path: pathlib.Path, name: str, target: list[str]) -> None:
    verdict = MUTANTS[name]
    status, judged, printed = judge(tmp_path, *target)
    failed = _failed(judged)
    assert (status, verdict.all - failed, failed - verdict.allowed) == (1, set(), set()), printed


@pytest.mark.full
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", ["tests.mutants.served_mutants:ClientRemembers"])
def test_what_the_full_suite_alone_asks_finds_something(
    tmp_path: pathlib.Path, target: list[str]
) -> None:
    check = "check_answer_lost_with_its_session"
    status, judged, printed = judge(tmp_path, *target, "-k", check, effort=())
    assert (status, list(judged["failures"])) == (1, [check]), printed


@pytest.mark.timeout(300)
def test_empty_backend_fails_everything(tmp_path: pathlib.Path) -> None:
    status, judged, printed = judge(tmp_path, "tests.mutants.memory_mutants_feed:Empty")
    assert status == 1
    verdicts = {one: entry["verdict"] for one, entry in judged["guarantees"].items()}
    assert verdicts == dict.fromkeys(verdicts, "failed"), printed


@pytest.mark.full
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", ["tests.mutants.served:ServedBackend"])
def test_what_the_mutants_are_made_of_is_right(tmp_path: pathlib.Path, target: list[str]) -> None:
    status, judged, printed = judge(tmp_path, *target)
    assert (status, judged["failures"]) == (0, {}), printed


def test_list_is_long_enough() -> None:
    assert len(MUTANTS) >= 25
