# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The backend under test beside the reference model: the same steps on both, and the same answers.

A step is done on both, then the board is read on both. Names that the two choose for themselves
(tokens, serials, sessions) are compared by their order. Imports the primitives and the errors only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from multiboard import errors, primitives
from multiboard.primitives import Backend, Change, ChangeKind, Lease, NewPosting, Posting, Shelf

#: Seconds within which the feed must show what was done, and the end of a lease must be seen.
PATIENCE = 10.0


class Differs(AssertionError):
    """The two do not agree."""


@dataclass
class Side:
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
        if isinstance(value, primitives.Page):
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
        """Return the changes of each posting, once each; None where the feed reported a reset."""
        assert self.reader is not None
        self.reader.add([NewPosting("the-end", b"")])
        reported: dict[str, list[Any]] = {}
        give_up = primitives.boottime() + PATIENCE
        while "the-end" not in reported:
            if primitives.boottime() > give_up:
                raise Differs("the feed fell silent")
            changes = self.reader.changes(self.cursor, 2.0)
            self.cursor = changes.cursor
            if changes.reset:
                return None
            for change in changes.events:
                story = reported.setdefault(change.key, [])
                if not story or story[-1] != self._change(change):
                    story.append(self._change(change))
        return reported

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
    """The backend under test and the model, in the same state as far as anyone can see."""

    def __init__(self, subject: Callable[[], Backend], model: Callable[[], Backend]) -> None:
        self.sides = (Side(subject), Side(model))
        self.claims = 0
        #: The last step that may be repeated as it was: its name, and the calls on both.
        self.last: tuple[str, Callable[[Side], Any]] | None = None
        #: Keys that were consumed or purged: a store may remember them, and need not.
        self.consumed: set[str] = set()
        #: Leases, by their number, that were used up: what a store answers to one later is its own.
        self.spent: set[int] = set()

    def run(self, steps: Sequence[Step]) -> None:
        """Do the steps one by one, and compare; raise :class:`Differs` where the two differ."""
        for side in self.sides:
            side.begin()
        # Something to work on: else most programs are about postings that are not there.
        self.both("add", lambda side: side.actors[0].add([NewPosting("a", b"x")]), again=False)
        for step in steps:
            step.do(self)
            self._same(f"the board after {step}", Side.board)
        subject, model = (side.story() for side in self.sides)
        if subject is not None and subject != model:
            raise Differs(f"the feed reported {subject}, the model {model}")

    def both(self, what: str, call: Callable[[Side], Any], *, again: bool = True) -> Any:
        """Do a call on both, compare the answers, and return the plain one."""
        self.last = (what, call) if again else None
        return self._same(what, call)

    def either(self, what: str, call: Callable[[Side], Any], *allowed: Any) -> None:
        """Do a call on both where the contract leaves the choice between some answers."""
        self.last = None
        for side in self.sides:
            answer = self._answer(side, call)
            if answer not in allowed:
                raise Differs(f"{what} answered {answer}, not one of {allowed}")

    def _same(self, what: str, call: Callable[[Side], Any]) -> Any:
        subject, model = (self._answer(side, call) for side in self.sides)
        if subject != model:
            raise Differs(f"{what} answered {subject}, the model {model}")
        return model

    @staticmethod
    def _answer(side: Side, call: Callable[[Side], Any]) -> Any:
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
