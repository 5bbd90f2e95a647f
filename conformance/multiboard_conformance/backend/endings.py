# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Sessions and leases that end while nobody looks at their boards: prepared together, awaited once.

Each question has a board of its own: where one verb has noticed what is over, the next is asked
about another state. A process that holds session leases is killed, one is frozen at the same
instant; what can be seen of the length of sessions is looked at meanwhile. The checks in
:mod:`.checks_endings` judge. Imports the primitives and the suite's own modules.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from multiboard import errors
from multiboard.primitives import Backend, Lease, NewPosting, Posting, Shelf, boottime
from multiboard_conformance.backend.answers import answer_of, raised
from multiboard_conformance.backend.feeds import Reader
from multiboard_conformance.backend.fixtures import Board, post, take
from multiboard_conformance.backend.reading import listed, snapshot
from multiboard_conformance.machinery.peers import Peer, WorkerGone
from multiboard_conformance.machinery.plugin import Effort
from multiboard_conformance.machinery.programs import claim_id

#: The one posting, and the one entry, of every board.
KEY = "k"
KINDS = ("session", "timed")
USES: dict[str, Callable[[Backend, Lease], Any]] = {
    "renew": lambda b, lease: b.renew(lease, 30.0),
    "release": lambda b, lease: b.release(lease),
    "remove": lambda b, lease: b.remove([lease])[0],
    "trash": lambda b, lease: b.remove([lease], Shelf.TRASH)[0],
}
LOOKS: dict[str, Callable[[Backend], Any]] = {
    "get": lambda b: b.get([KEY])[0],
    "list": lambda b: b.list().postings[0],
    "add again": lambda b: b.add([NewPosting(KEY, b"body")])[0],
}
ENTITIES: dict[str, Callable[[Backend], Any]] = {
    "list": lambda b: listed(b, Shelf.ENTITIES),
    "count": lambda b: b.count(Shelf.ENTITIES),
    "purge": lambda b: list(b.purge([KEY], Shelf.ENTITIES)),
}
CLAIMS: dict[str, Callable[[Backend], Lease]] = {
    "acquire": lambda b: take(b, KEY, 60.0),
    "acquire_next": lambda b: b.acquire_next("you", [claim_id()], 60.0)[0][1],
}
#: What needs the session, done by a holder whose session is over.
NEEDS: dict[str, Callable[[Backend], Any]] = {
    "acquire": lambda b: take(b, KEY),
    "acquire_next": lambda b: list(b.acquire_next("me", [claim_id()])),
    "add": lambda b: list(b.add([NewPosting("other", b"")], Shelf.ENTITIES)),
    "keepalive": lambda b: b.keepalive(),
}
#: Seconds of the timed leases: they are over long before the judgement.
TIMED = 0.5
#: The longest that the full suite looks at a session that was to last for an hour.
LONG = 42.0
#: How often something is tried that a busy machine may be too slow for.
TRIES = 5
TOO_SLOW = "the machine is too slow for sessions of this length"


@dataclass
class Ended:
    """A board on which a lease ended, who asks there, and what had been there."""

    #: Its holder; where that was killed, whoever is to judge.
    holder: Backend
    lease: Lease
    #: A place in the feed just before the lease was acquired.
    cursor: str | None = None


@dataclass
class Span:
    """A session lease of a holder that was frozen, and when it was seen."""

    board: Backend
    lease: Lease
    #: Just before the session was renewed, and how long it was to last from then on.
    since: float
    granted: float
    #: When it was last seen held and first seen free: just before and just behind that look.
    held: float = 0.0
    freed: float | None = None

    def look(self) -> None:
        """Note whether the lease is held now."""
        if self.freed is not None:
            return
        before = boottime()
        (posting,) = self.board.get([self.lease.key])
        if posting is not None and posting.lease == self.lease:
            self.held = before
        else:
            self.freed = boottime()


@dataclass
class Endings:
    """What was prepared, and what was seen while time passed."""

    board: Board
    effort: Effort
    slack: float
    ended: dict[str, Ended] = field(default_factory=dict)
    spans: dict[str, Span] = field(default_factory=dict)
    #: The answers to claims that were refused; leases of holder and asker, before and after.
    refused: list[list[Any]] = field(default_factory=list)
    beside: list[tuple[Lease, Lease | None]] = field(default_factory=list)
    #: The postings that were claimed at the instant of a kill, and who looks on.
    struck: list[str] = field(default_factory=list)
    witness: Backend | None = None
    reader: Reader | None = None
    #: When those who hold sessions were killed or frozen.
    stopped: float = 0.0

    def name(self, question: str) -> str:
        """Return the namespace of a question's board."""
        return f"{self.board.namespace}-{question.replace(' ', '-')}"

    def judge(self, question: str) -> Backend:
        """Return who answers a question: the one who is there, or one newly opened."""
        return self.ended[question].holder

    def watch(self, until: float) -> None:
        """Look at all sessions until an instant."""
        while boottime() < until:
            for span in self.spans.values():
                span.look()
            time.sleep(0.05)


def watched(board: Board, effort: Effort) -> Endings:
    """Prepare everything, let what must end end, and thaw who was frozen."""
    seen = Endings(board, effort, board.traits.lease_slack)
    killed, frozen = board.peers(2)
    patient = frozen if effort.quick else board.peer()  # it stays frozen for the full suite
    _strike(seen, effort.rounds(3, 12))
    _prepare_killed(seen, killed)
    _prepare_frozen(seen, frozen)
    _prepare_timed(seen)
    _prepare_lengths(seen, frozen, patient)
    try:
        _claim_late(seen, frozen)
    finally:
        frozen.pause()
        patient.pause()
        killed.kill()
    seen.stopped = boottime()
    granted = max(span.granted for name, span in seen.spans.items() if name != "long")
    seen.watch(seen.stopped + granted + seen.slack + 1.0)
    frozen.resume()
    return seen


# -- what is asked when all is over ----------------------------------------------------------


def _hold(backend: Backend, expires_in: float | None = None) -> Lease:
    post(backend, KEY)
    return take(backend, KEY, expires_in)


def _prepare_killed(seen: Endings, killed: Peer) -> None:
    questions = [*USES, *LOOKS, *CLAIMS, *(f"entity {name}" for name in ENTITIES)]
    for n, question in enumerate(f"session {name}" for name in questions):
        holder, name = killed.visit(seen.name(question)), seen.name(question)
        post(holder, KEY)
        cursor = _place_of_a_reader(seen.board, name) if question[8:] in CLAIMS else None
        lease = take(holder, KEY)
        holder.add([NewPosting(KEY, b"entity")], Shelf.ENTITIES)
        judge = seen.board.make(namespace=name)
        if n % 2:  # who has seen it, and who will see it for the first time
            judge.open()
            snapshot(judge)
        seen.ended[question] = Ended(judge, lease, cursor)


def _place_of_a_reader(board: Board, namespace: str) -> str:
    """Return a cursor of a reader that has left: nobody is to look on."""
    reader = board.open(namespace=namespace)
    cursor = reader.changes(None, 0.0).cursor
    reader.close()
    return cursor


def _prepare_frozen(seen: Endings, frozen: Peer) -> None:
    for question in [*(f"woken {name}" for name in USES), *(f"needs {name}" for name in NEEDS)]:
        holder = frozen.visit(seen.name(question))
        seen.ended[question] = Ended(holder, _hold(holder))
    holder = frozen.visit(seen.name("needs nothing"))
    seen.ended["needs nothing"] = Ended(holder, _hold(holder))


def _prepare_timed(seen: Endings) -> None:
    for question in [*USES, *LOOKS, *CLAIMS, *(f"own {name}" for name in USES), "own again"]:
        name = seen.name(f"timed {question}")
        holder = seen.board.open(namespace=name)
        post(holder, KEY)
        cursor = _place_of_a_reader(seen.board, name) if question in CLAIMS else None
        lease = take(holder, KEY, TIMED)
        if question in USES:  # a stranger's use: from whoever has the lease
            holder.close()
            holder = seen.board.open(namespace=name)
        seen.ended[f"timed {question}"] = Ended(holder, lease, cursor)


def state(backend: Backend) -> tuple[Any, ...]:
    """Return what the only posting of a board shows of its leases, and what else is there."""
    (posting,) = backend.get([KEY])
    assert isinstance(posting, Posting)
    return posting.lease, posting.attempts, posting.deaths, listed(backend, Shelf.TRASH)


# -- how long sessions last ------------------------------------------------------------------


def _prepare_lengths(seen: Endings, frozen: Peer, patient: Peer) -> None:
    """Begin sessions that ask for very much and for very little, and one that asks in vain."""
    for name, peer, asked in (("long", patient, 3600.0), ("short", frozen, 0.5)):
        holder = peer.visit(seen.name(name), session_timeout=asked)
        judge = seen.board.open(namespace=seen.name(name))
        post(judge, KEY)
        since, granted, lease = _claimed(holder, KEY)
        seen.spans[name] = Span(judge, lease, since, granted)
    asker = frozen.visit(seen.name("asker"))
    other = seen.board.open(namespace=seen.name("asker"))
    keys = ["held", "own", "own-timed"]
    post(other, *keys)
    held = take(other, "held", 300.0, "other")
    timed = take(asker, "own-timed", 300.0)
    for _ in range(TRIES):
        since, granted, lease = _claimed(asker, "own")
        seen.refused = [_ask_in_vain(asker) for _ in range(3)]
        if boottime() - since < granted:
            break
        raised(lambda: other.release(lease))  # noqa: B023 - its session may have ended meanwhile
    for had, posting in zip((held, lease, timed), other.get(keys), strict=True):
        seen.beside.append((had, None if posting is None else posting.lease))
    seen.spans["asker"] = Span(other, lease, since, granted)


def _ask_in_vain(asker: Backend) -> list[Any]:
    return [
        answer_of(lambda: take(asker, "held")),
        answer_of(lambda: take(asker, "held", 3000.0)),
        answer_of(lambda: take(asker, "none")),
        answer_of(lambda: list(asker.acquire_next("me", [claim_id()]))),
        answer_of(lambda: list(asker.acquire_next("me", [claim_id()], 3000.0))),
    ]


def _claimed(holder: Backend, key: str) -> tuple[float, float, Lease]:
    """Claim by a session renewed just before; return since when it lasts, how long, the lease."""
    for _ in range(TRIES):
        since, granted = boottime(), _kept(holder)
        answer = raised(lambda: take(holder, key))
        if isinstance(answer, Lease):
            return since, granted, answer
        if not isinstance(answer, errors.SessionLost):
            raise answer
    raise AssertionError(TOO_SLOW)


def _claim_late(seen: Endings, frozen: Peer) -> None:
    """Claim by two sessions of which a quarter is left, by each verb."""
    for turn in range(TRIES):
        names = {verb: f"late {verb} {turn}" for verb in ("acquire", "acquire_next")}
        holders = {verb: frozen.visit(seen.name(name)) for verb, name in names.items()}
        boards = {verb: seen.board.open(namespace=seen.name(name)) for verb, name in names.items()}
        for board in boards.values():
            post(board, KEY)
        first = boottime()
        granted = min(_kept(holder) for holder in holders.values())
        time.sleep(max(0.0, first + 0.75 * granted - boottime()))
        began = boottime()
        try:
            leases = {"acquire": take(holders["acquire"], KEY)}
            ((_, lease),) = holders["acquire_next"].acquire_next("me", [claim_id()])
            leases["acquire_next"] = lease
        except errors.SessionLost:  # the machine took more than the quarter that was left
            continue
        for verb, board in boards.items():
            seen.spans[f"late {verb}"] = Span(board, leases[verb], began, granted)
        return
    raise AssertionError(TOO_SLOW)


def _kept(backend: Backend) -> float:
    """Renew the session, or begin a new one where it has ended."""
    answer = raised(backend.keepalive)
    return backend.keepalive() if isinstance(answer, errors.SessionLost) else float(answer)


# -- a claim at the instant of a kill --------------------------------------------------------


def _strike(seen: Endings, number: int) -> None:
    """Kill processes while the store has their first claim: sooner and later in its course."""
    board = seen.board
    witness = seen.witness = board.open()
    seen.struck = [f"struck{n}" for n in range(number)]
    post(witness, "first", *seen.struck)
    example = board.peer()
    began = boottime()
    take(example, "first")
    latency = min(boottime() - began, 0.2)
    example.leave()
    seen.reader = Reader(witness).start()
    victims = board.peers(number)
    with ThreadPoolExecutor(number) as threads:
        for n, (key, victim) in enumerate(zip(seen.struck, victims, strict=True)):
            start = boottime() + 0.02
            victim.start_at = start
            claiming = threads.submit(_claim, victim, key)
            time.sleep(max(0.0, start + latency * (0.3 + 0.9 * n / number) - boottime()))
            victim.kill()
            claiming.result()


def _claim(victim: Peer, key: str) -> None:
    with contextlib.suppress(WorkerGone):
        take(victim, key)
