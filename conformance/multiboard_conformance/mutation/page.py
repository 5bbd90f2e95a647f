# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The tables of mutants as one page of Markdown.

    python -m multiboard_conformance.mutation.page FOLDER > MUTATION.md

Imports the guarantees and the ledger's words.
"""

from __future__ import annotations

import json
import pathlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from multiboard_conformance.backend.guarantees import GUARANTEES
from multiboard_conformance.mutation.ledger import EQUIVALENT
from multiboard_conformance.mutation.running import KILLED, SURVIVED

_HEAD = """\
# Mutants by rule

Made by `make mutate BACKEND=...`, which changes a backend by rule, in one place at a time, and runs
the conformance suite on each that it makes; do not edit this page. *Killed* were those that the
suite found, *equivalent* are those that no check can find, each with its reason. The score is how
many of a hundred that are not equivalent were killed. Not all were tried: a sample is drawn by a
seed."""


def page(folder: pathlib.Path) -> str:
    """Return the page of all tables of a folder, ``NAME.json`` and ``NAME.equivalent.json``."""
    tables = {
        path.stem: json.loads(path.read_text())
        for path in sorted(folder.glob("*.json"))
        if not path.stem.endswith(".equivalent")
    }
    parts = [_HEAD, *_score(tables), *_by_guarantee(tables), *_by_rule(tables)]
    for name, table in tables.items():
        parts += _listed(f"What survives: {name}", table["survivors"])
        path = folder / f"{name}.equivalent.json"
        if path.exists():
            parts += _listed(f"Equivalent: {name}", json.loads(path.read_text()))
    return "\n\n".join(parts) + "\n"


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def _score(tables: Mapping[str, Any]) -> Iterator[str]:
    fields = ("mutants", "tried", KILLED, SURVIVED, EQUIVALENT, "score")
    yield "## Score"
    yield _table(
        ("backend", *fields),
        [(name, *(table[field] for field in fields)) for name, table in tables.items()],
    )


def _by_guarantee(tables: Mapping[str, Any]) -> Iterator[str]:
    yield "## By guarantee"
    yield (
        "How many mutants were killed by the checks of each guarantee. A mutant is killed by the "
        "first check that fails, which may judge several; those that found most run first."
    )
    rows = [
        (one, *(table["by_guarantee"].get(one, 0) for table in tables.values()))
        for one in GUARANTEES
    ]
    yield _table(("guarantee", *tables), rows)


def _by_rule(tables: Mapping[str, Any]) -> Iterator[str]:
    yield "## By rule"
    yield "Killed / survived / equivalent."
    rules = sorted({rule for table in tables.values() for rule in table["by_rule"]})
    rows = []
    for rule in rules:
        found = [table["by_rule"].get(rule) for table in tables.values()]
        cells = (
            "" if one is None else f"{one[KILLED]} / {one[SURVIVED]} / {one[EQUIVALENT]}"
            for one in found
        )
        rows.append((rule, *cells))
    yield _table(("rule", *tables), rows)


def _listed(title: str, entries: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if not entries:
        return
    yield f"## {title}"
    for entry in entries:
        scope = f" `{entry['scope']}`" if entry["scope"] else ""
        lines = [*(f"- {line}" for line in entry["was"].splitlines())]
        lines += [f"+ {line}" for line in entry["becomes"].splitlines()]
        why = f"{entry['why']}\n\n" if "why" in entry else ""
        diff = "\n".join(lines)
        yield f"`{entry['file']}`{scope}: {entry['rule']}\n\n{why}```diff\n{diff}\n```"


if __name__ == "__main__":
    print(page(pathlib.Path(sys.argv[1])), end="")
