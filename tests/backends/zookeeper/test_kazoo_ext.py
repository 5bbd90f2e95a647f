# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""What is private to kazoo is touched in one module, which names it, and exists in this kazoo."""

from __future__ import annotations

import ast
import pathlib

from kazoo.client import KazooClient
from kazoo.protocol.connection import ConnectionHandler

from multiboard.backends.zookeeper import kazoo_ext
from multiboard.backends.zookeeper.kazoo_ext import PRIVATE

FOLDER = pathlib.Path(kazoo_ext.__file__).parent
NAMED = {name for names in PRIVATE.values() for name in names}


def private_names(path: pathlib.Path) -> tuple[set[str], set[str]]:
    """Return the private names of attributes and methods of a module: on ``self``, and on others.

    What a module assigns to ``self`` or defines, and is not kazoo's, is its own.
    """
    on_self, on_others = set(), set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and node.attr.startswith("_"):
            plain = isinstance(node.value, ast.Name) and node.value.id == "self"
            (on_self if plain else on_others).add(node.attr)
        elif isinstance(node, ast.FunctionDef) and node.name.startswith("_"):
            on_self.add(node.name)
    return on_self, {name for name in on_others if not name.startswith("__")}


def test_every_private_attribute_that_is_used_exists() -> None:
    client = KazooClient()
    owners = {KazooClient: client, ConnectionHandler: client._connection}
    missing = [
        f"{kind.__name__}.{name}"
        for kind, names in PRIVATE.items()
        for name in names
        if not hasattr(owners[kind], name)
    ]
    assert missing == []


def test_every_private_attribute_that_is_used_is_named() -> None:
    client = KazooClient()
    theirs = {*dir(client), *dir(client._connection)}
    on_self, on_others = private_names(FOLDER / "kazoo_ext.py")
    used = {name for name in (on_self | on_others) & theirs if not name.startswith("__")}
    assert used == NAMED


def test_no_other_module_touches_what_is_private_to_kazoo() -> None:
    found = {
        path.name: names
        for path in sorted(FOLDER.glob("*.py"))
        if path.name != "kazoo_ext.py" and (names := private_names(path)[1] & NAMED)
    }
    assert found == {}
