# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The commands of the documentation: those in blocks of shell run, the others can be parsed."""

from __future__ import annotations

import os
import pathlib
import re
import shlex
import subprocess
import sys
import textwrap

import pytest

from multiboard.cli.main import COMMANDS, MultiboardApp

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "doc" / "source").glob("*.rst"))
_SHELL = re.compile(r"^\.\. code-block:: sh\n\n((?:   .*\n|\n)+)", re.MULTILINE)
_SHOWN = re.compile(r"^ +\$ (multiboard .*)$|^ *ExecStart=/usr/bin/(multiboard .*)$", re.MULTILINE)


def scripts() -> list[str]:
    """Return the blocks of shell of the pages."""
    return [textwrap.dedent(block) for page in PAGES for block in _SHELL.findall(page.read_text())]


@pytest.mark.full
@pytest.mark.timeout(600)  # each command is a process of its own, and the machine may be busy
@pytest.mark.parametrize("script", scripts())
def test_a_block_of_shell_runs(script: str, tmp_path: pathlib.Path) -> None:
    path = f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-eu", "-o", "pipefail", "-c", script],
        cwd=tmp_path,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=570,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "posted " in done.stdout
    assert "well: 1 job(s)" in done.stdout


def shown() -> list[str]:
    """Return the commands that the pages show."""
    found = [a or b for page in PAGES for a, b in _SHOWN.findall(page.read_text())]
    return sorted({line.partition(" > ")[0] for line in found})


@pytest.mark.parametrize("line", shown())
def test_a_command_that_is_shown_can_be_parsed(line: str) -> None:
    app = MultiboardApp()
    if line == "multiboard --version":  # the one that ends where it is parsed
        with pytest.raises(SystemExit, match="0"):
            app.parser.parse_known_args(["--version"])
        return
    _, rest = app.parser.parse_known_args(shlex.split(line)[1:])
    factory, name, words = app.command_manager.find_command(rest)
    factory(app, None).get_parser(name).parse_args(words)


def test_every_command_is_on_its_page() -> None:
    page = (ROOT / "doc" / "source" / "command.rst").read_text()
    assert [name for name in COMMANDS if f"multiboard {name}" not in page] == []
    assert len(scripts()) > 0
    assert len(shown()) > 5
