# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Operators' commands that show jobs: jobs, show, and the listing of the trash."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from typing import Any

from cliff.lister import Lister
from cliff.show import ShowOne

from multiboard import errors
from multiboard.cli import opening, selecting, words
from multiboard.cli.opening import StoreCommand
from multiboard.primitives import Shelf

#: Jobs that a listing shows unless it is asked for more.
LIMIT = 200


class Listing(opening.Shown, Lister):
    """A command that lists a shelf."""

    shelf = Shelf.LIVE
    elastic = ("Name", "Owner")
    optional = ("Attempts", "Age")

    def add_choice(self, parser: argparse.ArgumentParser) -> None:
        """Let the command take the options that choose what is listed."""
        selecting.add_options(parser, self.shelf)
        parser.add_argument(
            "--limit",
            type=words.whole(0, 10**9),
            default=LIMIT,
            help=f"show so many at most (default: {LIMIT})",
        )
        parser.add_argument("--all", action="store_true", help="show all of them")

    def listed(
        self, url: str | None, parsed_args: argparse.Namespace
    ) -> tuple[Sequence[str], Iterable[Sequence[Any]]]:
        """Return the listing that was asked for, and write beside it what is not in it."""
        limit = None if parsed_args.all else parsed_args.limit
        with opening.opened(url) as guard:
            selection = selecting.select(
                guard, self.shelf, selecting.chosen(parsed_args, self.shelf), limit
            )
        if selection.more:
            self.app.stderr.write(f"{selection.more} more; --all or --limit shows them\n")
        if selection.damaged:
            self.app.stderr.write(
                f"{len(selection.damaged)} record(s) can't be read; 'multiboard health' names"
                " them\n"
            )
        rows = [opening.row_of(posting, body, self.shelf) for posting, body in selection.found]
        return opening.COLUMNS, rows


class Jobs(StoreCommand, Listing):
    """List the jobs of a board in the order in which they are handed out."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        self.add_choice(parser)
        parser.add_argument(
            "--unclaimed", action="store_true", help="leave out those that somebody works on"
        )
        return parser

    def take_action(
        self, parsed_args: argparse.Namespace
    ) -> tuple[Sequence[str], Iterable[Sequence[Any]]]:
        return self.listed(parsed_args.url, parsed_args)


class Show(opening.Shown, ShowOne):
    """Show one job; what it was given to work on only with --details."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        words.add_url_and_uuids(parser, several=False)
        parser.add_argument(
            "--details",
            action="store_true",
            help="show the details too: services may keep secrets there",
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Sequence[Any]]:
        url, uuids = words.url_and_uuids(parsed_args.words)
        if len(uuids) > 1:
            raise errors.ConfigError("one job at a time")
        with opening.opened(url) as guard:
            posting, body, shelf = opening.find(guard, uuids[0])
        lease = posting.lease
        shown: dict[str, Any] = {
            "name": body.name,
            "uuid": body.uuid,
            "priority": opening.priority_of(posting),
            "sequence": posting.serial,
            "state": opening.state_of(posting, shelf),
            "owner": "" if lease is None else lease.holder,
            "token": None if lease is None else lease.token,
            "expires_in": None if lease is None else lease.ends_in,
            "due_in": posting.due_in,
            "attempts": posting.attempts,
            "deaths": posting.deaths,
            "created_on": opening.when(posting.created_on),
            "last_modified": opening.when(posting.modified_on),
            "book": " ".join(body.book.values()),
            "size": len(posting.body),
        }
        if parsed_args.details:
            shown["details"] = opening.in_json(body.details)
        return list(shown), list(shown.values())
