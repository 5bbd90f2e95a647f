# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""A table made by a directive, for the pages that are generated from committed reports."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList


def list_table(
    directive: Any, head: Sequence[str], rows: Iterable[Sequence[str]]
) -> list[nodes.Node]:
    """Return a table with a head; its cells are reStructuredText."""
    lines = [".. list-table::", "   :header-rows: 1", ""]
    for row in [head, *rows]:
        lines += [f"   {' ' if number else '*'} - {cell}" for number, cell in enumerate(row)]
    box = nodes.container()
    directive.state.nested_parse(StringList([*lines, ""], source=__file__), 0, box)
    return list(box.children)
