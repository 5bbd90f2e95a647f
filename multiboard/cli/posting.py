# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""``multiboard post``: a job from the command line."""

from __future__ import annotations

import argparse
import json
import pathlib
import sys
import types
import uuid
from collections.abc import Mapping
from typing import Any, NoReturn

from cliff.command import Command

from multiboard import errors
from multiboard.cli import opening, words
from multiboard.jobboard.job import PRIORITIES, JobSpec
from multiboard.primitives import arguments


class Post(Command):
    """Post a job and print its UUID."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        parser.usage = "%(prog)s [options] [URL] NAME"
        parser.add_argument(
            "words",
            nargs="+",
            metavar="NAME",
            help="of the job; the store's URL may stand before it (default: $MULTIBOARD_URL)",
        )
        parser.add_argument(
            "--details",
            metavar="JSON|@FILE",
            help="what it is given to work on: an object in JSON, or the file that holds it (@- is"
            " the input); other users of the machine see a command line",
        )
        parser.add_argument(
            "--priority",
            type=str.upper,
            choices=[priority.value for priority in PRIORITIES],
            default="NORMAL",
            help="(default: NORMAL)",
        )
        parser.add_argument(
            "--delay",
            type=words.seconds,
            default=0.0,
            help="let nobody claim it for so long: 90s, 10m (default: 0)",
        )
        parser.add_argument(
            "--book",
            metavar="UUID",
            help="TaskFlow's logbook that holds its flow; a conductor runs no job without one",
        )
        parser.add_argument(
            "--create", action="store_true", help="make the board where there is none"
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> int:
        *url, name = parsed_args.words
        if len(url) > 1:
            raise errors.ConfigError("one name: put it in quotes where it has spaces in it")
        if not url and "://" in name:
            raise errors.ConfigError("name the job behind the URL")
        details = None if parsed_args.details is None else _details(parsed_args.details)
        spec = JobSpec(
            name, _book(parsed_args.book, name), details, parsed_args.priority, parsed_args.delay
        )
        _, posting = spec.prepare()
        with opening.opened(url[0] if url else None, create=parsed_args.create) as guard:
            answer = guard.add([posting])[0]
            if isinstance(answer, errors.MultiboardError):
                raise answer
        self.app.stdout.write(f"posted {posting.key}\n")
        return 0


def _book(given: str | None, name: str) -> Any:
    """Return what stands for the logbook of a job.

    Raises: ``ConfigError``.
    """
    if given is None:
        return None
    if not words.is_uuid(given):
        raise errors.ConfigError(f"--book: {arguments.shown(given)} is not a UUID of a logbook")
    return types.SimpleNamespace(name=name, uuid=str(uuid.UUID(given)))


def _details(given: str) -> Mapping[str, Any]:
    """Read a job's details.

    Raises: ``ConfigError``, which names where they are wrong, and repeats nothing of them.
    """
    place, text = "--details", given
    if given.startswith("@"):
        place = arguments.printable(given[1:])
        try:
            raw = sys.stdin.buffer.read() if given == "@-" else pathlib.Path(given[1:]).read_bytes()
            text = raw.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise errors.ConfigError(f"{place}: not UTF-8, at byte {error.start}") from None
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or str(error)
            raise errors.ConfigError(f"{place}: {why}") from None
    try:
        value = json.loads(text, parse_constant=_no_number, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise errors.ConfigError(f"{place} is no JSON: {error.msg}, {where}") from None
    except (ValueError, RecursionError) as error:
        why = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise errors.ConfigError(f"{place} is no JSON for a job: {why}") from None
    if not isinstance(value, dict):
        raise errors.ConfigError(
            f"{place} should be an object in JSON, as in '{{\"server\": 42}}', line 1, column 1"
        )
    return value


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number in JSON")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a name stands twice in one of its objects")
    return made
