# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The steps of random programs, each done on the backend under test and on the reference model.

Imports the primitives and the errors only.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from multiboard.primitives import Lease, NewPosting, Page, Shelf, boottime
from multiboard_conformance.backend.answers import name_of
from multiboard_conformance.backend.side_by_side import PATIENCE, Differs, Side, SideBySide, Step

#: Seconds of a lease that is let end.
SHORT = 0.06


@dataclass(frozen=True)
class Add(Step):
    """Add a batch of postings."""

    actor: int
    items: Sequence[tuple[str, bytes, int]]
    delay: float

    def do(self, both: SideBySide) -> None:
        new = [
            NewPosting(key, body, rank, self.delay)
            for key, body, rank in self.items
            if key not in both.consumed
        ]
        both.both(str(self), lambda side: side.actors[self.actor].add(new))


@dataclass(frozen=True)
class Enter(Step):
    """Add an entity."""

    actor: int
    key: str

    def do(self, both: SideBySide) -> None:
        entry = NewPosting(self.key, f"by {self.actor}".encode())
        both.both(str(self), lambda side: side.actors[self.actor].add([entry], Shelf.ENTITIES))


@dataclass(frozen=True)
class Read(Step):
    """Read by key and part by part, and keep the session."""

    actor: int
    keys: Sequence[str]

    def do(self, both: SideBySide) -> None:
        def read(side: Side) -> Any:
            backend = side.actors[self.actor]
            first = backend.list(limit=2)
            rest = backend.list(after=first.after) if first.after else Page(())
            pages = [*first.postings, *rest.postings]
            return [backend.get(self.keys), pages, backend.keepalive()]

        both.both(str(self), read)


@dataclass(frozen=True)
class Acquire(Step):
    """Acquire a posting."""

    actor: int
    key: str
    expires_in: float | None

    def do(self, both: SideBySide) -> None:
        attempt = both.claim()

        def acquire(side: Side) -> Any:
            lease = side.actors[self.actor].acquire(
                self.key, f"w{self.actor}", attempt, self.expires_in
            )
            _note(side, lease)
            return [lease, lease.claim_id]

        both.both(str(self), acquire)


def _note(side: Side, lease: Lease) -> None:
    if lease not in side.leases:
        side.leases.append(lease)


@dataclass(frozen=True)
class AcquireNext(Step):
    """Acquire the first that are due and unleased."""

    actor: int
    number: int
    expires_in: float | None

    def do(self, both: SideBySide) -> None:
        attempts = [both.claim() for _ in range(self.number)]

        def acquire(side: Side) -> Any:
            won = side.actors[self.actor].acquire_next(f"w{self.actor}", attempts, self.expires_in)
            for _, lease in won:
                _note(side, lease)
            return [*won, sorted(lease.claim_id for _, lease in won)]

        both.both(str(self), acquire)


@dataclass(frozen=True)
class Expire(Step):
    """Acquire a posting for a moment, and let the lease end."""

    actor: int
    key: str

    def do(self, both: SideBySide) -> None:
        attempt = both.claim()

        def acquire(side: Side) -> Any:
            backend = side.actors[self.actor]
            lease = backend.acquire(self.key, "me", attempt, SHORT)
            time.sleep(SHORT)
            give_up = boottime() + PATIENCE
            while boottime() < give_up:
                (posting,) = backend.get([self.key])
                if posting is not None and posting.lease is None:
                    return [lease, name_of(_first(backend.remove([lease])))]
                time.sleep(0.02)
            raise Differs(f"the lease on {self.key} did not end")

        both.both(str(self), acquire, again=False)


def _first(answers: Sequence[Any]) -> Any:
    return answers[0]


class _Use(Step):
    """A use of leases that were given before."""

    def _use(
        self,
        both: SideBySide,
        pick: int,
        verb: Callable[[Side, Lease], Any],
        *,
        spends: bool,
        consumes: bool = False,
    ) -> None:
        known = len(both.sides[1].leases)
        if not known:
            return
        number = known - 1 - pick % known
        key = both.sides[1].leases[number].key
        call = lambda side: verb(side, side.leases[number])  # noqa: E731
        if number in both.spent:
            # Whether this store still remembers how the lease ended is its own affair.
            both.either(
                f"{self} of a lease that is over", call, None, "LeaseLost", "PostingNotFound"
            )
            return
        answer = both.both(str(self), call)
        done = not isinstance(answer, str)
        if done and spends:
            both.spent.add(number)
        if done and consumes:
            both.consumed.add(key)


@dataclass(frozen=True)
class Renew(_Use):
    """Renew a lease."""

    actor: int
    pick: int

    def do(self, both: SideBySide) -> None:
        self._use(
            both, self.pick, lambda side, lease: side.actors[self.actor].renew(lease, 90.0),
            spends=False,
        )  # fmt: skip


@dataclass(frozen=True)
class Release(_Use):
    """Give a lease back."""

    actor: int
    pick: int
    delay: float

    def do(self, both: SideBySide) -> None:
        self._use(
            both, self.pick,
            lambda side, lease: side.actors[self.actor].release(lease, self.delay),
            spends=True,
        )  # fmt: skip


@dataclass(frozen=True)
class Remove(_Use):
    """Remove postings for good, or set them aside."""

    actor: int
    picks: Sequence[int]
    trash: bool

    def do(self, both: SideBySide) -> None:
        to = Shelf.TRASH if self.trash else None
        for pick in self.picks:
            self._use(
                both, pick,
                lambda side, lease: _first(side.actors[self.actor].remove([lease], to)),
                spends=True, consumes=not self.trash,
            )  # fmt: skip


@dataclass(frozen=True)
class Restore(Step):
    """Take a posting back from the trash."""

    actor: int
    key: str

    def do(self, both: SideBySide) -> None:
        both.both(str(self), lambda side: side.actors[self.actor].restore(self.key))


@dataclass(frozen=True)
class Purge(Step):
    """Delete from the trash, or from the entities."""

    actor: int
    keys: Sequence[str]
    entities: bool

    def do(self, both: SideBySide) -> None:
        shelf = Shelf.ENTITIES if self.entities else Shelf.TRASH
        answer = both.both(
            str(self), lambda side: side.actors[self.actor].purge(self.keys, shelf), again=False
        )
        if not self.entities:
            both.consumed.update(key for key, gone in zip(self.keys, answer, strict=True) if gone)


@dataclass(frozen=True)
class Again(Step):
    """Repeat the last step, as a caller does that lost the reply."""

    def do(self, both: SideBySide) -> None:
        if both.last is not None:
            what, call = both.last
            both.both(f"the repeated {what}", call)


@dataclass(frozen=True)
class Leave(Step):
    """Close a backend, and open another one in its place."""

    actor: int

    def do(self, both: SideBySide) -> None:
        both.last = None
        for side in both.sides:
            side.actors[self.actor].close()
            side.actors[self.actor] = side.opening()
