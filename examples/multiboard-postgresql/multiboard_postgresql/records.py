# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Rows <-> values, and batches in parts. The tables are described in ``tables.sql``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from multiboard import errors
from multiboard.primitives import Lease, NewPosting, Posting

#: Items of a batch in one statement.
PART = 500

#: Columns of ``multiboard.posting``.
Row = tuple[Any, ...]
T = TypeVar("T")


def in_parts(items: Sequence[T]) -> Iterator[Sequence[T]]:
    """Cut a batch: one statement holds the lock of the board for all of its items."""
    return (items[start : start + PART] for start in range(0, len(items), PART))


def posting_of(row: Row) -> Posting:
    """Return a row without a flaw as a posting."""
    _, key, rank, serial, body, attempts, deaths, created, modified, due_in, *rest = row
    holder, claim_id, token, session, ends_in = rest
    lease = None if claim_id is None else Lease(key, holder, claim_id, token, session, ends_in)
    return Posting(key, rank, serial, body, attempts, deaths, created, modified, due_in, lease)


def added(posting: NewPosting, row: Row) -> Posting | errors.MultiboardError:
    """Return the answer to one item of an add."""
    if row[0] == "exists":
        return errors.PostingExists(posting.key)
    if row[0] == "gone":
        return errors.PostingNotFound(posting.key, f"posting {posting.key!r} was consumed already")
    return replace(posting_of(row), body=posting.body)


def failure_of(lease: Lease, row: Row) -> errors.MultiboardError | None:
    """Return what the outcome of a verb means for the lease that it was given."""
    if row[0] == "done":
        return None
    if row[0] == "lost":
        return errors.LeaseLost(lease.key, lease.token)
    return errors.PostingNotFound(lease.key)


def raise_any(error: errors.MultiboardError | None) -> None:
    """Raise an error that was returned as a value."""
    if error is not None:
        raise error
