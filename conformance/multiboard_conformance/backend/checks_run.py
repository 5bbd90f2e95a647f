# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Checks of everything at once: threads, processes, forks, and the history that they leave."""

from __future__ import annotations

import functools
import itertools
import time
from concurrent.futures import ThreadPoolExecutor, wait

import pytest

from multiboard.primitives import Backend, NewPosting, Shelf, boottime
from multiboard_conformance.backend.answers import eventually
from multiboard_conformance.backend.feeds import Reader
from multiboard_conformance.backend.fixtures import Board, Store, post, take, together
from multiboard_conformance.backend.guarantees import guarantee
from multiboard_conformance.backend.reading import keys, listed
from multiboard_conformance.harness import Harness
from multiboard_conformance.machinery.judge import judge
from multiboard_conformance.machinery.peers import Peer, WorkerGone
from multiboard_conformance.machinery.plugin import Effort, measure, need
from multiboard_conformance.machinery.posting_spec import explain
from multiboard_conformance.machinery.programs import churn, claim_id


@guarantee("RUN-1")
def check_one_backend_serves_many_threads(board: Board, effort: Effort) -> None:
    """Threads that use every verb of one backend at once get each the answers of their own."""
    backend = board.open()
    rounds = effort.rounds(6, 40)

    def work(name: str) -> None:
        for n in range(rounds):
            key = f"{name}.{n}"
            (posting,) = post(backend, key, body=key.encode())
            assert posting.body == key.encode()
            lease = backend.acquire(key, name, claim_id(), 30.0 if n % 2 else None)
            (read,) = backend.get([key])
            assert read is not None
            assert (read.key, read.lease, read.body) == (key, lease, key.encode())
            assert key in listed(backend)
            backend.changes(None, 0.0)
            assert list(backend.remove([lease], Shelf.TRASH if n % 3 == 0 else None)) == [None]
            assert backend.keepalive() > 0

    together([lambda name=f"t{n}": work(name) for n in range(6)])  # type: ignore[misc]
    assert listed(backend) == []
    assert len(listed(backend, Shelf.TRASH)) == 6 * len(range(0, rounds, 3))


@guarantee("RUN-1")
def check_forked_child_uses_what_it_inherited(board: Board) -> None:
    """A forked child uses the backend it inherited as a new one; its parent feels nothing.

    Where processes can't share a board the child is refused by an error of ours.
    """
    backend, peer = board.open(), board.peer()
    names = ["held", "posted", "leased"]
    post(backend, "held", "leased")
    if not board.traits.cross_process:
        post(peer, "unused")
    peer.keep()
    seen = peer.run("fork", keys=names, timeout=30.0)
    if board.traits.cross_process:
        assert seen == {"child": "fine", "posted": "True", "lease": "True", "removed": "None"}
        assert backend.get(["leased"])[0].lease is None  # type: ignore[union-attr]
    else:
        child = seen.pop("child")
        assert child.startswith("refused") or child == "nothing"
        assert seen == {"posted": "False", "lease": "True", "removed": "None"}


@guarantee("RUN-1", "LEASE-1", "LEASE-2", "LEASE-3", "FEED-1")
def check_history_of_many_processes(
    request: pytest.FixtureRequest, board: Board, effort: Effort
) -> None:
    """The history of processes that do random operations on few postings is a possible one."""
    backend, peers = board.open(), board.peers(3)
    names = [f"k{n}" for n in range(6)]
    reader = Reader(backend).start()
    post(backend, *names)
    dice = effort.dice("history")
    rounds = effort.rounds(40, 300)
    together([functools.partial(_churn, peer, dice.random(), rounds, names) for peer in peers])
    assert _judged(request, board, backend, reader, names) == []


def _churn(peer: Peer, seed: float, rounds: int, names: list[str]) -> None:
    peer.run("churn", holder=peer.who, seed=seed, rounds=rounds, keys=names, timed=60.0)


@guarantee("RUN-1", "LEASE-1", "LEASE-2")
def check_history_of_many_threads(
    request: pytest.FixtureRequest, board: Board, effort: Effort
) -> None:
    """The history of threads that do random operations on one backend is a possible one."""
    backend = board.open()
    names = [f"k{n}" for n in range(4)]
    reader = Reader(backend).start()
    post(backend, *names)
    dice = effort.dice("threads")
    rounds = effort.rounds(30, 200)
    act = functools.partial(churn, backend, rounds=rounds, keys=names, timed=60.0)
    together([functools.partial(act, holder=f"t{n}", seed=dice.random()) for n in range(4)])
    assert _judged(request, board, backend, reader, names) == []


def _judged(
    request: pytest.FixtureRequest, board: Board, backend: Backend, reader: Reader, names: list[str]
) -> list[str]:
    """Read the feed to its end and the board, and judge the history."""
    live, trash = listed(backend), listed(backend, Shelf.TRASH)
    post(backend, "the-end")
    assert reader.until(lambda: reader.resets or reader.story("the-end"), 15.0)
    feed = None if reader.resets else reader.received
    found = judge(board.history, posted=names, live=live, trash=trash, feed=feed)
    # A judge of another kind, on the same history: where they disagree one of them is wrong.
    violations, undecided = explain(board.history, names)
    measure(request, histories=1, postings=len(names), undecided=len(undecided))
    return found + [f"no linearization: {violation}" for violation in violations]


@guarantee("RUN-1", "DIR-1")
@pytest.mark.parametrize("first_of_all", [False, True], ids=["board", "store"])
def check_new_board_is_one(
    board: Board, harness: Harness, effort: Effort, first_of_all: bool
) -> None:
    """Processes that open a new board in the same instant, the first ever, make one board.

    The variant ``store`` does it in a store that nobody has used yet.
    """
    if first_of_all:
        need(harness, "fresh")
    for _ in range(effort.rounds(3, 15)):
        fresh = Board(_fresh(board.store, harness) if first_of_all else board.store)
        fresh.history = board.history
        try:
            peers = fresh.peers(3, at=boottime() + 0.15)
            names = [peer.who for peer in peers]
            for peer in peers:
                post(peer, peer.who.replace(" ", "-"))
            seen = [sorted(listed(peer)) for peer in peers]
            assert {peer.incarnation for peer in peers} == {peers[0].incarnation}
            assert seen == [[name.replace(" ", "-") for name in sorted(names)]] * 3
        finally:
            fresh.close()


def _fresh(store: Store, harness: Harness) -> Store:
    made = Store(harness.fresh())
    made.pool = store.pool
    return made


@guarantee("RUN-1", "DIR-1", "NEXT-1", "ERR-2")
def check_killed_workers_lose_nothing(
    request: pytest.FixtureRequest, board: Board, effort: Effort
) -> None:
    """While workers are killed at any instant each posting is finished, and none twice."""
    backend = board.open()
    names = [f"k{n}" for n in range(effort.rounds(60, 300))]
    reader = Reader(backend).start()
    for start in range(0, len(names), 100):
        post(backend, *names[start : start + 100])
    victims = board.peers(effort.rounds(2, 4))
    with ThreadPoolExecutor(len(victims)) as threads:
        running = [
            threads.submit(peer.run, "drain", holder=peer.who, batch=2, expires_in=1.0, idle=0.3)
            for peer in victims
        ]
        for n, peer in enumerate(victims):
            time.sleep(0.05 * (n + 1))
            peer.kill()
        wait(running)
        for future in running:
            assert isinstance(future.exception(), (WorkerGone, type(None)))
    survivor = board.peer()
    empty, _ = eventually(
        lambda: (
            survivor.run("drain", holder="survivor", batch=20, expires_in=30.0, idle=0.1)
            is not None
            and not listed(backend)
        ),
        8.0,
        0.2,
    )
    assert empty
    assert _judged(request, board, backend, reader, names) == []


@guarantee("RUN-1", "DIR-3")
def check_order_among_processes(board: Board, effort: Effort) -> None:
    """A posting begun after another was acknowledged, by whomever, never sorts before it."""
    backend, peers = board.open(), board.peers(3)
    number = effort.rounds(20, 120)
    together(
        [
            lambda n=n: peers[n].run("post", keys=[f"p{n}.{m}" for m in range(number)])  # type: ignore[misc]
            for n in range(3)
        ]
    )
    place = {key: n for n, key in enumerate(listed(backend))}
    assert len(place) == 3 * number
    adds = [
        (op.began, op.ended, op.args["postings"][0].key)
        for op in board.history.operations("add")
        if op.done
    ]
    wrong = [
        (a[2], b[2])
        for a, b in itertools.permutations(adds, 2)
        if a[1] is not None and a[1] < b[0] and place[a[2]] > place[b[2]]
    ]
    assert (len(adds), wrong) == (3 * number, [])


@guarantee("RUN-1", "DIR-1")
def check_opening_and_closing_beside_others(board: Board, effort: Effort) -> None:
    """A board is opened and closed for every posting beside a backend that stays open."""
    steady = board.open()
    post(steady, "held")
    lease = take(steady, "held")
    reader = Reader(steady).start()
    number = effort.rounds(15, 60)
    for n in range(number):
        passing = board.open()
        post(passing, f"k{n}")
        passing.add([NewPosting("passer", b"")], Shelf.ENTITIES)
        passing.close()
    assert len(keys(steady.list().postings)) == number + 1
    assert (steady.get(["held"])[0].lease, listed(steady, Shelf.ENTITIES)) == (lease, [])  # type: ignore[union-attr]
    assert reader.until(lambda: reader.resets or len(reader.received) >= number)


@guarantee("RUN-1")
def check_closing_is_quick(board: Board) -> None:
    """Close takes moments, also with leases held and readers waiting."""
    backend = board.open()
    post(backend, "k")
    take(backend, "k")
    cursor = backend.changes(None, 0.0).cursor
    with ThreadPoolExecutor(3) as threads:
        waiting = [threads.submit(backend.changes, cursor, 20.0) for _ in range(3)]
        time.sleep(0.1)
        began = boottime()
        backend.close()
        took = boottime() - began
        assert [type(future.exception()).__name__ for future in waiting] == ["Closed"] * 3
    assert took < 2.0
