# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Who may import whom: the import rule of the source tree, read from every module.

The folders are the layers. ``cli, demo -> jobboard -> runtime, config -> primitives, errors``, and
a backend imports primitives, errors, its own folder and its own client library. A library belongs
to the folders that are named with it.
"""

from __future__ import annotations

import ast
import functools
import pathlib
import sys
from collections.abc import Iterator, Mapping

ROOT = pathlib.Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "multiboard"
SUITE = ROOT / "conformance" / "multiboard_conformance"

#: A folder (or a module beside the folders), and what of the project it may import beside itself.
MAY_IMPORT: Mapping[str, frozenset[str]] = {
    "errors": frozenset(),
    "primitives": frozenset({"errors"}),
    "backends": frozenset({"primitives", "errors"}),
    "config": frozenset({"primitives", "errors"}),
    "runtime": frozenset({"primitives", "errors"}),
    "jobboard": frozenset({"runtime", "config", "primitives", "errors"}),
    "__init__": frozenset({"jobboard", "config", "errors"}),
    "demo": frozenset({"__init__", "jobboard", "config", "primitives", "errors"}),
    "cli": frozenset({"__init__", "demo", "jobboard", "runtime", "config", "primitives", "errors"}),
    "conformance": frozenset({"__init__", "jobboard", "runtime", "config", "primitives", "errors"}),
}

#: Every library that may be imported, and the folders that may do it.
LIBRARIES: Mapping[str, frozenset[str]] = {
    # The board is TaskFlow's; the demonstration is a service that uses TaskFlow.
    "taskflow": frozenset({"jobboard", "demo", "conformance"}),
    "futurist": frozenset({"jobboard"}),
    "stevedore": frozenset({"config"}),
    "oslo_config": frozenset({"config"}),
    "oslo_serialization": frozenset({"runtime"}),
    "msgpack": frozenset({"runtime"}),
    "tenacity": frozenset({"runtime", "conformance"}),
    "sortedcontainers": frozenset({"runtime", "backends.etcd"}),
    "cliff": frozenset({"cli"}),
    "rich": frozenset({"cli", "demo"}),
    "redis": frozenset({"backends.redis"}),
    "hiredis": frozenset({"backends.redis"}),
    "kazoo": frozenset({"backends.zookeeper"}),
    "h2": frozenset({"backends.etcd"}),
    "google": frozenset({"backends.etcd"}),
    "sqlite3": frozenset({"backends.sqlite"}),
    "pytest": frozenset({"conformance"}),
    "pytest_timeout": frozenset({"conformance"}),
    "hypothesis": frozenset({"conformance"}),
    "tree_sitter": frozenset({"conformance"}),
    "tree_sitter_lua": frozenset({"conformance"}),
}


# -- reading -------------------------------------------------------------------------------------


def _modules(folder: pathlib.Path) -> dict[str, str]:
    """Return the source of each module under ``folder``, by its dotted name."""
    found = {}
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(folder.parent).with_suffix("").parts
        found[".".join(parts)] = path.read_text()
    return found


MODULES = {**_modules(PACKAGE), **_modules(SUITE)}


def _statements(tree: ast.AST, lazy: bool = False) -> Iterator[tuple[ast.AST, bool]]:
    """Yield every node, and whether it runs only when a function is called."""
    for node in ast.iter_child_nodes(tree):
        inside = lazy or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        yield node, inside
        yield from _statements(node, inside)


@functools.cache  # two tests read the same modules
def _imports(module: str, source: str, known: frozenset[str]) -> list[tuple[str, bool]]:
    """Return what ``source`` imports, as (dotted name, only when a function is called)."""
    return list(_read_imports(module, source, known))


def _read_imports(module: str, source: str, known: frozenset[str]) -> Iterator[tuple[str, bool]]:
    """Yield what ``source`` imports, as (dotted name, only when a function is called)."""
    for node, lazy in _statements(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, lazy
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                folder = module.split(".")[: -node.level]
                base = ".".join([*folder, base] if base else folder)
            for alias in node.names:
                name = f"{base}.{alias.name}"  # a module of the package, or a name in it
                is_module = name in known or f"{name}.__init__" in known
                yield (name if is_module else base), lazy
        elif isinstance(node, ast.Call) and node.args:
            called = ast.unparse(node.func).rpartition(".")[2]
            first = node.args[0]
            if called in ("import_module", "__import__") and isinstance(first, ast.Constant):
                yield str(first.value), lazy


def _folder(module: str) -> str:
    """Return the folder of a module: 'runtime', 'backends.redis', 'conformance'."""
    if module.partition(".")[0] == "multiboard_conformance":
        return "conformance"
    words = module.split(".")[1:] or ["__init__"]
    return ".".join(words[:2]) if words[0] == "backends" and words[1:] else words[0]


# -- judging -------------------------------------------------------------------------------------


def violations(module: str, source: str, known: frozenset[str]) -> list[str]:
    """Return what ``source``, as the module of that name, imports against the rule."""
    folder = _folder(module)
    layer = folder.partition(".")[0]
    if layer not in MAY_IMPORT:
        raise AssertionError(f"give the folder {layer!r} a line in MAY_IMPORT, in {__file__}")
    found = []
    for name, _ in _imports(module, source, known):
        top = name.partition(".")[0]
        if top in ("multiboard", "multiboard_conformance"):
            target = _folder(name)
            allowed = target == folder or target in MAY_IMPORT[layer]
        elif top in LIBRARIES:
            allowed = folder in LIBRARIES[top]
        else:
            allowed = top in sys.stdlib_module_names
        if not allowed:
            found.append(f"{module} imports {name}")
    return found


def circles(modules: Mapping[str, str]) -> list[str]:
    """Return the circles of imports, those for the type checker included, one line each."""
    known = frozenset(modules)
    arrows: dict[str, set[str]] = {}
    for module, source in modules.items():
        named = {name for name, lazy in _imports(module, source, known) if not lazy}
        found = {n if n in known else f"{n}.__init__" for n in named}
        arrows[module] = (found & known) - {module}
    lines, done = [], set()

    def visit(module: str, path: list[str]) -> None:
        if module in path:
            lines.append(" -> ".join([*path[path.index(module) :], module]))
        elif module not in done:
            for target in sorted(arrows[module]):
                visit(target, [*path, module])
            done.add(module)

    for module in sorted(arrows):
        visit(module, [])
    return lines


# -- the tests -----------------------------------------------------------------------------------


def test_every_module_keeps_to_its_layer() -> None:
    known = frozenset(MODULES)
    found = [line for name, source in MODULES.items() for line in violations(name, source, known)]
    assert found == []


def test_no_import_goes_in_a_circle() -> None:
    assert circles(MODULES) == []


def test_every_library_is_declared() -> None:
    declared = (ROOT / "setup.cfg").read_text()
    # What is imported as google.protobuf is installed as protobuf.
    installed = {
        "google": "protobuf",
        "tree_sitter": "tree-sitter",
        "tree_sitter_lua": "tree-sitter-lua",
    }
    names = {
        installed.get(library, library.replace("pytest_", "pytest-").replace("_", "."))
        for library in LIBRARIES
        if library != "sqlite3"
    }
    assert {name for name in names if f"    {name}>=" not in declared} == set()


#: An import that is wrong, for each layer and each way to write one.
WRONG = (
    ("multiboard.errors", "from multiboard import primitives"),
    ("multiboard.primitives.values", "import taskflow"),
    ("multiboard.primitives.values", "import sortedcontainers"),
    ("multiboard.primitives.interface", "from multiboard.runtime import guard"),
    ("multiboard.runtime.guard", "import multiboard.jobboard.board"),
    (
        "multiboard.runtime.guard",
        "def f():\n    from multiboard.backends.redis import RedisBackend",
    ),
    ("multiboard.runtime.guard", "from ..backends import redis"),
    ("multiboard.runtime.guard", "from multiboard.config import loading"),
    ("multiboard.runtime.view", "from taskflow.jobs import base"),
    ("multiboard.runtime.lease_keeper", "import taskflow.exceptions"),
    ("multiboard.runtime.view", "import stevedore"),
    ("multiboard.config.loading", "from multiboard.runtime import guard"),
    ("multiboard.config.loading", "from multiboard.backends import redis"),
    ("multiboard.config.oslo", "if TYPE_CHECKING:\n    import kazoo"),
    ("multiboard.jobboard.board", "import redis"),
    ("multiboard.jobboard.board", "import importlib\nimportlib.import_module('kazoo.client')"),
    ("multiboard.jobboard.board", "import sqlite3"),
    ("multiboard.jobboard.board", "from multiboard import cli"),
    ("multiboard.jobboard.board", "import stevedore"),
    ("multiboard.jobboard.board", "import requests"),
    ("multiboard.demo.flow", "from multiboard.cli import main"),
    ("multiboard.demo.flow", "from multiboard.backends.sqlite import SQLiteBackend"),
    ("multiboard.cli.main", "from oslo_config import cfg"),
    ("multiboard.cli.main", "import taskflow.engines"),
    ("multiboard.backends.redis.backend", "from multiboard.backends import sqlite"),
    ("multiboard.backends.redis.backend", "from multiboard.backends.sqlite import schema"),
    ("multiboard.backends.redis.backend", "from .. import sqlite"),
    (
        "multiboard.backends.redis.backend",
        "if TYPE_CHECKING:\n    from multiboard.jobboard import board",
    ),
    ("multiboard.backends.redis.feed", "import kazoo"),
    ("multiboard.backends.redis.feed", "import tenacity"),
    ("multiboard.backends.redis.feed", "import sqlite3"),
    ("multiboard.backends.memory", "from multiboard.runtime import guard"),
    ("multiboard_conformance.backend.checks_x", "from multiboard.backends import memory"),
    ("multiboard_conformance.backend.checks_x", "from multiboard.cli import main"),
    ("multiboard_conformance.backend.checks_x", "import redis"),
)

#: What is allowed, for the ways to write it.
RIGHT = (
    ("multiboard.primitives.interface", "import abc\nfrom multiboard import errors"),
    (
        "multiboard.jobboard.board",
        "from taskflow.jobs import base\nfrom multiboard.jobboard import job",
    ),
    ("multiboard.jobboard.board", "from multiboard.runtime import view\nfrom . import job"),
    (
        "multiboard.backends.redis.feed",
        "import redis\nfrom multiboard.backends.redis import backend",
    ),
    ("multiboard.backends.zookeeper.feed", "from kazoo.client import KazooClient"),
    ("multiboard.demo.flow", "from multiboard.jobboard import board\nimport taskflow, rich"),
    (
        "multiboard_conformance.backend.checks_x",
        "import pytest, multiboard\nfrom multiboard.jobboard import board",
    ),
)


def test_a_wrong_import_is_found_in_each_layer() -> None:
    known = frozenset(MODULES)
    missed = [case for case in WRONG if len(violations(*case, known)) != 1]
    assert missed == []
    assert {_folder(module).partition(".")[0] for module, _ in WRONG} >= set(MAY_IMPORT) - {
        "__init__"
    }


def test_what_is_allowed_is_not_found() -> None:
    known = frozenset(MODULES)
    assert [case for case in RIGHT if violations(*case, known)] == []


def test_a_circle_is_found() -> None:
    modules = {
        "multiboard.a": "from multiboard import b",
        "multiboard.b": "if TYPE_CHECKING:\n    import multiboard.a",
        "multiboard.c": "def f():\n    from multiboard import a\nfrom multiboard import b",
    }
    assert circles(modules) == ["multiboard.a -> multiboard.b -> multiboard.a"]
