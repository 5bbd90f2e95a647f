# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""``multiboard watch``: what happens on a board, for people a line each, for programs in JSON."""

from __future__ import annotations

import argparse
import datetime
import json
import time
from collections.abc import Iterable, Mapping, Sequence

from multiboard import errors
from multiboard.cli import opening, selecting, words
from multiboard.cli.opening import StoreCommand
from multiboard.primitives import Change, ChangeKind, Shelf, arguments, boottime
from multiboard.runtime import codec
from multiboard.runtime.retry import RetryingGuard

#: Seconds that one question to the feed waits: bounds how late Ctrl-C and --for are noticed.
FEED_TIMEOUT = 1.0

#: An event by the names of its parts; empty ones are not shown.
Event = Mapping[str, str]


class Watch(StoreCommand):
    """Print what happens on a board, as it happens, until Ctrl-C."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "--for",
            type=words.seconds,
            dest="seconds",
            metavar="SECONDS",
            help="end after so long",
        )
        parser.add_argument(
            "-f",
            "--format",
            dest="formatter",
            choices=("text", "json"),
            default="text",
            help="a line for people, or an object in JSON on a line of its own (default: text)",
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> int:
        give_up = None if parsed_args.seconds is None else boottime() + parsed_args.seconds
        in_json = parsed_args.formatter == "json"
        with opening.opened(parsed_args.url) as guard:
            feed = _Feed(guard)
            self._print({"event": "WATCHING", "namespace": guard.settings.namespace}, in_json)
            while give_up is None or boottime() < give_up:
                left = FEED_TIMEOUT if give_up is None else max(0.0, give_up - boottime())
                for event in feed.next(min(left, FEED_TIMEOUT)):
                    self._print(event, in_json)
        return 0

    def _print(self, event: Event, in_json: bool) -> None:
        if in_json:
            now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="milliseconds")
            # In ASCII: what would rule a terminal is escaped.
            line = json.dumps({"time": now, **{k: v for k, v in event.items() if v}})
        else:
            parts = [f"by {v}" if k == "owner" and v else v for k, v in event.items()]
            line = " ".join(
                [time.strftime("%H:%M:%S"), *map(arguments.printable, filter(None, parts))]
            )
        self.app.stdout.write(line + "\n")
        self.app.stdout.flush()


class _Feed:
    """The change feed with the names of jobs, which it does not hold itself."""

    def __init__(self, guard: RetryingGuard) -> None:
        self._guard = guard
        self._cursor = guard.changes(None, 0.0).cursor
        self._names = self._listed()
        self._away = False

    def _listed(self) -> dict[str, str]:
        found = selecting.walk(self._guard, Shelf.LIVE, [])
        return {posting.key: body.name for posting, body in found}

    def next(self, timeout: float) -> Iterable[Event]:
        """Return the next events; that the store is away is one of them, once."""
        try:
            answer = self._guard.changes(self._cursor, timeout)
            owners = self._owners(answer.events)
            events = [self._event(event, owners) for event in answer.events]
            if answer.reset:
                self._names = self._listed()
        except errors.Unavailable as error:
            time.sleep(timeout)
            known, self._away = self._away, True
            return [] if known else [{"event": "UNAVAILABLE", "why": str(error)}]
        self._cursor, self._away = answer.cursor, False
        reset = {"event": "RESET", "why": "some events may have been missed"}
        return [reset, *events] if answer.reset else events

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

    def _event(self, event: Change, owners: Mapping[str, str]) -> Event:
        gone = event.kind in (ChangeKind.REMOVED, ChangeKind.TRASHED)
        name = self._names.pop(event.key, "") if gone else self._names.get(event.key, "")
        owner = owners.get(event.key, "") if event.kind is ChangeKind.CLAIMED else ""
        return {"event": event.kind.name, "uuid": event.key, "name": name, "owner": owner}
