# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Broken backends: the memory backend with a trait that is not true, or a feed that forgets.

It imports the memory backend, whose inside it spoils.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

from multiboard import errors, primitives
from multiboard.backends import memory
from multiboard.primitives import Lease, Posting, boottime
from tests.mutants.mutants import caught_by

# -- declared, and not so --------------------------------------------------------------------


@caught_by("NEXT-1")
class NativeInNameOnly(memory.MemoryBackend):
    """Declares native_claim_next and has the fallback."""

    acquire_next = primitives.LeaseLock.acquire_next


@caught_by("FEED-3")
class FreshInNameOnly(memory.MemoryBackend):
    """Declares linearizable_feed and reports nothing to those who do not wait."""

    def changes(self, cursor: str | None, timeout: float) -> primitives.Changes:
        if cursor is None or timeout:
            return super().changes(cursor, timeout)
        answer = super().changes(cursor, 0.0)
        return answer if answer.reset else primitives.Changes((), cursor)


@caught_by("RUN-1")
class SharedInNameOnly(memory.MemoryBackend):
    """Declares cross_host and shares nothing with anybody."""

    @property
    def traits(self) -> primitives.Traits:
        return dataclasses.replace(super().traits, cross_host=True)


@caught_by("LEASE-4", also="FEED-3 LEASE-2 LEASE-3 LEASE-7")
class DeadLinger(memory.MemoryBackend):
    """The leases of the dead end seconds later than lease_slack allows."""

    def _begin_session(self, board: Any) -> str:
        session = super()._begin_session(board)
        board.sessions[session] = boottime() + self.settings.session_timeout + 3.0
        return session


@caught_by("DIR-4")
class LessThanDeclared(memory.MemoryBackend):
    """Declares a max_body that it can't take."""

    def _add_one(self, board: Any, new: Any) -> Any:
        short = dataclasses.replace(new, body=new.body[: 1024 * 1024])
        return super()._add_one(board, short)


# -- so, and not declared --------------------------------------------------------------------


@caught_by("NEXT-1")
class NativeInSecret(memory.MemoryBackend):
    """Has an acquire_next of its own and does not declare it."""

    @property
    def traits(self) -> primitives.Traits:
        return dataclasses.replace(super().traits, native_claim_next=False)

    def acquire_next(
        self, holder: str, claim_ids: Sequence[str], expires_in: float | None = None
    ) -> Sequence[tuple[Posting, Lease]]:
        return super().acquire_next(holder, claim_ids, expires_in)


@caught_by("FEED-3")
class FreshInSecret(memory.MemoryBackend):
    """Has a linearizable_feed and does not declare it."""

    @property
    def traits(self) -> primitives.Traits:
        return dataclasses.replace(super().traits, linearizable_feed=False)


@caught_by("LEASE-4")
class SlackOfAMinute(memory.MemoryBackend):
    """Declares a lease_slack far beyond what it takes."""

    @property
    def traits(self) -> primitives.Traits:
        return dataclasses.replace(super().traits, lease_slack=60.0)


# -- looking ---------------------------------------------------------------------------------


@caught_by("DIR-6")
class LookingMakes(memory.MemoryBackend):
    """Says that there is no board, and makes one all the same: the second look finds it."""

    def open(self) -> None:
        try:
            super().open()
        except errors.BoardNotFound:
            settings = dataclasses.replace(self.settings, create=True)
            memory.MemoryBackend(settings).open()
            raise


@caught_by("DIR-6")
class NamesAfterLooking(memory.MemoryBackend):
    """Names every board that somebody has asked for."""

    asked: ClassVar[set[str]] = set()

    def open(self) -> None:
        self.asked.add(self.settings.namespace)
        super().open()

    def boards(self) -> Sequence[str]:
        return sorted(self.asked)


# -- the history of the feed -----------------------------------------------------------------


@caught_by(
    "FEED-1",
    "FEED-4",
    also="BATCH-1 DIR-1 ERR-2 LEASE-2 LEASE-4 NEXT-1",
    perhaps="history",
)
class ForgetsInSilence(memory.MemoryBackend):
    """Keeps fifty changes, and goes on from the oldest of them as if nothing were missing."""

    def open(self) -> None:
        super().open()
        board = self._opened()
        with board.changed:
            board.history = 50

    @staticmethod
    def _position(board: Any, cursor: str | None) -> int | None:
        known = memory.MemoryBackend._position(board, cursor)
        incarnation, _, told = (cursor or "").partition(":")
        if known is None and incarnation == board.incarnation and told.isdigit():
            return max(0, board.position - len(board.log)) if int(told) <= board.position else None
        return known
