# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""What can be done to a board by the backend under it: on every store, and in any order.

A :class:`FaultyBackend` is mixed before the backend of a board. It does to each call what its
:class:`Faults` say, and notes until when what the store answered lets the board's claims stand.
All times are of ``boottime``, in seconds. Imports the primitives and the errors.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from multiboard import errors
from multiboard.primitives import Lease, Posting, boottime

#: The seconds that a call waits for an answer where its caller names no limit.
PATIENCE = 1.0
#: The part of a granted time that a board may rely on, at most: it must learn that a claim may be
#: over before anybody else can have it.
SAFE = 0.95

#: What becomes of a call: it gets what does it, and the seconds within which it must end.
Fault = Callable[["Faults", Callable[[], Any], float], Any]


def passes(_faults: Faults, do: Callable[[], Any], _limit: float) -> Any:
    """Let it be done and answered."""
    return do()


def refused(_faults: Faults, _do: Callable[[], Any], _limit: float) -> Any:
    """Refuse it at once; nothing was done."""
    raise errors.Unavailable("nobody listens")


def silent(faults: Faults, _do: Callable[[], Any], limit: float) -> Any:
    """Answer nothing until its time is up; nothing was done, and nobody knows that."""
    faults.changed.wait(limit)
    raise errors.Indeterminate("there was no answer")


def unanswered(_faults: Faults, do: Callable[[], Any], _limit: float) -> Any:
    """Do it, and lose the answer."""
    do()
    raise errors.Indeterminate("the answer was lost")


def slow(faults: Faults, do: Callable[[], Any], limit: float) -> Any:
    """Do it at once, and answer when nearly all of its time has passed."""
    answer = do()
    faults.changed.wait(0.9 * limit)
    return answer


def forgotten(_faults: Faults, do: Callable[[], Any], _limit: float) -> Any:
    """Let the feed be interrupted: what happened meanwhile is not known, and has to be listed."""
    return dataclasses.replace(do(), events=(), reset=True)


def first(fault: Fault, then: Fault = passes) -> Fault:
    """Do one thing to the first call, another to all that follow."""
    calls: list[None] = []

    def each(faults: Faults, do: Callable[[], Any], limit: float) -> Any:
        calls.append(None)
        return (fault if len(calls) == 1 else then)(faults, do, limit)

    return each


def after(act: Callable[[], Any]) -> Fault:
    """Let the first call be done, and something else before it is answered."""

    def done(_faults: Faults, do: Callable[[], Any], _limit: float) -> Any:
        answer = do()
        act()
        return answer

    return first(done)


@dataclass(frozen=True)
class Renewal:
    """One renewal of a session."""

    asked_at: float
    #: The limit that it was given.
    within: float | None
    #: Until when the session was certain to stand as it was asked for; None where it was not.
    until: float | None


class Faults:
    """What becomes of the calls of one backend, and what they answered."""

    def __init__(self) -> None:
        self._all: Fault = passes
        self._of: dict[str, Fault] = {}
        #: Set when what becomes of calls has changed: whoever waits for an answer goes on.
        self.changed = threading.Event()
        self.renewals: list[Renewal] = []
        #: How often a renewal found that its session had ended.
        self.sessions_lost = 0
        self._granted = 0.0
        self._sessions: dict[str, float] = {}
        self._session_until: float | None = None
        self._timed: dict[tuple[str, int], float] = {}
        self._within = threading.local()

    def set(self, fault: Fault, *verbs: str) -> None:
        """Do this to the calls of these verbs from now on, or to all calls."""
        old, self.changed = self.changed, threading.Event()
        if verbs:
            self._of.update(dict.fromkeys(verbs, fault))
        else:
            self._all, self._of = fault, {}
        old.set()

    def heal(self) -> None:
        """Let all calls pass again."""
        self.set(passes)

    def meet(self, verb: str, do: Callable[[], Any], limit: float = PATIENCE) -> Any:
        """Do to a call what is to be done to it, and return its answer.

        What the backend calls of its own meanwhile is no call of the board's: it is done.
        """
        if getattr(self._within, "call", False):
            return do()

        def from_within() -> Any:
            self._within.call = True
            try:
                return do()
            finally:
                self._within.call = False

        return self._of.get(verb, self._all)(self, from_within, limit)

    # -- what the store granted --------------------------------------------------------------

    def renewed(self, asked_at: float, granted: float) -> None:
        """Take in how long a renewal lets the session stand."""
        self._granted = granted
        self._session_until = max(self._session_until or 0.0, asked_at + SAFE * granted)

    def note_renewal(self, asked_at: float, within: float | None) -> None:
        """Take in that a renewal was asked for."""
        self.renewals.append(Renewal(asked_at, within, self._session_until))

    def leased(self, lease: Lease, asked_at: float, session_time: float) -> None:
        """Take in how long a lease stands.

        One by a session has half of the session's time at least; where it began the session, all.
        """
        if lease.session is None:
            self.seen(lease, asked_at)
            return
        part = 0.5 if lease.session in self._sessions else 1.0
        self._sessions.setdefault(lease.session, asked_at)
        granted = part * max(session_time, self._granted)
        self._session_until = max(self._session_until or 0.0, asked_at + SAFE * granted)

    def seen(self, lease: Lease, asked_at: float) -> None:
        """Take in how long a timed lease stands."""
        if lease.ends_in is not None:
            known = self._timed.get((lease.key, lease.token), 0.0)
            until = asked_at + SAFE * lease.ends_in
            self._timed[lease.key, lease.token] = max(known, until)

    def until(self, lease: Lease) -> float:
        """Return until when a board can know that this lease stands."""
        if lease.session is None:
            return self._timed.get((lease.key, lease.token), 0.0)
        return self._session_until or 0.0


class FaultyBackend:
    """Before a backend: does to its calls what ``faults`` say."""

    faults: Faults

    def keepalive(self, within: float | None = None) -> float:
        asked_at = boottime()
        self.faults.note_renewal(asked_at, within)

        def do() -> float:
            try:
                granted: float = self._real.keepalive(within)
            except errors.SessionLost:
                self.faults.sessions_lost += 1
                raise
            return granted

        granted: float = self.faults.meet("keepalive", do, PATIENCE if within is None else within)
        self.faults.renewed(asked_at, granted)
        return granted

    def acquire(self, *arguments: Any) -> Lease:
        asked_at = boottime()
        lease: Lease = self.faults.meet("acquire", lambda: self._real.acquire(*arguments))
        self.faults.leased(lease, asked_at, self._real.session_time)
        return lease

    def acquire_next(self, *arguments: Any) -> Sequence[tuple[Posting, Lease]]:
        asked_at = boottime()
        answer: Sequence[tuple[Posting, Lease]] = self.faults.meet(
            "acquire_next", lambda: self._real.acquire_next(*arguments)
        )
        for _, lease in answer:
            self.faults.leased(lease, asked_at, self._real.session_time)
        return answer

    def renew(self, *arguments: Any) -> Lease:
        asked_at = boottime()
        lease: Lease = self.faults.meet("renew", lambda: self._real.renew(*arguments))
        self.faults.seen(lease, asked_at)
        return lease

    def get(self, keys: Sequence[str]) -> Sequence[Posting | None]:
        asked_at = boottime()
        found: Sequence[Posting | None] = self.faults.meet("get", lambda: self._real.get(keys))
        for posting in found:
            if posting is not None and posting.lease is not None:
                self.faults.seen(posting.lease, asked_at)
        return found

    def list(self, *arguments: Any, **more: Any) -> Any:
        return self.faults.meet("list", lambda: self._real.list(*arguments, **more))

    def count(self, *arguments: Any) -> Any:
        return self.faults.meet("count", lambda: self._real.count(*arguments))

    def add(self, *arguments: Any) -> Any:
        return self.faults.meet("add", lambda: self._real.add(*arguments))

    def remove(self, *arguments: Any) -> Any:
        return self.faults.meet("remove", lambda: self._real.remove(*arguments))

    def release(self, *arguments: Any) -> Any:
        return self.faults.meet("release", lambda: self._real.release(*arguments))

    def changes(self, cursor: str | None, timeout: float) -> Any:
        limit = min(timeout, PATIENCE)
        return self.faults.meet("changes", lambda: self._real.changes(cursor, timeout), limit)

    @property
    def _real(self) -> Any:
        """The backend itself."""
        return super()


def faulty(faults: Faults) -> type:
    """Return what is to be mixed before a backend."""
    return type("FaultyBackend", (FaultyBackend,), {"faults": faults})
