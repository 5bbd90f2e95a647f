# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Operators' commands about stores: backends, health, entities, watch."""

from __future__ import annotations

import argparse
import dataclasses
import time
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cliff.lister import Lister
from cliff.show import ShowOne

from multiboard import errors
from multiboard.cli import opening, words
from multiboard.cli.opening import StoreCommand
from multiboard.config import loading
from multiboard.primitives import Change, ChangeKind, Settings, Shelf, arguments, boottime
from multiboard.runtime import codec
from multiboard.runtime.retry import RetryingGuard

#: Seconds that one question to the feed waits: bounds how late Ctrl-C and --for are noticed.
FEED_TIMEOUT = 1.0


class Backends(opening.Shown, Lister):
    """List the backends that are installed; with a name, the options of one."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        parser.add_argument("name", nargs="?", metavar="NAME", help="show this one's options")
        return parser

    def take_action(
        self, parsed_args: argparse.Namespace
    ) -> tuple[Sequence[str], Iterable[Sequence[Any]]]:
        if parsed_args.name is not None:
            settings = loading.backend_class(parsed_args.name).settings_class
            return ("Option", "Type", "Default", "Meaning"), list(_options(settings))
        rows = [_backend(name) for name in loading.names()]
        return ("Name", "Usable", "Shared by", "Durable", "Options"), rows


def _backend(name: str) -> Sequence[Any]:
    try:
        cls = loading.backend_class(name)
        traits = loading.load(name).traits
    except errors.ConfigError as error:
        return (name, str(error), "", "", "")
    shared = "machines" if traits.cross_host else "processes" if traits.cross_process else "threads"
    options = ", ".join(field.name for field in dataclasses.fields(cls.settings_class))
    return (name, "yes", shared, "yes" if traits.durable else "no", options)


def _options(settings: type[Settings]) -> Iterable[Sequence[Any]]:
    hints = typing.get_type_hints(settings)
    for field in dataclasses.fields(settings):
        wanted, _ = loading.field_type(hints[field.name])
        kind = getattr(wanted, "__name__", str(wanted))
        default = "" if field.default is None else field.default
        if isinstance(default, tuple):
            kind, default = "list", ",".join(default)
        meaning = field.metadata["help"]
        if field.metadata["choices"]:
            meaning += f" One of: {', '.join(field.metadata['choices'])}."
        yield (field.name, kind, default, meaning)


class Health(opening.Shown, StoreCommand, ShowOne):
    """Show what the store is, what it promises, and what is wrong with the board."""

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Sequence[Any]]:
        with opening.opened(parsed_args.url) as guard:
            shown: dict[str, Any] = {
                "namespace": guard.settings.namespace,
                "incarnation": guard.incarnation,
                **guard.server_info(),
            }
            jobs, damaged = opening.read(guard, Shelf.LIVE)
            shown["jobs"] = len(jobs)
            shown["claimed"] = sum(posting.lease is not None for posting, _ in jobs)
            shown["delayed"] = sum(posting.due_in > 0 for posting, _ in jobs)
            trash, more = opening.read(guard, Shelf.TRASH)
            shown["trash"] = len(trash)
            shown["entities"] = guard.count(Shelf.ENTITIES)
            damage = [f"{damage.where}: {damage.why}" for damage in [*damaged, *more]]
            shown["damaged"] = opening.Lines(damage)
            shown.update(dataclasses.asdict(guard.traits))
        return list(shown), list(shown.values())


class Entities(opening.Shown, StoreCommand, Lister):
    """List the conductors that are present on a board."""

    def take_action(
        self, parsed_args: argparse.Namespace
    ) -> tuple[Sequence[str], Iterable[Sequence[Any]]]:
        rows = []
        with opening.opened(parsed_args.url) as guard:
            for posting in guard.list(Shelf.ENTITIES).postings:
                try:
                    entity = codec.decode_plain(posting.body)
                    about = opening.in_json(entity["metadata"])
                    rows.append((entity["kind"], entity["name"], about))
                except (codec.Undecodable, KeyError) as error:
                    self.app.stderr.write(f"the entity {posting.key} can't be read: {error}\n")
        return ("Kind", "Name", "Metadata"), rows


class Watch(StoreCommand):
    """Print what happens on a board, as it happens, until Ctrl-C."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "--for", type=words.seconds, dest="seconds", metavar="SECONDS", help="end after so long"
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> int:
        give_up = None if parsed_args.seconds is None else boottime() + parsed_args.seconds
        with opening.opened(parsed_args.url) as guard:
            feed = _Feed(guard)
            self._print("WATCHING", guard.settings.namespace)
            while give_up is None or boottime() < give_up:
                left = FEED_TIMEOUT if give_up is None else max(0.0, give_up - boottime())
                for line in feed.next(min(left, FEED_TIMEOUT)):
                    self._print(*line)
        return 0

    def _print(self, *line: str) -> None:
        now = time.strftime("%H:%M:%S")
        self.app.stdout.write(" ".join([now, *map(arguments.printable, filter(None, line))]) + "\n")
        self.app.stdout.flush()


class _Feed:
    """The change feed with the names of jobs, which it does not hold itself."""

    def __init__(self, guard: RetryingGuard) -> None:
        self._guard = guard
        self._cursor = guard.changes(None, 0.0).cursor
        self._names = self._listed()
        self._away = False

    def _listed(self) -> dict[str, str]:
        return {
            posting.key: body.name for posting, body in opening.read(self._guard, Shelf.LIVE)[0]
        }

    def next(self, timeout: float) -> Iterable[Sequence[str]]:
        """Return the next events as words; that the store is away is one of them, once."""
        try:
            answer = self._guard.changes(self._cursor, timeout)
            owners = self._owners(answer.events)
            lines = [self._line(event, owners) for event in answer.events]
            if answer.reset:
                self._names = self._listed()
        except errors.Unavailable as error:
            time.sleep(timeout)
            known, self._away = self._away, True
            return [] if known else [("UNAVAILABLE", str(error))]
        self._cursor, self._away = answer.cursor, False
        return [("RESET", "some events may have been missed"), *lines] if answer.reset else lines

    def _owners(self, events: Sequence[Change]) -> Mapping[str, str]:
        """Return who holds what was claimed, and learn the names of what is new."""
        keys = [
            event.key
            for event in events
            if event.kind is ChangeKind.CLAIMED or event.key not in self._names
        ]
        owners = {}
        for posting in self._guard.get(list(dict.fromkeys(keys))):
            if posting is None:
                continue
            if posting.lease is not None:
                owners[posting.key] = posting.lease.holder
            if posting.key not in self._names:
                try:
                    self._names[posting.key] = codec.decode(posting.body).name
                except codec.Undecodable:
                    self._names[posting.key] = "(can't be read)"
        return owners

    def _line(self, event: Change, owners: Mapping[str, str]) -> Sequence[str]:
        gone = event.kind in (ChangeKind.REMOVED, ChangeKind.TRASHED)
        name = self._names.pop(event.key, "") if gone else self._names.get(event.key, "")
        by = owners.get(event.key) if event.kind is ChangeKind.CLAIMED else None
        return (event.kind.name, event.key, name, f"by {by}" if by else "")
