# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The examples of the documentation run: each page's Python blocks, in order, as one program."""

from __future__ import annotations

import dataclasses
import doctest
import pathlib
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator

import pytest

from multiboard import primitives

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "doc" / "source").rglob("*.rst"))]

_DIRECTIVE = re.compile(r"^( *)\.\. code-block:: (python|pycon)\s*$")
_FENCE = re.compile(r"^( *)```(python|pycon)\s*$")


def blocks(text: str, *, markdown: bool) -> Iterator[tuple[int, str]]:
    """Yield the Python blocks of a page, each with the number of its first line, from 0."""
    lines = text.splitlines()
    for number, line in enumerate(lines):
        opened = (_FENCE if markdown else _DIRECTIVE).match(line)
        if opened is None:
            continue
        indent, first = opened[1], number + 1
        end = first
        if markdown:
            while end < len(lines) and lines[end].strip() != "```":
                end += 1
        else:
            while end < len(lines) and (not lines[end] or lines[end].startswith(f"{indent} ")):
                end += 1
        code = textwrap.dedent("\n".join(lines[first:end]))
        if opened[2] == "pycon":
            code = doctest.script_from_examples(code)
        yield first, code


def program(text: str, *, markdown: bool) -> str:
    """Return a page's blocks as one program; in it a line has the number it has on the page."""
    lines: list[str] = []
    for first, code in blocks(text, markdown=markdown):
        lines += [""] * (first - len(lines))
        lines += code.splitlines()
    return "\n".join(lines)


PROGRAMS = {
    page.relative_to(ROOT).as_posix(): program(page.read_text(), markdown=page.suffix == ".md")
    for page in PAGES
}


@pytest.mark.long
@pytest.mark.parametrize("page", [page for page, code in PROGRAMS.items() if code])
def test_the_examples_of_a_page_run(page: str, tmp_path: pathlib.Path) -> None:
    # In a process of its own: an example that forgets to close its board must still end.
    run = f"exec(compile({PROGRAMS[page]!r}, {page!r}, 'exec'), {{'__name__': '__main__'}})"
    done = subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", "-c", run],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.long
def test_the_documentation_builds_without_a_warning(tmp_path: pathlib.Path) -> None:
    build = ["-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", "-d", f"{tmp_path}/trees"]
    done = subprocess.run(
        [sys.executable, *build, ROOT / "doc" / "source", tmp_path / "html"],
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert (done.returncode, done.stderr) == (0, "")
    options = (tmp_path / "html" / "configuration.html").read_text()
    for field in dataclasses.fields(primitives.Settings):
        assert f">{field.name}<" in options


def test_there_are_examples() -> None:
    assert {"README.md", "doc/source/index.rst"} <= {p for p, code in PROGRAMS.items() if code}


def test_a_page_becomes_a_program_with_the_pages_line_numbers() -> None:
    page = "Title\n\n.. code-block:: python\n\n   x = 1\n\n   y = 2\n\nText\n"
    page += "\n.. code-block:: text\n\n   no\n"
    assert program(page, markdown=False).splitlines()[4:7] == ["x = 1", "", "y = 2"]
    assert program("a\n```python\nx = 1\n```\n```sh\nno\n```\n", markdown=True) == "\n\nx = 1"


def test_a_failing_example_is_found() -> None:
    page = program(".. code-block:: python\n\n   assert 1 == 2\n", markdown=False)
    with pytest.raises(AssertionError):
        exec(page, {})
