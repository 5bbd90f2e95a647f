# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""A coverage-guided run of the codec: it takes a minute, and finds what it should find."""

from __future__ import annotations

import importlib.util
import pathlib
import re
import subprocess
import sys

import pytest

PROGRAM = pathlib.Path(__file__).resolve().with_name("fuzz_codec.py")


# A process begins with the peak memory of the process that it was made by, exec or not, and the
# fuzzer judges by the peak: a worker of pytest that has grown would be taken for a bad decoder.
# The child of a shell begins small.
_BY_A_SHELL = ["sh", "-c", '"$@"; exit $?', "sh"]


def _fuzz(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*_BY_A_SHELL, sys.executable, PROGRAM, *words],
        capture_output=True,
        text=True,
        errors="replace",
    )


@pytest.mark.full
@pytest.mark.timeout(240)
def test_nothing_that_is_found_in_a_minute_harms_a_reader(tmp_path: pathlib.Path) -> None:
    run = _fuzz("60", str(tmp_path))
    assert run.returncode == 0, run.stderr[-3000:]
    assert list(tmp_path.glob("failure-*")) == []
    done = re.search(r"Done (\d+) runs", run.stderr)
    assert done is not None, run.stderr[-3000:]
    assert int(done.group(1)) > 1_000
    if importlib.util.find_spec("atheris"):  # what it found by itself reaches what no seed does
        assert len(list(tmp_path.iterdir())) > 40


@pytest.mark.full
@pytest.mark.timeout(120)
def test_a_codec_without_limits_is_found_out(tmp_path: pathlib.Path) -> None:
    assert _fuzz("30", str(tmp_path), "--without-limits").returncode != 0
