# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The words of a command line: numbers, durations, UUIDs, and a URL that may be left out."""

from __future__ import annotations

import argparse
import re
import uuid
from collections.abc import Callable, Sequence

from multiboard import errors
from multiboard.primitives import arguments

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SPAN = re.compile(r"(?:[0-9]+(?:\.[0-9]+)?[smhd]\s*)+")


def whole(least: int, most: int) -> Callable[[str], int]:
    """Return what reads a whole number between two others."""

    def number(text: str) -> int:
        if not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"it should be {least} or more, and at most {most}")
        return int(text)

    return number


def seconds(text: str) -> float:
    """Read a duration: a number of seconds, or ``90s``, ``10m``, ``1h30m``, ``2d``."""
    written = text.strip().lower()
    if _SPAN.fullmatch(written):
        parts = re.findall(r"([0-9.]+)([smhd])", written)
        value = sum(float(number) * _UNITS[unit] for number, unit in parts)
    else:
        value = float(written)
    try:
        arguments.check_duration("it", value, least=0.0)
    except errors.InvalidArgument as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return value


# argparse names the type in "invalid seconds value".
seconds.__name__ = "duration"


def add_url_and_uuids(
    parser: argparse.ArgumentParser, several: bool, optional: bool = False
) -> None:
    """Let a command take a URL, which may be left out, and one UUID or several."""
    # The words are distinguished by their look: argparse can't leave out the first of them.
    uuids = f"UUID{' [UUID ...]' if several else ''}"
    parser.usage = f"%(prog)s [options] [URL] {f'[{uuids}]' if optional else uuids}"
    parser.add_argument(
        "words",
        nargs="*" if optional else "+",
        metavar="UUID",
        help="of a job; the store's URL may stand before it (default: $MULTIBOARD_URL)",
    )


def url_and_uuids(words: Sequence[str], optional: bool = False) -> tuple[str | None, list[str]]:
    """Split what :func:`add_url_and_uuids` took.

    Raises: ``ConfigError`` for what is no UUID.
    """
    if optional and not words:
        return None, []
    first = words[0]
    alone = optional and not is_uuid(first)
    url = first if ":" in first or alone or (len(words) > 1 and not is_uuid(first)) else None
    uuids = list(words) if url is None else list(words[1:])
    if not uuids and not optional:
        raise errors.ConfigError("name a job by its UUID; 'multiboard jobs' shows them")
    for word in uuids:
        if not is_uuid(word):
            shown = repr(word) if word.replace("-", "").isalnum() else "one of the words"
            raise errors.ConfigError(f"{shown} is not a UUID of a job")
    return url, [str(uuid.UUID(word)) for word in uuids]


def is_uuid(word: str) -> bool:
    """Return whether a word is a UUID."""
    try:
        uuid.UUID(word)
    except ValueError:
        return False
    return True
