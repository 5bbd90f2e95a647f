# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The directives that show jobboards as they were judged: TaskFlow's, ours, the prototypes.

``.. board-table::`` shows the verdict on each promise for each board, ``.. board-failures::`` what
was seen where one was broken, ``.. board-runs::`` what was run and how to repeat it. Each takes
names of reports, or shows TaskFlow's boards and ours. All read
``conformance/reports/boards/*.json``, which ``tools/side-by-side`` writes.
"""

from __future__ import annotations

import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

from docutils import nodes
from list_table import ReportTable, list_table
from multiboard_conformance.jobboard.guarantees import PROMISES
from sphinx.application import Sphinx

REPORTS = pathlib.Path(__file__).resolve().parents[3] / "conformance" / "reports" / "boards"
#: The order of the columns.
COLUMNS = (
    "taskflow-redis",
    "taskflow-zookeeper",
    "taskflow-etcd",
    "multiboard-redis",
    "multiboard-zookeeper",
    "multiboard-etcd",
    "multiboard-sqlite",
    "multiboard-memory",
)


def _plain(text: str) -> str:
    """Return text so that reStructuredText shows it as it is."""
    return re.sub(r"([\\*_`|<>])", r"\\\1", text)


def _head(name: str) -> str:
    side, _, store = name.partition("-")
    return f"{side} on {store}"


def _verdict(report: dict[str, Any], name: str) -> str:
    entry = report["promises"].get(name)
    if entry is None:
        return "not run"
    checks = list(entry["checks"].values())
    if entry["verdict"] != "failed" or len(checks) == 1:
        return f"**{entry['verdict']}**" if entry["verdict"] == "failed" else entry["verdict"]
    return f"**failed** ({checks.count('failed')} of {len(checks)} checks)"


def verdict_rows(made: dict[str, dict[str, Any]]) -> Iterator[Sequence[str]]:
    """Yield (id, promise, verdict on each board) of each promise."""
    for name, promise in PROMISES.items():
        verdicts = [_verdict(report, name) for report in made.values()]
        yield (name, _plain(promise.sentence), *verdicts)


def failure_rows(made: dict[str, dict[str, Any]]) -> Iterator[Sequence[str]]:
    """Yield (id, board, check, what was seen) of each check that failed."""
    for name in PROMISES:
        for board, report in made.items():
            for check, verdict in report["promises"].get(name, {"checks": {}})["checks"].items():
                if verdict == "failed":
                    yield (name, _head(board), f"``{check}``", _plain(report["why"][check]))


def run_rows(made: dict[str, dict[str, Any]]) -> Iterator[Sequence[str]]:
    """Yield (what, value on each board): versions, result, time, command."""
    every = list(made.values())
    yield ("Result", *[report["result"] for report in every])
    yield ("TaskFlow", *[report["facts"]["taskflow"] for report in every])
    yield ("Store", *[report["facts"].get("store", "not reported") for report in every])
    clients = [
        [
            f"{name} {r['facts'][name]}"
            for name in ("redis", "kazoo", "etcd3gw", "rq", "tooz")
            if name in r["facts"]
        ]
        for r in every
    ]
    yield ("Client", *[", ".join(names) or "its own" for names in clients])
    yield ("Seconds", *[f"{report['seconds']:.0f}" for report in every])
    yield ("Command", *[f"``{report['reproduce']}``" for report in every])


class _Table(ReportTable):
    folder, order, made_by = REPORTS, COLUMNS, "tools/side-by-side"
    optional_arguments = 1
    final_argument_whitespace = True

    def _made(self) -> dict[str, dict[str, Any]]:
        chosen = self.arguments[0].split() if self.arguments else COLUMNS
        made = super()._made()
        missing = [name for name in chosen if name not in made]
        if missing:
            raise self.error(f"no report of {missing}: {self.made_by}")
        return {name: made[name] for name in chosen}


class BoardTable(_Table):
    """Show the verdict on each promise for each board."""

    def run(self) -> list[nodes.Node]:
        made = self._made()
        return list_table(self, ("Id", "Promise", *map(_head, made)), verdict_rows(made))


class BoardFailures(_Table):
    """Show what was seen where a promise was broken."""

    def run(self) -> list[nodes.Node]:
        return list_table(self, ("Id", "Board", "Check", "Seen"), failure_rows(self._made()))


class BoardRuns(_Table):
    """Show what was run, on what, and how to repeat it."""

    def run(self) -> list[nodes.Node]:
        made = self._made()
        return list_table(self, ("", *map(_head, made)), run_rows(made))


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directives."""
    app.add_directive("board-table", BoardTable)
    app.add_directive("board-failures", BoardFailures)
    app.add_directive("board-runs", BoardRuns)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
