# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Tables that fit the terminal: long names are cut, columns that can be missed are left out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from rich.cells import cell_len, set_cell_size

#: Columns that are never cut below this, in cells of the terminal.
LEAST = 5


def width_of(stream: Any) -> int | None:
    """Return how wide a table on this stream may be; None where it goes to no terminal."""
    given = os.environ.get("COLUMNS", "")
    if given.isascii() and given.isdigit() and int(given):
        return int(given)
    try:
        return os.get_terminal_size(stream.fileno()).columns if stream.isatty() else None
    except (OSError, ValueError, AttributeError):  # a stream without a descriptor
        return None


def fit(
    names: Sequence[str],
    rows: Sequence[Sequence[Any]],
    width: int,
    elastic: Sequence[str],
    optional: Sequence[str],
) -> tuple[list[str], list[list[Any]]]:
    """Return the columns and the rows of a table that is ``width`` cells wide, if it can be.

    Columns in ``elastic`` are cut, the widest first; where that is not enough those in ``optional``
    are left out, in their order.
    """
    kept = list(range(len(names)))
    widths = [max([cell_len(names[at]), *(cell_len(text(row[at])) for row in rows)]) for at in kept]
    leaving = [names.index(name) for name in optional if name in names]
    while True:
        room = width - 1 - 3 * len(kept)
        cut = _cut(widths, kept, [at for at in kept if names[at] in elastic], room)
        if cut is not None or not leaving:
            break
        kept.remove(leaving.pop(0))
    sizes = cut or {}
    return [names[at] for at in kept], [
        [shorten(row[at], sizes[at]) if at in sizes else row[at] for at in kept] for row in rows
    ]


def _cut(
    widths: Sequence[int], kept: Sequence[int], elastic: Sequence[int], room: int
) -> dict[int, int] | None:
    """Return the new widths of the columns to be cut; None where that does not make them fit."""
    size = {at: widths[at] for at in elastic}
    while (over := sum(size.get(at, widths[at]) for at in kept) - room) > 0:
        if not size:
            return None
        first, *others = sorted(size, key=lambda at: -size[at])
        least = max([LEAST, *(size[at] for at in others[:1])])
        if size[first] <= LEAST:
            return None
        size[first] -= max(1, min(over, size[first] - least))
    return {at: new for at, new in size.items() if new < widths[at]}


def text(value: Any) -> str:
    """Return a value as a table shows it."""
    return str(value.human_readable() if hasattr(value, "human_readable") else value)


def shorten(value: Any, width: int) -> Any:
    """Return a value, or its beginning with an ellipsis where it is wider."""
    shown = text(value)
    return value if cell_len(shown) <= width else set_cell_size(shown, width - 1).rstrip() + "…"
