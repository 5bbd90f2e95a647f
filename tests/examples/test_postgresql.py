# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The example of a stranger's backend: its own tests, as its author would run them."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "multiboard-postgresql"
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "conformance", EXAMPLE))),
    "MYPYPATH": os.pathsep.join(map(str, (ROOT, ROOT / "conformance"))),
}


def _run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *words],
        cwd=EXAMPLE,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


@pytest.mark.timeout(300)
def test_the_example_passes_its_tests() -> None:
    done = _run("pytest", "-p", "no:cacheprovider")
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_example_is_typed() -> None:
    done = _run("mypy")
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_example_imports_public_names_only() -> None:
    source = "\n".join(path.read_text() for path in EXAMPLE.glob("multiboard_postgresql/*.py"))
    lines = [line for line in source.splitlines() if line.startswith(("from multiboard", "import"))]
    ours = {line.split(" import")[0] for line in lines if line.startswith("from multiboard")}
    own = {line for line in ours if line.startswith("from multiboard_postgresql")}
    assert ours - own == {"from multiboard", "from multiboard.primitives"}
    assert "from multiboard import errors" in lines
