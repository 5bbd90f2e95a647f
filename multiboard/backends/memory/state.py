# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""What a board in memory holds, the journal that makes every step whole, and all boards by name.

It imports the primitives and the errors only.
"""

from __future__ import annotations

import itertools
import os
import threading
import uuid
from collections import OrderedDict
from collections.abc import MutableMapping
from dataclasses import dataclass, field, replace
from typing import Any

from multiboard import errors
from multiboard.primitives import Change, ChangeKind, Lease, Posting, boottime, interrupts

#: Seconds for which a repeated removal, release or posting is recognised as a repeat.
REPEAT_WINDOW = 300.0
#: How many changes a slow reader may be behind before it receives a reset.
HISTORY = 100_000
#: What was in a dictionary that lacked the key.
_NOTHING = object()


@dataclass
class Record:
    """A posting, and what only the store has of it; replaced as a whole."""

    posting: Posting
    due_at: float
    #: By boottime; None while unleased or under a session lease.
    lease_ends_at: float | None = None

    def as_posting(self) -> Posting:
        """Return the posting as of now."""
        now = boottime()
        lease = self.posting.lease
        if lease is not None and self.lease_ends_at is not None:
            lease = replace(lease, ends_in=max(0.0, self.lease_ends_at - now))
        return replace(self.posting, lease=lease, due_in=max(0.0, self.due_at - now))


@dataclass
class Board:
    """All of one board, behind one lock."""

    pid: int = field(default_factory=os.getpid)
    incarnation: str = field(default_factory=lambda: uuid.uuid4().hex)
    changed: interrupts.Condition = field(default_factory=interrupts.Condition)
    live: dict[str, Record] = field(default_factory=dict)
    trash: dict[str, Record] = field(default_factory=dict)
    entities: dict[str, tuple[Posting, str]] = field(default_factory=dict)
    sessions: dict[str, float] = field(default_factory=dict)
    serials: itertools.count[int] = field(default_factory=lambda: itertools.count(1))
    tokens: itertools.count[int] = field(default_factory=lambda: itertools.count(1))
    #: The changes by their numbers; ``numbers`` holds the last one's.
    log: dict[int, Change] = field(default_factory=dict)
    numbers: dict[str, int] = field(default_factory=lambda: {"position": 0})
    #: How many changes are kept.
    history: int = HISTORY
    #: How leases ended, what was consumed or purged, and the claim ids that are spent, for
    #: REPEAT_WINDOW: (when, value).
    ended: OrderedDict[tuple[str, int], tuple[float, ChangeKind]] = field(
        default_factory=OrderedDict
    )
    consumed: OrderedDict[str, tuple[float, Posting]] = field(default_factory=OrderedDict)
    spent: OrderedDict[str, tuple[float, int]] = field(default_factory=OrderedDict)
    #: What the step in progress has changed, and what was there before.
    journal: list[tuple[MutableMapping[Any, Any], Any, Any]] = field(default_factory=list)

    @property
    def position(self) -> int:
        """The number of the last change."""
        return self.numbers["position"]

    def ended_by(self, lease: Lease) -> ChangeKind | None:
        """Return how a lease ended, where that is remembered."""
        return self.ended.get((lease.key, lease.token), (0.0, None))[1]

    def lease_is_over(self, record: Record, now: float) -> bool:
        """Tell whether a record has a lease that has ended by itself."""
        lease = record.posting.lease
        if lease is None:
            return False
        if lease.session is not None:
            return lease.session not in self.sessions
        return record.lease_ends_at is not None and record.lease_ends_at <= now

    def next_deadline(self) -> float:
        """Return when the next session or timed lease ends."""
        ends = (record.lease_ends_at for record in self.live.values())
        known = [end for end in ends if end is not None]
        return min([*known, *self.sessions.values()], default=boottime() + 3600.0)

    def forget(self, before: float) -> None:
        """Forget what is remembered for a repeat since longer."""
        for memory in (self.ended, self.consumed, self.spent):
            while memory and next(iter(memory.values()))[0] < before:
                memory.popitem(last=False)

    def begin(self) -> None:
        """Begin a step: with the lock held, before anything is read or changed.

        What an interrupted step changed is rolled back first, the last change first.
        """
        while self.journal:
            memory, key, before = self.journal[-1]
            if before is _NOTHING:
                memory.pop(key, None)
            else:
                memory[key] = before
            self.journal.pop()

    def set(self, memory: MutableMapping[Any, Any], key: Any, value: Any) -> None:
        """Put something into one of the board's dictionaries."""
        self.journal.append((memory, key, memory.get(key, _NOTHING)))
        memory[key] = value

    def drop(self, memory: MutableMapping[Any, Any], key: Any) -> None:
        """Take something out of one of the board's dictionaries."""
        self.journal.append((memory, key, memory.get(key, _NOTHING)))
        memory.pop(key, None)

    def end(self) -> None:
        """End a step, or a part of one that stands by itself."""
        self.journal = []
        while len(self.log) > self.history:
            self.log.pop(next(iter(self.log)), None)


# -- all boards ------------------------------------------------------------------------------

#: By the name of the store and the board's namespace.
boards: dict[tuple[str, str], Board] = {}
boards_lock = threading.Lock()


def open_board(name: str, namespace: str, create: bool) -> Board:
    """Return a board; where there is none it is made, or without ``create`` ``BoardNotFound``."""
    with boards_lock:
        if not create and (name, namespace) not in boards:
            raise errors.BoardNotFound(namespace, f"memory://{name}")
        return boards.setdefault((name, namespace), Board())


def namespaces(name: str) -> list[str]:
    """Return the namespaces of the boards in a store."""
    with boards_lock:
        return sorted(namespace for store, namespace in boards if store == name)


def _forget_after_fork() -> None:
    """Give a forked child an empty memory: its copy of the lock may be held for ever."""
    global boards_lock
    boards_lock = threading.Lock()
    boards.clear()


os.register_at_fork(after_in_child=_forget_after_fork)
