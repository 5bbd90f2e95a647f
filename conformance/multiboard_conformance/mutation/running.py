# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Run the suite on one mutant, in a copy of the sources: the working tree is never touched.

Imports the suite's machinery for nothing: it calls the suite's command, as anybody would.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from multiboard_conformance.mutation.mutants import Mutant, Sources

KILLED, SURVIVED = "killed", "survived"
#: How a mutant was found, where it was not by a check.
OPENING, BROKEN_OFF, TIME_LIMIT = "it can't be opened", "the suite broke off", "time limit"

_WHERE = "import importlib, sys; print(importlib.import_module(sys.argv[1]).__file__)"


@dataclass
class Effort:
    """What a mutant has to survive: one run of the suite."""

    name: str
    arguments: tuple[str, ...]


@dataclass(frozen=True)
class Limits:
    """Seconds, by what the original takes: for one check, and for a run."""

    check: float = 150.0
    run: float = 900.0


@dataclass
class Verdict:
    """What became of a mutant."""

    key: str
    verdict: str
    #: The run that found it, or the last one that it survived.
    effort: str
    #: The check that found it, or how else it was found.
    by: str = ""
    ids: list[str] = field(default_factory=list)
    seconds: float = 0.0


class Workspace:
    """A copy of the sources that is imported before the original, and runs on it."""

    def __init__(self, sources: Sources, target: str, shards: int, seed: int) -> None:
        self._sources = sources
        self._target = target
        self._shards = shards
        self._seed = seed
        self._root = pathlib.Path(tempfile.mkdtemp(prefix="multiboard-mutate-"))
        self._path = self._root / "path"
        self._copy = self._path / sources.top.name
        self._path.mkdir()
        if sources.top.is_file():
            shutil.copy2(sources.top, self._copy)
        else:
            shutil.copytree(sources.top, self._copy)
        self._process: subprocess.Popen[bytes] | None = None

    def close(self) -> None:
        """End what runs, and delete the copy."""
        self._kill()
        shutil.rmtree(self._root, ignore_errors=True)

    def require_placed(self) -> None:
        """Raise ``RuntimeError`` where not the copy is imported: all mutants would survive."""
        found = subprocess.run(
            [sys.executable, "-c", _WHERE, self._sources.module],
            cwd=self._path, env=self._environment(), capture_output=True, text=True, check=False,
        )  # fmt: skip
        if not found.stdout.startswith(str(self._path)):
            raise RuntimeError(f"the copy is not imported: {found.stdout}{found.stderr}")

    def _environment(self) -> dict[str, str]:
        paths = [str(self._path), *filter(None, [os.environ.get("PYTHONPATH")]), os.getcwd()]
        return {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(paths),
            # Compiled code is known by its second and its size: two mutants may share both.
            "PYTHONDONTWRITEBYTECODE": "1",
            "TMPDIR": str(self._root / "tmp"),
        }

    # -- running -----------------------------------------------------------------------------

    def judge(
        self, mutant: Mutant | None, efforts: Sequence[Effort], limits: Mapping[str, Limits],
        order: Iterable[str],
    ) -> Verdict:  # fmt: skip
        """Run the suite on a mutant, or on the original, until one of the efforts finds it."""
        key = "original" if mutant is None else mutant.key
        names = list(order)
        with self._placed(mutant):
            seconds = 0.0
            for effort in efforts:
                verdict, _ = self.run(key, effort, limits[effort.name], names)
                seconds += verdict.seconds
                if verdict.verdict == KILLED:
                    break
        verdict.seconds = round(seconds, 1)
        return verdict

    @contextlib.contextmanager
    def _placed(self, mutant: Mutant | None) -> Any:
        if mutant is None:
            yield
            return
        inside = self._sources.place.relative_to(self._sources.top)
        path = self._copy / inside
        path = path if path.is_file() else path / mutant.file
        source = path.read_bytes()
        for compiled in path.parent.glob(f"__pycache__/{path.stem}.*.pyc"):
            compiled.unlink()
        path.write_bytes(mutant.edit.applied(source))
        try:
            yield
        finally:
            path.write_bytes(source)

    def run(
        self, key: str, effort: Effort, limits: Limits, order: Iterable[str]
    ) -> tuple[Verdict, dict[str, Any]]:
        """Run the suite once; return the verdict and the report, which may be empty."""
        temporary, report = self._root / "tmp", self._root / "report.json"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        report.unlink(missing_ok=True)
        (self._root / "order").write_text("\n".join(order))
        arguments = [
            "--exitfirst", "--order", self._root / "order", "--report", report,
            "--shards", self._shards, "--seed", self._seed, "--check-timeout", limits.check,
        ]  # fmt: skip
        with (self._root / "printed").open("wb") as printed:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "multiboard_conformance.main", self._target,
                 *map(str, arguments), *effort.arguments],
                cwd=self._path, env=self._environment(), start_new_session=True,
                stdin=subprocess.DEVNULL, stdout=printed, stderr=subprocess.STDOUT,
            )  # fmt: skip
        try:
            status: int | None = self._process.wait(limits.run)
        except subprocess.TimeoutExpired:
            status = None
        self._kill()
        made: dict[str, Any] = json.loads(report.read_text()) if report.exists() else {}
        verdict = Verdict(key, KILLED, effort.name, seconds=made.get("seconds", 0.0))
        failed = [name.partition("[")[0] for name in made.get("failures", {})]
        if status == 0:
            verdict.verdict = SURVIVED
        elif status is None:
            verdict.by, verdict.seconds = TIME_LIMIT, limits.run
        elif failed:
            verdict.by, verdict.ids = failed[0], made["checks"][failed[0]]["ids"]
        else:
            verdict.by = OPENING if status == 2 else BROKEN_OFF
        return verdict, made

    def printed(self) -> str:
        """Return what the last run printed."""
        return (self._root / "printed").read_text(errors="replace")

    def _kill(self) -> None:
        """End the processes of the last run, those that it left behind, too."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
