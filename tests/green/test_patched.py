# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Boards in processes whose standard library eventlet or gevent has patched, on all stores."""

from __future__ import annotations

import pathlib
import subprocess
import sys

import pytest

HERE = pathlib.Path(__file__).resolve().parent


@pytest.mark.timeout(150)
def test_patched_processes_work_on_boards(store_url: str) -> None:
    working = {}
    for library in ("eventlet", "gevent"):  # beside each other: most of it is waiting
        url = f"{store_url}-{library}&session_timeout=2"
        peer = [] if url.startswith("memory:") else [sys.executable, str(HERE / "peer.py"), url]
        working[library] = subprocess.Popen(
            [sys.executable, str(HERE / "patched_worker.py"), library, url, *peer],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    try:
        said = {
            library: process.communicate(timeout=120)[0] for library, process in working.items()
        }
    finally:
        for process in working.values():
            process.kill()
            process.wait()
    assert said == {"eventlet": "done\n", "gevent": "done\n"}
