# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""What several processes do with a board: drain it together, wait for a job, watch.

As in :mod:`benchmarks.scenarios` the contestants take turns and are used by the same code. Times
of different processes are of the machine's one monotonic clock. A board in memory takes no part.
"""

from __future__ import annotations

import contextlib
import os
import random
import statistics
import time
from typing import Any

from taskflow import exceptions as excp

from benchmarks import boards
from benchmarks.boards import Contestant
from benchmarks.figures import Bound, Metric
from benchmarks.processes import together
from benchmarks.scenarios import Run, await_jobs, drain_board

#: Seconds between two posts that others are to be woken by; drawn, so as to favour no rhythm.
IDLE = (0.05, 0.4)
#: Seconds between two posts that others watch: they are through with one when the next comes.
PACE = 0.05

#: How many workers the crowds have.
CROWDS = (1, 2, 4, 8)

#: The board that this worker process has open.
_open: contextlib.ExitStack = contextlib.ExitStack()
_board: Any = None


# -- what a worker does ------------------------------------------------------------------------


def _come(contestant: Contestant, place: str, jobs: int) -> None:
    """Open a board and look at it until it shows so many jobs."""
    global _board
    _board = _open.enter_context(contestant.open(place))
    await_jobs(_board, jobs)


def _come_from_afar(contestant: Contestant, place: str, jobs: int) -> None:
    """Come as :func:`_come`, giving way to the poster: watchers are other machines' processes."""
    os.setpriority(os.PRIO_PROCESS, 0, 19)  # of this thread, and of those that it will start
    _come(contestant, place, jobs)


def _leave() -> None:
    _open.close()
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, 0)


def _drain(who: str, begin_at: float) -> tuple[int, float]:
    time.sleep(max(0.0, begin_at - time.monotonic()))
    return drain_board(_board, who)


def _take_all(who: str, begin_at: float) -> tuple[int, float]:
    """Do what comes next until there is no more; return how many and when the last was done."""
    time.sleep(max(0.0, begin_at - time.monotonic()))
    done, ended = 0, begin_at
    while jobs := _board.claim_next(who):
        _board.consume(jobs[0], who)
        done += 1
        ended = time.monotonic()
    return done, ended


def _do_one(who: str, ours: bool) -> None:
    """Do one job of a board that nobody else works on now."""
    if ours:
        job = _board.claim_next(who)[0]
    else:
        job = next(iter(_board.iterjobs(only_unclaimed=True, ensure_fresh=True)))
        _board.claim(job, who)
    _board.consume(job, who)


def _wait_for_one() -> float:
    """Wait for a job, take it off the board, and return when it was seen first."""
    while True:
        found = _board.wait(timeout=60.0)
        seen_at = time.monotonic()
        for job in found:
            try:
                _board.claim(job, "waiter")
            except (excp.UnclaimableJob, excp.NotFound):
                continue  # TaskFlow's ZooKeeper board still shows the one before
            _board.consume(job, "waiter")
            return seen_at
        time.sleep(0.001)


# -- the scenarios -----------------------------------------------------------------------------


def processes(run: Run) -> None:
    """Drain a board by several processes at once."""
    count, workers = run.sizes["processes-jobs"], run.processes.some(run.sizes["processes"])
    title = f"Drain {count:,} jobs by {len(workers)} processes: iterjobs, claim, consume"
    metric = Metric("processes", title, "jobs/s", True)
    for contestant in run.turns(_shared(run)):
        place = boards.new_place()
        boards.fill(contestant, place, count)
        together(workers, _come, contestant, place, count)
        begin_at = time.monotonic() + 0.2
        for number, worker in enumerate(workers):
            worker.send(_drain, f"worker-{number}", begin_at)
        answers = [worker.answer() for worker in workers]
        together(workers, _leave)
        if sum(done for done, _ in answers) != count:
            raise RuntimeError(f"{contestant}: {answers} is not {count} jobs done once each")
        run.note(metric, contestant, count / (max(ended for _, ended in answers) - begin_at))


def crowds(run: Run) -> None:
    """Drain a board by 1, 2, 4 and 8 processes: how much they do together, and how evenly.

    Ours takes what comes next, TaskFlow's is iterated. Each worker has done one job before the
    clock starts, so that nobody is still loading the board.
    """
    count = run.sizes["crowds-jobs"]
    for contestant in run.turns(_shared(run)):
        for size in CROWDS:
            who = (
                f"{size} worker{'s' * (size > 1)}: claim_next (TaskFlow: iterjobs, claim), consume"
            )
            rate = Metric(f"crowd-{size}", f"Drain {count:,} jobs by {who}", "jobs/s", True)
            share = Metric(f"least-{size}", f"Least served of {who}", "% of the mean", True)
            workers = run.processes.some(size)
            place = boards.new_place()
            boards.fill(contestant, place, count + size)
            together(workers, _come, contestant, place, count + size)
            drain = _take_all if contestant.ours else _drain
            for number, worker in enumerate(workers):
                worker.ask(_do_one, f"worker-{number}", contestant.ours)
            begin_at = time.monotonic() + 0.2
            for number, worker in enumerate(workers):
                worker.send(drain, f"worker-{number}", begin_at)
            answers = [worker.answer() for worker in workers]
            together(workers, _leave)
            if sum(done for done, _ in answers) != count:
                raise RuntimeError(f"{contestant}: {answers} is not {count} jobs done once each")
            run.note(rate, contestant, count / (max(ended for _, ended in answers) - begin_at))
            if size > 1:
                least = min(done for done, _ in answers)
                run.note(share, contestant, 100.0 * least * size / count)


def wake_up(run: Run) -> None:
    """Measure from the call of ``post`` to the return of ``wait`` in another process."""
    title = "Wake-up: from post() in one process to the return of wait() in another"
    median = Metric("wake", f"{title}, median", "ms")
    late = Metric("wake-p95", f"{title}, 95 of 100 within", "ms", quantile=0.95)
    waiter = run.processes.some(1)[0]
    for contestant in run.turns(_shared(run)):
        chance, place = random.Random(1), boards.new_place()
        with contestant.open(place) as board:
            waiter.ask(_come, contestant, place, 0)
            for number in range(run.sizes["wake"]):
                waiter.send(_wait_for_one)
                time.sleep(chance.uniform(*IDLE))
                posted_at = time.monotonic()
                board.post(f"job-{number}", details=boards.details(number))
                delay = 1e3 * (waiter.answer() - posted_at)
                run.note(median, contestant, delay)
                run.note(late, contestant, delay)
            waiter.ask(_leave)


def watchers(run: Run) -> None:
    """Post to an empty board that nobody watches, and to a long one that many watch.

    TaskFlow's ZooKeeper board takes seconds of processor time in each watcher for each job that is
    posted to a long board, and minutes until the watchers have begun: it gets a shorter one.

    What is to be seen is the store's work for the watchers, not their own: in reality they have
    processors of their own, and here they run at the lowest priority (nice 19). The server is
    warmed up first, and the empty board is posted to before and after the watched one.
    """
    sizes = run.sizes
    posts, processes = sizes["watchers-posts"], run.processes.some(sizes["watchers"])
    crowd = f"a board of {sizes['watchers-jobs']:,} jobs that {len(processes)} processes watch"
    if sizes["watchers-jobs-slow"] != sizes["watchers-jobs"]:
        crowd += f" (TaskFlow on zookeeper: {sizes['watchers-jobs-slow']:,} jobs)"
    pace = f"one post every {1e3 * PACE:.0f} ms"
    alone = Metric("post-empty", f"Post to an empty board, {pace}: median", "ms")
    watched = Metric("post-watched", f"Post to {crowd}, {pace}: median", "ms")
    bounds = (Bound("zookeeper", 1.5, absolute=True),)
    slower = Metric("watchers", f"Post to {crowd}: times slower", "x", bounds=bounds)
    rush = Metric("watchers-rush", f"Post to {crowd}, without a pause: times slower", "x")
    for contestant in run.turns(_shared(run), long=True):
        _alone(contestant, posts)  # a warm-up: a new server is slow
        before = _alone(contestant, posts)
        full = boards.new_place()
        slow = contestant.store == "zookeeper" and not contestant.ours
        jobs = sizes["watchers-jobs-slow" if slow else "watchers-jobs"]
        boards.fill(contestant, full, jobs)
        for watcher in processes:  # one after the other: their start is not measured
            watcher.ask(_come_from_afar, contestant, full, jobs)
        with contestant.open(full) as board:
            await_jobs(board, jobs)
            paced, rushed = _time_posts(board, posts)
        together(processes, _leave)
        after = _alone(contestant, posts)
        paced_alone, rushed_alone = (
            statistics.mean(pair) for pair in zip(before, after, strict=True)
        )
        run.note(alone, contestant, paced_alone)
        run.note(watched, contestant, paced)
        run.note(slower, contestant, paced / paced_alone)
        run.note(rush, contestant, rushed / rushed_alone)


def _alone(contestant: Contestant, posts: int) -> tuple[float, float]:
    with contestant.open(boards.new_place()) as board:
        return _time_posts(board, posts)


def _time_posts(board: Any, count: int) -> tuple[float, float]:
    """Return the median milliseconds of a post: with pauses, and without."""
    medians = []
    for pause in (PACE, 0.0):
        times = []
        for number in range(count):
            time.sleep(pause)
            began = time.perf_counter()
            board.post(f"job-{number}", details=boards.details(number))
            times.append(1e3 * (time.perf_counter() - began))
        medians.append(statistics.median(times))
    return medians[0], medians[1]


def _shared(run: Run) -> list[Contestant]:
    return [contestant for contestant in run.contestants if contestant.cross_process]
