# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The ``multiboard`` command: a cliff application over the commands of this package."""

from __future__ import annotations

import argparse
import importlib.metadata
import logging
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from cliff.app import App
from cliff.commandmanager import CommandManager

from multiboard.cli import (
    acting,
    conducting,
    demo,
    health,
    jobs,
    posting,
    shells,
    stores,
    watching,
)

COMMANDS: Mapping[str, type[Any]] = {
    "abandon": acting.Abandon,
    "backends": stores.Backends,
    "boards": stores.Boards,
    "completion": shells.Completion,
    "conductor run": conducting.ConductorRun,
    "consume": acting.Consume,
    "demo": demo.Demo,
    "entities": stores.Entities,
    "health": health.Health,
    "jobs": jobs.Jobs,
    "man": shells.Manual,
    "post": posting.Post,
    "purge": acting.Purge,
    "restore": acting.Restore,
    "show": jobs.Show,
    "trash": acting.Trash,
    "watch": watching.Watch,
}

#: Loggers of libraries that log on their own account what our error says already.
LIBRARIES = ("kazoo", "redis", "stevedore", "taskflow", "cliff", "oslo_config")

#: A word of a command line that may be repeated in an error; a URL may hold a password.
_PLAIN = re.compile(r"[\w.=-]*", re.ASCII)
#: Errors of argparse that repeat no value.
_VALUELESS = re.compile(r"the following arguments are required: .*|argument [\w/-]+: expected .*")


class MultiboardApp(App):
    """The application."""

    NAME = "multiboard"
    LOG = logging.getLogger(NAME)
    # Progress is the commands' matter, not the log's: warnings only, unless -v asks for more.
    DEFAULT_VERBOSE_LEVEL = 0

    def __init__(self, **streams: Any) -> None:
        self._words: list[str] = []
        manager = CommandManager(None)  # no entry points: these are all there are
        for name, command in COMMANDS.items():
            manager.add_command(name, command)
        super().__init__(
            description=shells.DESCRIPTION,
            version=importlib.metadata.version("multiboard"),
            command_manager=manager,
            deferred_help=True,
            **streams,
        )

    def build_option_parser(
        self,
        description: str | None,
        version: str | None,
        argparse_kwargs: dict[str, Any] | None = None,
    ) -> argparse.ArgumentParser:
        """Name the command as it is installed, however it was started."""
        given = {"prog": self.NAME, **(argparse_kwargs or {})}
        parser = super().build_option_parser(description, version, given)
        for action in parser._actions:
            if "--version" in action.option_strings:  # cliff names the program's file
                action.version = f"{self.NAME} {version}"  # type: ignore[attr-defined]
        return self._discreet(parser)

    def prepare_to_run_command(self, cmd: Any) -> None:
        """Let the command's parser show no URL."""
        make = cmd.get_parser
        cmd.get_parser = lambda name: self._discreet(make(name))

    def _discreet(self, parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
        """Have a parser's errors repeat no word that may be a URL."""
        fail = parser.error

        def error(message: str) -> NoReturn:
            if not _VALUELESS.fullmatch(message) and not all(map(_PLAIN.fullmatch, self._words)):
                message = "the words can't be understood (not shown: a URL may hold a password)"
            fail(message)

        parser.error = error  # type: ignore[method-assign]
        return parser

    def run_subcommand(self, argv: list[str]) -> int:
        """Run a command; where there is none of that name, repeat no more than the name."""
        name = argv[1:] if argv[0] == "help" else argv
        try:
            if name:
                self.command_manager.find_command(name)
        except ValueError:
            if not _PLAIN.fullmatch(name[0]):
                self.LOG.error(
                    "the first word is not a command, and is not shown (a URL may hold a"
                    " password); see '%s --help'",
                    self.NAME,
                )
                return 2
            argv = [*argv[: len(argv) - len(name)], name[0]]
        return int(super().run_subcommand(argv))

    def configure_logging(self) -> None:
        """Keep the error output to one line an error, unless more was asked for."""
        super().configure_logging()
        if not self.options.debug and self.options.verbose_level == self.DEFAULT_VERBOSE_LEVEL:
            for name in LIBRARIES:
                logging.getLogger(name).setLevel(logging.CRITICAL)

    def run(self, argv: list[str]) -> int:
        """Run a command; without one, show which there are."""
        self._words = list(argv)
        return int(super().run(argv or ["--help"]))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    return MultiboardApp().run(list(sys.argv[1:] if argv is None else argv))


if __name__ == "__main__":
    sys.exit(main())
