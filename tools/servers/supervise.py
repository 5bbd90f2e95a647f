# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Run one server's process, and end it when the process that wanted it is gone.

A program of its own, started for each server: ``supervise.py PARENT FOLDER COMMAND...``. It imports
the standard library only, and nothing of this package.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def supervise(parent: int, folder: str, command: Sequence[str]) -> None:
    """Run ``command`` until it ends or the process ``parent`` is gone, then leave nothing behind.

    The kernel's "signal me when my parent dies" means the parent's *thread*: a server that a
    worker thread of the tests started would die with that thread. So the tests' process is
    watched by its id, and the kernel's signal is for a death of this supervisor.
    """
    with open(os.path.join(folder, "server.log"), "ab") as log:
        child = subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            preexec_fn=_die_with_parent,  # safe: there is no other thread yet
        )
    print(child.pid, flush=True)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.1)
        child.kill()

    threading.Thread(target=watch, daemon=True).start()
    child.wait()
    if os.getppid() != parent:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    supervise(int(sys.argv[1]), sys.argv[2], sys.argv[3:])
