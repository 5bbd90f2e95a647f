# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Operators' commands about stores: backends, boards, entities."""

from __future__ import annotations

import argparse
import dataclasses
import typing
from collections.abc import Iterable, Sequence
from typing import Any

from cliff.lister import Lister

from multiboard import errors
from multiboard.cli import opening, selecting
from multiboard.cli.opening import StoreCommand
from multiboard.config import loading
from multiboard.primitives import Settings, Shelf
from multiboard.runtime import codec


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


class Boards(opening.Shown, StoreCommand, Lister):
    """List the boards of a store; the namespace in the URL does not matter."""

    def take_action(
        self, parsed_args: argparse.Namespace
    ) -> tuple[Sequence[str], Iterable[Sequence[Any]]]:
        guard = opening.guarded(parsed_args.url)
        try:
            found = guard.boards()
        finally:
            guard.close()
        if not found:
            self.app.stderr.write("there are no boards\n")
        return ("Board",), [(name,) for name in found]


class Entities(opening.Shown, StoreCommand, Lister):
    """List the conductors that are present on a board."""

    def take_action(
        self, parsed_args: argparse.Namespace
    ) -> tuple[Sequence[str], Iterable[Sequence[Any]]]:
        rows = []
        with opening.opened(parsed_args.url) as guard:
            for posting in selecting.postings(guard, Shelf.ENTITIES, []):
                try:
                    entity = codec.decode_plain(posting.body)
                    about = opening.in_json(entity["metadata"])
                    rows.append((entity["kind"], entity["name"], about))
                except (codec.Undecodable, KeyError) as error:
                    self.app.stderr.write(f"the entity {posting.key} can't be read: {error}\n")
        return ("Kind", "Name", "Metadata"), rows
