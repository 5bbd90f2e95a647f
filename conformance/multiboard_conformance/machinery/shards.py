# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Run the checks in a few processes side by side: most of their time is waiting for time to pass.

Each shard is a pytest run of its own, on its own part of the checks, and reports its outcomes
through a pipe. The suite's ini file and plugin are all that counts there. Imports the suite's
results only.
"""

from __future__ import annotations

import json
import os
import signal
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
#: pytest's exit statuses that are a verdict: passed, failed, nothing of this shard was selected.
_REGULAR = (0, 1, 5)

#: The last line of a shard that came to its end.
THE_END = {"the": "end"}

#: Takes an outcome, and returns whether the run has to stop.
Receive = Callable[[Outcome], bool]

#: Seconds that a shard has, when a run is stopped, to close what its checks opened.
_TO_CLOSE = 3.0


class Shard:
    """One pytest process and its outcomes."""

    def __init__(self, shard: str, arguments: Sequence[str], receive: Receive) -> None:
        reading, writing = os.pipe()
        self.output: IO[str] = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115
        self.process = subprocess.Popen(
            [
                sys.executable, "-c", _BOOT, "\n".join(filter(None, sys.path)),
                "-c", os.path.join(_PACKAGE, "conformance.ini"), "--rootdir", _CHECKS,
                "--confcutdir", _CHECKS, "--noconftest", "-p", "no:cacheprovider",
                "-p", "pytest_timeout", "-p", "multiboard_conformance.machinery.plugin",
                "--tb=short", "-vv",
                "--shard", shard, "--outcomes", str(writing), *arguments, _CHECKS,
            ],
            env=_environment(),
            pass_fds=(writing,),
            stdin=subprocess.DEVNULL,
            stdout=self.output,
            stderr=subprocess.STDOUT,
        )  # fmt: skip
        os.close(writing)
        self._receive = receive
        self._complete = False
        self._stopped = False
        self._thread = threading.Thread(target=self._read, args=(reading,), daemon=True)
        self._thread.start()

    def _read(self, reading: int) -> None:
        with open(reading, encoding="utf-8") as lines:
            for line in lines:
                if not line.endswith("\n"):
                    return  # cut short by its death
                value = json.loads(line)
                if value == THE_END:
                    self._complete = True
                else:
                    self._receive(Outcome(**{**value, "ids": tuple(value["ids"])}))

    def stop(self) -> None:
        """Let it end now, its checks unfinished."""
        self._stopped = True
        self.process.send_signal(signal.SIGINT)
        timer = threading.Timer(_TO_CLOSE, self.process.kill)
        timer.daemon = True
        timer.start()

    def finish(self) -> str | None:
        """Wait for the end; return what the process printed if it did not end regularly."""
        status = self.process.wait()
        # A worker process may have inherited the pipe and live a moment longer.
        self._thread.join(5.0)
        self.output.seek(0)
        printed = self.output.read()
        self.output.close()
        regular = self._stopped or (status in _REGULAR and self._complete)
        return None if regular else f"pytest ended early, with status {status}\n{printed}"


def _environment() -> dict[str, str]:
    foreign = ("PYTEST_ADDOPTS", "PYTEST_PLUGINS", "PYTEST_DEBUG")
    kept = {name: value for name, value in os.environ.items() if name not in foreign}
    return {**kept, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}


def run(shards: int, arguments: Sequence[str], receive: Receive, *, alone: str | None) -> list[str]:
    """Run all checks in so many shards; return what went wrong with the running itself.

    The checks that disturb a store have a shard of their own: "beside" the others, on a store of
    its own; or "after" them. With None they can't be run, and are reported so by any shard.
    Where ``receive`` returns true, the shards are stopped and nothing more is received.
    """
    lock = threading.Lock()
    running: list[Shard] = []
    stopped = False

    def one_at_a_time(outcome: Outcome) -> bool:
        nonlocal stopped
        with lock:
            # What ends while the shards are stopping was disturbed by that.
            if not stopped and receive(outcome):
                stopped = True
                for shard in running:
                    shard.stop()
            return stopped

    def start(name: str) -> None:
        shard = Shard(name, arguments, one_at_a_time)
        with lock:
            running.append(shard)
            if stopped:
                shard.stop()

    side_by_side = [f"{number}/{shards}" for number in range(shards)]
    broken_off: list[str | None] = []
    try:
        for names in (
            [*side_by_side, "alone"] if alone == "beside" else side_by_side,
            ["alone"] if alone == "after" else [],
        ):
            for name in () if stopped else names:
                start(name)
            broken_off += [shard.finish() for shard in running]
            with lock:
                running.clear()
    except BaseException:
        for shard in running:
            shard.process.kill()
        raise
    return [printed for printed in broken_off if printed is not None]
