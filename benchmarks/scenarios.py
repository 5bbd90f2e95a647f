# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""What one process does with a board: post, drain, list.

The contestants take turns (A B A B), so that a slow minute of the machine hits all of them. What
is compared uses TaskFlow's public API only, by the same code; what only our boards have (bulk
posting, handing out by the store) stands in metrics of its own.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from taskflow import exceptions as excp

from benchmarks import boards
from benchmarks.boards import Contestant
from benchmarks.figures import Bound, Metric, Table
from benchmarks.processes import WorkerProcesses

#: Jobs claimed and consumed together by those who can.
BATCH = 20


@dataclass
class Run:
    """One run of the benchmark: who takes part, how much is done, and what was found."""

    contestants: Sequence[Contestant]
    repetitions: int
    sizes: dict[str, int]
    processes: WorkerProcesses
    report: Callable[[str], None]
    tables: dict[str, Table] = field(default_factory=dict)

    def turns(
        self, among: Sequence[Contestant] | None = None, *, long: bool = False
    ) -> Iterator[Contestant]:
        """Let the contestants take turns, as often as there are repetitions; ``long`` ones half."""
        repetitions = max(1, self.repetitions // 2) if long else self.repetitions
        for number in range(repetitions):
            for contestant in self.contestants if among is None else among:
                self.report(f"{contestant} ({number + 1} of {repetitions})")
                yield contestant

    def note(self, metric: Metric, contestant: Contestant, *values: float) -> None:
        """Take down samples of a metric."""
        table = self.tables.setdefault(metric.key, Table(metric))
        table.note(contestant, *values)


# -- posting ---------------------------------------------------------------------------------


def post(run: Run) -> None:
    """Post jobs to an empty board that nobody watches."""
    count = run.sizes["post"]
    single = Metric("post", f"Post {count:,} jobs, one by one", "jobs/s", True)
    many = Metric("post-many", f"Post {count:,} jobs with post_many (ours only)", "jobs/s", True)
    for contestant in run.turns():
        with contestant.open(boards.new_place()) as board:
            began = time.perf_counter()
            boards.post_all(board, count)
            run.note(single, contestant, count / (time.perf_counter() - began))
        if contestant.ours:
            with contestant.open(boards.new_place()) as board:
                specs = boards.specs(count)
                began = time.perf_counter()
                board.post_many(specs)
                run.note(many, contestant, count / (time.perf_counter() - began))


# -- draining --------------------------------------------------------------------------------


def drain_board(board: Any, who: str, pause: float = 0.005) -> tuple[int, float]:
    """Do all jobs of a board, as a conductor would; return how many and when the last was done."""
    done, ended = 0, time.monotonic()
    while True:
        seen = 0
        for job in board.iterjobs(ensure_fresh=True):
            seen += 1
            try:
                board.claim(job, who)
            except (excp.UnclaimableJob, excp.NotFound):
                continue
            board.consume(job, who)
            done += 1
            ended = time.monotonic()
        if not seen:
            return done, ended
        time.sleep(pause)  # what is left is claimed by others, or was seen too late


def await_jobs(board: Any, count: int, within: float = 120.0) -> None:
    """Wait until a board sees so many jobs.

    Raises: ``TimeoutError``.
    """
    give_up = time.monotonic() + within
    while (seen := board.job_count) != count:
        if time.monotonic() > give_up:
            raise TimeoutError(f"the board sees {seen} jobs after {within:g} s, not {count}")
        # Of what stood before it came TaskFlow's etcd board knows nothing until it is asked so.
        next(iter(board.iterjobs(ensure_fresh=True)), None)
        time.sleep(0.02)


@contextlib.contextmanager
def filled(contestant: Contestant, count: int) -> Iterator[Any]:
    """Open a board of so many unclaimed jobs, all of which it has seen.

    A board in memory is gone when the last one closes it, so that one is open before it is filled.
    """
    place = boards.new_place()
    with contestant.open(place) as board:
        boards.fill(contestant, place, count)
        await_jobs(board, count)
        yield board


def drain(run: Run) -> None:
    """Drain a board by one worker: iterate, claim, consume."""
    count = run.sizes["drain"]
    metric = Metric(
        "drain",
        f"Drain {count:,} jobs by one worker: iterjobs, claim, consume, one at a time",
        "jobs/s",
        True,
        bounds=(Bound("redis", 1.8), Bound("zookeeper", 5.0), Bound("etcd", 3.0)),
    )
    for contestant in run.turns():
        with filled(contestant, count) as board:
            began = time.monotonic()
            done, ended = drain_board(board, "worker")
        _expect(done, count)
        run.note(metric, contestant, count / (ended - began))


def claim_next(run: Run) -> None:
    """Drain a board by what only ours has: the store hands out the next job, or several."""
    count = run.sizes["claim-next"]
    title = f"Drain {count:,} jobs by one worker"
    single = Metric("claim-next", f"{title}: claim_next, consume (ours only)", "jobs/s", True)
    many = Metric(
        "claim-next-many",
        f"{title}: claim_next, consume_many, {BATCH} at a time (ours only)",
        "jobs/s",
        True,
    )
    for contestant in run.turns([who for who in run.contestants if who.ours]):
        for metric, limit in ((single, 1), (many, BATCH)):
            with filled(contestant, count) as board:
                began, done = time.perf_counter(), 0
                while jobs := board.claim_next("worker", limit=limit):
                    if limit == 1:
                        board.consume(jobs[0], "worker")
                    else:
                        _expect(board.consume_many(jobs, "worker"), [None] * len(jobs))
                    done += len(jobs)
                elapsed = time.perf_counter() - began
            _expect(done, count)
            run.note(metric, contestant, count / elapsed)


def batches(run: Run) -> None:
    """Post many jobs in one call, then claim and consume them 50 at a time."""
    count = run.sizes["batches"]
    posting = Metric("batch-post", f"post_many({count:,}) (ours only)", "ms")
    working = Metric("batch-work", "claim_next(50) and consume_many(50) (ours only)", "ms")
    for contestant in run.turns([who for who in run.contestants if who.ours]):
        with contestant.open(boards.new_place()) as board:
            specs = boards.specs(count)
            began = time.perf_counter()
            board.post_many(specs)
            run.note(posting, contestant, 1e3 * (time.perf_counter() - began))
            await_jobs(board, count)
            done, times = 0, []
            while done < count:
                began = time.perf_counter()
                jobs = board.claim_next("worker", limit=50)
                _expect(board.consume_many(jobs, "worker"), [None] * len(jobs))
                times.append(1e3 * (time.perf_counter() - began))
                done += len(jobs)
            _expect(done, count)
            run.note(working, contestant, *times[1:-1])


# -- listing -----------------------------------------------------------------------------------


def listing(run: Run) -> None:
    """List the unclaimed jobs, on a board that has been open a while and on one just made."""
    count = run.sizes["list"]
    bounds = (Bound("redis", 20.0), Bound("zookeeper", 20.0), Bound("etcd", 20.0))
    what = f"List {count:,} unclaimed jobs"
    warm = Metric("list", f"{what}, on a board that is open", "ms", bounds=bounds)
    cold = Metric("list-cold", f"{what}, from connect() on, ensure_fresh=True", "ms")
    places = {contestant: boards.new_place() for contestant in run.contestants}
    with contextlib.ExitStack() as stack:
        opened = {}
        for contestant, place in places.items():
            opened[contestant] = stack.enter_context(contestant.open(place))
            boards.fill(contestant, place, count)
            await_jobs(opened[contestant], count)
        for contestant in run.turns():
            began = time.perf_counter()
            jobs = list(opened[contestant].iterjobs(only_unclaimed=True))
            run.note(warm, contestant, 1e3 * (time.perf_counter() - began))
            _expect(len(jobs), count)
        for contestant in run.turns(long=True):
            began = time.perf_counter()
            with contestant.open(places[contestant]) as board:
                jobs = list(board.iterjobs(only_unclaimed=True, ensure_fresh=True))
                run.note(cold, contestant, 1e3 * (time.perf_counter() - began))
            _expect(len(jobs), count)


def _expect(actual: object, expected: object) -> None:
    """Refuse a figure for work that was not done."""
    if actual != expected:
        raise RuntimeError(f"the work was not done: {actual!r} where {expected!r} was expected")
