# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Mutants are known by what they change; the tool judges them in a copy and keeps a table."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys

import pytest
from multiboard_conformance.mutation import ledger, mutants, page
from multiboard_conformance.mutation.mutants import Sources
from multiboard_conformance.mutation.running import KILLED, SURVIVED, Verdict

ROOT = pathlib.Path(__file__).resolve().parents[3]
KEPT = ROOT / "conformance" / "mutation"
SOURCE = "def verb(a, b):\n    return a < b\n"


def sources(folder: pathlib.Path, text: str) -> Sources:
    """The sources of a backend in one file."""
    file = folder / "mine.py"
    file.write_text(text)
    return Sources(file, file, "mine")


def test_a_mutant_is_known_wherever_it_stands(tmp_path: pathlib.Path) -> None:
    (before,) = mutants.all_of(sources(tmp_path, SOURCE))
    (after,) = mutants.all_of(sources(tmp_path, f"import os\n\n\n{SOURCE}"))
    (deeper,) = mutants.all_of(sources(tmp_path, SOURCE.replace("    ", "        ")))
    assert before.key == after.key == deeper.key
    assert (before.line, after.line) == (2, 5)
    assert before.diff() == "-     return a < b\n+     return a <= b"


def test_mutants_that_look_alike_are_told_apart(tmp_path: pathlib.Path) -> None:
    made = mutants.all_of(sources(tmp_path, "def verb(a):\n    a.b()\n    c = a\n    a.b()\n"))
    assert len({mutant.key for mutant in made}) == len(made) == 2


def test_a_larger_sample_contains_a_smaller_one() -> None:
    made = mutants.all_of(Sources.of("memory://"))
    small, large = (mutants.sample(made, [], size, 7) for size in (10, 30))
    assert small == large[:10]
    assert small != mutants.sample(made, [], 10, 8)
    assert {m.file for m in mutants.sample(made, ["state.*"], None, 7)} == {"state.py"}


def test_an_equivalent_mutant_is_named_with_its_reason(tmp_path: pathlib.Path) -> None:
    (mutant,) = mutants.all_of(sources(tmp_path, SOURCE))
    path = tmp_path / "equivalent.json"
    gone = {**mutant.description, "was": "return a > b", "why": "it was"}
    ledger.write(path, [{**mutant.description, "why": "they never meet"}, gone])
    equivalents = ledger.Equivalents(path, [mutant])
    assert equivalents.reasons == {mutant.key: "they never meet"}
    assert [entry["was"] for entry in equivalents.stale] == ["return a > b"]

    def table(verdict: str) -> dict[str, object]:
        verdicts = {mutant.key: Verdict(mutant.key, verdict, "quick", ids=["DIR-3"])}
        return ledger.table_of("mine:Mine", [mutant], verdicts, equivalents)

    assert (table(SURVIVED)["equivalent"], table(SURVIVED)["score"]) == (1, None)
    # A check finds it: then it is not equivalent.
    assert (table(KILLED)["killed"], table(KILLED)["by_guarantee"]) == (1, {"DIR-3": 1})

    ledger.write(path, [{**mutant.description, "why": " "}])
    with pytest.raises(ValueError, match="without its reason"):
        ledger.Equivalents(path, [mutant])


def test_verdicts_are_kept_for_a_resumed_run(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "new" / "state.jsonl"
    verdict = Verdict("abc", KILLED, "quick", "check_x", ["DIR-1"], 1.5)
    ledger.State(path, resume=False).add(verdict)
    assert ledger.State(path, resume=True).verdicts == {"abc": verdict}
    assert ledger.State(path, resume=False).verdicts == {}


@pytest.mark.parametrize("path", sorted(KEPT.glob("*.equivalent.json")), ids=lambda p: p.name)
def test_what_is_named_as_equivalent_is_still_made(path: pathlib.Path) -> None:
    made = mutants.all_of(Sources.of(f"{path.name.partition('.')[0]}://"))
    assert ledger.Equivalents(path, made).stale == []


def test_the_page_is_made_of_the_tables() -> None:
    assert page.page(KEPT) == (ROOT / "conformance" / "MUTATION.md").read_text()


@pytest.mark.full
@pytest.mark.timeout(600)
def test_the_tool_judges_a_copy(tmp_path: pathlib.Path) -> None:
    """One mutant that is found and one that is equivalent; the working tree stays as it is."""
    made = mutants.all_of(Sources.of("memory://"))
    (found,) = (m for m in made if m.was.strip() == "if board.ended_by(lease) is kind:" and
                m.edit.rule == "swap a bound")  # fmt: skip
    (kept,) = (m for m in made if "default=boottime() + 3600.0" in m.was and
               m.edit.rule == "change a constant")  # fmt: skip
    before = {path: path.read_bytes() for path in ROOT.glob("multiboard/backends/memory/*.py")}
    equivalent, table = tmp_path / "equivalent.json", tmp_path / "table.json"
    ledger.write(equivalent, [{**kept.description, "why": "a longest sleep"}])
    done = subprocess.run(
        [sys.executable, "-m", "multiboard_conformance.mutation.main", "memory://", "--jobs", "2",
         f"--key={found.key}", f"--key={kept.key}", "--state", str(tmp_path / "state.jsonl"),
         "--equivalent", str(equivalent), "--table", str(table)],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(table.read_text())
    assert (result["tried"], result["killed"], result["equivalent"]) == (2, 1, 1)
    assert sum(result["by_guarantee"].values()) >= 1
    assert {path: path.read_bytes() for path in before} == before
