# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Checks of the traits, both ways: declared and broken fails, undeclared and working fails too.

Two can be judged in part only. ``max_body`` is a promise of the least: that bodies of that size
come back is checked (DIR-4), but a store that takes more may have its reasons to promise less.
``cross_host`` can't be judged from one machine; what is judged is that it means cross_process too.
The leases of the dead have a scene of their own, in ``checks_deaths``.
"""

from __future__ import annotations

import pytest

from multiboard.primitives import Backend, LeaseLock, NewPosting
from multiboard_conformance.backend.answers import persist
from multiboard_conformance.backend.fixtures import Board, post, take
from multiboard_conformance.backend.guarantees import guarantee
from multiboard_conformance.backend.reading import listed
from multiboard_conformance.harness import Harness
from multiboard_conformance.machinery.peers import RemotePeer
from multiboard_conformance.machinery.plugin import need
from multiboard_conformance.machinery.programs import claim_id
from multiboard_conformance.machinery.proxy import Mode, Proxy

_DECLARE = "it works, and the backend does not declare {0}: declare it"


def _judge(declared: bool, works: bool, trait: str) -> None:
    assert works or not declared, f"the backend declares {trait}, and it does not hold"
    assert declared or not works, _DECLARE.format(trait)


# -- durable ---------------------------------------------------------------------------------


@pytest.mark.alone
@guarantee("DIR-1", "LEASE-3")
def check_restart_of_the_store(board: Board, harness: Harness) -> None:
    """Over a SIGKILL of the store postings are kept if and only if durable is declared.

    Where they are kept, the backends that were open go on, and tokens go on rising.
    """
    need(harness, "restart")
    backend = board.open()
    names = [f"k{n}" for n in range(20)]
    post(backend, *names)
    old = take(backend, "k0", 60.0)
    backend.release(old)
    incarnation = backend.incarnation
    harness.restart()
    after = board.make()
    persist(after.open, 30.0)
    kept = after.incarnation == incarnation and listed(after) == names
    _judge(board.traits.durable, kept, "durable")
    if kept:
        new = persist(lambda: backend.acquire("k0", "me", "again", 60.0), 30.0)
        assert new.token > old.token


# -- cross_process, cross_host ---------------------------------------------------------------


@guarantee("RUN-1")
def check_cross_process_is_what_a_process_sees(board: Board) -> None:
    """Another process sees the board's postings if and only if cross_process is declared."""
    backend = board.open()
    post(backend, "k")
    store = board.store
    settings = store.settings(namespace=board.namespace)
    own = (store.load(**settings).settings, board.traits)
    peer = RemotePeer(store.pool, store.target, settings, "process", board.history, own)
    try:
        there = [posting and posting.key for posting in peer.get(["k"])] == ["k"]
        post(peer, "theirs")
    finally:
        peer.leave()
    works = there and backend.get(["theirs"])[0] is not None
    _judge(board.traits.cross_process, works, "cross_process")


@guarantee("RUN-1")
def check_cross_host_means_cross_process(board: Board) -> None:
    """What machines can share, processes can."""
    assert board.traits.cross_process or not board.traits.cross_host


# -- linearizable_feed -----------------------------------------------------------------------


@guarantee("FEED-3")
def check_linearizable_feed(board: Board) -> None:
    """What was acknowledged is in the answer to the next question if linearizable_feed is declared.

    Where it is not, and no server is far away, one of a hundred changes must come late.
    """
    works = _late(board.open(), board.open(), 100) == 0
    declared = board.traits.linearizable_feed
    # A feed that is pushed may be quick enough a hundred times: the distant reader judges that.
    _judge(declared, works and (declared or board.store.address() is None), "linearizable_feed")


@guarantee("FEED-3")
def check_linearizable_feed_of_a_distant_reader(board: Board, faulty: Board, proxy: Proxy) -> None:
    """A reader to whom everything takes long receives what was acknowledged, or it is not declared.

    A feed that is asked makes it wait for the answer; a pushed one answers that nothing happened.
    """
    writer, reader = board.open(), faulty.open()
    reader.changes(None, 0.0)
    proxy.set(Mode.DELAY, 0.1)
    works = _late(writer, reader, 5) == 0
    _judge(board.traits.linearizable_feed, works, "linearizable_feed")


def _late(writer: Backend, reader: Backend, number: int) -> int:
    """Return how many postings were missing in the answer to the next question to the feed."""
    cursor = reader.changes(None, 0.0).cursor
    late = 0
    for key in [f"k{n}" for n in range(number)]:
        post(writer, key)
        reported: list[str] = []
        while True:
            answer = reader.changes(cursor, 0.0)
            assert not answer.reset, "a reader that kept up received a reset"
            cursor = answer.cursor
            if not answer.events:
                break
            reported += [event.key for event in answer.events]
        late += key not in reported
    return late


# -- native_claim_next -----------------------------------------------------------------------

_BODY = 2000
_NUMBER = 150


@guarantee("NEXT-1")
def check_native_claim_next_is_no_fallback(board: Board) -> None:
    """A backend that declares native_claim_next has an acquire_next of its own."""
    own = type(board.make().backend).acquire_next is not LeaseLock.acquire_next
    assert own or not board.traits.native_claim_next, (
        "the backend declares native_claim_next, and acquire_next is the fallback"
    )
    if not board.traits.cross_host and board.store.address() is None:
        # Without a server to listen to, an acquire_next of its own is all that can be seen. Of a
        # store of several servers not even that: the index may be the backend's.
        _judge(board.traits.native_claim_next, own, "native_claim_next")


@guarantee("NEXT-1")
def check_native_claim_next_does_not_list(faulty: Board, proxy: Proxy) -> None:
    """acquire_next reads no whole shelf if it is declared native; in one request it is native."""
    backend = faulty.open()
    body = bytes(_BODY)
    backend.add([NewPosting(f"k{n}", body) for n in range(_NUMBER)])
    own = type(backend.backend).acquire_next is not LeaseLock.acquire_next
    requests, received = [], []
    for _ in range(6):  # a keepalive or a reader of the backend may speak in between
        sent, back = proxy.requests, proxy.received
        assert len(_next(backend)) == 1
        requests.append(proxy.requests - sent)
        received.append(proxy.received - back)
    lists = min(received) > _BODY * _NUMBER // 2
    assert not (faulty.traits.native_claim_next and lists), (
        f"the backend declares native_claim_next and reads {min(received)} bytes for one posting"
    )
    works = own and not lists and min(requests) == 1
    assert faulty.traits.native_claim_next or not works, _DECLARE.format("native_claim_next")


def _next(backend: Backend) -> list[object]:
    return list(backend.acquire_next("me", [claim_id()], 60.0))


# -- fencing_survives_failover ---------------------------------------------------------------


@pytest.mark.alone
@guarantee("LEASE-3")
def check_fencing_survives_failover_both_ways(board: Board, harness: Harness) -> None:
    """Tokens rise over the loss of the last writes if and only if that is declared.

    The holder of a lease that the new server never saw must not pass for its successor.
    """
    need(harness, "failover")
    backend = board.open()
    post(backend, "k")
    backend.release(take(backend, "k", 60.0))
    tokens: list[int] = []

    def writes() -> None:
        for _ in range(3):
            lost = take(backend, "k", 60.0)
            tokens.append(lost.token)
            backend.release(lost)

    harness.failover(writes)
    after = board.make()
    persist(after.open, 30.0)
    lease = persist(lambda: after.acquire("k", "me", "after", 60.0), 30.0)
    works = lease.token > max(tokens)
    _judge(board.traits.fencing_survives_failover, works, "fencing_survives_failover")
