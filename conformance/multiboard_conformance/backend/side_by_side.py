# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The same steps on the backend under test and on the reference model, and what must be the same.

A step is done on both, then the board is read on both. Names that the two choose for themselves
(tokens, serials, sessions) are compared by their order. Imports the primitives and the errors only.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from multiboard import errors
from multiboard.primitives import (
    Backend,
    Change,
    ChangeKind,
    Lease,
    NewPosting,
    Page,
    Posting,
    Shelf,
    boottime,
)

#: Seconds of a lease that is let end, and until its end must be seen.
SHORT = 0.06
PATIENCE = 10.0


class Differs(AssertionError):
    """The two do not agree."""


@dataclass
class _Side:
    """One of the two: its backends, the leases that it gave, and how their tokens are called."""

    opening: Callable[[], Backend]
    actors: list[Backend] = field(default_factory=list)
    leases: list[Lease] = field(default_factory=list)
    #: The tokens of each key, in the order in which they were first seen.
    tokens: dict[str, list[int]] = field(default_factory=dict)
    cursor: str | None = None
    reader: Backend | None = None

    def begin(self) -> None:
        """Open two backends, and one that reads the feed."""
        self.actors = [self.opening(), self.opening()]
        self.reader = self.opening()
        self.cursor = self.reader.changes(None, 0.0).cursor

    def token(self, key: str, token: int) -> int:
        """Return a token's number among those of its key; a new one must be the highest."""
        known = self.tokens.setdefault(key, [])
        if token not in known:
            if known and token < known[-1]:
                raise Differs(f"the token {token} of {key} came after {known[-1]}")
            known.append(token)
        return known.index(token)

    def plain(self, value: Any) -> Any:
        """Return what is to be compared of an answer."""
        if isinstance(value, Lease):
            kind = "timed" if value.session is None else "session"
            number = self.token(value.key, value.token)
            # Not the claim id: which of a batch won which posting is the store's choice.
            return (value.key, value.holder, kind, number)
        if isinstance(value, Posting):
            due = "later" if value.due_in > 30.0 else "due"
            counts = (value.attempts, value.deaths)
            return (value.key, value.rank, value.body, *counts, due, self.plain(value.lease))
        if isinstance(value, Page):
            return (self.plain(list(value.postings)), len(value.damaged))
        if isinstance(value, errors.LeaseHeld):
            return ("LeaseHeld", value.key, value.holder)
        if isinstance(value, errors.MultiboardError):
            return type(value).__name__
        if isinstance(value, Exception):
            raise Differs(f"a native error escaped: {value!r}") from value
        if isinstance(value, (list, tuple)):
            return [self.plain(item) for item in value]
        return "seconds" if isinstance(value, float) else value

    def board(self) -> Any:
        """Return all that the board shows."""
        assert self.reader is not None
        return {
            "live": self.plain(self.reader.list(Shelf.LIVE)),
            "count": self.reader.count(Shelf.LIVE),
            "trash": sorted(self.plain(self.reader.list(Shelf.TRASH))[0]),
            "entities": sorted(self.plain(self.reader.list(Shelf.ENTITIES))[0]),
        }

    def story(self) -> dict[str, list[Any]] | None:
        """Return what the feed told of each posting, once each; None where it said reset."""
        assert self.reader is not None
        self.reader.add([NewPosting("the-end", b"")])
        told: dict[str, list[Any]] = {}
        give_up = boottime() + PATIENCE
        while "the-end" not in told:
            if boottime() > give_up:
                raise Differs("the feed fell silent")
            changes = self.reader.changes(self.cursor, 2.0)
            self.cursor = changes.cursor
            if changes.reset:
                return None
            for change in changes.events:
                story = told.setdefault(change.key, [])
                if not story or story[-1] != self._change(change):
                    story.append(self._change(change))
        return told

    def _change(self, change: Change) -> Any:
        held = change.kind in (ChangeKind.CLAIMED, ChangeKind.RELEASED, ChangeKind.EXPIRED)
        token = self.token(change.key, change.token) if held and change.token else None
        return (change.kind.name, token)

    def close(self) -> None:
        """Close all backends."""
        for backend in [*self.actors, self.reader]:
            if backend is not None:
                backend.close()


class SideBySide:
    """The backend under test and the model, in the same state as far as anyone can tell."""

    def __init__(self, subject: Callable[[], Backend], model: Callable[[], Backend]) -> None:
        self.sides = (_Side(subject), _Side(model))
        self.claims = 0
        #: The last step that may be repeated as it was: its name, and the calls on both.
        self.last: tuple[str, Callable[[_Side], Any]] | None = None
        #: Keys that were consumed or purged: a store may remember them, and need not.
        self.consumed: set[str] = set()
        #: Leases, by their number, that were used up: what a store says of one later is its own.
        self.spent: set[int] = set()

    def run(self, steps: Sequence[Step]) -> None:
        """Do the steps one by one, and compare; raise :class:`Differs` where the two differ."""
        for side in self.sides:
            side.begin()
        # Something to work on: else most programs are about postings that are not there.
        self.both("add", lambda side: side.actors[0].add([NewPosting("a", b"x")]), again=False)
        for step in steps:
            step.do(self)
            self._same(f"the board after {step}", _Side.board)
        subject, model = (side.story() for side in self.sides)
        if subject is not None and subject != model:
            raise Differs(f"the feed told {subject}, the model {model}")

    def both(self, what: str, call: Callable[[_Side], Any], *, again: bool = True) -> Any:
        """Do a call on both, compare the answers, and return the plain one."""
        self.last = (what, call) if again else None
        return self._same(what, call)

    def either(self, what: str, call: Callable[[_Side], Any], *allowed: Any) -> None:
        """Do a call on both where the contract leaves the choice between some answers."""
        self.last = None
        for side in self.sides:
            answer = self._answer(side, call)
            if answer not in allowed:
                raise Differs(f"{what} answered {answer}, not one of {allowed}")

    def _same(self, what: str, call: Callable[[_Side], Any]) -> Any:
        subject, model = (self._answer(side, call) for side in self.sides)
        if subject != model:
            raise Differs(f"{what} answered {subject}, the model {model}")
        return model

    @staticmethod
    def _answer(side: _Side, call: Callable[[_Side], Any]) -> Any:
        try:
            answer = call(side)
        except Differs:
            raise
        except Exception as error:
            answer = error
        return side.plain(answer)

    def claim(self) -> str:
        """Return a new claim id, the same on both sides."""
        self.claims += 1
        return f"claim{self.claims}"

    def close(self) -> None:
        """Close all backends."""
        for side in self.sides:
            side.close()


class Step:
    """One step of a program."""

    def do(self, both: SideBySide) -> None:
        """Do it on both."""
        raise NotImplementedError


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
        def read(side: _Side) -> Any:
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

        def acquire(side: _Side) -> Lease:
            lease = side.actors[self.actor].acquire(self.key, "me", attempt, self.expires_in)
            _note(side, lease)
            return lease

        both.both(str(self), acquire)


def _note(side: _Side, lease: Lease) -> None:
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

        def acquire(side: _Side) -> Any:
            won = side.actors[self.actor].acquire_next("me", attempts, self.expires_in)
            for _, lease in won:
                _note(side, lease)
            return [*won, len({lease.claim_id for _, lease in won})]

        both.both(str(self), acquire)


@dataclass(frozen=True)
class Expire(Step):
    """Acquire a posting for a moment, and let the lease end."""

    actor: int
    key: str

    def do(self, both: SideBySide) -> None:
        attempt = both.claim()

        def acquire(side: _Side) -> Any:
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


def name_of(answer: Any) -> Any:
    """Return the class name of an error, or the answer itself."""
    return type(answer).__name__ if isinstance(answer, errors.MultiboardError) else answer


class _Use(Step):
    """A use of leases that were given before."""

    def _use(
        self,
        both: SideBySide,
        pick: int,
        verb: Callable[[_Side, Lease], Any],
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
            # Whether this store still knows how the lease ended is its own affair.
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
    """Repeat the last step, as a caller does that did not hear the answer."""

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
