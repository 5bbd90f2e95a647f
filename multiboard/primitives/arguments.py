# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""What callers may hand in: each rule once, for guard, board, conductor and command.

**Seconds.** A duration is a finite number, from its least value to a hundred years; a wait may also
be None, which is for ever. Infinity and NaN are refused everywhere: the clocks of the stores and
of Python can't wait for them, and a NaN is neither over nor not over.

Everything raises ``InvalidArgument``, which names what was given and what would be right.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Iterable
from typing import Any

from multiboard import errors

#: The longest duration that may be asked for, in seconds: a hundred years.
LONGEST = 100 * 365 * 86400.0
#: How many jobs may be asked for at a time.
MOST = 10_000

_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_CLAIM_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_HALF = re.compile("[\ud800-\udfff]")
#: Control characters, line breaks of any kind, and halves of characters.
_UNFIT = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def shown(value: Any) -> str:
    """Return a value for a message: short, and harmless to a terminal."""
    if isinstance(value, int) and value.bit_length() > 128:
        return f"an integer of {value.bit_length()} bits"
    return reprlib.repr(value)


def printable(text: str) -> str:
    """Return a text from elsewhere as one line that a terminal shows and does not obey."""
    if text.isprintable():
        return text
    return "".join(
        mark if mark.isprintable() else mark.encode("unicode_escape").decode() for mark in text
    )


def check_duration(name: str, value: Any, least: float = 0.001) -> None:
    """Refuse what is not a number of seconds."""
    _number(name, value, (int, float), least, LONGEST, "number of seconds")


def check_wait(name: str, value: Any) -> None:
    """Refuse what is neither a number of seconds nor None, for ever."""
    if value is not None:
        _number(name, value, (int, float), 0.0, LONGEST, "number of seconds", ", or None, for ever")


def check_expiry(value: Any) -> None:
    """Refuse what is neither None, for a claim that lives by its session, nor a duration."""
    if value is not None:
        check_duration("expiry: expires_in", value)


def check_count(name: str, value: Any, least: int = 1, most: int = MOST) -> None:
    """Refuse what is not a whole number between two others."""
    _number(name, value, int, least, most, "whole number")


def _number(
    name: str, value: Any, kinds: Any, least: float, most: float, what: str, more: str = ""
) -> None:
    number = isinstance(value, kinds) and not isinstance(value, bool)
    if not number or not least <= value <= most:  # which a NaN is not, either
        raise errors.InvalidArgument(
            f"{name} is {shown(value)}; it should be a {what} from {least:.10g} to"
            f" {most:.10g}{more}"
        )


def check_instance(name: str, value: Any, kind: type | tuple[type, ...], right: str) -> None:
    """Refuse what has another type; ``right`` says what would be right."""
    if not isinstance(value, kind):
        raise errors.InvalidArgument(f"{name} is {shown(value)}; it should be {right}")


def list_of(name: str, value: Any, right: str) -> list[Any]:
    """Return the items of a list or of what may stand for one."""
    if isinstance(value, (str, bytes, dict)) or not isinstance(value, Iterable):
        raise errors.InvalidArgument(f"{name} is {shown(value)}; it should be a list of {right}")
    return list(value)


def is_key(value: Any) -> bool:
    """Return whether a value can be a posting's key; a store may hold names that are none."""
    return isinstance(value, str) and _KEY.fullmatch(value) is not None


def check_key(value: Any) -> None:
    """Refuse what is not a posting's key."""
    if not is_key(value):
        raise errors.InvalidArgument(
            f"{shown(value)} is not a key: 1 to 128 characters of A-Z a-z 0-9 . _ - are, the first"
            " one a letter or a digit"
        )


def check_rank(value: Any) -> None:
    """Refuse what is not a posting's rank."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 99:
        raise errors.InvalidArgument(
            f"{shown(value)} is not a rank: a whole number from 0 to 99 is"
        )


def check_claim_ids(values: Any) -> None:
    """Refuse claim ids that a store could not keep, or could mix up."""
    for value in values:
        if not isinstance(value, str) or not _CLAIM_ID.fullmatch(value):
            raise errors.InvalidArgument(
                f"{shown(value)} is not a claim id: 1 to 64 characters of A-Z a-z 0-9 _ - are"
            )
    if len(set(values)) != len(values):
        raise errors.InvalidArgument("a claim id is for one attempt at one posting, not for two")


def check_holder(value: Any) -> None:
    """Refuse what can't name the holder of a lease: it is shown to people, and kept by stores."""
    if not isinstance(value, str) or not 1 <= len(value) <= 255 or _UNFIT.search(value):
        raise errors.InvalidArgument(
            f"{shown(value)} is not an owner's name: a holder is a string of 1 to 255 characters,"
            " none of them a control character or a line break"
        )


def check_plain(name: str, value: str) -> None:
    """Refuse a text with control characters, or that is not valid Unicode; it is not repeated."""
    if not value.isascii() and _HALF.search(value):
        raise errors.InvalidArgument(f"{name} is not UTF-8: it has half a character in it")
    if _UNFIT.search(value):
        raise errors.InvalidArgument(f"{name} has a control character or a line break in it")
