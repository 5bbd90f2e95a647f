# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The command ``multiboard-mutate``: make mutants of a backend, and see which the suite finds.

Exit status: 0 all that were tried were found, or are named as equivalent; 1 some survived; 2
nothing was run.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import pathlib
import queue
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn

from multiboard import errors
from multiboard_conformance import report
from multiboard_conformance.backend.fixtures import Store
from multiboard_conformance.mutation import ledger, mutants
from multiboard_conformance.mutation.mutants import Mutant, Sources
from multiboard_conformance.mutation.running import (
    KILLED,
    SURVIVED,
    Effort,
    Limits,
    Verdict,
    Workspace,
)

#: After so many mutants the original is judged once more: what fails then fails by itself.
CONTROL_EVERY = 25
_WITH_HARNESS = "quick, harness"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="multiboard-mutate",
        description="Change a backend by rule, one place at a time, and list the changes "
        "that the conformance suite does not find.",
    )
    parser.add_argument(
        "backend", help="as for multiboard-conformance: a URL, a name, module:Class"
    )
    parser.add_argument(
        "--files", action="append", default=[], metavar="GLOB", help="only of these"
    )
    parser.add_argument(
        "--without", action="append", default=[], metavar="GLOB", help="none of these files"
    )
    parser.add_argument("--sample", type=int, metavar="N", help="so many, chosen by the seed")
    parser.add_argument("--seed", type=int, default=1, help="of the choice (1)")
    parser.add_argument("--key", action="append", default=[], help="only the mutant of this key")
    parser.add_argument("--list", action="store_true", help="print the mutants, and run nothing")
    parser.add_argument("--harness", metavar="MODULE:CLASS", help="survivors are judged with it")
    parser.add_argument(
        "--full", action="store_true", help="survivors are judged by the full suite"
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="mutants at a time")
    parser.add_argument("--shards", type=int, default=2, help="processes for each of them (2)")
    parser.add_argument("--state", metavar="FILE", help="the verdicts, as they come (.mutation/)")
    parser.add_argument("--resume", action="store_true", help="keep the verdicts of the state")
    parser.add_argument("--equivalent", metavar="FILE", help="mutants that change nothing, and why")
    parser.add_argument("--table", metavar="FILE", help="the table to be kept, as JSON")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    options = _parser().parse_args(argv)
    sys.path.append(os.getcwd())
    signal.signal(signal.SIGTERM, _terminated)
    try:
        sources = Sources.of(options.backend)
        made = mutants.all_of(sources, options.without)
        equivalents = ledger.Equivalents(_path(options.equivalent), made)
    except (errors.ConfigError, RuntimeError, ValueError, SyntaxError) as error:
        return _nothing_run(error)
    for entry in equivalents.stale:
        print(f"named as equivalent, but not made any more: {json.dumps(entry)}", file=sys.stderr)
    chosen = mutants.sample(made, options.files, options.sample, options.seed)
    if options.key:
        chosen = [mutant for mutant in made if mutant.key in options.key]
    print(f"{len(made)} mutants of {sources.module}, {len(chosen)} chosen", flush=True)
    if options.list or not chosen:
        for mutant in chosen:
            print(_shown(mutant))
        return 0 if options.list and not equivalents.stale else 2
    name = sources.module.rpartition(".")[2]
    state = ledger.State(
        pathlib.Path(options.state or f".mutation/{name}.jsonl"), resume=options.resume
    )
    table = _path(options.table)
    known = json.loads(table.read_text()) if table is not None and table.exists() else {}
    run = _Run(options, sources, state, ledger.killers(known))
    try:
        run.measure()
        run.judge([m for m in chosen if m.key not in state.verdicts])
    except RuntimeError as error:
        return _nothing_run(error)
    finally:
        run.close()
    store = Store(options.backend)
    shown = report.anonymous(options.backend, store)
    store.close()
    result = ledger.table_of(shown, made, state.verdicts, equivalents)
    if table is not None:
        ledger.write(table, result)
    _show(chosen, state.verdicts, equivalents, run.false_alarms)
    return 1 if result[SURVIVED] or run.false_alarms or equivalents.stale else 0


def _path(name: str | None) -> pathlib.Path | None:
    return None if name is None else pathlib.Path(name)


def _terminated(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def _nothing_run(error: Exception) -> int:
    print(f"multiboard-mutate: {error}\nNothing was run.", file=sys.stderr)
    return 2


# -- running -------------------------------------------------------------------------------------


class _Run:
    """The workspaces, and what is learned on the way: how long, and which checks find most."""

    def __init__(
        self, options: argparse.Namespace, sources: Sources, state: ledger.State,
        killers: collections.Counter[str],
    ) -> None:  # fmt: skip
        self._state = state
        self._lock = threading.Lock()
        harness = ("--harness", options.harness) if options.harness else ()
        self._efforts = [Effort("quick", ("--quick",))]
        if harness:
            self._efforts.append(Effort(_WITH_HARNESS, ("--quick", *harness)))
        if options.full:
            self._efforts.append(Effort("full", harness))
        self._limits: dict[str, Limits] = {}
        self._seconds: dict[str, float] = {}
        self._killers = killers
        self._killers_of: dict[str, collections.Counter[str]] = {}
        self._workspaces = [
            Workspace(sources, options.backend, options.shards, options.seed)
            for _ in range(options.jobs)
        ]
        self.false_alarms: list[Verdict] = []

    def close(self) -> None:
        """End what runs."""
        for workspace in self._workspaces:
            workspace.close()

    def measure(self) -> None:
        """Run each effort on the original, which has to hold; it shows how long checks take.

        Raises: ``RuntimeError`` where it does not.
        """
        workspace = self._workspaces[0]
        workspace.require_placed()
        made: dict[str, Any] = {}
        for effort in self._efforts:
            if effort.name == _WITH_HARNESS:
                # The others did not find it without; the full suite asks them all.
                names = sorted(name.partition("[")[0] for name in made["not_exercised"])
                effort.arguments += ("-k", " or ".join(names))
            print(f"the original, {effort.name}: ", end="", flush=True)
            verdict, made = workspace.run("original", effort, Limits(), self._order(""))
            print(f"{verdict.verdict} {verdict.by}, {verdict.seconds} s", flush=True)
            if verdict.verdict == KILLED:
                raise RuntimeError(f"the original fails: {verdict.by}\n{workspace.printed()}")
            checks = made["checks"]
            self._seconds = {
                **{name: one["seconds"] for name, one in checks.items()},
                **self._seconds,
            }
            slowest = max(one["seconds"] for one in checks.values())
            # Others run beside it from now on, and a mutant may wait where the original does not.
            limits = Limits(max(30.0, 5 * slowest), max(60.0, 5 * verdict.seconds))
            self._limits[effort.name] = limits

    def judge(self, chosen: Sequence[Mutant]) -> None:
        """Judge each mutant, several at a time."""
        work: queue.SimpleQueue[Mutant | None] = queue.SimpleQueue()
        for number, mutant in enumerate(chosen, 1):
            work.put(mutant)
            if number % CONTROL_EVERY == 0:
                work.put(None)

        def worker(workspace: Workspace) -> None:
            while True:
                try:
                    mutant = work.get_nowait()
                except queue.Empty:
                    return
                self._judge_one(workspace, mutant)

        with ThreadPoolExecutor(len(self._workspaces)) as threads:
            futures = [threads.submit(worker, workspace) for workspace in self._workspaces]
            try:
                for future in futures:
                    future.result()
            except BaseException:
                while not work.empty():
                    work.get()
                self.close()
                raise

    def _judge_one(self, workspace: Workspace, mutant: Mutant | None) -> None:
        with self._lock:
            order = self._order("" if mutant is None else mutant.file)
        efforts = self._efforts[:1] if mutant is None else self._efforts
        verdict = workspace.judge(mutant, efforts, self._limits, order)
        with self._lock:
            if mutant is None:
                self.false_alarms += [verdict] if verdict.verdict == KILLED else []
                print(f"{verdict.verdict:<9} {verdict.seconds:>6} s  the original", flush=True)
                return
            self._state.add(verdict)
            if verdict.by.startswith("check_"):
                self._killers[verdict.by] += 1
                self._killers_of.setdefault(mutant.file, collections.Counter())[verdict.by] += 1
            where = f"{mutant.file}:{mutant.line} {mutant.edit.rule}"
            took = f"{verdict.verdict:<9} {verdict.seconds:>6} s"
            print(f"{took}  {mutant.key} {where}  {verdict.by}", flush=True)

    def _order(self, file: str) -> list[str]:
        """Return the checks that find most in this file first, then in others, then the short."""
        own = self._killers_of.get(file, collections.Counter())
        names = {*self._killers, *self._seconds}

        def place(name: str) -> tuple[float, ...]:
            return -own[name], -self._killers[name], self._seconds.get(name, 0.0)

        return sorted((name for name in names if name.startswith("check_")), key=place)


# -- showing -------------------------------------------------------------------------------------


def _shown(mutant: Mutant) -> str:
    where = f"{mutant.file}:{mutant.line}  {mutant.edit.scope or '(top)'}: {mutant.edit.rule}"
    return f"\n{mutant.key}  {where}\n{mutant.diff()}"


def _show(
    chosen: Sequence[Mutant],
    verdicts: Mapping[str, Verdict],
    equivalents: ledger.Equivalents,
    false_alarms: Sequence[Verdict],
) -> None:
    counts: collections.Counter[str] = collections.Counter()
    guarantees: collections.Counter[str] = collections.Counter()
    for mutant in chosen:
        verdict = verdicts[mutant.key]
        is_equivalent = verdict.verdict == SURVIVED and mutant.key in equivalents.reasons
        counts[ledger.EQUIVALENT if is_equivalent else verdict.verdict] += 1
        guarantees.update(verdict.ids)
        if verdict.verdict == SURVIVED and not is_equivalent:
            print(_shown(mutant))
    print()
    for name, number in sorted(guarantees.items()):
        print(f"{name:<8} killed {number}")
    for alarm in false_alarms:
        print(f"the original failed in {alarm.by}: some kills may be as false")
    print(f"\n{_sentence(counts)}")


def _sentence(counts: Mapping[str, Any]) -> str:
    kinds = (KILLED, SURVIVED, ledger.EQUIVALENT)
    parts = ", ".join(f"{counts[kind]} {kind}" for kind in kinds)
    score = ledger.score(counts)
    return (
        parts if score is None else f"{parts}: {score:g} of 100 that are not equivalent are found"
    )


if __name__ == "__main__":
    sys.exit(main())
