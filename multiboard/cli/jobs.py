# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Operators' commands about jobs: jobs, show, trash, restore, purge."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from typing import Any

from cliff.command import Command
from cliff.lister import Lister
from cliff.show import ShowOne

from multiboard import errors
from multiboard.cli import opening, words
from multiboard.cli.opening import StoreCommand
from multiboard.primitives import Damage, Shelf


class _Listing(opening.Shown, StoreCommand, Lister):
    """A command that lists a shelf."""

    shelf = Shelf.LIVE

    def take_action(
        self, parsed_args: argparse.Namespace
    ) -> tuple[Sequence[str], Iterable[Sequence[Any]]]:
        with opening.opened(parsed_args.url) as guard:
            found, damaged = opening.read(guard, self.shelf)
        self._warn(damaged)
        unclaimed = getattr(parsed_args, "unclaimed", False)
        return opening.COLUMNS, [
            opening.row_of(posting, body, self.shelf)
            for posting, body in found
            if not (unclaimed and posting.lease is not None)
        ]

    def _warn(self, damaged: Sequence[Damage]) -> None:
        if damaged:
            self.app.stderr.write(
                f"{len(damaged)} record(s) can't be read; 'multiboard health' names them\n"
            )


class Jobs(_Listing):
    """List the jobs of a board in the order in which they are handed out."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "--unclaimed", action="store_true", help="leave out those that somebody works on"
        )
        return parser


class Trash(_Listing):
    """List the jobs that were set aside."""

    shelf = Shelf.TRASH


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


class _OnTrash(Command):
    """A command that does something to trashed jobs."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        words.add_url_and_uuids(parser, several=True)
        return parser

    def _absent(self, uuids: Iterable[str]) -> int:
        status = 0
        for uuid in uuids:
            self.app.stderr.write(f"no job {uuid} in the trash\n")
            status = 1
        return status


class Restore(_OnTrash):
    """Put jobs back from the trash, the last of their priority."""

    def take_action(self, parsed_args: argparse.Namespace) -> int:
        url, uuids = words.url_and_uuids(parsed_args.words)
        absent = []
        with opening.opened(url) as guard:
            trashed = {posting.key for posting in guard.list(Shelf.TRASH).postings}
            for uuid in uuids:
                # A live job would be answered as if it had just been restored.
                if uuid not in trashed:
                    absent.append(uuid)
                    continue
                try:
                    guard.restore(uuid)
                except errors.PostingNotFound:
                    absent.append(uuid)
                else:
                    self.app.stdout.write(f"restored {uuid}\n")
        return self._absent(absent)


class Purge(_OnTrash):
    """Delete jobs in the trash for good."""

    def take_action(self, parsed_args: argparse.Namespace) -> int:
        url, uuids = words.url_and_uuids(parsed_args.words)
        with opening.opened(url) as guard:
            done = guard.purge(uuids)
        for uuid, deleted in zip(uuids, done, strict=True):
            if deleted:
                self.app.stdout.write(f"purged {uuid}\n")
        return self._absent(u for u, deleted in zip(uuids, done, strict=True) if not deleted)
