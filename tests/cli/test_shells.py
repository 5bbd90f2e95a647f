# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Completion and the manual page, made from the parsers and read by what they are for."""

from __future__ import annotations

import importlib.metadata
import shutil
import subprocess

import pytest

from multiboard.cli.main import COMMANDS
from tests.cli.conftest import Command


def completed(script: str, *words: str) -> list[str]:
    """Return what bash offers behind these words."""
    line = " ".join(f"'{word}'" for word in ("multiboard", *words))
    run = f"COMP_WORDS=({line}); COMP_CWORD={len(words)}; _multiboard; echo ${{COMPREPLY[@]}}"
    done = subprocess.run(
        ["bash", "--norc", "-eu", "-c", f"{script}\n{run}"], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


def test_bash_completes(command: Command) -> None:
    script = command("completion", "bash").out
    assert set(completed(script, "")) >= {name.split()[0] for name in COMMANDS}
    assert completed(script, "hea") == ["health"]
    assert completed(script, "conductor", "") == ["run"]
    assert completed(script, "conductor", "run", "--gr") == ["--grace"]
    assert completed(script, "jobs", "--state", "") == ["UNCLAIMED", "CLAIMED", "DELAYED"]
    assert completed(script, "jobs", "memory://x", "--old") == ["--older-than"]
    assert completed(script, "conductor", "run", "--config-file", "") == []  # bash's own: files


@pytest.mark.parametrize(("shell", "check"), [("zsh", ["-n"]), ("fish", ["--no-execute"])])
def test_other_shells_complete(shell: str, check: list[str], command: Command) -> None:
    script = command("completion", shell).out
    for name in COMMANDS:
        assert name.split()[0] in script
    assert "older-than" in script
    assert "UNCLAIMED CLAIMED DELAYED" in script
    if program := shutil.which(shell):  # its grammar, too, where the shell is installed
        done = subprocess.run([program, *check, "/dev/stdin"], input=script, text=True)
        assert done.returncode == 0


def test_the_manual_page(command: Command) -> None:
    page = command("man").out
    for name, factory in COMMANDS.items():
        assert f".SS {name}\n" in page
        assert factory.__doc__
    assert "\\fB\\-\\-older\\-than\\fR \\fIAGE\\fR" in page
    assert not [line for line in page.splitlines() if line.startswith("'")]
    if program := shutil.which("groff"):
        done = subprocess.run(
            [program, "-man", "-Tutf8", "-ww"], input=page, capture_output=True, text=True
        )
        assert (done.returncode, done.stderr) == (0, "")


def test_a_shell_that_is_not_known(command: Command) -> None:
    assert command("completion", "csh").status == 2


def test_the_version(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    answer = command("--version")
    version = importlib.metadata.version("multiboard")
    assert (answer.status, capsys.readouterr().out) == (0, f"multiboard {version}\n")
