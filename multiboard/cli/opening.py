# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""How an operator's command gets at a store, and what it shows of a posting.

The commands speak to the primitives, through the guard: one question lists a shelf with owners and
attempts, and nothing of TaskFlow's is woken for it. Job details are never shown unasked.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import time
from collections.abc import Iterator, Sequence
from typing import Any

from cliff import columns
from cliff.command import Command

from multiboard import errors
from multiboard.cli import fitting
from multiboard.config import loading
from multiboard.jobboard.job import PRIORITIES
from multiboard.primitives import Posting, Shelf, arguments
from multiboard.runtime import codec
from multiboard.runtime.retry import RetryingGuard

#: Names the store where a command does not.
URL_VARIABLE = "MULTIBOARD_URL"

COLUMNS = ("Priority", "Name", "UUID", "State", "Owner", "Age", "Attempts")


class StoreCommand(Command):
    """A command whose first word is a URL, or that takes it from the environment."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        parser.add_argument(
            "url",
            nargs="?",
            metavar="URL",
            help=f"the store, as in sqlite:///path?namespace=x (default: ${URL_VARIABLE})",
        )
        return parser


def guarded(url: str | None, create: bool = False) -> RetryingGuard:
    """Return the board that a URL, or the environment, names; it is not connected.

    Raises: ``ConfigError``.
    """
    spec = url or os.environ.get(URL_VARIABLE)
    if not spec:
        raise errors.ConfigError(f"name the store by its URL, or in ${URL_VARIABLE}")
    return RetryingGuard(loading.load(spec, create=create))


@contextlib.contextmanager
def opened(url: str | None, create: bool = False) -> Iterator[RetryingGuard]:
    """Connect to the board that a URL, or the environment, names; to look must not make one.

    Raises: ``ConfigError``, ``BoardNotFound``; as :meth:`multiboard.primitives.Backend.open`.
    """
    guard = guarded(url, create)
    guard.open()
    try:
        yield guard
    finally:
        guard.close()


# -- what is shown -------------------------------------------------------------------------------

#: The formats that write any text so that it can be read back, and no terminal obeys it.
FAITHFUL = ("json", "yaml")


class Shown:
    r"""A command that displays what others wrote: names and owners may hold anything.

    A line break in one could fake a line, an escape sequence could rule the terminal: they are
    written as ``\n`` and ``\x1b``, except in the formats that have a way of their own.
    """

    #: The columns of a table that may be cut, and those that may be left out, to fit a terminal.
    elastic: Sequence[str] = ()
    optional: Sequence[str] = ()

    def produce_output(self, parsed_args: argparse.Namespace, names: Any, data: Any) -> int:
        """Display the data; called by cliff."""
        if parsed_args.formatter not in FAITHFUL:
            data = _harmless(data)
        if parsed_args.formatter == "table" and parsed_args.max_width < 1:
            names, data = self._fitting(parsed_args, names, data)
        return int(super().produce_output(parsed_args, names, data))  # type: ignore[misc]

    def _fitting(
        self, parsed_args: argparse.Namespace, names: Any, data: Any
    ) -> tuple[Sequence[str], Any]:
        """Return the columns and the data of a table that fits where it goes to."""
        width = fitting.width_of(self.app.stdout)  # type: ignore[attr-defined]
        if width is None or parsed_args.fit_width:
            return names, data
        if not self.elastic:
            parsed_args.max_width = width  # cliff breaks the lines of cells
            return names, data
        asked = [name.lower().replace("_", " ") for name in parsed_args.columns]
        picked = [at for at, name in enumerate(names) if not asked or name.lower() in asked]
        if not picked:
            return names, data  # cliff knows what to answer
        rows = [[row[at] for at in picked] for row in data]
        shown = [names[at] for at in picked]
        free = () if asked or getattr(parsed_args, "sort_columns", None) else self.optional
        return fitting.fit(shown, rows, width, self.elastic, free)


def _harmless(value: Any) -> Any:
    if isinstance(value, str):
        return arguments.printable(value)
    return [_harmless(part) for part in value] if isinstance(value, (list, tuple)) else value


class Lines(columns.FormattableColumn):  # type: ignore[type-arg]
    """Several lines, each of them harmless."""

    def human_readable(self) -> str:
        return "\n".join(arguments.printable(line) for line in self._value)

    machine_readable = human_readable


def in_json(value: Any) -> str:
    """Return a value as JSON for people: what JSON has no type for is written as Python does."""
    return json.dumps(_with_plain_keys(value), default=str, ensure_ascii=False)


def _with_plain_keys(value: Any) -> Any:
    if isinstance(value, dict):
        plain = (str, int, float, type(None))
        return {
            key if isinstance(key, plain) else str(key): _with_plain_keys(part)
            for key, part in value.items()
        }
    return [_with_plain_keys(part) for part in value] if isinstance(value, list) else value


class Age(columns.FormattableColumn):  # type: ignore[type-arg]
    """Seconds for a program; days, hours and minutes for people."""

    def human_readable(self) -> str:
        return span(self._value)


def span(seconds: float) -> str:
    """Return a duration in its two largest units."""
    parts: list[str] = []
    left = int(seconds)
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        if left >= size or (unit == "s" and not parts):
            parts.append(f"{left // size}{unit}")
            left %= size
    return " ".join(parts[:2])


def when(seconds: float) -> str:
    """Return an instant of the store's clock as ISO 8601, in UTC."""
    there = datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc)
    return there.isoformat(timespec="seconds")


def state_of(posting: Posting, shelf: Shelf) -> str:
    """Return a posting's state in one word."""
    if shelf is Shelf.TRASH:
        return "TRASHED"
    if posting.lease is not None:
        return "CLAIMED"
    return "DELAYED" if posting.due_in > 0 else "UNCLAIMED"


def priority_of(posting: Posting) -> str:
    """Return the name of a posting's priority."""
    return str(PRIORITIES[min(posting.rank, len(PRIORITIES) - 1)].value)


def row_of(posting: Posting, body: codec.Body, shelf: Shelf) -> tuple[Any, ...]:
    """Return what a listing shows of a job."""
    return (
        priority_of(posting),
        body.name,
        body.uuid,
        state_of(posting, shelf),
        "" if posting.lease is None else posting.lease.holder,
        # By two clocks: a store that is ahead must not show jobs of the future.
        Age(round(max(0.0, time.time() - posting.created_on), 1)),
        posting.attempts,
    )


def find(guard: RetryingGuard, key: str) -> tuple[Posting, codec.Body, Shelf]:
    """Return a job, wherever it is on the board.

    Raises: ``PostingNotFound``; ``BackendError`` for what can't be read.
    """
    found, shelf = guard.get([key])[0], Shelf.LIVE
    if found is None:
        trash = guard.list(shelf := Shelf.TRASH).postings
        found = next((posting for posting in trash if posting.key == key), None)
    if found is not None:
        try:
            return found, codec.decode(found.body), shelf
        except codec.Undecodable as error:
            raise errors.BackendError(f"the job {key} can't be read: {error}") from error
    raise errors.PostingNotFound(key, f"no job {key} on the board, nor in its trash")
