# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""What holds for every file of the project: short, licensed, and free of one machine's paths."""

from __future__ import annotations

import pathlib
import re
import subprocess

ROOT = pathlib.Path(__file__).resolve().parent.parent
#: Lines of a file at most: none is so near to 500 that the next change has to split it.
LONGEST = 480
BACKENDS = ROOT / "multiboard" / "backends"
#: The files that the folder of every store with a client has, each for the same role.
ROOMS = (
    "__init__.py", "backend.py", "client.py", "errors.py", "feed.py", "records.py", "session.py",
    "settings.py",
)  # fmt: skip
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
    return path.suffix in (".py", ".lua", ".sh", ".sql") or text.startswith("#!")


FILES = {path.relative_to(ROOT).as_posix(): _text(path) for path in _files()}
TEXTS = {name: text for name, text in FILES.items() if text is not None}


def test_every_file_can_be_read_in_one_go() -> None:
    long = {name: count for name, text in TEXTS.items() if (count := text.count("\n")) > LONGEST}
    assert long == {}


def test_no_file_names_a_path_of_one_machine() -> None:
    found = [
        f"{name}: {line}"
        for name, text in TEXTS.items()
        for line in text.splitlines()
        if MACHINE_PATHS.search(line)
    ]
    assert found == []


def test_every_source_file_opens_with_the_licence() -> None:
    sources = [name for name, text in TEXTS.items() if _is_source(ROOT / name, text)]
    without = [n for n in sources if LICENCE not in "\n".join(TEXTS[n].splitlines()[:2])]
    assert without == []


def test_every_store_has_the_same_rooms() -> None:
    stores = {path.parent.name: path.parent for path in BACKENDS.glob("*/backend.py")}
    assert stores.keys() == {"memory", "sqlite", "redis", "zookeeper", "etcd"}
    missing = {
        f"{name}/{room}"
        for name, folder in stores.items()
        if name != "memory"
        for room in ROOMS
        if not (folder / room).exists()
    }
    assert missing == set()


def test_the_project_was_found() -> None:
    assert {"setup.cfg", "multiboard/primitives/interface.py", "tests/test_source_tree.py"} <= set(
        TEXTS
    )
    assert "Apache License" in TEXTS["LICENSE"]


def test_a_machine_path_is_found() -> None:
    home = "/" + "home/somebody/project"
    assert MACHINE_PATHS.search(f"open('{home}')")
    assert not MACHINE_PATHS.search("sqlite:///var/lib/multiboard/board.db  a/work/b  /workers")
