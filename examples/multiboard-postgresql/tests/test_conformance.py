# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The conformance suite of multiboard, as a command, on a real server."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys

from server import Server

HERE = pathlib.Path(__file__).resolve().parent


def test_the_suite_passes_and_leaves_nothing_out(
    server: Server, tmp_path: pathlib.Path, environment: dict[str, str]
) -> None:
    command = [sys.executable, "-m", "multiboard_conformance.main", server.url]
    command += ["--harness", "harness:PostgreSQLHarness", "--report", str(tmp_path / "report.json")]
    if os.environ.get("CONFORMANCE") != "full":
        command.append("--quick")
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    print(done.stdout, done.stderr)
    assert done.returncode == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["result"] == "conformant"  # not "partial": nothing was left unexercised
