# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""What makes a repeated write idempotent: the writes of this backend, applied and unconfirmed.

This module imports the primitives and its own siblings.
"""

from __future__ import annotations

import hashlib
import itertools
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from multiboard.backends.zookeeper.client import Client
from multiboard.backends.zookeeper.transactions import UnconfirmedWrite, was_applied
from multiboard.primitives import NewPosting, Posting, boottime

#: Seconds for which a repeated posting, removal or release is distinguished from a new one.
REPEAT_WINDOW = 300.0


@dataclass(frozen=True, slots=True)
class Added:
    """A posting that this backend added, without its body."""

    rank: int
    digest: bytes
    serial: int
    created: float

    def matches(self, new: NewPosting) -> bool:
        """Return whether it is the very same posting."""
        return (self.rank, self.digest) == (new.rank, hashlib.sha256(new.body).digest())

    def posting(self, new: NewPosting) -> Posting:
        """Return the posting as it was added."""
        when = self.created
        return Posting(new.key, new.rank, self.serial, new.body, 0, 0, when, when)


class WriteLog:
    """The writes of this backend whose repetition has to be recognised."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._applied: OrderedDict[tuple[Any, ...], tuple[float, Any]] = OrderedDict()
        self._unconfirmed: OrderedDict[tuple[Any, ...], tuple[float, UnconfirmedWrite]]
        self._unconfirmed = OrderedDict()

    def marker(self, what: str, key: str) -> bytes:
        """Return a commit marker for one write; no other write of this backend has the same."""
        return f"{next(self._numbers)} {what} {key}".encode()

    def applied(self, what: tuple[Any, ...]) -> Any:
        """Return what was noted of a write that was applied; None where nothing was."""
        with self._lock:
            return self._applied.get(what, (0.0, None))[1]

    def note_applied(self, what: tuple[Any, ...], value: Any = True) -> None:
        """Note that a write was applied."""
        with self._lock:
            self._unconfirmed.pop(what, None)
            self._applied.pop(what, None)
            self._applied[what] = (boottime(), value)
            for log in (self._applied, self._unconfirmed):
                while log and next(iter(log.values()))[0] < boottime() - REPEAT_WINDOW:
                    log.popitem(last=False)

    def note_unconfirmed(self, what: tuple[Any, ...], write: UnconfirmedWrite) -> None:
        """Note that a write may have been applied."""
        with self._lock:
            self._unconfirmed[what] = (boottime(), write)

    def resolve(self, what: tuple[Any, ...], client: Client) -> bool | None:
        """Return whether an unconfirmed write was applied; None where that can't be found out.

        One that no repeat may settle any more is forgotten: what is done now is no repeat.
        """
        with self._lock:
            noted = self._unconfirmed.pop(what, None)
        if noted is None or noted[0] < boottime() - REPEAT_WINDOW:
            return False
        applied = None
        try:
            applied = was_applied(client, noted[1])
        finally:
            if applied is None:
                with self._lock:
                    self._unconfirmed[what] = noted
        return applied
