# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""What a board shows, as checks compare it. Imports the primitives only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from multiboard.primitives import Backend, Posting, Shelf


def look(backend: Backend, key: str) -> Posting:
    """Return a live posting."""
    (posting,) = backend.get([key])
    assert posting is not None, f"posting {key!r} is not live"
    return posting


def keys(postings: Sequence[Posting]) -> list[str]:
    """Return the keys of postings, in their order."""
    return [posting.key for posting in postings]


def listed(backend: Backend, shelf: Shelf = Shelf.LIVE) -> list[str]:
    """Return the keys of a shelf, in its order."""
    return keys(backend.list(shelf).postings)


def snapshot(backend: Backend) -> dict[str, Any]:
    """Return all that a board holds, to be compared."""
    return {
        "live": list(backend.list(Shelf.LIVE).postings),
        "trash": list(backend.list(Shelf.TRASH).postings),
        "entities": list(backend.list(Shelf.ENTITIES).postings),
    }


def is_free(backend: Backend, key: str) -> bool:
    """Tell whether a live posting is unleased."""
    return look(backend, key).lease is None
