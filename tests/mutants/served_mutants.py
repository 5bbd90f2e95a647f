# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Broken backends: the served one with one small fault each in its dealings with the network.

It imports the served backend, whose requests it spoils; ``serving`` has the faults of the server.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from multiboard import errors, primitives
from multiboard.primitives import Lease, NewPosting, Posting, Shelf
from tests.mutants import served
from tests.mutants.mutants import caught_by

# -- silence ---------------------------------------------------------------------------------


@caught_by("FEED-4")
class FeedWaitsForEver(served.ServedBackend):
    """Waits for news as long as it is asked to, on a connection that may have died."""

    longest_wait = 1000.0


@caught_by("ERR-1")
class WaitsForEver(served.ServedBackend):
    """Waits for an answer far longer than the time-out of an operation."""

    def patience(self, verb: str) -> float:
        return 8.0


@caught_by("RUN-1", also="ERR-1 LEASE-4")
class HoldsTheBoard(served.ServedBackend):
    """Locks the board by one request, does its verb by the next, unlocks it by a third."""

    def do(self, verb: str, args: Mapping[str, Any]) -> Any:
        if verb in ("open", "changes", "close"):
            return super().do(verb, args)
        _ = self.incarnation
        self.ask("lock", {}, 8.0)
        try:
            return super().do(verb, args)
        finally:
            self.ask("unlock", {})


@caught_by("RUN-1")
class AnswersUnderLock(served.ServedBackend):
    """Its server keeps the board locked until the answer was taken."""

    def ask(self, verb: str, args: Mapping[str, Any], waits: float = 0.0) -> Any:
        # Who waits for news would lock out everybody.
        self.asks = {"answers_under_lock": verb not in ("changes", "close")}
        return super().ask(verb, args, waits)


# -- a store that was put back -----------------------------------------------------------------


@caught_by("FEED-4", also="ERR-1 DIR-1")
class KnowsNoPosition(served.ServedBackend):
    """Does not remember how far the board had come."""

    @property
    def known(self) -> int:  # type: ignore[override]
        return 0

    @known.setter
    def known(self, position: int) -> None:
        pass


@caught_by("FEED-4", also="ERR-1 DIR-1")
class ForgetsTheLoss(served.ServedBackend):
    """Works on as soon as the board that was put back has come as far again."""

    @property
    def lost(self) -> bool:  # type: ignore[override]
        return False

    @lost.setter
    def lost(self, lost: bool) -> None:
        pass


# -- what was applied, and what not ----------------------------------------------------------


@caught_by("ERR-1", also="ERR-2")
class LostReplyIsUnavailable(served.ServedBackend):
    """Reports that surely nothing was applied where only the reply is missing."""

    def unanswered(self, verb: str, error: OSError) -> BaseException:
        return errors.Unavailable(f"no answer: {error}")


@caught_by("ERR-1", also="ERR-2 FEED-4 DIR-2 LEASE-2 LEASE-6")
class SocketErrorEscapes(served.ServedBackend):
    """Lets the error of its socket out."""

    def unanswered(self, verb: str, error: OSError) -> BaseException:
        return ConnectionError(f"no answer: {error}")


@caught_by("ERR-1", also="ERR-2")
class CauseIsDropped(served.ServedBackend):
    """Reports what was lost and not why."""

    def ask(self, verb: str, args: Mapping[str, Any], waits: float = 0.0) -> Any:
        try:
            return super().ask(verb, args, waits)
        except errors.BackendError as error:
            raise type(error)(str(error)) from None


@caught_by("ERR-2", also="ERR-1 LEASE-6")
class RetriesUnderAnotherName(served.ServedBackend):
    """Repeats a claim whose reply was lost by itself, as a new attempt."""

    def acquire(
        self, key: str, holder: str, claim_id: str, expires_in: float | None = None
    ) -> Lease:
        try:
            return super().acquire(key, holder, claim_id, expires_in)
        except errors.Indeterminate:
            return super().acquire(key, holder, f"{claim_id}-again", expires_in)


@caught_by("DIR-2", "ERR-2", also="BATCH-1 LEASE-2")
class ClientRemembers(served.ServedBackend):
    """Remembers of its own posts that they were consumed; the store does not."""

    asks = {"forgets": True}

    def __init__(self, settings: primitives.Settings) -> None:
        super().__init__(settings)
        self._posted: dict[str, Posting] = {}

    def add(
        self, postings: Sequence[NewPosting], shelf: Shelf = Shelf.LIVE
    ) -> Sequence[Posting | errors.MultiboardError]:
        if shelf is not Shelf.LIVE:
            return super().add(postings, shelf)
        known = [new.key for new in postings if new.key in self._posted]
        unknown = [new for new in postings if new.key not in known]
        there = {p.key: p for p in self.get(known) if p is not None} if known else {}
        added = dict(zip([new.key for new in unknown], super().add(unknown), strict=True))
        for key, answer in added.items():
            if isinstance(answer, Posting):
                self._posted[key] = answer
        return [self._answer(new, added, there) for new in postings]

    def _answer(
        self, new: NewPosting, added: dict[str, Any], there: dict[str, Posting]
    ) -> Posting | errors.MultiboardError:
        if new.key in added:
            answer: Posting | errors.MultiboardError = added[new.key]
            return answer
        known = there.get(new.key, self._posted[new.key])
        if (known.rank, known.body) != (new.rank, new.body):
            return errors.PostingExists(new.key)
        return known


# -- one board, one session ------------------------------------------------------------------


@caught_by("ERR-1", "FEED-4")
class ReadsOfAnyBoard(served.ServedBackend):
    """Reads whatever board has the name, also one that another made after the loss of its own."""

    def ask(self, verb: str, args: Mapping[str, Any], waits: float = 0.0) -> Any:
        self.asks = {"any_board": True} if verb in served.READS else {}
        return super().ask(verb, args, waits)


@caught_by("LEASE-7", "LEASE-4", also="ERR-1 FEED-4")
class KeepaliveIsAHope(served.ServedBackend):
    """Answers what it asked for, and asks nobody."""

    def keepalive(self, within: float | None = None) -> float:
        _ = self.incarnation
        return self.settings.session_timeout


@caught_by("RUN-1")
class SessionOfItsParent(served.ServedBackend):
    """A forked child goes on under its parent's name, on its parent's connections."""

    def after_fork(self) -> None:
        self._pid = os.getpid()


@caught_by("ERR-2", "LEASE-2", "DIR-2")
class LateIsInTime(served.ServedBackend):
    """Does not report to its server which requests it gave up."""

    def ask(self, verb: str, args: Mapping[str, Any], waits: float = 0.0) -> Any:
        self.losses = 0
        return super().ask(verb, args, waits)


# -- sessions --------------------------------------------------------------------------------


@caught_by("LEASE-4", "LEASE-8")
class ClaimThenSession(served.ServedBackend):
    """Claims by one request, and lets the session have an end by the next."""

    def do(self, verb: str, args: Mapping[str, Any]) -> Any:
        if not verb.startswith("acquire") or args["expires_in"] is not None:
            return super().do(verb, args)
        self.asks = {"unbounded": True}
        answer = super().do(verb, args)
        self.asks = {}
        time.sleep(0.01)
        super().do("keepalive", {})
        return answer


@caught_by("LEASE-7", "ERR-1")
class WithinIsIgnored(served.ServedBackend):
    """Keepalive waits as long as any verb, whatever time it was given."""

    def do(self, verb: str, args: Mapping[str, Any]) -> Any:
        return super().do(verb, {} if verb == "keepalive" else args)


@caught_by("LEASE-7", "ERR-1", also="RUN-1")
class KeepaliveWaitsItsTurn(served.ServedBackend):
    """One verb at a time: keepalive waits for one that waits for the server."""

    def _begin(self) -> None:
        super()._begin()
        self._turn = threading.Lock()

    def do(self, verb: str, args: Mapping[str, Any]) -> Any:
        if verb == "changes":
            return super().do(verb, args)
        with self._turn:
            return super().do(verb, args)
