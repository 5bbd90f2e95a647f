# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The models of the protocol: checked exhaustively, and each rule is needed."""

from __future__ import annotations

import pathlib
import re
import shutil
import subprocess

import pytest

MODEL = pathlib.Path(__file__).resolve().parents[2] / "conformance" / "models" / "claims.pml"
#: The rules that the model can do without, as it names them at its top.
RULES = re.findall(r"^ \*   (NO_\w+)", MODEL.read_text(), re.MULTILINE)


def _check(folder: pathlib.Path, *definitions: str) -> str:
    """Return what an exhaustive search of the model's states printed."""
    shutil.copy(MODEL, folder)
    words = ["spin", "-a", *(f"-D{name}" for name in definitions), MODEL.name]
    subprocess.run(words, cwd=folder, check=True, capture_output=True)
    compiler = ["cc", "-O1", "-DSAFETY", "-DCOLLAPSE", "-DNOCLAIM", "-o", "pan", "pan.c"]
    subprocess.run(compiler, cwd=folder, check=True, capture_output=True)
    done = subprocess.run(
        ["./pan", "-m100000"], cwd=folder, check=True, capture_output=True, text=True
    )
    assert "max search depth too small" not in done.stdout
    return done.stdout


@pytest.mark.full
def test_the_protocol_has_no_counterexample(tmp_path: pathlib.Path) -> None:
    printed = _check(tmp_path)
    assert "errors: 0" in printed, printed
    states = re.search(r"(\d+) states, stored", printed)
    assert states is not None
    assert int(states[1]) > 1_000_000


@pytest.mark.full
@pytest.mark.parametrize("rule", RULES)
def test_the_protocol_without_a_rule_has_a_counterexample(
    rule: str, tmp_path: pathlib.Path
) -> None:
    printed = _check(tmp_path, rule)
    assert "assertion violated" in printed, printed


def test_the_model_names_its_rules() -> None:
    source = MODEL.read_text()
    assert len(RULES) == 7
    assert set(re.findall(r"#ifn?def (NO_\w+)", source)) == set(RULES)
