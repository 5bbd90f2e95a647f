# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Run the checks in a few processes side by side: most of their time is waiting for time to pass.

Each lane is a pytest run of its own, on its own part of the checks, and tells its outcomes through
a pipe. The suite's ini file and plugin are all that counts there. Imports the suite's verdicts
only.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from typing import IO

from multiboard_conformance.results import Outcome

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_CHECKS = os.path.join(_PACKAGE, "backend")
#: Nothing but sys is imported before the path is ours: Python put the working directory first.
_BOOT = (
    "import sys; sys.path[:] = sys.argv.pop(1).splitlines(); import pytest;"
    "sys.exit(pytest.main(sys.argv[1:]))"
)
#: pytest's exit statuses that are a verdict: passed, failed, nothing of this lane was selected.
_REGULAR = (0, 1, 5)

#: The last line of a lane that came to its end.
THE_END = {"the": "end"}

Told = Callable[[Outcome], None]


class Lane:
    """One pytest process and its outcomes."""

    def __init__(self, lane: str, arguments: Sequence[str], told: Told) -> None:
        reading, writing = os.pipe()
        self.output: IO[str] = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115
        self.process = subprocess.Popen(
            [
                sys.executable, "-c", _BOOT, "\n".join(filter(None, sys.path)),
                "-c", os.path.join(_PACKAGE, "conformance.ini"), "--rootdir", _CHECKS,
                "--confcutdir", _CHECKS, "--noconftest", "-p", "no:cacheprovider",
                "-p", "pytest_timeout", "-p", "multiboard_conformance.machinery.plugin",
                "--tb=short", "-vv",
                "--lane", lane, "--outcomes", str(writing), *arguments, _CHECKS,
            ],
            env=_environment(),
            pass_fds=(writing,),
            stdin=subprocess.DEVNULL,
            stdout=self.output,
            stderr=subprocess.STDOUT,
        )  # fmt: skip
        os.close(writing)
        self._told = told
        self._complete = False
        self._thread = threading.Thread(target=self._listen, args=(reading,), daemon=True)
        self._thread.start()

    def _listen(self, reading: int) -> None:
        with open(reading, encoding="utf-8") as lines:
            for line in lines:
                if not line.endswith("\n"):
                    return  # cut short by its death
                said = json.loads(line)
                if said == THE_END:
                    self._complete = True
                else:
                    self._told(Outcome(**{**said, "ids": tuple(said["ids"])}))

    def finish(self) -> str | None:
        """Wait for the end; return what the process printed if it did not end regularly."""
        status = self.process.wait()
        # A worker process may have inherited the pipe and live a moment longer.
        self._thread.join(5.0)
        self.output.seek(0)
        printed = self.output.read()
        self.output.close()
        regular = status in _REGULAR and self._complete
        return None if regular else f"pytest ended early, with status {status}\n{printed}"


def _environment() -> dict[str, str]:
    foreign = ("PYTEST_ADDOPTS", "PYTEST_PLUGINS", "PYTEST_DEBUG")
    kept = {name: value for name, value in os.environ.items() if name not in foreign}
    return {**kept, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}


def run(lanes: int, arguments: Sequence[str], told: Told, *, alone: str | None) -> list[str]:
    """Run all checks in so many lanes; return what went wrong with the running itself.

    The checks that disturb a store have a lane of their own: "beside" the others, on a store of
    its own; or "after" them. With None they can't be run, and any lane says so.
    """
    lock = threading.Lock()

    def one_at_a_time(outcome: Outcome) -> None:
        with lock:
            told(outcome)

    side_by_side = [f"{number}/{lanes}" for number in range(lanes)]
    return [
        printed
        for names in (
            [*side_by_side, "alone"] if alone == "beside" else side_by_side,
            ["alone"] if alone == "after" else [],
        )
        for printed in _run_together([Lane(name, arguments, one_at_a_time) for name in names])
    ]


def _run_together(lanes: Sequence[Lane]) -> list[str]:
    try:
        ended = [lane.finish() for lane in lanes]
    except BaseException:
        for lane in lanes:
            lane.process.kill()
        raise
    return [printed for printed in ended if printed is not None]
