# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The directives that show the committed conformance reports: nobody writes these tables.

``.. conformance-table::`` shows the verdict on each guarantee for each backend,
``.. conformance-runs::`` what was run, on what, and how to repeat it. Both read
``conformance/reports/*.json``.
"""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Any

from docutils import nodes
from list_table import ReportTable, list_table
from sphinx.application import Sphinx

REPORTS = pathlib.Path(__file__).resolve().parents[3] / "conformance" / "reports"
#: The order of the columns; a backend that is not named here stands behind these.
FIRST = ("memory", "sqlite", "redis", "zookeeper", "etcd")


def _verdict(entry: dict[str, Any]) -> str:
    ran = entry["passed"] + entry["failed"] + entry["waived"]
    return f"{entry['verdict']} ({entry['passed']} of {ran})"


def verdict_rows(made: dict[str, dict[str, Any]]) -> list[Sequence[str]]:
    """Return (id, promise, verdict on each backend) of each guarantee."""
    ids = dict.fromkeys(name for report in made.values() for name in report["guarantees"])
    rows: list[Sequence[str]] = []
    for name in ids:
        entries = [report["guarantees"].get(name) for report in made.values()]
        sentence = next(entry["sentence"] for entry in entries if entry)
        rows.append(
            (
                name,
                sentence,
                *["not run" if entry is None else _verdict(entry) for entry in entries],
            )
        )
    return rows


def run_rows(made: dict[str, dict[str, Any]]) -> list[Sequence[str]]:
    """Return (what, value on each backend): result, store, checks, time, command."""

    def row(title: str, *values: str) -> Sequence[str]:
        return (title, *values)

    every = list(made.values())
    return [
        row("Result", *[report["result"] for report in every]),
        row(
            "Store", *[f"{r['store'].get('store')} {r['store'].get('version', '')}" for r in every]
        ),
        row("Checks passed", *[str(report["counts"]["passed"]) for report in every]),
        row("Checks not exercised", *[str(report["counts"]["not_exercised"]) for report in every]),
        row("Seconds", *[f"{report['seconds']:.0f}" for report in every]),
        row("Suite", *[f"{report['suite']['version']}, {report['effort']}" for report in every]),
        row("Command", *[f"``{report['reproduce']}``" for report in every]),
    ]


class _Table(ReportTable):
    folder, order, made_by = REPORTS, FIRST, "make reports"


class ConformanceTable(_Table):
    """Show the verdict on each guarantee for each backend."""

    def run(self) -> list[nodes.Node]:
        made = self._made()
        return list_table(self, ("Id", "Promise", *made), verdict_rows(made))


class ConformanceRuns(_Table):
    """Show what was run, on what, and how to repeat it."""

    def run(self) -> list[nodes.Node]:
        made = self._made()
        return list_table(self, ("", *made), run_rows(made))


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directives."""
    app.add_directive("conformance-table", ConformanceTable)
    app.add_directive("conformance-runs", ConformanceRuns)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
