# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Checks of faults between backend and server: lost replies, cut connections, silence.

A proxy stands between them. A store that is not reached through one server is not exercised here.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from multiboard import errors
from multiboard.primitives import Backend, ChangeKind, Lease, NewPosting, Posting, Shelf, boottime
from multiboard_conformance.backend.answers import (
    AWAY,
    answer_of,
    has_cause,
    name_of,
    persist,
    raised,
)
from multiboard_conformance.backend.feeds import Limit, Reader, Start, beside
from multiboard_conformance.backend.fixtures import Board, open_patiently, post, take
from multiboard_conformance.backend.guarantees import guarantee
from multiboard_conformance.backend.reading import listed, look
from multiboard_conformance.harness import Harness
from multiboard_conformance.machinery.plugin import Effort, need, not_exercised
from multiboard_conformance.machinery.programs import claim_id
from multiboard_conformance.machinery.proxy import Mode, Proxy

K = ChangeKind
QUICK_FAILING = {"connect_timeout": 1.0, "operation_timeout": 2.0}


@dataclass
class Case:
    """A verb whose reply is lost: what it does, how its effect shows, and what is reported."""

    #: Makes the call from the lease on the posting "k" and a fresh claim id.
    call: Callable[[Backend, Lease | None, str], Any]
    #: Tells from a posting (None: gone) whether the effect is there.
    applied: Callable[[Posting | None], bool]
    right: Callable[[Any], bool]
    reported: list[ChangeKind]
    held: bool = True
    posted: bool = True


def _is_none(answer: Any) -> bool:
    return answer is None or list(answer) == [None]


CASES = {
    "add": Case(
        lambda b, _l, _c: b.add([NewPosting("k", b"body")])[0],
        lambda p: p is not None,
        lambda answer: isinstance(answer, Posting),
        [K.POSTED],
        held=False,
        posted=False,
    ),
    "acquire": Case(
        lambda b, _l, c: b.acquire("k", "me", c, 60.0),
        lambda p: p is not None and p.lease is not None,
        lambda answer: isinstance(answer, Lease),
        [K.CLAIMED],
        held=False,
    ),
    "acquire_next": Case(
        lambda b, _l, c: b.acquire_next("me", [c], 60.0),
        lambda p: p is not None and p.lease is not None,
        lambda answer: [posting.key for posting, _ in answer] == ["k"],
        [K.CLAIMED],
        held=False,
    ),
    "renew": Case(
        lambda b, lease, _c: b.renew(_sure(lease), 600.0),
        lambda p: p is not None and p.lease is not None and (p.lease.ends_in or 0) > 120,
        lambda answer: isinstance(answer, Lease),
        [],
    ),
    "release": Case(
        lambda b, lease, _c: b.release(_sure(lease)),
        lambda p: p is not None and p.lease is None,
        _is_none,
        [K.RELEASED],
    ),
    "remove": Case(
        lambda b, lease, _c: b.remove([_sure(lease)]),
        lambda p: p is None,
        _is_none,
        [K.REMOVED],
    ),
    "trash": Case(
        lambda b, lease, _c: b.remove([_sure(lease)], Shelf.TRASH),
        lambda p: p is None,
        _is_none,
        [K.TRASHED],
    ),
}


def _sure(lease: Lease | None) -> Lease:
    assert lease is not None
    return lease


@guarantee("ERR-2", "ERR-1")
@pytest.mark.parametrize("mode", [Mode.SWALLOW_REPLY, Mode.CUT_REQUEST], ids=lambda m: m.value)
@pytest.mark.parametrize("verb", CASES)
def check_lost_reply_costs_nothing(
    board: Board, faulty: Board, proxy: Proxy, verb: str, mode: Mode
) -> None:
    """A verb whose request or reply is lost, repeated, has one effect and the right answer."""
    case = CASES[verb]
    direct, backend = board.open(), faulty.open(**QUICK_FAILING)
    if case.posted:
        post(backend, "k")
    lease = take(backend, "k", 60.0) if case.held else None
    attempt = claim_id()
    reader = Reader(direct).start()
    proxy.set(mode)
    answer = raised(lambda: case.call(backend, lease, attempt))
    assert proxy.struck == 1, "the verb did not go through the proxy"
    seen = case.applied(direct.get(["k"])[0])
    if isinstance(answer, errors.MultiboardError):
        assert name_of(answer) in ("Unavailable", "Indeterminate")
        has_cause(answer)
        if isinstance(answer, errors.Unavailable):
            assert not seen, "Unavailable means surely not applied, and it was applied"
        proxy.heal()
        answer = persist(lambda: case.call(backend, lease, attempt))
    assert case.right(answer), f"{verb} answered {answer}"
    posting = direct.get(["k"])[0]
    assert case.applied(posting)
    post(direct, "last")
    assert reader.receives(K.POSTED, "last")
    assert reader.story("k") == case.reported
    if posting is not None:
        assert posting.attempts == (0 if verb == "add" else 1)


@guarantee("ERR-2", "LEASE-6")
def check_lost_reply_to_a_session_claim(board: Board, faulty: Board, proxy: Proxy) -> None:
    """A session claim whose reply was lost is found again, or ends with its session."""
    direct, backend = board.open(), faulty.open()
    post(direct, "k")
    backend.keepalive()
    attempt = claim_id()
    proxy.set(Mode.SWALLOW_REPLY)
    answer = raised(lambda: backend.acquire("k", "me", attempt))
    if isinstance(answer, AWAY):
        proxy.heal()
        answer = raised(lambda: persist(lambda: backend.acquire("k", "me", attempt)))
    if isinstance(answer, errors.SessionLost):
        answer = persist(lambda: backend.acquire("k", "me", claim_id()))
    posting = look(direct, "k")
    assert (posting.lease, posting.attempts - posting.deaths) == (answer, 1)


@guarantee("ERR-1", "ERR-2")
def check_server_that_is_away(board: Board, faulty: Board, proxy: Proxy) -> None:
    """While connections are refused verbs raise Unavailable; afterwards they work again."""
    direct, backend = board.open(), faulty.open(**QUICK_FAILING)
    post(backend, "k")
    proxy.set(Mode.REFUSE)
    answers = []
    for _ in range(4):
        answers.append(raised(lambda: backend.add([NewPosting("new", b"")])))
        time.sleep(0.1)
    assert {name_of(answer) for answer in answers} <= {"Unavailable", "Indeterminate"}
    assert name_of(answers[-1]) == "Unavailable"
    for answer in answers:
        has_cause(answer)
    if {name_of(answer) for answer in answers} == {"Unavailable"}:
        assert listed(direct) == ["k"]
    proxy.heal()
    persist(lambda: backend.add([NewPosting("new", b"")]))
    assert listed(direct) == ["k", "new"]


@guarantee("ERR-1")
def check_server_that_falls_silent(board: Board, faulty: Board, proxy: Proxy) -> None:
    """In a silence without end a verb raises within its time-out; afterwards it works again."""
    backend = faulty.open(**QUICK_FAILING)
    post(backend, "k")
    proxy.set(Mode.BLACK_HOLE)
    began = boottime()
    answer = answer_of(lambda: backend.add([NewPosting("new", b"")]))
    took = boottime() - began
    assert answer in ("Unavailable", "Indeterminate")
    assert took < 2.0 + 1.0 + 3.0
    proxy.heal()
    persist(lambda: backend.add([NewPosting("new", b"")]))
    assert listed(board.open()) == ["k", "new"]


@guarantee("ERR-2")
def check_slow_server(faulty: Board, proxy: Proxy) -> None:
    """A server that answers late is waited for; no verb has its effect twice."""
    backend = faulty.open()
    proxy.set(Mode.DELAY, 0.15)
    post(backend, "k")
    lease = take(backend, "k", 60.0)
    assert list(backend.remove([lease])) == [None]
    proxy.heal()
    assert backend.count() == 0


# -- FEED-4 ----------------------------------------------------------------------------------


def _outage(proxy: Proxy, mode: Mode | None) -> None:
    if mode is None:
        proxy.cut()
    else:
        proxy.set(mode)


@guarantee("FEED-4")
@pytest.mark.parametrize(
    "mode", [None, Mode.REFUSE, Mode.BLACK_HOLE], ids=["cut", "refuse", "black hole"]
)
def check_reader_hears_after_an_outage(
    board: Board, faulty: Board, proxy: Proxy, mode: Mode | None
) -> None:
    """A reader that waits through an outage gets what happened in it, or a reset; then goes on."""
    direct, backend = board.open(), open_patiently(faulty.open, **QUICK_FAILING)
    reader = Reader(backend).start()
    post(direct, "before")
    assert _read_on(reader, "before", 20.0), "silence before the outage"
    with beside(lambda over: _read_on(reader, "during", 30.0, over)) as ([waiting], over):
        time.sleep(0.2)
        _outage(proxy, mode)
        time.sleep(0.1)
        post(direct, "during")
        time.sleep(0.5 if mode else 0.0)
        proxy.heal()
        over.set()
        assert waiting.result(), "silence after the outage"
    post(direct, "after")
    known = reader.resets
    assert _read_on(reader, "after", 20.0)
    # A reset without end would be as good as no feed.
    assert K.POSTED in reader.story("after") or reader.resets <= known + 3


def _read_on(reader: Reader, key: str, within: float, since: Start | None = None) -> bool:
    """Read until a posting or a reset was reported, through errors that may be repeated."""
    limit = Limit(within, since)
    known = reader.resets
    while limit.left() > 0:
        try:
            reader.read(2.0)
        except errors.Unavailable:
            time.sleep(0.05)
        if reader.resets > known or K.POSTED in reader.story(key):
            return True
    return False


@guarantee("FEED-4")
def check_cut_feed_loses_nothing(board: Board, faulty: Board, proxy: Proxy, effort: Effort) -> None:
    """With its connection cut again and again a reader misses nothing without a reset."""
    direct, backend = board.open(), open_patiently(faulty.open, **QUICK_FAILING)
    reader = Reader(backend).start()
    for n in range(effort.rounds(4, 20)):
        key = f"k{n}"
        known = reader.resets
        if n % 2:
            proxy.cut()
        post(direct, key)
        if not n % 2:
            proxy.cut()
        assert _read_on(reader, key, 20.0), f"{key} was neither reported nor covered by a reset"
        if reader.resets == known:
            assert reader.story(key) == [K.POSTED]


# -- with a harness --------------------------------------------------------------------------


@pytest.mark.alone
@guarantee("FEED-4")
def check_reader_hears_after_a_restart(board: Board, harness: Harness) -> None:
    """A reader that waits while the store restarts receives a reset, or goes on; never silence."""
    need(harness, "restart")
    if not board.traits.durable:
        not_exercised("the store does not declare that it is durable")
    backend = board.open(**QUICK_FAILING)
    reader = Reader(backend).start()
    with beside(lambda back: _read_on(reader, "after", 40.0, back)) as ([waiting], back):
        time.sleep(0.2)
        harness.restart()
        persist(lambda: backend.add([NewPosting("after", b"")]), 30.0)
        back.set()
        assert waiting.result()
