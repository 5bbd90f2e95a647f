# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Which jobs of a shelf a command is about, by what their postings say."""

from __future__ import annotations

import argparse
import fnmatch
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from multiboard.cli import opening, words
from multiboard.jobboard.job import PRIORITIES
from multiboard.primitives import Damage, Posting, Shelf
from multiboard.runtime import codec
from multiboard.runtime.retry import RetryingGuard

#: Postings that are asked for at a time: bounds the memory that a walk over a board takes.
PAGE = 1000

Found = tuple[Posting, codec.Body]


def add_options(parser: argparse.ArgumentParser, shelf: Shelf) -> None:
    """Let a command take the options that choose among a shelf's jobs."""
    parser.add_argument("--name", metavar="GLOB", help="only jobs of such names, as in 'resize-*'")
    parser.add_argument(
        "--priority",
        action="append",
        type=str.upper,
        choices=[priority.value for priority in PRIORITIES],
        help="only jobs of this priority; may be repeated",
    )
    since = "were set aside" if shelf is Shelf.TRASH else "were posted"
    parser.add_argument(
        "--older-than",
        type=words.seconds,
        metavar="AGE",
        help=f"only jobs that {since} so long ago or longer: 90s, 10m, 1h30m, 2d",
    )
    if shelf is Shelf.LIVE:
        parser.add_argument(
            "--state",
            action="append",
            type=str.upper,
            choices=["UNCLAIMED", "CLAIMED", "DELAYED"],
            help="only jobs in this state; may be repeated",
        )
        parser.add_argument("--owner", help="only jobs that this owner claims")


def chosen(parsed_args: argparse.Namespace, shelf: Shelf) -> Callable[[Found], bool] | None:
    """Return what tells whether a job was asked for; None where all were."""
    wanted = [
        test
        for name, make in _TESTS.items()
        if (given := getattr(parsed_args, name, None)) not in (None, False)
        for test in (make(given, shelf),)
    ]
    return (lambda found: all(test(found) for test in wanted)) if wanted else None


def _older(age: float, shelf: Shelf) -> Callable[[Found], bool]:
    def is_older(found: Found) -> bool:
        # By two clocks, as ages are shown.
        since = found[0].modified_on if shelf is Shelf.TRASH else found[0].created_on
        return time.time() - since >= age

    return is_older


_TESTS: dict[str, Callable[..., Callable[[Found], bool]]] = {
    "name": lambda glob, _: lambda found: fnmatch.fnmatchcase(found[1].name, glob),
    "priority": lambda names, _: lambda found: opening.priority_of(found[0]) in names,
    "older_than": _older,
    "state": lambda names, shelf: lambda found: opening.state_of(found[0], shelf) in names,
    "owner": lambda owner, _: (
        lambda found: found[0].lease is not None and found[0].lease.holder == owner
    ),
    "unclaimed": lambda _, __: lambda found: found[0].lease is None,
}


@dataclass
class Selection:
    """The jobs that a walk found, in order, as far as they were wanted."""

    found: list[Found] = field(default_factory=list)
    #: How many more there are, beyond the limit.
    more: int = 0
    damaged: list[Damage] = field(default_factory=list)


def postings(guard: RetryingGuard, shelf: Shelf, damaged: list[Damage]) -> Iterator[Posting]:
    """Yield a shelf's postings in order, page by page, and note what can't be read.

    Raises: as :meth:`multiboard.primitives.PostingDirectory.list`.
    """
    after = None
    while True:
        page = guard.list(shelf, after=after, limit=PAGE)
        # A store may name what it can't place on every page.
        damaged += [damage for damage in page.damaged if damage not in damaged]
        yield from page.postings
        after = page.after
        if after is None:
            return


def walk(guard: RetryingGuard, shelf: Shelf, damaged: list[Damage]) -> Iterator[Found]:
    """Yield a shelf's jobs with what is in them, as :func:`postings` does."""
    for posting in postings(guard, shelf, damaged):
        try:
            yield posting, codec.decode(posting.body)
        except codec.Undecodable as error:
            damaged.append(Damage(posting.key, str(error)))


def select(
    guard: RetryingGuard,
    shelf: Shelf,
    wanted: Callable[[Found], bool] | None = None,
    limit: int | None = None,
) -> Selection:
    """Return the first jobs of a shelf that are wanted, and how many more there are.

    Raises: as :meth:`multiboard.primitives.PostingDirectory.list`.
    """
    selection = Selection()
    seen = 0
    for found in walk(guard, shelf, selection.damaged):
        seen += 1
        if wanted is not None and not wanted(found):
            continue
        if limit is None or len(selection.found) < limit:
            selection.found.append(found)
        else:
            selection.more += 1
            if wanted is None:  # the store can count the rest
                rest = guard.count(shelf) - seen - len(selection.damaged)
                selection.more += max(0, rest)
                break
    return selection


def keys(found: Sequence[Found]) -> list[str]:
    """Return the keys of jobs."""
    return [posting.key for posting, _ in found]
