# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The backend under test beside the reference model: the same steps on both, and the same answers.

A step is done on both, then the board is read on both. Names that the two choose for themselves
(tokens, serials, sessions) are compared by their order, and seconds that are left as far as a busy
machine allows. Imports the primitives and the errors only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from multiboard import errors, primitives
from multiboard.primitives import Backend, Change, ChangeKind, Lease, NewPosting, Posting, Shelf
from multiboard_conformance.machinery.resets import accept_reset

#: Seconds within which the feed must show what was done, and the end of a lease must be seen.
PATIENCE = 10.0


#: Seconds by which what is left of a time may differ: the two are asked one after the other, and
#: the times of the programs are thirty seconds apart.
TOLERANCE = 14.0


class Differs(AssertionError):
    """The two do not agree."""


class About(float):
    """Seconds that are left: equal to others that are about as many."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, About) and abs(self - other) < TOLERANCE

    def __hash__(self) -> int:
        raise TypeError("what is equal only roughly has no hash")


@dataclass
class Side:
    """One of the two: its backends, the leases that it gave, and how their tokens are called."""

    opening: Callable[[], Backend]
    actors: list[Backend] = field(default_factory=list)
    leases: list[Lease] = field(default_factory=list)
    #: The tokens of each key, in the order in which they were first seen.
    tokens: dict[str, list[int]] = field(default_factory=dict)
    #: The sessions, in the order in which they were first seen in a lease.
    sessions: list[str] = field(default_factory=list)
    #: When each posting was created: it stays.
    created: dict[str, float] = field(default_factory=dict)
    cursor: str | None = None
    reader: Backend | None = None
    #: When it began to read the feed, by boottime.
    begun: float = 0.0

    def begin(self) -> None:
        """Open two backends, and one that reads the feed."""
        self.actors = [self.opening(), self.opening()]
        self.reader = self.opening()
        self.begun = primitives.boottime()
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
            number = self.token(value.key, value.token)
            ends = None if value.ends_in is None else About(value.ends_in)
            # Not the claim id: which of a batch won which posting is the store's choice.
            return (value.key, value.holder, self.session(value.session), number, ends)
        if isinstance(value, Posting):
            counts = (value.attempts, value.deaths, About(value.due_in))
            return (value.key, value.rank, value.body, *counts, self.plain(value.lease))
        if isinstance(value, primitives.Page):
            places = [posting.place for posting in value.postings]
            if places != sorted(set(places)):
                raise Differs(f"a page is not in the order of its places: {places}")
            return (self.plain(list(value.postings)), [damage.where for damage in value.damaged])
        if isinstance(value, errors.LeaseHeld):
            return ("LeaseHeld", value.key, value.holder)
        if isinstance(value, errors.MultiboardError):
            return type(value).__name__
        if isinstance(value, Exception):
            raise Differs(f"a native error escaped: {value!r}") from value
        if isinstance(value, (list, tuple)):
            return [self.plain(item) for item in value]
        return "seconds" if isinstance(value, float) else value

    def session(self, session: str | None) -> int | None:
        """Return a session's number in the order of their first leases; None for no session."""
        if session is None:
            return None
        if session not in self.sessions:
            self.sessions.append(session)
        return self.sessions.index(session)

    def board(self) -> Any:
        """Return all that the board shows."""
        assert self.reader is not None
        shown: dict[str, Any] = {}
        for shelf in Shelf:
            page = self.reader.list(shelf)
            postings, damaged = self.plain(page)
            # Only the live shelf has an order that the contract names: elsewhere the serials may be
            # those of the store.
            ordered = postings if shelf is Shelf.LIVE else sorted(postings, key=lambda one: one[0])
            shown[shelf.value] = (ordered, damaged, self.reader.count(shelf))
            if shelf is not Shelf.ENTITIES:
                self._same_creation(page.postings)
        return shown

    def _same_creation(self, postings: Sequence[Posting]) -> None:
        for posting in postings:
            known = self.created.setdefault(posting.key, posting.created_on)
            if known != posting.created_on:
                raise Differs(
                    f"{posting.key} was created on {known}, and now on {posting.created_on}"
                )

    def story(self) -> dict[str, list[Any]] | None:
        """Return the changes of each posting, once each; None where a reset was due.

        Under ``order`` are the changes of all, but for the leases that ended by themselves: when
        those are noticed is the store's choice.
        """
        assert self.reader is not None
        self.reader.add([NewPosting("the-end", b"")])
        reported: dict[str, list[Any]] = {"order": []}
        since, give_up = self.begun, primitives.boottime() + PATIENCE
        while "the-end" not in reported:
            if primitives.boottime() > give_up:
                raise Differs("the feed fell silent")
            called = primitives.boottime()
            changes = self.reader.changes(self.cursor, 2.0)
            self.cursor = changes.cursor
            if changes.reset:
                accept_reset(self.reader, since, called, 2.0)
                return None
            for change in changes.events:
                story = reported.setdefault(change.key, [])
                if not story or story[-1] != self._change(change, story):
                    story.append(self._change(change, story))
                    if change.kind is not ChangeKind.EXPIRED:
                        reported["order"].append((change.key, *story[-1]))
        return reported

    def _change(self, change: Change, story: Sequence[Any]) -> Any:
        held = change.kind in (ChangeKind.CLAIMED, ChangeKind.RELEASED, ChangeKind.EXPIRED)
        token = self.token(change.key, change.token) if change.token else None
        if not held and token is not None and story:
            # Which lease a removal ended need not be reported; what is reported must be right.
            claims = [number for kind, number in story if kind == ChangeKind.CLAIMED.name]
            if not claims or claims[-1] != token:
                raise Differs(f"{change.kind.name} of {change.key} names token {change.token}")
        return (change.kind.name, token if held else None)

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
        #: How many steps were done.
        self.steps = 0
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
            self.steps += 1
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
