# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""What became of the mutants: the state of a run, the equivalent ones, the table that is kept.

The state is a file of JSON lines beside the work; table and equivalent mutants are kept in a
repository. Imports the mutants and the verdicts.
"""

from __future__ import annotations

import collections
import dataclasses
import json
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from multiboard_conformance.mutation.mutants import Mutant
from multiboard_conformance.mutation.running import KILLED, SURVIVED, Verdict

SCHEMA = "multiboard-mutation/1"
EQUIVALENT = "equivalent"


class State:
    """The verdicts so far; each is written when it is known, so that a run can be resumed."""

    def __init__(self, path: pathlib.Path, *, resume: bool) -> None:
        self._path = path
        self.verdicts: dict[str, Verdict] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        if not resume:
            path.write_text("")
        elif path.exists():
            for line in path.read_text().splitlines():
                verdict = Verdict(**json.loads(line))
                self.verdicts[verdict.key] = verdict

    def add(self, verdict: Verdict) -> None:
        """Keep a verdict."""
        self.verdicts[verdict.key] = verdict
        with self._path.open("a") as file:
            file.write(json.dumps(dataclasses.asdict(verdict)) + "\n")


class Equivalents:
    """The mutants that no check can find, each with the reason, by what they change."""

    def __init__(self, path: pathlib.Path | None, mutants: Sequence[Mutant]) -> None:
        entries = json.loads(path.read_text()) if path is not None and path.exists() else []
        #: Why a mutant is equivalent, by its key.
        self.reasons: dict[str, str] = {}
        #: What matches no mutant any more: the code has changed.
        self.stale: list[dict[str, Any]] = []
        for entry in entries:
            known = {name: value for name, value in entry.items() if name != "why"}
            if not entry.get("why", "").strip():
                raise ValueError(f"an equivalent mutant without its reason: {known}")
            alike = [m.key for m in mutants if m.description == known]
            self.reasons.update(dict.fromkeys(alike, entry["why"]))
            if not alike:
                self.stale.append(known)


def killers(table: Mapping[str, Any]) -> collections.Counter[str]:
    """Return how many mutants each check has found, by an earlier table."""
    return collections.Counter(table.get("by_check", {}))


def table_of(
    target: str,
    mutants: Sequence[Mutant],
    verdicts: Mapping[str, Verdict],
    equivalents: Equivalents,
) -> dict[str, Any]:
    """Return the table of all mutants that were tried and are still made."""
    tried = [m for m in mutants if m.key in verdicts]
    kinds = {m.key: _kind(verdicts[m.key], equivalents) for m in tried}
    killed = [verdicts[m.key] for m in tried if kinds[m.key] == KILLED]
    by_guarantee = collections.Counter(one for verdict in killed for one in verdict.ids)
    survivors = [m for m in tried if kinds[m.key] == SURVIVED]
    counts = collections.Counter(kinds.values())
    return {
        "schema": SCHEMA,
        "target": target,
        "mutants": len(mutants),
        "tried": len(tried),
        **{kind: counts[kind] for kind in (KILLED, SURVIVED, EQUIVALENT)},
        "score": score(counts),
        "by_effort": dict(sorted(collections.Counter(v.effort for v in killed).items())),
        "by_rule": _groups((m.edit.rule, kinds[m.key]) for m in tried),
        "by_file": _groups((m.file, kinds[m.key]) for m in tried),
        "by_guarantee": dict(sorted(by_guarantee.items())),
        "by_check": dict(sorted(collections.Counter(v.by for v in killed).items())),
        "survivors": [m.description for m in survivors],
    }


def score(counts: Mapping[str, int]) -> float | None:
    """Return how many of a hundred that are not equivalent were killed; None of none."""
    judged = counts[KILLED] + counts[SURVIVED]
    return round(100 * counts[KILLED] / judged, 1) if judged else None


def _kind(verdict: Verdict, equivalents: Equivalents) -> str:
    if verdict.verdict == SURVIVED and verdict.key in equivalents.reasons:
        return EQUIVALENT
    return verdict.verdict


def _groups(kinds: Iterable[tuple[str, str]]) -> dict[str, dict[str, int]]:
    groups: dict[str, dict[str, int]] = {}
    for group, kind in kinds:
        counts = groups.setdefault(group, dict.fromkeys((KILLED, SURVIVED, EQUIVALENT), 0))
        counts[kind] += 1
    return dict(sorted(groups.items()))


def write(path: pathlib.Path, value: object) -> None:
    """Write a table, or equivalent mutants, as JSON that can be compared line by line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n")
