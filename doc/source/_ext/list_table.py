# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""A table made by a directive, for the pages that are generated from committed reports."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective


def read_reports(folder: pathlib.Path, order: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the reports of a folder by name; those that ``order`` does not name come last."""
    found = {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}
    place = {name: number for number, name in enumerate(order)}
    return dict(sorted(found.items(), key=lambda item: (place.get(item[0], 99), item[0])))


class ReportTable(SphinxDirective):
    """A directive that shows the reports of a folder."""

    has_content = False
    folder: pathlib.Path
    order: Sequence[str]
    #: The command that writes the reports.
    made_by: str

    def _made(self) -> dict[str, dict[str, Any]]:
        made = read_reports(self.folder, self.order)
        if not made:
            raise self.error(f"no report in {self.folder.name}: {self.made_by}")
        for name in made:
            self.env.note_dependency(str(self.folder / f"{name}.json"))
        return made


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
