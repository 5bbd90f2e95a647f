# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""A board in a ZooKeeper of three servers: whoever of them dies, freezes or is left alone."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from kazoo.client import KazooClient
from servers import clusters
from servers.clusters.zookeeper_ensemble import ZooKeeperEnsemble, ZooKeeperMember

from multiboard import errors
from multiboard.backends.zookeeper import ZooKeeperBackend, server_info
from multiboard.config import loading
from multiboard.primitives import Change, ChangeKind, NewPosting
from multiboard.runtime.retry import RetryingGuard
from tests.backends.zookeeper.boards import SOON, eventually, in_flight, post

Make = Callable[..., ZooKeeperBackend]


@pytest.fixture(scope="module")
def ensemble() -> Iterator[ZooKeeperEnsemble]:
    made = ZooKeeperEnsemble(
        # Long sessions: a test shall see what a server does, not that a client gave it up.
        options={"maxSessionTimeout": "60000"},
        flags=["-Dreadonlymode.enabled=true"],
    )
    with clusters.running(made):
        yield made


@pytest.fixture
def make(ensemble: ZooKeeperEnsemble) -> Iterator[Make]:
    """Open backends of one board under a root of its own, through all members or some."""
    place = f"app-{uuid.uuid4().hex[:8]}/boards"
    with contextlib.ExitStack() as stack:

        def opened(*members: ZooKeeperMember, **options: Any) -> ZooKeeperBackend:
            hosts = [(member.host, member.port) for member in members or ensemble.servers]
            settings = {"session_timeout": 30.0, "connect_timeout": 20.0, **options}
            settings.setdefault("operation_timeout", 40.0)
            backend = loading.load(f"{ensemble.url_through(hosts)}/{place}", **settings)
            assert isinstance(backend, ZooKeeperBackend)
            backend.open()
            stack.callback(backend.close)
            return backend

        yield opened
        ensemble.heal()


def served_by(backend: ZooKeeperBackend) -> int:
    """Return the port of the server that a backend is connected to."""
    port: int = backend._session.client()._kazoo._connection._socket.getpeername()[1]
    return port


def at(make: Make, member: ZooKeeperMember) -> ZooKeeperBackend:
    """Open a backend that has the addresses of all members and is connected to this one."""
    while True:
        backend = make()
        if served_by(backend) == member.port:
            return backend
        backend.close()


def others(ensemble: ZooKeeperEnsemble, member: ZooKeeperMember) -> list[ZooKeeperMember]:
    return [server for server in ensemble.servers if server is not member]


def test_a_board_is_under_the_root_of_its_url(ensemble: ZooKeeperEnsemble, make: Make) -> None:
    board = make()
    post(board)
    client = KazooClient(f"{ensemble.servers[0].host}:{ensemble.servers[0].port}")
    client.start()
    try:
        root = board.settings.root
        assert root.endswith("/boards")
        assert client.get_children(root) == ["board:default"]
        assert client.exists("/multiboard") is None
        old = server_info.loses_transactions(ensemble.servers[0].version)
        assert ("warning_version" in board.server_info()) is old
    finally:
        client.stop()
        client.close()


@pytest.mark.parametrize("role", ["leader", "follower"])
def test_a_claim_outlives_the_server_that_it_was_made_at(
    ensemble: ZooKeeperEnsemble, make: Make, role: str
) -> None:
    member = ensemble.leader() if role == "leader" else ensemble.follower()
    board, other = at(make, member), make(*others(ensemble, member))
    post(board)
    lease = board.acquire("k", "me", "c")
    cursor = other.changes(None, 0).cursor
    member.kill()
    assert eventually(lambda: board.get(["k"]))[0].lease == lease
    assert served_by(board) != member.port
    assert eventually(board.keepalive) > 0  # in the very same session
    assert eventually(lambda: other.get(["k"]))[0].lease == lease
    with pytest.raises(errors.LeaseHeld):
        eventually(lambda: other.acquire("k", "thief", "d"))
    assert eventually(lambda: board.remove([lease])) == [None]
    assert Change(ChangeKind.EXPIRED, "k", lease.token) not in changes_until_removal(other, cursor)


def changes_until_removal(board: ZooKeeperBackend, cursor: str) -> list[Change]:
    """Return what the feed reports from a cursor on, until a posting was removed."""
    changes: list[Change] = []
    while not any(change.kind is ChangeKind.REMOVED for change in changes):
        found = eventually(lambda since=cursor: board.changes(since, 1.0))
        if found.reset and not board.list().postings:
            break
        cursor = found.cursor
        changes += found.events
    return changes


def test_a_waiting_reader_receives_what_follows_the_leaders_death(
    ensemble: ZooKeeperEnsemble, make: Make
) -> None:
    leader = ensemble.leader()
    board, poster = at(make, leader), make(*others(ensemble, leader))
    cursor = board.changes(None, 0).cursor
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(board.changes, cursor, 30.0)
        leader.kill()
        RetryingGuard(poster).add([NewPosting("k", b"")])
        with contextlib.suppress(errors.Unavailable):  # the same cursor may be used again
            cursor = waiting.result(SOON).cursor
    received = eventually(lambda: board.changes(cursor, 1.0))
    assert (
        received.reset or Change(ChangeKind.POSTED, "k") in received.events or board.list().postings
    )
    assert [one.key for one in eventually(board.list).postings] == ["k"]


@pytest.mark.parametrize("role", ["leader", "follower"])
def test_a_server_that_was_paused_shows_no_stale_data(
    ensemble: ZooKeeperEnsemble, make: Make, role: str
) -> None:
    for attempt in range(3):  # which of them is faster after a pause is a matter of luck
        ensemble.heal()
        paused = ensemble.leader() if role == "leader" else ensemble.follower()
        read_after_a_pause(make(paused), make(*others(ensemble, paused)), paused, f"{attempt}")


def read_after_a_pause(
    reader: ZooKeeperBackend, writer: ZooKeeperBackend, paused: ZooKeeperMember, name: str
) -> None:
    gone, new = f"gone-{name}", f"new-{name}"
    post(reader, gone)
    before = reader.count()
    lease = writer.acquire(gone, "me", "c")
    paused.pause()
    with ThreadPoolExecutor() as pool:
        # Another leader was elected when this is acknowledged.
        eventually(lambda: isinstance(post(writer, new).serial, int))
        assert eventually(lambda: writer.remove([lease])) == [None]
        reads: list[tuple[Callable[[], Any], Any]] = [
            (lambda: [p and p.key for p in reader.get([new, gone])], [new, None]),
            (lambda: {p.key for p in reader.list().postings} & {new, gone}, {new}),
            (reader.count, before),
            (lambda: reader.renew(lease, 1.0), None),
        ]
        replies = [pool.submit(read) for read, _ in reads]
        # They are in flight: the server finds them when it wakes up.
        eventually(lambda: in_flight(reader) >= len(reads))
        paused.resume()
        for reply, (_, right) in zip(replies, reads, strict=True):
            error = reply.exception(SOON)
            if isinstance(error, errors.PostingNotFound):
                assert right is None
            elif error is None:
                assert reply.result() == right
            else:
                assert isinstance(error, errors.Unavailable), error
    assert eventually(lambda: reader.get([new]))[0].key == new


def test_a_read_only_server_is_not_read_from(ensemble: ZooKeeperEnsemble, make: Make) -> None:
    left = ensemble.follower()
    board = make(left, connect_timeout=3.0, operation_timeout=3.0)
    post(board)
    for member in others(ensemble, left):
        member.kill()
    eventually(lambda: left.status()[0] == "read-only")  # a client that can do with it is served
    for read in (lambda: board.get(["k"]), board.list, board.count, board.keepalive):
        with pytest.raises(errors.Unavailable):
            read()
    ensemble.heal()
    assert eventually(lambda: board.get(["k"]))[0].key == "k"
