# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""A worker whose standard library is patched: ``patched_worker.py LIBRARY URL [PEER...]``.

It works on a board as a service does, says "done" and ends. PEER is a command that posts a job from
a process of its own, by the name that is its last argument.
"""

from __future__ import annotations

import sys

LIBRARY, URL, *PEER = sys.argv[1:]
if LIBRARY == "eventlet":
    import eventlet

    eventlet.monkey_patch()
elif LIBRARY == "gevent":
    from gevent import monkey

    monkey.patch_all()

# What is patched must be so before anything else is imported.
import logging  # noqa: E402
import subprocess  # noqa: E402
import threading  # noqa: E402
import time  # noqa: E402
from typing import Any  # noqa: E402

from taskflow import exceptions as excp  # noqa: E402

import multiboard  # noqa: E402

SESSION = 2.0


class Complaints(logging.Handler):
    """Keeps what was logged as a warning or worse."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.found.append(record.getMessage())


def peer(*words: str) -> subprocess.Popen[bytes]:
    """Start another process that works on the board, unpatched."""
    return subprocess.Popen([*PEER, *words])


def one(board: Any, timeout: float) -> Any:
    (job,) = board.claim_next("me", timeout=timeout)
    return job


def main() -> None:
    complaints = Complaints()
    logging.getLogger("multiboard").addHandler(complaints)
    ticks = 0

    def tick() -> None:
        nonlocal ticks
        while not stop.wait(0.02):
            ticks += 1

    stop = threading.Event()
    ticking = threading.Thread(target=tick)
    ticking.start()
    board = multiboard.fetch("patched", URL)
    board.connect()
    began = time.monotonic()
    assert board.claim_next("me", timeout=0.5) == []
    assert time.monotonic() - began >= 0.5, "the time-out of a wait is kept"
    assert ticks > 5, "others run while one waits"

    board.post("own")
    job = one(board, 20.0)
    assert job.name == "own"
    board.consume(job, "me")

    if PEER:
        # Woken by another process: it posts when we are seen to wait.
        posting = peer("post", "theirs")
        job = one(board, 60.0)
        assert job.name == "theirs"
        assert posting.wait() == 0
    else:
        timer = threading.Timer(0.3, lambda: board.post("theirs"))
        timer.start()
        job = one(board, 60.0)
        timer.join()

    # A lease outlives the time-out of its session, for the keeper goes on beside us.
    lease, before = job.lease, ticks
    time.sleep(SESSION + 0.5)
    assert ticks > before + 20
    assert board.find_owner(job) == "me"
    assert job.lease == lease
    board.consume(job, "me")
    assert board.job_count == 0

    # Threads of one board, each with a job of its own.
    for number in range(8):
        board.post(f"many{number}")
    done: list[str] = []

    def work() -> None:
        mine = one(board, 30.0)
        board.consume(mine, "me")
        done.append(mine.name)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(done) == [f"many{number}" for number in range(8)]

    # Closing wakes who waits.
    waiting = threading.Thread(target=lambda: wait_until_closed(board))
    waiting.start()
    time.sleep(0.3)
    began = time.monotonic()
    board.close()
    waiting.join(10.0)
    assert not waiting.is_alive()
    assert time.monotonic() - began < 8.0
    stop.set()
    ticking.join()
    assert complaints.found == [], complaints.found
    give_up = time.monotonic() + 20.0
    while left := [t.name for t in threading.enumerate() if t.name.startswith("multiboard")]:
        assert time.monotonic() < give_up, left
        time.sleep(0.01)
    print("done", flush=True)


def wait_until_closed(board: Any) -> None:
    """Wait for a job that never comes; what ends that is an error which says why."""
    said = ""
    try:
        board.claim_next("me", timeout=60.0)
    except excp.JobFailure as error:
        said = str(error)
    assert "clos" in said or "not connected" in said, said


if __name__ == "__main__":
    main()
