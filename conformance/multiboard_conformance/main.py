# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The command ``multiboard-conformance``: run the suite on a backend, wherever one stands.

It calls pytest with the suite's own ini file and plugin: no ini file, conftest.py, plugin or
environment variable of the place where it is run can change or empty it. Exit status: 0 all that
ran holds, 1 something does not, 2 nothing was run.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import time
from collections.abc import Sequence

from multiboard import errors
from multiboard_conformance import harness, report
from multiboard_conformance import results as v
from multiboard_conformance.backend.fixtures import Store
from multiboard_conformance.backend.guarantees import GUARANTEES
from multiboard_conformance.machinery import shards


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="multiboard-conformance",
        description="Check that a multiboard backend keeps what the primitives promise.",
    )
    parser.add_argument("backend", nargs="?", help="a URL, a backend's name, or module:Class")
    parser.add_argument("--quick", action="store_true", help="fewer rounds, not fewer guarantees")
    parser.add_argument("-k", metavar="EXPR", help="only the checks whose names match, as pytest")
    parser.add_argument(
        "--only", action="append", default=[], metavar="ID", help="only the checks of a guarantee"
    )
    parser.add_argument(
        "--waive",
        action="append",
        default=[],
        metavar="ID=REASON",
        help="expect this guarantee, or this check, to fail: the result is partial",
    )
    parser.add_argument(
        "--report",
        action="append",
        default=[],
        metavar="FILE",
        help="write the report: as Markdown to a FILE that ends in .md, else as JSON",
    )
    parser.add_argument("--harness", metavar="MODULE:CLASS", help="what the suite can't guess")
    parser.add_argument("--seed", type=int, help="repeat the random schedules of a run")
    parser.add_argument(
        "-x", "--exitfirst", action="store_true", help="stop at the first check that fails"
    )
    parser.add_argument(
        "--order",
        metavar="FILE",
        help="names of checks, a line each: they run first, in this order",
    )
    parser.add_argument(
        "--check-timeout",
        type=float,
        metavar="SECONDS",
        help="a check that takes longer fails (150)",
    )
    parser.add_argument("--list", action="store_true", help="print the guarantees and stop")
    # The second name is what it was called before.
    parser.add_argument(
        "--shards", "--lanes", type=int, default=4, metavar="N", help="processes that run checks"
    )
    parser.add_argument(
        "--taskflow-board",
        metavar="KIND",
        help="judge a jobboard through TaskFlow's own API, in place of a backend: redis, zookeeper,"
        " etcd or multiboard; or MODULE:CLASS, a subclass of jobboard.fetch.Maker",
    )
    parser.add_argument(
        "--conf", action="append", default=[], metavar="KEY=VALUE", help="that board's; url=... too"
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="name every check")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = _parser()
    options = parser.parse_args(argv)
    if options.taskflow_board:
        from multiboard_conformance.jobboard import runner  # it imports TaskFlow

        return runner.run(options)
    if options.list:
        print(v.listed(GUARANTEES.values()))
        return 0
    if options.backend is None:
        parser.error("which backend? Give a URL, a name, or module:Class")
    for waiver in options.waive:
        name, equals, reason = waiver.partition("=")
        if not (equals and reason.strip()):
            parser.error(f"--waive {waiver}: it needs a reason, as in LEASE-5='no timed leases'")
        if name not in GUARANTEES and not name.startswith("check_"):
            parser.error(f"--waive {name}: no such guarantee; --list prints them")
    for name in options.only:
        if name not in GUARANTEES:
            parser.error(f"--only {name}: no such guarantee; --list prints them")
    if "://" not in options.backend or options.harness:
        # Where a module is named, the folder that the command is run in counts, last of all.
        sys.path.append(os.getcwd())
    try:
        hooks = harness.load(options.harness, options.backend)
        options.spare = harness.provides(hooks, "spare")
        hooks.close()
        store = Store(options.backend)
    except Exception as error:
        return _nothing_run(error)
    try:
        away = _unusable(store)
        return (
            _run(options, sys.argv[1:] if argv is None else argv, store) if away is None else away
        )
    finally:
        store.close()


def _nothing_run(error: Exception) -> int:
    return v.nothing_run(f"{type(error).__name__}: {error}")


def _unusable(store: Store) -> int | None:
    """Print why nothing can be judged here; a backend that is merely broken is judged."""
    try:
        backend = store.load(namespace="conformance")
        backend.open()
    except (errors.ConfigError, errors.Unavailable, errors.AccessDenied) as error:
        return _nothing_run(error)
    except Exception:
        return None
    with contextlib.suppress(Exception):
        backend.close()
    return None


def _run(options: argparse.Namespace, argv: Sequence[str], store: Store) -> int:
    began = time.monotonic()
    seed = int.from_bytes(os.urandom(4), "big") if options.seed is None else options.seed
    facts = store.server_info()
    print(f"multiboard conformance: {v.spelled(facts)}; seed {seed}", flush=True)

    waivers = dict(text.partition("=")[::2] for text in options.waive)
    results = v.Results(GUARANTEES, waivers)
    progress = v.Progress(options.verbose)

    def receive(outcome: v.Outcome) -> bool:
        results.add(outcome)
        progress.show(outcome)
        return options.exitfirst and outcome.verdict == v.FAILED

    arguments = ["--board", options.backend, "--seed", str(seed)]
    arguments += ["--quick"] if options.quick else []
    arguments += ["--harness", options.harness] if options.harness else []
    arguments += [f"--only={name}" for name in options.only]
    arguments += ["-k", options.k] if options.k is not None else []
    arguments += [f"--order={os.path.abspath(options.order)}"] if options.order else []
    arguments += [f"--timeout={options.check_timeout}"] if options.check_timeout else []
    alone = ("beside" if options.spare else "after") if options.harness else None
    broken_off = shards.run(options.shards, arguments, receive, alone=alone)
    progress.end()

    def alone_by(outcome: v.Outcome) -> str:
        return f"   (alone: -k {outcome.check.partition('[')[0]} --seed {seed})"

    for text in [*results.failures(alone_by), *(f"\n{'-' * 100}\n{text}" for text in broken_off)]:
        print(text)
    print("\n" + "\n".join(results.table()))
    result = v.FAILED if broken_off and results.ran() else results.result()
    seconds = round(time.monotonic() - began, 1)
    effort = "quick" if options.quick else "full"
    print(f"\n{result}: {results.summary()} in {seconds} s ({effort}, seed {seed})")
    made = report.of_backend(
        results, store, result=result, facts=facts, argv=argv, effort=effort, seed=seed,
        seconds=seconds,
    )  # fmt: skip
    for path in options.report:
        report.write(path, made, results)
    return v.exit_status(result)


if __name__ == "__main__":
    sys.exit(main())
