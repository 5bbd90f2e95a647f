# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""What a board in memory holds, and the journal that makes every step whole.

It imports the primitives and the interrupts only.
"""

from __future__ import annotations

import itertools
import os
import uuid
from collections import OrderedDict
from collections.abc import MutableMapping
from dataclasses import dataclass, field
from typing import Any

from multiboard.primitives import Change, ChangeKind, Posting, interrupts

#: Seconds for which a repeated removal, release or posting is told from a new one.
REPEAT_WINDOW = 300.0
#: How many changes a slow reader may be behind before it hears a reset.
HISTORY = 100_000
#: What was in a dictionary that lacked the key.
_NOTHING = object()


@dataclass
class Record:
    """A posting, and what only the store knows of it; replaced as a whole."""

    posting: Posting
    due_at: float
    #: By boottime; None while unleased or under a session lease.
    lease_ends_at: float | None = None


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
    #: What happened, by the number of each change; ``numbers`` holds that of the last one.
    log: dict[int, Change] = field(default_factory=dict)
    numbers: dict[str, int] = field(default_factory=lambda: {"told": 0})
    #: How many changes are kept.
    history: int = HISTORY
    #: What leases ended by, what was consumed or purged, and the claim ids that were used up, for
    #: REPEAT_WINDOW: (when, value).
    ended: OrderedDict[tuple[str, int], tuple[float, ChangeKind]] = field(
        default_factory=OrderedDict
    )
    consumed: OrderedDict[str, tuple[float, Posting]] = field(default_factory=OrderedDict)
    spent: OrderedDict[str, tuple[float, int]] = field(default_factory=OrderedDict)
    #: What the step under way has changed, and what was there before.
    journal: list[tuple[MutableMapping[Any, Any], Any, Any]] = field(default_factory=list)

    @property
    def told(self) -> int:
        """How many changes there were."""
        return self.numbers["told"]

    def begin(self) -> None:
        """Begin a step: with the lock held, before anything is read or changed.

        What an interrupted step changed is taken back first, the last change first.
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
