# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Checks of what is late: a request that arrives after its repeat, a repeat after others went on.

A proxy stands before the server. A store without one server to stand before is not exercised.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from multiboard import errors
from multiboard.primitives import Backend, ChangeKind, Lease, NewPosting, Posting, Shelf
from multiboard_conformance.backend.answers import AWAY, name_of, persist, raised
from multiboard_conformance.backend.feeds import Reader
from multiboard_conformance.backend.fixtures import (
    SHORT_SESSION,
    Board,
    open_patiently,
    post,
    take,
    together,
)
from multiboard_conformance.backend.guarantees import guarantee
from multiboard_conformance.backend.reading import snapshot
from multiboard_conformance.machinery.plugin import Effort, not_exercised
from multiboard_conformance.machinery.programs import claim_id
from multiboard_conformance.machinery.proxy import Mode, Proxy

K = ChangeKind
IMPATIENT = {"connect_timeout": 1.0, "operation_timeout": 1.0, "session_timeout": SHORT_SESSION}


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


def _add_elsewhere(backend: Backend, key: str) -> None:
    """Use a purged key again, and set it aside, where the store lets others use it."""
    backend.add([NewPosting(key, b"body")])
    if backend.get([key])[0] is not None:
        _set_aside(backend, key)


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
    "purge": Late(
        lambda b, _lease, key, _claim: b.purge([key]),
        lambda b, key, _lease: _add_elsewhere(b, key),
        held=False,
        before=_set_aside,
        outlives=False,
    ),
    "acquire, session": Late(
        lambda b, _lease, key, claim: b.acquire(key, "me", claim),
        lambda b, _key, lease: b.release(lease, 60.0),
        held=False,
        before=lambda b, _key: b.keepalive(),
        outlives=False,
    ),
    "release, delayed": Late(
        lambda b, lease, _key, _claim: b.release(_sure(lease), 600.0),
        lambda b, key, _lease: b.release(take(b, key, 60.0)),
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
    # The sessions must outlive the silence, on a busy machine too.
    sessions = [3 * SHORT_SESSION * 2**turn for turn in range(4)]
    answered = (_late_is_void(board, faulty, proxy, session) for session in sessions)
    assert any(answered), "repeats were not answered"


def _late_is_void(board: Board, faulty: Board, proxy: Proxy, session: float) -> bool:
    """Let every verb arrive late; False where a repeat had no answer, as when a session ends."""
    direct, turn = board.open(session_timeout=120.0), f"-{session:.0f}"
    opening = functools.partial(faulty.open, **{**IMPATIENT, "session_timeout": session})
    backends = {verb: open_patiently(opening) for verb in LATE}
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
def check_answer_lost_and_others_went_on(board: Board, faulty: Board, proxy: Proxy) -> None:
    """Where an answer was lost, and others went on, a repeat by the same session is void.

    The first request had its effect. Others take, finish and bring back what the verbs did. Then
    the callers repeat them, as they must: nothing is undone, nothing comes back.
    """
    _repeat_is_void(board, faulty, proxy, ends=False)


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
    _repeat_is_void(board, faulty, proxy, ends=True)


def _repeat_is_void(board: Board, faulty: Board, proxy: Proxy, *, ends: bool) -> None:
    """Lose the answers to all verbs, let others go on, and repeat them in the session or after."""
    direct = board.open(session_timeout=120.0)
    session = SHORT_SESSION if ends else 8 * SHORT_SESSION
    opening = functools.partial(faulty.open, **{**IMPATIENT, "session_timeout": session})
    backends = {verb: open_patiently(opening) for verb, late in LATE.items() if late.outlives}
    leases = _prepare(direct, backends)
    claims = {verb: claim_id() for verb in backends}

    def call(verb: str) -> Any:
        return raised(lambda: LATE[verb].call(backends[verb], leases[verb], verb, claims[verb]))

    granted = max(together([backend.keepalive for backend in backends.values()]))
    proxy.set(Mode.HOLD_REPLIES)
    answers = together([functools.partial(call, verb) for verb in backends])
    assert [name_of(a) for a in answers if not isinstance(a, AWAY)] == []
    if ends:
        proxy.set(Mode.BLACK_HOLE)
    else:
        proxy.lose()
    found = dict(zip(backends, direct.get(list(backends)), strict=True))
    applied = [verb for verb in backends if APPLIED[verb](found[verb])]
    assert "add" in applied, "a posting is added with one request"
    for verb in applied:
        posting = found[verb]
        lease = leases[verb] or (posting.lease if posting else None)
        LATE[verb].meanwhile(direct, verb, lease)  # type: ignore[arg-type]
    if ends:
        time.sleep(2 * granted)  # a client may take a while to notice, and counts from then on
    before = snapshot(direct)
    if ends:
        proxy.lose()
    together([functools.partial(persist, backend.count) for backend in backends.values()])
    answers = [call(verb) for verb in applied]
    assert [name_of(a) for a in answers if isinstance(a, errors.Unavailable)] == []
    assert snapshot(direct) == before
