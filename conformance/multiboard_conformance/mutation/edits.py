# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""What a rule makes of a source: a piece of text to be put in the place of another one.

All offsets are in bytes, for that is what the parsers count in. Imports nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

# The rules, which have the same names in each language.
DROP_CONDITION = "drop a condition"
NEGATE = "negate"
SWAP_BOUND = "swap a bound"
SWAP_AND_OR = "swap and/or"
SWAP_SIGN = "swap a sign"
CHANGE_CONSTANT = "change a constant"
FORGET_FIELD = "forget a field"
DROP_STATEMENT = "drop a statement"
REORDER = "reorder two writes"
DROP_WITH = "drop a with"
DROP_HANDLER = "drop a handler"
SWAP_ORDER = "swap an order"


@dataclass(frozen=True)
class Edit:
    """One change of one source."""

    rule: str
    start: int
    end: int
    text: str
    #: The function around it, with its classes; "" outside of any.
    scope: str = ""

    def applied(self, source: bytes) -> bytes:
        """Return the source with the change."""
        return source[: self.start] + self.text.encode() + source[self.end :]

    def lines(self, source: bytes) -> tuple[int, str, str]:
        """Return the first line's number, and the lines concerned: as they were, and changed."""
        begin = source.rfind(b"\n", 0, self.start) + 1
        end = source.find(b"\n", self.end)
        end = len(source) if end < 0 else end
        changed = source[begin : self.start] + self.text.encode() + source[self.end : end]
        return source.count(b"\n", 0, begin) + 1, source[begin:end].decode(), changed.decode()


def swapped_bound(operator: str) -> str | None:
    """Return the comparison that an author takes for this one by mistake, or None."""
    return {
        "<": "<=", "<=": "<", ">": ">=", ">=": ">", "==": "!=", "!=": "==", "~=": "==",
        "is": "is not", "is not": "is", "in": "not in", "not in": "in",
    }.get(operator)  # fmt: skip


def without_one(rule: str, parts: Sequence[tuple[int, int]], one: int, scope: str) -> Edit | None:
    """Return the edit that takes one part out of a list with commas; None if it is the only one."""
    if len(parts) == 1:
        return None
    if one + 1 < len(parts):
        return Edit(rule, parts[one][0], parts[one + 1][0], "", scope)
    return Edit(rule, parts[one - 1][1], parts[one][1], "", scope)


def reordered(
    source: bytes, first: tuple[int, int], second: tuple[int, int], scope: str
) -> Iterator[Edit]:
    """Yield the edit that swaps two neighbours, unless they are the same."""
    one, between, two = (
        source[begin:end].decode() for begin, end in (first, (first[1], second[0]), second)
    )
    # Where both stand in one line, or a comment is in between, the comment stays where it is.
    if one != two:
        yield Edit(REORDER, first[0], second[1], two + between + one, scope)
