# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The command line of the benchmark: which scenarios, on which stores, how much, how often.

It starts the servers itself where ``MULTIBOARD_REDIS_URL`` and ``MULTIBOARD_ZOOKEEPER_URL`` do not
name any. Boards are left behind on them: give it servers that may be thrown away.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import logging
import os
import pathlib
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence

ROOT = pathlib.Path(__file__).resolve().parent.parent
if not __package__:  # run by its path: let this folder be the package that it is
    sys.path[0] = str(ROOT)

from benchmarks import crowds, scenarios  # noqa: E402
from benchmarks.boards import contestants  # noqa: E402
from benchmarks.figures import as_json, as_text  # noqa: E402
from benchmarks.processes import WorkerProcesses  # noqa: E402
from benchmarks.scenarios import Run  # noqa: E402

STORES = ("redis", "zookeeper", "etcd", "sqlite", "memory")
SCENARIOS: dict[str, Callable[[Run], None]] = {
    "post": scenarios.post,
    "drain": scenarios.drain,
    "claim-next": scenarios.claim_next,
    "batches": scenarios.batches,
    "processes": crowds.processes,
    "crowds": crowds.crowds,
    "wake": crowds.wake_up,
    "list": scenarios.listing,
    "watchers": crowds.watchers,
}
#: Each is an option; its meaning is in the help.
SIZES = {
    "post": (500, "jobs posted"),
    "drain": (1000, "jobs drained by one worker"),
    "claim-next": (300, "jobs drained by claim_next"),
    "processes": (3, "processes that drain together"),
    "processes-jobs": (600, "jobs that they drain"),
    "crowds-jobs": (600, "jobs that each crowd of 1, 2, 4 and 8 drains"),
    "batches": (1000, "jobs posted together, and then done 50 at a time"),
    "wake": (10, "jobs waited for in each repetition"),
    "list": (5000, "jobs listed"),
    "watchers": (8, "processes that watch a board"),
    "watchers-jobs": (10000, "jobs on the board that they watch"),
    "watchers-jobs-slow": (1000, "the same for TaskFlow's ZooKeeper board, minutes at 10,000"),
    "watchers-posts": (40, "jobs posted to it"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; return the exit status, which is no judgement of the figures."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.ERROR)
    began = time.monotonic()

    def report(text: str) -> None:
        print(f"[{time.monotonic() - began:5.0f} s] {text}", file=sys.stderr, flush=True)

    stores = [store for store in STORES if store in (options.stores or STORES)]
    with contextlib.ExitStack() as stack:
        urls = {store: stack.enter_context(_url(store, options.redis_aof)) for store in stores}
        processes = stack.enter_context(WorkerProcesses())
        sizes = {name: getattr(options, name.replace("-", "_")) for name in SIZES}
        taking_part = [who for who in contestants(urls) if who.ours or not options.ours]
        run = Run(taking_part, options.repetitions, sizes, processes, report)
        try:
            for name in options.scenarios or SCENARIOS:
                SCENARIOS[name](_labelled(run, name))
        except KeyboardInterrupt:
            report("interrupted: what was measured so far follows")
    facts = {
        "python": platform.python_version(),
        "processors": os.cpu_count(),
        "repetitions": options.repetitions,
        "sizes": sizes,
        "seconds": round(time.monotonic() - began, 1),
        "packages": {
            name: importlib.metadata.version(name)
            for name in ("multiboard", "taskflow", "redis", "kazoo")
        },
    }
    tables = list(run.tables.values())
    if options.json:
        print(json.dumps(as_json(tables, facts), indent=2))
    else:
        versions = ", ".join(f"{name} {version}" for name, version in facts["packages"].items())
        print(f"Python {facts['python']}, {facts['processors']} processors; {versions}")
        print(f"Medians; {options.repetitions} turns each, alternately; {facts['seconds']} s.")
        print(as_text(tables))
    return 0


def _labelled(run: Run, name: str) -> Run:
    report = run.report
    return Run(
        run.contestants, run.repetitions, run.sizes, run.processes,
        lambda text: report(f"{name}: {text}"), run.tables,
    )  # fmt: skip


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="benchmarks",
        description="The same work on multiboard and on TaskFlow's own boards, side by side.",
    )
    parser.add_argument(
        "scenarios",
        nargs="*",
        type=_scenario,
        metavar="SCENARIO",
        help=f"{', '.join(SCENARIOS)}; default: all",
    )
    parser.add_argument("--stores", nargs="+", choices=STORES, help="default: all")
    parser.add_argument(
        "--repetitions",
        type=_count,
        default=2,
        metavar="N",
        help="default: 2; half as many of what takes long",
    )
    parser.add_argument(
        "--redis-aof",
        action="store_true",
        help="start Redis with its append-only file, which a durable board needs",
    )
    parser.add_argument("--ours", action="store_true", help="leave TaskFlow's own boards out")
    parser.add_argument("--json", action="store_true", help="print JSON, with the single samples")
    for name, (default, meaning) in SIZES.items():
        parser.add_argument(
            f"--{name}", type=_count, default=default, metavar="N",
            help=f"{meaning}; default: {default}",
        )  # fmt: skip
    return parser


def _scenario(text: str) -> str:
    if text not in SCENARIOS:
        raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(SCENARIOS)}")
    return text


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return number


@contextlib.contextmanager
def _url(store: str, redis_aof: bool) -> Iterator[str]:
    """Give the URL of a store, which is there as long as this is entered."""
    given = os.environ.get(f"MULTIBOARD_{store.upper()}_URL")
    if given:
        yield given
    elif store == "memory":
        yield "memory://bench"
    elif store == "sqlite":
        with tempfile.TemporaryDirectory(prefix="multiboard-bench-") as folder:
            yield f"sqlite:///{folder}/bench.db"
    else:
        sys.path.append(str(ROOT / "tools"))
        import servers  # type: ignore[import-not-found]

        made = (
            servers.redis_server(appendonly=redis_aof)
            if store == "redis"
            else servers.server(store)
        )
        with made as server:
            yield server.url


if __name__ == "__main__":
    sys.exit(main())
