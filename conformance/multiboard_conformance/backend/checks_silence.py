# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Checks of what dies in silence: connections, operations under way, clients that are frozen.

A proxy stands before the server, or a process is stopped. A store without one server to stand
before is not exercised by the former.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from multiboard import errors
from multiboard.primitives import Backend, ChangeKind, Lease, NewPosting, Posting, Shelf, boottime
from multiboard_conformance.backend.answers import name_of, persist, raised
from multiboard_conformance.backend.feeds import Limit, Reader, beside
from multiboard_conformance.backend.fixtures import SHORT_SESSION, Board, post, take, together
from multiboard_conformance.backend.guarantees import guarantee
from multiboard_conformance.backend.reading import listed, look, snapshot
from multiboard_conformance.machinery.plugin import Effort, not_exercised
from multiboard_conformance.machinery.programs import claim_id
from multiboard_conformance.machinery.proxy import Mode, Proxy

K = ChangeKind
T = TypeVar("T")
#: Seconds by which a busy machine may make us late.
BUSY = 3.0
OPERATION = 1.0
IMPATIENT = {
    "connect_timeout": 1.0, "operation_timeout": OPERATION, "session_timeout": SHORT_SESSION,
}  # fmt: skip
AWAY = (errors.Unavailable, errors.Indeterminate)


def _opened(opening: Callable[..., T], **settings: float) -> T:
    """Open what soon gives up, on a store that may be too busy to greet it at the first try."""
    give_up = boottime() + 10 * BUSY
    while True:
        try:
            return opening(**{**IMPATIENT, **settings})
        except errors.Unavailable:
            if boottime() > give_up:
                raise


# -- connections that died -------------------------------------------------------------------


@guarantee("FEED-4")
def check_reader_whose_connection_died(board: Board, faulty: Board, proxy: Proxy) -> None:
    """A reader finds out that its connection died in silence; it goes on or receives a reset.

    Nothing is passed on it any more and nobody closes it, as where a firewall forgot it; new
    connections are served. The reader waits in long calls, and nobody else uses its backend.
    """
    direct, backend = board.open(), _opened(faulty.open)
    reader = Reader(backend).start()
    post(direct, "before")
    assert reader.receives(K.POSTED, "before")
    with beside(lambda posted: _hears_or_resets(reader, "during", since=posted)) as (
        [waiting],
        posted,
    ):
        time.sleep(0.2)
        proxy.lose()
        post(direct, "during")
        posted.set()
        assert waiting.result(), "the feed fell silent when its connection died"
    post(direct, "after")
    assert _hears_or_resets(reader, "after")


def _hears_or_resets(
    reader: Reader, key: str, within: float = 20.0, since: threading.Event | None = None
) -> bool:
    """Read in calls as long as that until a posting is reported or covered by a reset."""
    known, limit = reader.resets, Limit(within, since)
    while limit.left() > 0:
        try:
            reader.read(within)
        except errors.Unavailable:
            time.sleep(0.05)
        if reader.resets > known or K.POSTED in reader.story(key):
            return limit.left() > 0
    return False


@guarantee("ERR-1")
def check_verb_on_a_connection_that_died(board: Board, faulty: Board, proxy: Proxy) -> None:
    """Verbs on a connection that died without a word raise in time; repeated, they work again."""
    backend = _opened(faulty.open)
    post(backend, "k")
    proxy.lose()
    began = boottime()
    answer = raised(lambda: backend.add([NewPosting("new", b"")]))
    took = boottime() - began
    assert not isinstance(answer, Exception) or isinstance(answer, AWAY)
    assert took < 2 * OPERATION + BUSY
    persist(lambda: backend.add([NewPosting("new", b"")]))
    assert listed(board.open()) == ["k", "new"]


# -- operations that arrive late -------------------------------------------------------------


@dataclass
class Late:
    """A verb that arrives after all is over, and what happened on the posting in between."""

    call: Callable[[Backend, Lease | None, str, str], Any]
    #: What others do when the repeat was answered: from (they, the key, the lease of the repeat).
    meanwhile: Callable[[Backend, str, Lease], Any]
    held: bool = True
    #: What was done before: from (the caller's backend, the key).
    before: Callable[[Backend, str], Any] = lambda _b, _key: None
    #: It has an effect that can be lost with its session, and that the posting shows.
    outlives: bool = True


def _pass_on(backend: Backend, key: str, lease: Lease) -> None:
    backend.release(lease)
    take(backend, key, 60.0)


def _set_aside(backend: Backend, key: str) -> None:
    assert list(backend.remove([take(backend, key, 60.0)], Shelf.TRASH)) == [None]


def _purge(backend: Backend, key: str) -> None:
    _set_aside(backend, key)
    assert list(backend.purge([key])) == [True]


def _enter(backend: Backend, key: str, body: bytes = b"body") -> Any:
    return backend.add([NewPosting(key, body)], Shelf.ENTITIES)


LATE = {
    # The first of the order: what it leaves is there for it again.
    "acquire_next": Late(
        lambda b, _lease, _key, claim: b.acquire_next("me", [claim], 60.0),
        lambda b, _key, lease: b.release(lease),
        held=False,
        outlives=False,
    ),
    "add": Late(
        lambda b, _lease, key, _claim: b.add([NewPosting(key, b"body")]),
        lambda b, key, _lease: b.remove([take(b, key)]),
        held=False,
    ),
    "add, purged": Late(
        lambda b, _lease, key, _claim: b.add([NewPosting(key, b"body")]),
        lambda b, key, _lease: _purge(b, key),
        held=False,
        outlives=False,
    ),
    "acquire": Late(
        lambda b, _lease, key, claim: b.acquire(key, "me", claim, 60.0), _pass_on, False
    ),
    "acquire, released": Late(
        lambda b, _lease, key, claim: b.acquire(key, "me", claim, 60.0),
        lambda b, _key, lease: b.release(lease, 60.0),
        held=False,
        outlives=False,
    ),
    "renew": Late(lambda b, lease, _key, _claim: b.renew(_sure(lease), 600.0), _pass_on),
    "release": Late(
        lambda b, lease, _key, _claim: b.release(_sure(lease)),
        lambda b, key, _lease: take(b, key, 60.0),
    ),
    "remove": Late(
        lambda b, lease, _key, _claim: b.remove([_sure(lease)]), lambda _b, _key, _lease: None
    ),
    "trash": Late(
        lambda b, lease, _key, _claim: b.remove([_sure(lease)], Shelf.TRASH),
        lambda b, key, _lease: (b.restore(key), take(b, key, 60.0)),
    ),
    "restore": Late(
        lambda b, _lease, key, _claim: b.restore(key),
        lambda b, key, _lease: _set_aside(b, key),
        held=False,
        before=_set_aside,
        outlives=False,
    ),
    "enter": Late(
        lambda b, _lease, key, _claim: _enter(b, key),
        lambda b, key, _lease: b.purge([key], Shelf.ENTITIES),
        held=False,
        before=lambda b, _key: b.keepalive(),
        outlives=False,
    ),
    "leave": Late(
        lambda b, _lease, key, _claim: b.purge([key], Shelf.ENTITIES),
        lambda b, key, _lease: _enter(b, key, b"theirs"),
        held=False,
        before=_enter,
        outlives=False,
    ),
}


def _key(verb: str, turn: str = "") -> str:
    return verb.replace(", ", "-") + turn


def _lease_of(answer: Any) -> Lease | None:
    """Return the lease that a verb answered with, if any."""
    if isinstance(answer, Sequence) and answer and isinstance(answer[0], tuple):
        answer = answer[0][1]
    return answer if isinstance(answer, Lease) else None


def _prepare(
    direct: Backend, backends: Mapping[str, Backend], turn: str = ""
) -> dict[str, Lease | None]:
    """Do what was done before, and return the leases that were held then."""
    posted = [verb for verb in backends if not verb.startswith(("add", "enter", "leave"))]
    for verb in posted:
        post(direct, _key(verb, turn), rank=int(verb != "acquire_next"))
    for verb, backend in backends.items():
        LATE[verb].before(backend, _key(verb, turn))
    return {
        verb: take(backend, _key(verb, turn), 60.0) if LATE[verb].held else None
        for verb, backend in backends.items()
    }


def _sure(lease: Lease | None) -> Lease:
    assert lease is not None
    return lease


@guarantee("ERR-2", "LEASE-2", "DIR-2")
def check_operation_that_arrives_late(board: Board, faulty: Board, proxy: Proxy) -> None:
    """What reaches the store after it was given up and repeated, and others went on, is void.

    Each verb waits in the network until its caller gives it up; the repeat is answered; others
    take, finish and bring back the posting. Then the first request arrives.
    """
    direct = board.open()
    answered = (_late_is_void(direct, faulty, proxy, f"-{turn}") for turn in range(3))
    assert any(answered), "repeats were not answered"


def _late_is_void(direct: Backend, faulty: Board, proxy: Proxy, turn: str) -> bool:
    """Let every verb arrive late; False where a repeat had no answer, as when a session ends."""
    # The sessions must outlive the silence, on a busy machine too.
    backends = {verb: _opened(faulty.open, session_timeout=3 * SHORT_SESSION) for verb in LATE}
    leases = _prepare(direct, backends, turn)
    claims = {verb: claim_id() for verb in LATE}
    for backend in backends.values():
        backend.count()

    def call(verb: str) -> Any:
        return LATE[verb].call(backends[verb], leases[verb], _key(verb, turn), claims[verb])

    proxy.set(Mode.BLACK_HOLE)
    answers = together([lambda verb=verb: raised(lambda: call(verb)) for verb in LATE])  # type: ignore[misc]
    assert [name_of(a) for a in answers if not isinstance(a, AWAY)] == []
    proxy.lose()
    repeats = together(
        [lambda verb=verb: raised(lambda: persist(lambda: call(verb), 10.0)) for verb in LATE]  # type: ignore[misc]
    )
    if any(isinstance(repeat, (*AWAY, errors.SessionLost)) for repeat in repeats):
        return False
    for (verb, late), repeat in zip(LATE.items(), repeats, strict=True):
        lease = leases[verb] or _lease_of(repeat)
        late.meanwhile(direct, _key(verb, turn), lease)  # type: ignore[arg-type]
    reader = Reader(direct).start()
    before = snapshot(direct)
    proxy.deliver()
    time.sleep(0.3)
    assert snapshot(direct) == before
    post(direct, "last")
    assert reader.receives(K.POSTED, "last")
    assert [(change.kind, change.key) for change in reader.received] == [(K.POSTED, "last")]
    return True


#: How a posting (None: gone) looks after a verb had its effect.
APPLIED: dict[str, Callable[[Posting | None], bool]] = {
    "add": lambda posting: posting is not None,
    "acquire": lambda posting: posting is not None and posting.lease is not None,
    "renew": lambda posting: (
        posting is not None and posting.lease is not None and (posting.lease.ends_in or 0) > 120
    ),
    "release": lambda posting: posting is not None and posting.lease is None,
    "remove": lambda posting: posting is None,
    "trash": lambda posting: posting is None,
}


@guarantee("ERR-2", "LEASE-2", "DIR-2")
def check_answer_lost_with_its_session(
    board: Board, faulty: Board, proxy: Proxy, effort: Effort
) -> None:
    """Where an answer was lost, and the session with it, and others went on, a repeat is void.

    No answer comes through until the session has ended. Others take, finish and bring back what
    the verbs did. Whatever the callers get who repeat them then: nothing is undone, nothing comes
    back. What took more than one request, and so was not done, is not judged.
    """
    if effort.quick:
        not_exercised("a session takes long to end: only the full suite waits for it")
    direct = board.open()
    backends = {verb: _opened(faulty.open) for verb, late in LATE.items() if late.outlives}
    leases = _prepare(direct, backends)
    claims = {verb: claim_id() for verb in backends}

    def call(verb: str) -> Any:
        return raised(lambda: LATE[verb].call(backends[verb], leases[verb], verb, claims[verb]))

    granted = max(together([backend.keepalive for backend in backends.values()]))
    proxy.set(Mode.HOLD_REPLIES)
    answers = together([functools.partial(call, verb) for verb in backends])
    assert [name_of(a) for a in answers if not isinstance(a, AWAY)] == []
    proxy.set(Mode.BLACK_HOLE)
    found = dict(zip(backends, direct.get(list(backends)), strict=True))
    applied = [verb for verb in backends if APPLIED[verb](found[verb])]
    assert "add" in applied, "a posting is added with one request"
    for verb in applied:
        posting = found[verb]
        lease = leases[verb] or (posting.lease if posting else None)
        LATE[verb].meanwhile(direct, verb, lease)  # type: ignore[arg-type]
    time.sleep(2 * granted)  # a client may take a while to notice, and counts from then on
    before = snapshot(direct)
    proxy.lose()
    together([functools.partial(persist, backend.count) for backend in backends.values()])
    answers = [call(verb) for verb in applied]
    assert [name_of(a) for a in answers if isinstance(a, errors.Unavailable)] == []
    assert snapshot(direct) == before


# -- clients that are frozen -----------------------------------------------------------------


def _use_every_verb(backend: Backend, key: str) -> None:
    claims = [claim_id(), claim_id()]
    persist(lambda: post(backend, key))
    lease = persist(lambda: backend.acquire(key, "me", claims[0], 60.0))
    persist(lambda: backend.renew(lease, 60.0))
    persist(lambda: backend.release(lease))
    assert persist(lambda: look(backend, key)).lease is None
    assert key in persist(lambda: listed(backend))
    lease = persist(lambda: backend.acquire(key, "me", claims[1], 60.0))
    assert list(persist(lambda: backend.remove([lease]))) == [None]


def _is_not_blocked(backend: Backend, key: str) -> None:
    began = boottime()
    _use_every_verb(backend, key)
    took = boottime() - began
    assert took < OPERATION + BUSY, f"a client that stands still blocked others for {took:.1f} s"


@guarantee("RUN-1")
def check_client_that_reads_no_answer(board: Board, faulty: Board, proxy: Proxy) -> None:
    """A client that does not read the answer to its verb blocks nobody else."""
    direct, reading, taking = _opened(board.open), faulty.open(), faulty.open()
    body = bytes(min(direct.traits.max_body, 256 * 1024))
    for n in range(32):
        post(direct, f"large{n}", body=body)
    with ThreadPoolExecutor(2) as threads:
        proxy.set(Mode.HOLD_REPLIES)
        stuck = [
            threads.submit(raised, reading.list),
            threads.submit(raised, lambda: taking.acquire_next("me", list("abcdefgh"), 60.0)),
        ]
        time.sleep(0.3)
        try:
            _is_not_blocked(direct, "k")
        finally:
            proxy.heal()
            for future in stuck:
                future.result()


@guarantee("RUN-1", "LEASE-4")
def check_client_that_is_frozen_in_a_verb(board: Board, effort: Effort) -> None:
    """A process that is stopped at any instant, in the middle of a verb, blocks nobody else.

    A store without a server does its steps in its clients: there, who is stopped in the middle of
    one holds it. It is not exercised.
    """
    if not board.traits.cross_host:
        not_exercised("the store has no server: a client that is stopped holds the step it is in")
    direct, peer = _opened(board.open), _opened(board.peer)
    dice = effort.dice("frozen")
    rounds = effort.rounds(4, 20)
    with ThreadPoolExecutor(1) as threads:
        working = threads.submit(peer.run, "work", prefix="w", seconds=rounds * 0.4)
        for n in range(rounds):
            time.sleep(dice.uniform(0.02, 0.1))
            peer.pause()
            try:
                _is_not_blocked(direct, f"k{n}")
            finally:
                peer.resume()
        assert working.result() > 0
