# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""``multiboard conductor run``: a worker as a service manager starts, watches and stops one."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from cliff.command import Command

import multiboard
from multiboard import errors
from multiboard.cli import systemd, words
from multiboard.primitives import FailureLog, arguments

if TYPE_CHECKING:
    from multiboard.jobboard.board import JobBoard
    from multiboard.jobboard.conductor import Conductor

LOG = logging.getLogger(__name__)

#: The exit status when jobs under way had to be handed back.
HANDED_BACK = 4
#: Seconds between two looks at what is run, to show it on the board.
SHOW_EVERY = 1.0
_STOPS = (signal.SIGTERM, signal.SIGINT)


class ConductorRun(Command):
    """Run a conductor until SIGTERM or Ctrl-C, which drains; a second one ends it at once.

    Draining, it takes no more jobs, lets what runs go on for the grace, suspends it after the
    current task and hands it back. The status is then 4, and 0 when nothing had to be handed back.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        parser.add_argument(
            "--config-file",
            action="append",
            metavar="FILE",
            required=True,
            help="the service's configuration, with [multiboard] persistence_connection and"
            " backend_url; may be repeated",
        )
        parser.add_argument("--url", help="the store, in place of the one in the configuration")
        parser.add_argument(
            "--name", help="the owner's name on the jobs (default: the host's and the process id)"
        )
        parser.add_argument(
            "--max-jobs", type=words.whole(1, 10_000), help="how many jobs at once, at most"
        )
        parser.add_argument(
            "--grace",
            type=words.seconds,
            default=30.0,
            metavar="SECONDS",
            help="how long what runs may go on when it is told to stop (default: 30)",
        )
        parser.add_argument(
            "--on-board-lost",
            choices=("stop", "reopen"),
            default="stop",
            help="what to do where the store comes back without the board: end with status 1 (the"
            " default), or open the board anew",
        )
        parser.add_argument(
            "--import",
            dest="modules",
            action="append",
            default=[],
            metavar="MODULE",
            help="a module with flows, to be imported first; may be repeated",
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> int:
        # TaskFlow's engines take longer to load than the other commands take to run.
        from multiboard.config import oslo
        from multiboard.jobboard.conductor import Conductor
        from multiboard.jobboard.logbooks import open_logbooks

        name = parsed_args.name or f"{socket.gethostname()}-{os.getpid()}"
        arguments.check_holder(name)
        for module in parsed_args.modules:
            _import(module)
        conf = oslo.load(parsed_args.config_file, parsed_args.url)
        persistence = open_logbooks(oslo.persistence_connection(conf))
        with contextlib.closing(multiboard.from_config(conf, name, persistence=persistence)) as it:
            it.connect()
            conductor = Conductor(
                name,
                it,
                persistence=persistence,
                max_simultaneous_jobs=parsed_args.max_jobs,
                on_board_lost=parsed_args.on_board_lost,
                log=LOG,
            )
            return self._run(conductor, it, parsed_args.grace)

    def _run(self, conductor: Conductor, board: JobBoard, grace: float) -> int:
        with _signals() as (pipe, wake), _said_once(board):
            work = _Work(conductor, board, wake)
            work.start()
            self._say(conductor, f"takes jobs as {conductor.presence().name}")
            systemd.notify("READY=1", "STATUS=taking jobs", f"MAINPID={os.getpid()}")
            stops: list[int] = []
            while not work.over.is_set():
                for number in os.read(pipe, 512):
                    if number:
                        stops.append(number)
                        self._stop(conductor, grace, len(stops))
            work.join()
        if work.error is not None:
            if conductor.board_lost:  # which the conductor has logged
                return 1
            raise work.error
        done = conductor.handed_back
        self._say(conductor, f"has ended; {done} job(s) handed back")
        if done:
            return HANDED_BACK
        return 130 if signal.SIGINT in stops else 0

    def _stop(self, conductor: Conductor, grace: float, times: int) -> None:
        running = len(conductor.running)
        if times > 1:
            # Not by closing the board: that would free the jobs while their tasks run. They are
            # free when the process is gone and its session has ended.
            self._say(conductor, f"ends at once; {running} job(s) are left unfinished")
            os._exit(HANDED_BACK if running else 0)
        systemd.notify("STOPPING=1", f"STATUS=draining, {running} job(s) run")
        conductor.stop(grace)
        self._say(conductor, f"drains: {running} job(s) may run for {grace:g} s more")

    def _say(self, conductor: Conductor, text: str) -> None:
        with contextlib.suppress(BrokenPipeError):
            self.app.stdout.write(f"the conductor {text}\n")
            self.app.stdout.flush()


class _Work(threading.Thread):
    """Runs a conductor, and shows on the board what it does, until it is over."""

    def __init__(self, conductor: Conductor, board: JobBoard, wake: int) -> None:
        super().__init__(name="conductor", daemon=True)
        self.error: BaseException | None = None
        self.over = threading.Event()
        self._conductor = conductor
        self._board = board
        self._wake = wake

    def run(self) -> None:
        """Run the conductor; what it raised is kept."""
        showing = threading.Thread(target=self._show, name="conductor-shown", daemon=True)
        showing.start()
        try:
            self._conductor.run()
        except BaseException as error:
            self.error = error
        finally:
            self.over.set()
            showing.join()
            os.write(self._wake, b"\0")

    def _show(self) -> None:
        """Keep the conductor's entity at what it does, with one write a second at most."""
        failures = FailureLog(LOG, "What this conductor runs can't be shown on the board")
        shown = None
        while not self.over.wait(SHOW_EVERY):
            now = self._conductor.presence()
            if now == shown or self._conductor.board_lost:
                continue
            try:
                self._board.register_entity(now)
            except Exception as error:
                failures.failed(error)
            else:
                failures.succeeded()
                shown = now


@contextlib.contextmanager
def _signals() -> Iterator[tuple[int, int]]:
    """Yield the ends of a pipe: the numbers of the signals that ask for a stop come out of it."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)

    def note(number: int, _frame: Any) -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(writer, bytes([number]))

    before = {number: signal.signal(number, note) for number in _STOPS}
    try:
        yield reader, writer
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(reader)
        os.close(writer)


@contextlib.contextmanager
def _said_once(board: JobBoard) -> Iterator[None]:
    """Let the conductor be the only one that logs the loss of the board."""

    def is_news(record: logging.LogRecord) -> bool:
        below = record.name.startswith("multiboard.runtime.")
        return not (below and board.health().get("board_lost"))

    handlers = list(logging.getLogger().handlers)
    for handler in handlers:
        handler.addFilter(is_news)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(is_news)


def _import(name: str) -> None:
    """Import a module of the service's.

    Raises: ``ConfigError`` where it can't be imported, whatever it raised.
    """
    try:
        importlib.import_module(name)
    except (Exception, SystemExit) as error:
        why = arguments.printable(f"{type(error).__name__}: {error}")
        path = ":".join(_places(sys.path))
        raise errors.ConfigError(
            f"can't import the module {arguments.shown(name)}: {why} (looked for in {path})"
        ) from error


def _places(path: Sequence[str]) -> Sequence[str]:
    return [place or "." for place in path]
