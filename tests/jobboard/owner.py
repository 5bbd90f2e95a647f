# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""A process that claims a job and holds it: ``owner.py URL [EXPIRY | freeze]``.

It holds the job until it is killed. With ``freeze`` it stops itself (SIGSTOP) just after its
session was renewed: an SQLite file whose writer is frozen in the middle of a write is locked for
everybody, and the test would be one of that.
"""

from __future__ import annotations

import os
import signal
import sys
import time

import multiboard
from tests.waiting import eventually


def main(url: str, how: str = "") -> None:
    """Claim the next job, say so, and hold it."""
    expiry = float(how) if how and how != "freeze" else None
    with multiboard.backend("owner", url) as board:
        [job] = board.claim_next("owner", timeout=20.0, expiry=expiry)
        print(job.uuid, flush=True)
        if how == "freeze":
            renewed = 0.75 * board.settings.session_timeout
            eventually(lambda: (board.health()["session_seconds_left"] or 0.0) > renewed)
            os.kill(os.getpid(), signal.SIGSTOP)
        time.sleep(300)
        print(f"not killed: {job}")


main(*sys.argv[1:])
