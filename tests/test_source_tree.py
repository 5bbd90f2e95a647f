# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""What holds for every file of the project: short, licensed, and free of one machine's paths."""

from __future__ import annotations

import pathlib
import re
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
LONGEST = 500
LICENCE = "Licensed under the Apache License, Version 2.0; see the file LICENSE."
#: Where the tree has no git, what a build or a tool made is told by its folder.
MADE = {"build", "dist", ".git", ".venv", ".tox", "__pycache__"}

#: Homes and work folders of one machine. Written so that this line is not found itself.
MACHINE_PATHS = re.compile(r"(?<![\w.~$}])/(?:home|root|Users|work|tmp/x)" r"/[\w.]")


def _files() -> list[pathlib.Path]:
    """Return the project's files: what git tracks or would track."""
    listed = subprocess.run(
        ["git", "-C", ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        check=False,
    )
    if listed.returncode == 0:
        names = [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    else:
        names = [p for p in ROOT.rglob("*") if not MADE & set(p.relative_to(ROOT).parts)]
    return sorted(path for path in names if path.is_file())


def _text(path: pathlib.Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return None


def _is_source(path: pathlib.Path, text: str) -> bool:
    return path.suffix in (".py", ".lua", ".sh") or text.startswith("#!")


FILES = {path.relative_to(ROOT).as_posix(): _text(path) for path in _files()}
TEXTS = {name: text for name, text in FILES.items() if text is not None}


@pytest.mark.parametrize("name", TEXTS)
def test_a_file_is_short_and_free_of_machine_paths(name: str) -> None:
    lines = TEXTS[name].splitlines()
    assert len(lines) <= LONGEST
    assert [line for line in lines if MACHINE_PATHS.search(line)] == []


@pytest.mark.parametrize("name", [n for n, text in TEXTS.items() if _is_source(ROOT / n, text)])
def test_a_source_file_opens_with_the_licence(name: str) -> None:
    assert LICENCE in "\n".join(TEXTS[name].splitlines()[:2])


def test_the_project_was_found() -> None:
    assert {"setup.cfg", "multiboard/primitives/interface.py", "tests/test_source_tree.py"} <= set(
        TEXTS
    )
    assert "Apache License" in TEXTS["LICENSE"]


def test_a_machine_path_is_found() -> None:
    home = "/" + "home/somebody/project"
    assert MACHINE_PATHS.search(f"open('{home}')")
    assert not MACHINE_PATHS.search("sqlite:///var/lib/multiboard/board.db  a/work/b  /workers")
