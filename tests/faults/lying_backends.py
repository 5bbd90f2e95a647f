# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Backends that lie, to see that a fault run finds it out."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from multiboard import errors
from multiboard.backends.sqlite import SQLiteBackend
from multiboard.primitives import Lease, NewPosting, Posting, Shelf

_count = itertools.count(1)


class Forgetful(SQLiteBackend):
    """Acknowledges postings that it did not store, now and then."""

    def add(
        self, postings: Sequence[NewPosting], shelf: Shelf = Shelf.LIVE
    ) -> Sequence[Posting | errors.MultiboardError]:
        if shelf is Shelf.LIVE and next(_count) % 20 == 0:
            return [Posting(p.key, p.rank, 10**9, p.body, 0, 0, 0.0, 0.0) for p in postings]
        return super().add(postings, shelf)


class Trusting(SQLiteBackend):
    """Lets whoever names a posting act by its present lease, whatever the token."""

    def remove(
        self, leases: Sequence[Lease], to: Shelf | None = None
    ) -> Sequence[errors.MultiboardError | None]:
        now = self.get([lease.key for lease in leases])
        current = [
            lease if posting is None or posting.lease is None else posting.lease
            for lease, posting in zip(leases, now, strict=True)
        ]
        return super().remove(current, to)


class Blind(SQLiteBackend):
    """Leaves something out of a listing, now and then."""

    def get(self, keys: Sequence[str]) -> Sequence[Posting | None]:
        found = super().get(keys)
        return [None] * len(keys) if next(_count) % 50 == 0 else found
