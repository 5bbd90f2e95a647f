# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Every broken backend must fail the suite, by the ids that it names and by no strange one."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
from typing import Any

import pytest

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(HERE))

import memory_mutants  # noqa: E402, F401 - found through the line above; fills the list
import memory_mutants_feed  # noqa: E402, F401
import memory_mutants_traits  # noqa: E402, F401
from mutants import MUTANTS  # noqa: E402


def judge(folder: pathlib.Path, name: str, *arguments: str) -> tuple[int, dict[str, Any], str]:
    """Run the suite on a mutant; return the exit status, the report and what was printed."""
    path = folder / "report.json"
    paths = [str(ROOT), str(ROOT / "conformance"), str(HERE)]
    done = subprocess.run(
        [sys.executable, "-m", "multiboard_conformance.main", name,
         "--quick", "--lanes", "2", "--seed", "1", "--report", str(path), *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )  # fmt: skip
    printed = done.stdout + done.stderr
    assert path.exists(), printed
    return done.returncode, json.loads(path.read_text()), printed


def _failed(told: dict[str, Any]) -> set[str]:
    return {one for one, entry in told["guarantees"].items() if entry["verdict"] == "failed"}


@pytest.mark.full
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_is_caught(tmp_path: pathlib.Path, name: str) -> None:
    expected = MUTANTS[name].expected
    status, told, printed = judge(tmp_path, name, *[f"--only={one}" for one in expected])
    assert (status, set(expected) - _failed(told)) == (1, set()), printed


@pytest.mark.strict
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_dies_by_its_ids_alone(tmp_path: pathlib.Path, name: str) -> None:
    fate = MUTANTS[name]
    status, told, printed = judge(tmp_path, name)
    failed = _failed(told)
    assert (status, set(fate.expected) - failed) == (1, set()), printed
    assert failed - fate.allowed == set(), printed


@pytest.mark.timeout(300)
def test_empty_backend_fails_everything(tmp_path: pathlib.Path) -> None:
    status, told, printed = judge(tmp_path, "memory_mutants_feed:Empty")
    assert status == 1
    verdicts = {one: entry["verdict"] for one, entry in told["guarantees"].items()}
    assert verdicts == dict.fromkeys(verdicts, "failed"), printed


def test_list_is_long_enough() -> None:
    assert len(MUTANTS) >= 25
