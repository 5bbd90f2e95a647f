# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""``multiboard health``: what a board is like, for people; with limits, for a monitor."""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Iterator, Sequence
from typing import Any

from cliff.show import ShowOne

from multiboard.cli import opening, selecting, words
from multiboard.cli.opening import StoreCommand
from multiboard.primitives import Damage, Shelf
from multiboard.runtime.retry import RetryingGuard

#: The exit status where a limit is passed.
NOT_WELL = 3

_COUNT = words.whole(0, 10**9)


@dataclasses.dataclass
class Counts:
    """What a board holds."""

    jobs: int = 0
    claimed: int = 0
    delayed: int = 0
    trash: int = 0
    entities: int = 0
    #: Seconds since the oldest job that is due and unclaimed was posted; None where there is none.
    oldest: float | None = None
    damaged: list[Damage] = dataclasses.field(default_factory=list)


def count(guard: RetryingGuard) -> Counts:
    """Look through a board.

    Raises: as :meth:`multiboard.primitives.PostingDirectory.list`.
    """
    counts = Counts()
    for posting, _ in selecting.walk(guard, Shelf.LIVE, counts.damaged):
        counts.jobs += 1
        counts.claimed += posting.lease is not None
        counts.delayed += posting.due_in > 0
        if posting.lease is None and posting.due_in <= 0:
            # By two clocks: a store that is ahead must not show jobs of the future.
            age = max(0.0, time.time() - posting.created_on)
            counts.oldest = age if counts.oldest is None else max(counts.oldest, age)
    for _ in selecting.walk(guard, Shelf.TRASH, counts.damaged):
        counts.trash += 1
    counts.entities = guard.count(Shelf.ENTITIES)
    return counts


class Health(opening.Shown, StoreCommand, ShowOne):
    """Show what the store is, what it promises, and what is wrong with the board.

    With --check it is for a monitor: status 0 and one line when all is well, 1 when the board can't
    be reached, 3 and a line for each limit that is passed when it is not well.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        limits = parser.add_argument_group("limits")
        limits.add_argument(
            "--check", action="store_true", help="compare with the limits; show nothing else"
        )
        limits.add_argument(
            "--max-age",
            type=words.seconds,
            metavar="AGE",
            help="the oldest job that is due and unclaimed was posted no longer ago: 90s, 10m",
        )
        limits.add_argument(
            "--max-trash", type=_COUNT, metavar="N", help="no more jobs were set aside"
        )
        limits.add_argument(
            "--max-damaged", type=_COUNT, metavar="N", help="no more records can't be read"
        )
        limits.add_argument(
            "--need-conductors", type=_COUNT, metavar="N", help="so many conductors are present"
        )
        return parser

    def run(self, parsed_args: argparse.Namespace) -> int:
        """Show the board, or compare it with the limits."""
        limits = ("max_age", "max_trash", "max_damaged", "need_conductors")
        given = any(getattr(parsed_args, limit) is not None for limit in limits)
        if not parsed_args.check and not given:
            return int(super().run(parsed_args))
        with opening.opened(parsed_args.url) as guard:
            counts = count(guard)
        passed = list(_passed(counts, parsed_args))
        for line in passed or [_summary(counts)]:
            self.app.stdout.write(line + "\n")
        return NOT_WELL if passed else 0

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Sequence[Any]]:
        with opening.opened(parsed_args.url) as guard:
            shown: dict[str, Any] = {
                "namespace": guard.settings.namespace,
                "incarnation": guard.incarnation,
                **guard.server_info(),
            }
            counts = count(guard)
            for name in ("jobs", "claimed", "delayed", "trash", "entities"):
                shown[name] = getattr(counts, name)
            shown["oldest"] = None if counts.oldest is None else round(counts.oldest, 1)
            damage = [f"{damage.where}: {damage.why}" for damage in counts.damaged]
            shown["damaged"] = opening.Lines(damage)
            shown.update(dataclasses.asdict(guard.traits))
        return list(shown), list(shown.values())


def _passed(counts: Counts, limits: argparse.Namespace) -> Iterator[str]:
    """Yield a line for each limit that a board passes."""
    if limits.max_age is not None and counts.oldest is not None and counts.oldest > limits.max_age:
        oldest, most = opening.span(counts.oldest), opening.span(limits.max_age)
        yield f"age: a job that is due and unclaimed was posted {oldest} ago, the limit is {most}"
    if limits.max_trash is not None and counts.trash > limits.max_trash:
        yield f"trash: {counts.trash} job(s) set aside, the limit is {limits.max_trash}"
    damaged = len(counts.damaged)
    if limits.max_damaged is not None and damaged > limits.max_damaged:
        yield f"damaged: {damaged} record(s) can't be read, the limit is {limits.max_damaged}"
    if limits.need_conductors is not None and counts.entities < limits.need_conductors:
        yield f"conductors: {counts.entities} present, {limits.need_conductors} needed"


def _summary(counts: Counts) -> str:
    waiting = "none due" if counts.oldest is None else f"oldest due {opening.span(counts.oldest)}"
    return (
        f"well: {counts.jobs} job(s), {counts.claimed} claimed, {waiting}; {counts.trash} in the"
        f" trash; {counts.entities} conductor(s)"
    )
