# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Checks of what dies in silence: connections, and clients that are frozen.

A proxy stands before the server, or a process is stopped. A store without one server to stand
before is not exercised by the former.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from multiboard import errors
from multiboard.primitives import Backend, ChangeKind, NewPosting, boottime
from multiboard_conformance.backend.answers import AWAY, persist, raised
from multiboard_conformance.backend.feeds import Limit, Reader, Start, beside
from multiboard_conformance.backend.fixtures import SHORT_SESSION, Board, open_patiently, post
from multiboard_conformance.backend.guarantees import guarantee
from multiboard_conformance.backend.reading import listed, look
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


def _opened(opening: Callable[..., T], **settings: float) -> T:
    return open_patiently(opening, **{**IMPATIENT, **settings})


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
    reader: Reader, key: str, within: float = 18.0, since: Start | None = None
) -> bool:
    """Read until a posting is reported or covered by a reset, in calls longer than the limit."""
    known, limit = reader.resets, Limit(within, since)
    while limit.left() > 0:
        try:
            reader.read(within + BUSY)
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


def _usual(backend: Backend) -> float:
    """Return the seconds that every verb takes on this machine while nobody stands still."""
    began = boottime()
    _use_every_verb(backend, "usual")
    return boottime() - began


def _is_not_blocked(backend: Backend, key: str, usual: float) -> None:
    began = boottime()
    _use_every_verb(backend, key)
    took = boottime() - began
    most = OPERATION + BUSY + 3 * usual
    assert took < most, f"a client that stands still blocked others for {took:.1f} s"


@guarantee("RUN-1")
def check_client_that_reads_no_answer(board: Board, faulty: Board, proxy: Proxy) -> None:
    """A client that does not read the answer to its verb blocks nobody else.

    Its buffer is small, so that the server can't be rid of an answer of 4 MiB: what it has itself
    to send from holds 2.6 MB on a loopback device, and grows only where the client reads.
    """
    proxy.narrow = True
    # To list megabytes takes a busy machine longer than an impatient client waits.
    direct = _opened(board.open, operation_timeout=4 * OPERATION)
    reading, taking = faulty.open(), faulty.open()
    body = bytes(min(direct.traits.max_body, 256 * 1024))
    for n in range(20):
        post(direct, f"large{n}", body=body)
    attempts = [claim_id() for _ in range(18)]
    usual = _usual(direct)
    with ThreadPoolExecutor(2) as threads:
        proxy.set(Mode.HOLD_REPLIES)
        stuck = [
            threads.submit(raised, reading.list),
            threads.submit(raised, lambda: taking.acquire_next("me", attempts, 60.0)),
        ]
        time.sleep(0.3)
        try:
            _is_not_blocked(direct, "k", usual)
        finally:
            proxy.narrow = False
            proxy.cut()  # to read all of it through buffers so small takes minutes
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
    usual = _usual(direct)
    with ThreadPoolExecutor(1) as threads:
        working = threads.submit(peer.run, "work", prefix="w", seconds=rounds * 0.4)
        for n in range(rounds):
            time.sleep(dice.uniform(0.02, 0.1))
            peer.pause()
            try:
                _is_not_blocked(direct, f"k{n}", usual)
            finally:
                peer.resume()
        assert working.result() > 0
