# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""From the outcomes of a jobboard's checks to verdicts, to the table and to the report.

Imports the suite's promises only.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from multiboard_conformance.jobboard.promises import PROMISES, Check

#: The version of the report's schema.
SCHEMA = "multiboard-board-conformance/1"

PASSED, FAILED = "passed", "failed"
NOT_SUPPORTED, NOT_EXERCISED, NOT_RUN = "not supported", "not exercised", "not run"


@dataclass
class Outcome:
    """What became of one check."""

    check: Check
    verdict: str
    why: str = ""
    #: What a failure prints.
    text: str = ""
    seconds: float = 0.0


class Results:
    """The outcomes of a run."""

    def __init__(self) -> None:
        self.outcomes: list[Outcome] = []

    def of(self, name: str) -> str:
        """Return the verdict on a promise."""
        verdicts = {each.verdict for each in self.outcomes if name in each.check.ids}
        for worst in (FAILED, PASSED, NOT_SUPPORTED, NOT_EXERCISED):
            if worst in verdicts:
                return worst
        return NOT_RUN

    def result(self) -> str:
        """Return conformant, partial, failed, or nothing run."""
        verdicts = {self.of(name) for name in PROMISES}
        if FAILED in verdicts:
            return FAILED
        if PASSED not in verdicts:
            return "nothing run"
        return "conformant" if verdicts == {PASSED} else "partial"

    def table(self) -> Iterator[str]:
        """Yield a line for each promise, then one for each check that did not pass."""
        for name, promise in PROMISES.items():
            mine = [each for each in self.outcomes if name in each.check.ids]
            count = f"{sum(each.verdict == PASSED for each in mine)}/{len(mine)}"
            yield f"{name:<9} {self.of(name):<14} {count:>5}  {promise.sentence}"
        for verdict in (NOT_SUPPORTED, NOT_EXERCISED):
            chosen = [each for each in self.outcomes if each.verdict == verdict]
            if chosen:
                yield f"\n{verdict.capitalize()}:"
                yield from (f"  {o.check.name} ({', '.join(o.check.ids)}): {o.why}" for o in chosen)

    def report(self, **about: Any) -> dict[str, Any]:
        """Return the report, to be written as JSON."""
        return {
            "schema": SCHEMA,
            "result": self.result(),
            **about,
            "promises": {
                name: {
                    "verdict": self.of(name),
                    "checks": {
                        o.check.name: o.verdict for o in self.outcomes if name in o.check.ids
                    },
                }
                for name in PROMISES
            },
            "why": {o.check.name: o.why for o in self.outcomes if o.verdict != PASSED},
        }


def write(path: str, report: Mapping[str, Any]) -> None:
    """Write a report: as Markdown to a file that ends in ``.md``, else as JSON."""
    with open(path, "w", encoding="utf-8") as file:
        file.write(markdown(report) if path.endswith(".md") else as_json(report))


def as_json(report: Mapping[str, Any]) -> str:
    """Return a report as JSON."""
    return json.dumps(report, indent=1) + "\n"


def markdown(report: Mapping[str, Any]) -> str:
    """Return a report as a page for people."""
    facts = ", ".join(f"{name} {value}" for name, value in report["facts"].items())
    lines = [f"# Conformance of a jobboard: {report['result']}", "", facts, ""]
    lines += [f"    {report['reproduce']}", "", "| id | verdict | promise |", "|---|---|---|"]
    for name, entry in report["promises"].items():
        lines.append(f"| {name} | {entry['verdict']} | {_cell(PROMISES[name].sentence)} |")
    if report["why"]:
        lines += ["", "| check | what was seen |", "|---|---|"]
        lines += [f"| `{check}` | {_cell(why)} |" for check, why in report["why"].items()]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")
