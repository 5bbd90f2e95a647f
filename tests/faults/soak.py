# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""``make soak``: fault runs for as long as asked, on every form of every store, and a table.

The exit status is 1 where a posting was lost, held twice or seen wrongly on any of them.
"""

from __future__ import annotations

import argparse
import pathlib
import random
import sys
import time
from collections.abc import Sequence

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

from servers import clusters  # noqa: E402 - found through the line above

from tests.faults.run import Result, Run  # noqa: E402

#: Seconds of one run: a board of its own, judged by itself, so that no record grows for ever.
EPISODE = 300.0
HEAD = ("store", "minutes", "operations", "posted", "faults", "longest outage", "lost", "double")
BOARD_HEAD = (
    "store", "jobs", "consumed", "interrupts", "lost", "double", "kept unheard",
    "LEASE_LOST", "late", "least margin", "put back: noticed", "deceived",
)  # fmt: skip


def main(arguments: Sequence[str]) -> int:
    """Run what the command line asks for; return the exit status."""
    parser = argparse.ArgumentParser(prog="soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="for each store")
    parser.add_argument("--seed", default=None, help="repeats the faults of an earlier run")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument(
        "--as-is", action="store_true", help="without the settings with which nothing is lost"
    )
    parser.add_argument("clusters", nargs="*", default=[], metavar="CLUSTER")
    options = parser.parse_args(arguments)
    names = options.clusters or list(clusters.CLUSTERS)
    unknown = sorted(set(names) - set(clusters.CLUSTERS))
    if unknown:
        print(f"no cluster {unknown[0]!r}; there are {', '.join(clusters.CLUSTERS)}")
        return 2
    seed = options.seed or f"{random.randrange(10**6)}"
    print(f"seed {seed}: to repeat it, make soak ARGS='--seed {seed}'", flush=True)
    results = {
        name: soak(name, options.minutes, seed, options.workers, not options.as_is)
        for name in names
    }
    print()
    print_table(results)
    return 1 if any(one.failures for episodes in results.values() for one in episodes) else 0


def soak(name: str, minutes: float, seed: str, workers: int, safe: bool) -> list[Result]:
    """Run on one cluster, one episode after the other."""
    print(f"\n{name}", flush=True)
    results: list[Result] = []
    until = time.monotonic() + 60.0 * minutes
    with clusters.running(clusters.cluster(name)) as cluster:
        while not results or until - time.monotonic() > 10.0:
            run = Run(cluster, f"{seed}:{len(results)}", workers=workers, safe=safe, say=_say)
            result = run.run(min(EPISODE, until - time.monotonic()))
            results.append(result)
            deceived = [] if result.put_back is None else result.put_back.deceived
            for sentence in [*result.findings.all, *result.board.all, *deceived]:
                print(f"  {'!' if sentence in result.failures else '-'} {sentence}", flush=True)
            if result.failures:
                print(result.table, flush=True)
    return results


def _say(line: str) -> None:
    print(line, flush=True)


def print_table(results: dict[str, list[Result]]) -> None:
    """Print a line for each store, and the longest outage for each of its faults."""
    rows = [HEAD]
    for name, episodes in results.items():
        longest = max((s.outage for one in episodes for s in one.struck), default=0.0)
        rows.append(
            (
                name,
                f"{sum(one.seconds for one in episodes) / 60:.1f}",
                f"{sum(one.operations for one in episodes)}",
                f"{sum(one.posted for one in episodes)}",
                f"{sum(len(one.struck) for one in episodes)}",
                f"{longest:.2f} s",
                f"{sum(len(one.findings.lost) for one in episodes)}",
                f"{sum(len(one.findings.double) + len(one.findings.early) for one in episodes)}",
            )
        )
    _print_rows(rows)
    print("\nWorkers on a whole jobboard; the margin is between a LEASE_LOST and the heir's claim:")
    _print_rows([BOARD_HEAD, *(_board_row(name, runs) for name, runs in results.items())])
    print("\nThe longest time that a worker had no answer, by what happened:")
    for name, episodes in results.items():
        outages: dict[str, float] = {}
        for one in episodes:
            for fault, outage in one.outages.items():
                outages[fault] = max(outage, outages.get(fault, 0.0))
        told = ", ".join(f"{fault} {outage:.2f} s" for fault, outage in sorted(outages.items()))
        print(f"  {name}: {told}")
    for name, episodes in results.items():
        others = sum(len(one.findings.other) for one in episodes)
        if others:
            print(f"  {name}: {others} answers or views were wrong, see above")
        if any(one.findings.early for one in episodes) and episodes[0].may_end_early:
            print(f"  {name} ended sessions that were kept: {episodes[0].may_end_early}")
        if episodes[0].may_lose:
            print(f"  {name} may lose what it acknowledged: {episodes[0].may_lose}")


def _board_row(name: str, episodes: Sequence[Result]) -> tuple[str, ...]:
    boards = [one.board for one in episodes]
    margins = [board.least_margin for board in boards if board.least_margin is not None]
    counts = (
        sum(board.posted for board in boards),
        sum(board.consumed for board in boards),
        sum(board.interrupted for board in boards),
        sum(len(board.lost) for board in boards),
        sum(len(board.double) for board in boards),
        sum(len(board.kept) for board in boards),
        sum(board.reported for board in boards),
        sum(len(board.late) for board in boards),
    )
    margin = f"{min(margins):.3f} s" if margins else "-"
    put = [one.put_back for one in episodes if one.put_back is not None]
    noticed = f"{sum(one.noticed for one in put)}" if put else "-"
    deceived = f"{sum(len(one.deceived) for one in put)}" if put else "-"
    return (name, *map(str, counts), margin, noticed, deceived)


def _print_rows(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
    for row in rows:
        print("  ".join(map(str.ljust, row, widths)).rstrip())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
