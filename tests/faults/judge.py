# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""What the record of a fault run says: lost, doubled, seen wrongly.

The conformance suite's judge does most of it. Added here is what it does not know: that a posting
which is certainly there is found, and that nobody leases what another one's kept session holds.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from multiboard_conformance.machinery.history import History, Operation
from multiboard_conformance.machinery.judge import judge

from multiboard import errors
from multiboard.primitives import Lease, Posting, Shelf

#: Of the seconds that a session was granted, the part after which its holder lets go.
SAFE = 0.8

_LOST = re.compile(r" is lost: | and is there$")
_DOUBLE = re.compile(r"removed twice|leased twice|was leased with token | had effect after ")


@dataclass(frozen=True)
class Read:
    """An answer of the store about postings, without their contents."""

    op: Operation
    #: What was asked for; None for the whole live shelf.
    asked: frozenset[str] | None
    found: frozenset[str]


@dataclass
class Findings:
    """What is wrong, each a sentence."""

    lost: list[str] = field(default_factory=list)
    double: list[str] = field(default_factory=list)
    #: Leases that began while an earlier holder had reason to believe in its own.
    early: list[str] = field(default_factory=list)
    other: list[str] = field(default_factory=list)

    @property
    def all(self) -> list[str]:
        """All sentences."""
        return [*self.lost, *self.double, *self.early, *self.other]


def findings(
    history: History,
    reads: Sequence[Read],
    live: Sequence[str],
    trash: Sequence[str],
    killed: Mapping[str, float],
) -> Findings:
    """Return what is wrong with a run whose board ended with these postings.

    ``killed`` tells when workers were: the dead believe in nothing.
    """
    found = Findings()
    posted = list(_posted(history))
    for sentence in judge(history, posted=posted, live=live, trash=trash):
        if _LOST.search(sentence):
            found.lost.append(sentence)
        else:
            (found.double if _DOUBLE.search(sentence) else found.other).append(sentence)
    found.early += _kept_sessions(history, killed)
    found.other += _seen(history, [*reads, *_not_found(history)])
    native = [f"{op.verb} let escape {op.answer!r}" for op in history.native_errors()]
    found.other += native
    return found


def _posted(history: History) -> dict[str, float]:
    """Return when each posting was first acknowledged."""
    posted: dict[str, float] = {}
    for op in history.operations("add"):
        if op.done and op.ended is not None:
            for new, answer in zip(op.args["postings"], op.answer, strict=True):
                if isinstance(answer, Posting):
                    posted[new.key] = min(op.ended, posted.get(new.key, math.inf))
    return posted


# -- reads ---------------------------------------------------------------------------------------


def read_of(op: Operation) -> Read | None:
    """Return what a ``get`` or a ``list`` of the live shelf showed, without the postings."""
    if not op.done:
        return None
    if op.verb == "get":
        found = frozenset(posting.key for posting in op.answer if posting is not None)
        return Read(op, frozenset(op.args["keys"]), found)
    if op.args["shelf"] is Shelf.LIVE and op.args["limit"] is None:
        return Read(op, None, frozenset(posting.key for posting in op.answer.postings))
    return None


def _not_found(history: History) -> Iterable[Read]:
    """Return the refusals that say that a posting is not there."""
    for op in history.operations("acquire", "renew", "release"):
        if isinstance(op.answer, errors.PostingNotFound):
            key = op.args["key"] if op.verb == "acquire" else op.args["lease"].key
            yield Read(op, frozenset({key}), frozenset())
    for op in history.operations("remove"):
        if op.done:
            for lease, answer in zip(op.args["leases"], op.answer, strict=True):
                if isinstance(answer, errors.PostingNotFound):
                    yield Read(op, frozenset({lease.key}), frozenset())


def _seen(history: History, reads: Iterable[Read]) -> list[str]:
    posted = _posted(history)
    leaving: dict[str, float] = defaultdict(lambda: math.inf)
    removed: dict[str, float] = defaultdict(lambda: math.inf)
    for op in history.operations("remove"):
        if op.outcome == "failed":
            continue
        answers = op.answer if op.done else [None] * len(op.args["leases"])
        for lease, answer in zip(op.args["leases"], answers, strict=True):
            if answer is None:
                leaving[lease.key] = min(leaving[lease.key], op.began)
                if op.done and op.ended is not None and op.args["to"] is None:
                    removed[lease.key] = min(removed[lease.key], op.ended)
    found = []
    for read in reads:
        began, ended = read.op.began, read.op.ended
        assert ended is not None
        for key in posted if read.asked is None else read.asked & posted.keys():
            if key not in read.found and posted[key] < began and leaving[key] > ended:
                found.append(f"{key} is there, and {read.op.verb} of {read.op.who} did not see it")
        for key in read.found:
            if removed[key] < began:
                found.append(f"{key} was removed, and {read.op.verb} of {read.op.who} saw it")
    return found


# -- sessions ------------------------------------------------------------------------------------


@dataclass
class _Belief:
    """Between which instants a holder may believe that it holds a session lease."""

    lease: Lease
    since: float
    until: float


def _kept_sessions(history: History, killed: Mapping[str, float]) -> list[str]:
    """Return the leases that began while another one's holder had reason to believe in its own."""
    beliefs: dict[str, list[_Belief]] = defaultdict(list)
    by_worker: dict[str, list[Operation]] = defaultdict(list)
    for op in history.operations():
        by_worker[op.who].append(op)
    for who, operations in by_worker.items():
        for belief in _beliefs(operations, killed.get(who, math.inf)):
            beliefs[belief.lease.key].append(belief)
    found = []
    for op in history.operations("acquire", "acquire_next"):
        if not op.done or op.ended is None:
            continue
        for lease in [op.answer] if op.verb == "acquire" else [pair[1] for pair in op.answer]:
            for belief in beliefs[lease.key]:
                other = belief.lease.token != lease.token
                if other and belief.since < op.began and op.ended < belief.until:
                    found.append(
                        f"{lease.key} was leased with token {lease.token} while the kept session of"
                        f" {belief.lease.holder} held it with token {belief.lease.token}"
                    )
    return found


def _beliefs(operations: Sequence[Operation], death: float) -> Iterable[_Belief]:
    kept = _kept(operations)
    given_up: dict[tuple[str, int], float] = {}
    for op in operations:
        for lease in op.args.get("leases", [op.args["lease"]] if "lease" in op.args else []):
            if op.verb != "renew":
                given_up.setdefault((lease.key, lease.token), op.began)
    for op in operations:
        if op.verb not in ("acquire", "acquire_next") or not op.done or op.ended is None:
            continue
        for lease in [op.answer] if op.verb == "acquire" else [pair[1] for pair in op.answer]:
            if lease.session is not None:
                end = next((until for since, until in kept if since <= op.ended < until), op.ended)
                until = min(end, death, given_up.get((lease.key, lease.token), math.inf))
                yield _Belief(lease, op.ended, until)


def _kept(operations: Sequence[Operation]) -> list[tuple[float, float]]:
    """Return the spans over which a session was surely kept, renewal by renewal."""
    spans: list[tuple[float, float]] = []
    for op in operations:
        if op.verb != "keepalive" or op.ended is None:
            continue
        if op.done:
            until = op.began + op.answer * SAFE
            if spans and op.ended < spans[-1][1]:
                spans[-1] = (spans[-1][0], max(spans[-1][1], until))
            else:
                spans.append((op.ended, until))
        elif isinstance(op.answer, errors.SessionLost) and spans:
            spans[-1] = (spans[-1][0], min(spans[-1][1], op.began))
    return spans
