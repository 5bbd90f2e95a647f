# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Who may import whom: the rules of the house, read from the source of every module.

A part of the project may import what lies deeper than itself. A library belongs to one place. A
new module gets a line in ``DEPTH`` (or the name of its principal with an underscore before and
after: ``_board_claims`` is a companion of ``board``).
"""

from __future__ import annotations

import ast
import pathlib
import sys
from collections.abc import Iterator

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "multiboard"
SUITE = ROOT / "conformance" / "multiboard_conformance"

#: A part imports only parts with a lower number. Backends and the suite have rules of their own.
DEPTH = {
    "errors": 0,
    "failures": 0,
    "interrupts": 0,
    "values": 1,
    "settings": 1,
    "sockets": 1,
    "limits": 1,
    "arguments": 1,
    "primitives": 2,
    "guard": 3,
    "codec": 3,
    "picture": 3,
    "view": 4,
    "doubts": 3,
    "deadlines": 3,
    "timer": 3,
    "keeper": 4,
    "urls": 4,
    "notifier": 4,
    "loading": 5,
    "options": 6,
    "job": 6,
    "connection": 6,
    "translation": 6,
    "board": 7,
    "conductor": 8,
    "__init__": 9,
    "cli": 10,
}

#: Every library that may be imported, and the only parts that may do it.
LIBRARIES = {
    # The board's own parts, and what is above it.
    "taskflow": {"board", "job", "notifier", "translation", "conductor", "cli"},
    "stevedore": {"loading"},
    "oslo_config": {"options"},
    "oslo_serialization": {"codec"},
    "msgpack": {"codec"},
    "futurist": {"conductor"},
    "tenacity": {"guard"},
    "sortedcontainers": {"picture", "backends.etcd"},
    "cliff": {"cli"},
    "rich": {"cli"},
    "redis": {"backends.redis"},
    "hiredis": {"backends.redis"},
    "kazoo": {"backends.zookeeper"},
    "h2": {"backends.etcd"},
    "google": {"backends.etcd"},
    "sqlite3": {"backends.sqlite"},
}

#: What the conformance suite may know of the project; the guard is where bodies are measured.
SUITE_SEES = {"__init__", "primitives", "errors", "guard", "loading", "board"}


# -- reading -------------------------------------------------------------------------------------


def _modules(folder: pathlib.Path) -> dict[str, str]:
    """Return the source of each module under ``folder``, by its dotted name."""
    found = {}
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(folder.parent).with_suffix("").parts
        found[".".join(parts)] = path.read_text()
    return found


ALL_MODULES = sorted(_modules(PACKAGE))


def _is_typing_only(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def _statements(tree: ast.AST, typing_only: bool = False) -> Iterator[tuple[ast.AST, bool]]:
    for node in ast.iter_child_nodes(tree):
        only = typing_only or (isinstance(node, ast.stmt) and _is_typing_only(node))
        yield node, only
        yield from _statements(node, only)


def _imports(module: str, source: str, known: set[str]) -> Iterator[tuple[str, bool]]:
    """Yield what ``source`` imports, as (dotted name, only for the type checker)."""
    for node, typing_only in _statements(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, typing_only
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                folder = module.split(".")[: -node.level]
                base = ".".join([*folder, base] if base else folder)
            for alias in node.names:
                name = f"{base}.{alias.name}"  # a module of the package, or a name in it
                is_module = name in known or f"{name}.__init__" in known
                yield (name if is_module else base), typing_only
        elif isinstance(node, ast.Call) and node.args:
            called = ast.unparse(node.func).rpartition(".")[2]
            first = node.args[0]
            if called in ("import_module", "__import__") and isinstance(first, ast.Constant):
                yield str(first.value), typing_only


def _part(module: str) -> str:
    """Return the part of the project that a module belongs to: 'board', 'backends.redis'."""
    words = module.split(".")[1:] or ["__init__"]
    if words[0] == "cli":
        return "cli"
    if words[0] == "backends":
        return f"backends.{_principal(words[1])}" if words[1:] else "backends.__init__"
    return _principal(words[0])


def _principal(word: str) -> str:
    return word[1:].partition("_")[0] if word[0] == "_" and word[1] != "_" else word


# -- judging -------------------------------------------------------------------------------------


def violations(module: str, source: str, known: set[str]) -> list[str]:
    """Return what ``source``, as the module of that name, imports against the rules."""
    suite = module.startswith("multiboard_conformance")
    part = _part(module)
    found = []
    for name, typing_only in _imports(module, source, known):
        top = name.partition(".")[0]
        if top == "multiboard":
            target = _part(name)
            if suite:
                allowed = target in SUITE_SEES
            elif part.startswith("backends."):
                allowed = target in (part, "primitives", "errors", "interrupts")
            else:
                allowed = _deeper(part, target) or typing_only
        elif top == "multiboard_conformance":
            allowed = suite
        elif top in LIBRARIES:
            clients = {owner for owner in LIBRARIES[top] if owner.startswith("backends.")}
            allowed = not clients if suite else part in LIBRARIES[top]
        elif top in sys.stdlib_module_names:
            allowed = True
        else:
            allowed = suite and top in ("pytest", "hypothesis", "pytest_timeout")
        if not allowed:
            found.append(f"{module} imports {name}")
    return found


def _deeper(part: str, target: str) -> bool:
    if part not in DEPTH:
        raise AssertionError(f"give the module {part!r} a line in DEPTH, in {__file__}")
    return part == target or DEPTH.get(target, len(DEPTH)) < DEPTH[part]


@pytest.mark.parametrize("module", ALL_MODULES)
def test_a_module_keeps_to_its_layer(module: str) -> None:
    modules = _modules(PACKAGE)
    assert violations(module, modules[module], set(modules)) == []


def test_the_suite_knows_no_backend() -> None:
    known = set(_modules(PACKAGE))
    found = [v for name, source in _modules(SUITE).items() for v in violations(name, source, known)]
    assert found == []


def test_every_library_is_declared() -> None:
    declared = (ROOT / "setup.cfg").read_text()
    # What is imported as google.protobuf is installed as protobuf.
    installed = {"google": "protobuf"}
    names = {
        installed.get(library, library.replace("_", "."))
        for library in LIBRARIES
        if library != "sqlite3"
    }
    assert {name for name in names if f"    {name}>=" not in declared} == set()


def test_every_module_has_a_place() -> None:
    parts = {_part(module) for module in ALL_MODULES if not module.startswith("multiboard.backen")}
    assert parts - set(DEPTH) == set()


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("multiboard.errors", "from multiboard import primitives"),
        ("multiboard.primitives", "import taskflow"),
        ("multiboard.primitives", "import sortedcontainers"),
        ("multiboard.primitives", "from multiboard import guard"),
        ("multiboard.guard", "import multiboard.board"),
        ("multiboard.guard", "def f():\n    from multiboard.backends.redis import RedisBackend"),
        ("multiboard.guard", "from .backends import redis"),
        ("multiboard.view", "from taskflow.jobs import base"),
        ("multiboard.keeper", "import taskflow.exceptions"),
        ("multiboard.view", "import oslo_serialization.msgpackutils"),
        ("multiboard.board", "import redis"),
        ("multiboard.board", "import importlib\nimportlib.import_module('kazoo.client')"),
        ("multiboard.board", "import sqlite3"),
        ("multiboard.board", "from multiboard import cli"),
        ("multiboard.board", "import stevedore"),
        ("multiboard.board", "import requests"),
        ("multiboard._board_claims", "from multiboard import conductor"),
        ("multiboard.cli.demo", "from oslo_config import cfg"),
        ("multiboard.cli.demo", "from multiboard.backends.sqlite import SQLiteBackend"),
        ("multiboard.options", "if TYPE_CHECKING:\n    import kazoo"),
        ("multiboard.backends.redis", "from multiboard.backends import sqlite"),
        ("multiboard.backends.redis", "from multiboard.backends import _sqlite_schema"),
        ("multiboard.backends.redis", "from . import sqlite"),
        ("multiboard.backends.redis", "if TYPE_CHECKING:\n    from multiboard import board"),
        ("multiboard.backends.redis", "import kazoo"),
        ("multiboard.backends.redis", "import tenacity"),
        ("multiboard.backends._redis_scripts", "import sqlite3"),
        ("multiboard.backends.memory", "from multiboard import guard"),
        ("multiboard_conformance.checks", "from multiboard.backends import memory"),
        ("multiboard_conformance.checks", "from multiboard import view"),
        ("multiboard_conformance.checks", "import redis"),
    ],
)
def test_a_violation_is_found(module: str, source: str) -> None:
    known = {*ALL_MODULES, "multiboard.backends.redis", "multiboard.backends.sqlite"}
    known |= {"multiboard.backends._sqlite_schema", "multiboard.board", "multiboard.view"}
    known |= {"multiboard.conductor"}
    assert len(violations(module, source, known)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("multiboard.primitives", "import abc\nfrom multiboard import errors"),
        ("multiboard.board", "from taskflow.jobs import base\nfrom multiboard import job, view"),
        ("multiboard._board_claims", "import taskflow\nfrom multiboard.primitives import Lease"),
        ("multiboard.job", "if TYPE_CHECKING:\n    from multiboard.board import JobBoard"),
        ("multiboard.backends.redis", "import redis\nfrom multiboard.backends import _redis_feed"),
        ("multiboard.backends._zookeeper_feed", "from kazoo.client import KazooClient"),
        ("multiboard.cli.demo", "from multiboard.cli import table\nimport taskflow, rich"),
        (
            "multiboard_conformance.checks",
            "import pytest, multiboard\nfrom multiboard import board",
        ),
    ],
)
def test_what_is_allowed_is_not_found(module: str, source: str) -> None:
    known = {*ALL_MODULES, "multiboard.backends._redis_feed", "multiboard.cli.table"}
    known |= {"multiboard.job", "multiboard.view", "multiboard.board"}
    assert violations(module, source, known) == []
