# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""``multiboard demo``: the command; what it runs is in :mod:`multiboard.demo`."""

from __future__ import annotations

import argparse
import contextlib
import json
import pathlib
import signal
import tempfile
import threading
from collections.abc import Iterator

from cliff.command import Command

from multiboard.cli import words
from multiboard.demo import files
from multiboard.demo.run import Run, board_conf


class Demo(Command):
    """See it work: conductors run flows on real files, one is killed, another takes over."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "--url", help="the store (default: an SQLite file in a temporary folder)"
        )
        parser.add_argument(
            "--directory",
            help="work on the files of this folder (default: the standard library's sources)",
        )
        parser.add_argument(
            "--conductors", type=words.whole(2, 1_000), default=3, help="processes (default: 3)"
        )
        parser.add_argument(
            "--jobs",
            type=words.whole(1, 1_000_000),
            default=200,
            help="files at most (default: 200)",
        )
        parser.add_argument("--json", metavar="FILE", help="write the result to a file, too")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> int:
        choice = files.choose(parsed_args.directory, parsed_args.jobs)
        with (
            _terminated_as_interrupted(),
            tempfile.TemporaryDirectory(prefix="multiboard-demo-") as temporary,
        ):
            scratch = pathlib.Path(temporary)
            conf = board_conf(parsed_args.url or f"sqlite://{scratch / 'board.sqlite3'}")
            run = Run(conf, scratch, self.app.stdout)
            faults = run.all(choice, parsed_args.conductors)
            if parsed_args.json:
                result = {**run.ledger.to_dict(), "jobs_per_second": run.rate, "faults": faults}
                pathlib.Path(parsed_args.json).write_text(json.dumps(result, indent=2) + "\n")
        return 1 if faults else 0


@contextlib.contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """Let a polite kill clean up as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
