# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""A jobboard with a mistake in its generic layer must fail the board suite, by the id it names."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys

import pytest

from tests.mutants.board_mutants import BOARD_MUTANTS, ROOT, UNTRIED, BoardMutant


@pytest.mark.full
@pytest.mark.timeout(300)
@pytest.mark.parametrize("mutant", BOARD_MUTANTS, ids=lambda mutant: mutant.name)
def test_board_mutant_is_caught(tmp_path: pathlib.Path, mutant: BoardMutant) -> None:
    mutant.write(tmp_path)
    path = tmp_path / "report.json"
    done = subprocess.run(
        [sys.executable, "-m", "multiboard_conformance.main", "--taskflow-board", "multiboard",
         "--conf", f"url={mutant.url}", "--shards", "2", "--report", str(path),
         *[f"--only={one}" for one in mutant.ids]],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT / 'conformance'}"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )  # fmt: skip
    printed = done.stdout + done.stderr
    assert path.exists(), printed
    promises = json.loads(path.read_text())["promises"]
    failed = {one for one, entry in promises.items() if entry["verdict"] == "failed"}
    assert (done.returncode, failed) == (1, set(mutant.ids)), printed


@pytest.mark.parametrize("mutant", [*BOARD_MUTANTS, *UNTRIED], ids=lambda mutant: mutant.name)
def test_board_mutant_is_made_of_the_present_source(
    tmp_path: pathlib.Path, mutant: BoardMutant
) -> None:
    mutant.write(tmp_path)
