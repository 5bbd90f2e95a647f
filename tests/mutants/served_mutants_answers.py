# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Broken backends: the served one that answers before, or without, its server.

It imports the served backend, whose requests it spoils.
"""

from __future__ import annotations

import contextlib
import threading
from typing import Any

from multiboard import errors, primitives
from multiboard.primitives import Lease
from tests.mutants import served
from tests.mutants.mutants import caught_by


@caught_by("ERR-1", "ERR-2")
class CountsFromMemory(served.ServedBackend):
    """Answers with the last count where the server does not."""

    _last: int | None = None

    def count(self, shelf: primitives.Shelf = primitives.Shelf.LIVE) -> int:
        try:
            self._last = super().count(shelf)
        except errors.Unavailable:
            if self._last is None:
                raise
        return self._last


@caught_by("ERR-1", "ERR-2")
class ReleasesIfItCan(served.ServedBackend):
    """Takes a release for done where nobody answered: the lease will end by itself."""

    def release(self, lease: Lease, delay: float = 0.0) -> None:
        with contextlib.suppress(errors.Unavailable, errors.Indeterminate):
            super().release(lease, delay)


@caught_by("DIR-1", "NEXT-1", perhaps="FEED-2 DIR-2 DIR-3 LEASE-1 LEASE-2 BATCH-1 ERR-2")
class WaitsAMomentForPages(served.ServedBackend):
    """Answers with the page as it was before, where a new one does not come in a moment."""

    def __init__(self, settings: primitives.Settings) -> None:
        super().__init__(settings)
        self._pages: dict[tuple[Any, ...], primitives.Page] = {}

    def list(
        self,
        shelf: primitives.Shelf = primitives.Shelf.LIVE,
        *,
        after: primitives.Place | None = None,
        limit: int | None = None,
    ) -> primitives.Page:
        place, came = (shelf, limit), threading.Event()
        read = super().list

        def ask() -> None:
            with contextlib.suppress(errors.MultiboardError):
                self._pages[place] = read(shelf, after=after, limit=limit)
            came.set()

        if place not in self._pages or after is not None:
            page = self._pages[place] = read(shelf, after=after, limit=limit)
            return page
        threading.Thread(target=ask, daemon=True).start()
        came.wait(0.15)
        return self._pages[place]
