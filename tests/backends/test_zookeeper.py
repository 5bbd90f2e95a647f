# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""What is special about the ZooKeeper backend: sessions, lost replies, foreign nodes, watches."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import servers
from kazoo.client import KazooClient
from zookeeper_proxy import Proxy

from multiboard import errors
from multiboard.backends.zookeeper import ZooKeeperBackend, ZooKeeperSettings
from multiboard.primitives import Change, ChangeKind, Lease, NewPosting, Shelf, Url

TICK = 0.2
TIMEOUT = 1.0
#: Seconds within which a condition must hold that nothing but a busy machine can delay.
SOON = 20.0
A, B = b"a" * 10, b"b" * 10


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    with servers.zookeeper_server(tick_ms=int(TICK * 1000)) as running:
        yield running


@pytest.fixture(scope="module")
def troubled() -> Iterator[Any]:
    """A server that the tests restart, freeze and wipe."""
    with servers.zookeeper_server(tick_ms=500) as running:
        yield running


@pytest.fixture
def make(server: Any) -> Iterator[Callable[..., ZooKeeperBackend]]:
    """Make opened backends of one board, closed at the end; options as in the settings."""
    namespace = f"t-{uuid.uuid4().hex[:12]}"
    made: list[ZooKeeperBackend] = []

    def opened(**options: Any) -> ZooKeeperBackend:
        values = {
            "hosts": (f"{server.host}:{server.port}",),
            "namespace": namespace,
            "session_timeout": TIMEOUT,
            "connect_timeout": 5.0,
            **options,
        }
        backend = ZooKeeperBackend(ZooKeeperSettings(**values))
        backend.open()
        made.append(backend)
        return backend

    yield opened
    for backend in made:
        backend.close()


@pytest.fixture
def zk(server: Any) -> Iterator[KazooClient]:
    """An operator's client."""
    client = KazooClient(f"{server.host}:{server.port}")
    client.start()
    yield client
    client.stop()
    client.close()


@pytest.fixture
def proxy(server: Any) -> Iterator[Proxy]:
    with Proxy(server.host, server.port) as running:
        yield running


def post(backend: ZooKeeperBackend, key: str = "k", body: bytes = A, **more: Any) -> Any:
    return backend.add([NewPosting(key, body, **more)])[0]


def base(backend: ZooKeeperBackend) -> str:
    return backend._board.paths.base


def eventually(condition: Callable[[], Any]) -> Any:
    """Wait until ``condition`` is true; an outage counts as not yet."""
    deadline = time.monotonic() + SOON
    while True:
        with contextlib.suppress(errors.Unavailable, errors.Indeterminate):
            found = condition()
            if found:
                return found
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.02)


def follow(backend: ZooKeeperBackend, cursor: str, until: Change) -> list[Change]:
    """Return the changes told up to and with ``until``."""
    told: list[Change] = []
    deadline = time.monotonic() + SOON
    while until not in told:
        assert time.monotonic() < deadline, told
        changes = backend.changes(cursor, 1.0)
        assert not changes.reset
        cursor = changes.cursor
        told += changes.events
    return told


def end_session(server: Any, backend: ZooKeeperBackend) -> None:
    """End a backend's session in the store, as an expiry does."""
    link = backend._board.link()
    client = link._client
    other = KazooClient(
        f"{server.host}:{server.port}", client_id=(client._session_id, client._session_passwd)
    )
    other.start()
    other.stop()
    other.close()
    eventually(lambda: link.ended)


def script(code: str, backend: ZooKeeperBackend) -> subprocess.Popen[str]:
    """Run code in another process that has the board open as ``board``."""
    head = (
        "import sys, time, os, signal\n"
        "from multiboard.backends.zookeeper import *\n"
        f"board = ZooKeeperBackend(ZooKeeperSettings(hosts={backend.settings.hosts!r}, "
        f"namespace={backend.settings.namespace!r}, session_timeout={TIMEOUT}))\n"
        "board.open()\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", head + code],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


# -- deaths ----------------------------------------------------------------------------------


def test_a_killed_process_frees_its_leases_and_the_feed_says_so(make: Any) -> None:
    board = make()
    post(board)
    cursor = board.changes(None, 0).cursor
    owner = script(
        "print(board.acquire('k', 'owner', 'c').token, flush=True); time.sleep(60)", board
    )
    assert owner.stdout is not None
    assert owner.stdout.readline() == "1\n"
    killed = time.monotonic()
    owner.kill()
    owner.wait()
    told = follow(board, cursor, Change(ChangeKind.EXPIRED, "k", 1))
    assert [change.kind for change in told] == [ChangeKind.CLAIMED, ChangeKind.EXPIRED]
    assert time.monotonic() - killed < TIMEOUT + board.traits.lease_slack + 1.0
    posting = board.get(["k"])[0]
    assert (posting.lease, posting.attempts, posting.deaths) == (None, 1, 1)
    lease = board.acquire("k", "heir", "d")
    assert lease.token == 2
    posting = board.get(["k"])[0]
    assert (posting.lease, posting.attempts, posting.deaths) == (lease, 2, 1)


def test_a_timed_lease_outlives_its_process_and_ends_when_due(make: Any) -> None:
    board = make()
    post(board)
    cursor = board.changes(None, 0).cursor
    owner = script("board.acquire('k', 'owner', 'c', 1.5)\nos.kill(os.getpid(), 9)", board)
    assert owner.wait() == -signal.SIGKILL
    lease = board.get(["k"])[0].lease
    assert lease.session is None
    with pytest.raises(errors.LeaseHeld):
        board.acquire("k", "thief", "d")
    follow(board, cursor, Change(ChangeKind.EXPIRED, "k", 1))
    assert board.get(["k"])[0].deaths == 1
    assert [type(answer) for answer in board.remove([lease])] == [errors.LeaseLost]
    with pytest.raises(errors.LeaseLost):
        board.renew(lease, 5.0)


def test_a_timed_lease_that_nobody_watched_is_over_for_its_holder_too(make: Any) -> None:
    board, other = make(), make()
    post(board)
    lease = board.acquire("k", "slow", "c", 0.2)
    eventually(lambda: other.get(["k"])[0].lease is None)
    with pytest.raises(errors.LeaseLost):
        board.release(lease)
    assert other.acquire("k", "next", "d").token == 2


# -- sessions and servers ----------------------------------------------------------------------


def test_an_expired_session_is_told_once_and_succeeded(make: Any, server: Any) -> None:
    board, witness = make(), make()
    post(board)
    lease = board.acquire("k", "me", "c")
    board.add([NewPosting("me", b"")], Shelf.ENTITIES)
    assert board.keepalive() > 0
    cursor, seen = board.changes(None, 0).cursor, witness.changes(None, 0).cursor
    end_session(server, board)
    follow(witness, seen, Change(ChangeKind.EXPIRED, "k", 1))
    with pytest.raises(errors.SessionLost):
        board.keepalive()
    assert board.keepalive() > 0
    assert board.changes(cursor, 0).reset
    assert board.list(Shelf.ENTITIES).postings == []
    assert [type(answer) for answer in board.remove([lease])] == [errors.LeaseLost]
    again = board.acquire("k", "me", "c")
    assert again.token == 2
    assert again.session != lease.session


def test_an_acquire_after_the_session_ended_changes_nothing(make: Any, server: Any) -> None:
    board = make()
    post(board)
    post(board, "l")
    board.acquire("k", "me", "c")
    end_session(server, board)
    with pytest.raises(errors.SessionLost):
        board.acquire("l", "me", "d")
    assert board.get(["l"])[0].attempts == 0
    assert board.acquire("l", "me", "d").token == 1


def test_a_restarted_server_keeps_leases_and_resets_feeds(make: Any, troubled: Any) -> None:
    board = make(hosts=(f"{troubled.host}:{troubled.port}",), session_timeout=10.0)
    post(board)
    lease = board.acquire("k", "me", "c")
    cursor = board.changes(None, 0).cursor
    troubled.restart()
    assert eventually(lambda: board.changes(cursor, 5.0)).reset
    assert eventually(lambda: board.get(["k"])) == eventually(lambda: board.get(["k"]))
    assert board.get(["k"])[0].lease == lease
    assert board.remove([lease]) == [None]


def test_a_wiped_server_is_a_lost_board(make: Any, troubled: Any) -> None:
    board = make(hosts=(f"{troubled.host}:{troubled.port}",), session_timeout=10.0)
    post(board)
    lease = board.acquire("k", "me", "c")
    cursor = board.changes(None, 0).cursor
    troubled.restart(wipe=True)
    for act in (
        lambda: eventually(lambda: board.get(["k"])),
        lambda: board.remove([lease]),
        lambda: board.changes(cursor, 0),
        board.keepalive,
        board.list,
        lambda: post(board),
    ):
        with pytest.raises(errors.BoardLost):
            act()
    board.open()
    assert board.get(["k"]) == [None]


def test_a_board_that_an_operator_deleted_is_lost(make: Any, zk: KazooClient) -> None:
    board = make()
    post(board)
    cursor = board.changes(None, 0).cursor
    zk.delete(board._board.paths.top, recursive=True)
    fresh = make()
    assert fresh.incarnation != board.incarnation
    assert post(fresh).attempts == 0
    with pytest.raises(errors.BoardLost):
        eventually(lambda: board.changes(cursor, 1.0).reset)
    with pytest.raises(errors.BoardLost):
        board.get(["k"])
    with pytest.raises(errors.BoardLost):
        post(board, "new")


def test_a_frozen_server_blocks_nobody_for_longer_than_allowed(make: Any, troubled: Any) -> None:
    board = make(
        hosts=(f"{troubled.host}:{troubled.port}",), session_timeout=10.0, connect_timeout=0.5
    )
    post(board)
    troubled.pause()
    try:
        eventually(lambda: _is_away(board))
        with pytest.raises((errors.Indeterminate, errors.Unavailable)):
            post(board, "l")
        waiting = threading.Thread(target=_until_closed, args=(board,))
        waiting.start()
        board.close()
        waiting.join(SOON)
        assert not waiting.is_alive()
    finally:
        troubled.resume()


def _is_away(board: ZooKeeperBackend) -> bool:
    try:
        board.get(["k"])
    except errors.Unavailable:
        return True
    return False


def _until_closed(board: ZooKeeperBackend) -> None:
    while True:
        try:
            board.changes(None, 10.0)
        except errors.Closed:
            return
        except errors.Unavailable:
            continue


def test_unreachable_and_closed() -> None:
    backend = ZooKeeperBackend(
        ZooKeeperSettings(
            hosts=("127.0.0.1:1",), connect_timeout=0.3, username="u", password="geheim"
        )
    )
    with pytest.raises(errors.Closed):
        backend.get(["k"])
    with pytest.raises(errors.Unavailable, match=r"127\.0\.0\.1:1.*refused") as caught:
        backend.open()
    assert "geheim" not in str(caught.value) + repr(backend.settings)
    backend.close()


def test_the_granted_time_out_counts(make: Any) -> None:
    board = make(session_timeout=600.0)
    assert board.keepalive() == pytest.approx(20 * TICK)


def test_closing_wakes_the_readers(make: Any) -> None:
    board = make()
    cursor = board.changes(None, 0).cursor
    ended: list[type[BaseException]] = []

    def wait() -> None:
        try:
            board.changes(cursor, 60.0)
        except errors.Closed as error:
            ended.append(type(error))

    readers = [threading.Thread(target=wait) for _ in range(3)]
    for reader in readers:
        reader.start()
    board.close()
    for reader in readers:
        reader.join(SOON)
    assert ended == [errors.Closed] * 3


# -- lost answers ------------------------------------------------------------------------------


@pytest.mark.parametrize("lost", ["answer", "request"])
def test_a_lost_exchange_repeated_has_one_effect(make: Any, proxy: Proxy, lost: str) -> None:
    board, other = make(hosts=(proxy.address,), session_timeout=4.0), make()

    def twice(act: Callable[[], Any]) -> Any:
        proxy.lose(lost)
        with pytest.raises((errors.Indeterminate, errors.Unavailable)):
            act()
        assert proxy.lost
        return eventually(lambda: (act(),))[0]

    assert twice(lambda: post(board)) == other.get(["k"])[0]
    lease = twice(lambda: board.acquire("k", "me", "c"))
    assert (lease.token, other.get(["k"])[0].attempts) == (1, 1)
    twice(lambda: board.release(lease))
    assert other.get(["k"])[0].deaths == 0
    lease = board.acquire("k", "me", "d", 60.0)
    assert twice(lambda: board.renew(lease, 30.0)) == lease
    assert twice(lambda: board.remove([lease], Shelf.TRASH)) == [None]
    assert twice(lambda: board.restore("k")).attempts == 2
    lease = board.acquire("k", "me", "e")
    assert lease.token == 3
    assert twice(lambda: board.remove([lease])) == [None]
    assert other.list().postings == []
    [entry] = twice(lambda: board.add([NewPosting("me", b"")], Shelf.ENTITIES))
    assert other.list(Shelf.ENTITIES).postings == [entry]


def test_a_posting_whose_answer_was_lost_does_not_come_back(make: Any, proxy: Proxy) -> None:
    board, worker = make(hosts=(proxy.address,), session_timeout=4.0), make()
    proxy.lose("answer")
    with pytest.raises(errors.Indeterminate):
        post(board)
    assert worker.remove([worker.acquire("k", "w", "c")]) == [None]
    [answer] = eventually(lambda: board.add([NewPosting("k", A)]))
    assert isinstance(answer, errors.PostingNotFound)
    assert worker.list().postings == []


def test_a_lost_removal_is_told_from_that_of_a_successor(make: Any, proxy: Proxy) -> None:
    board, other = make(hosts=(proxy.address,), session_timeout=4.0), make()
    post(board)
    lease = board.acquire("k", "me", "c", 0.3)
    proxy.lose("request")
    with pytest.raises((errors.Indeterminate, errors.Unavailable)):
        board.remove([lease])
    heir = eventually(lambda: _acquired(other, "k", "heir", "d"))
    assert other.remove([heir]) == [None]
    [answer] = eventually(lambda: board.remove([lease]))
    assert isinstance(answer, errors.PostingNotFound)


def _acquired(board: ZooKeeperBackend, *args: Any) -> Lease | None:
    try:
        return board.acquire(*args)
    except errors.LeaseHeld:
        return None


# -- fencing -----------------------------------------------------------------------------------


def test_a_stale_lease_does_not_fit_a_posting_made_anew(make: Any) -> None:
    board, other = make(), make()
    post(board)
    stale = board.acquire("k", "same name", "c")
    twin = dataclasses.replace(stale)
    assert other.remove([stale]) == [None]
    post(other, body=B)
    current = other.acquire("k", "same name", "d")
    assert current.token == stale.token
    for act in (lambda: board.release(twin), lambda: board.renew(twin, 5.0)):
        with pytest.raises(errors.LeaseLost):
            act()
    assert [type(answer) for answer in board.remove([twin])] == [errors.LeaseLost]
    assert other.remove([current]) == [None]


def test_a_claim_that_was_prepared_for_an_earlier_posting_is_refused(make: Any) -> None:
    board, other = make(), make()
    post(other)
    other.release(other.acquire("k", "a", "a"))
    link = board._board.link()
    seen = board._board.look(link, ["k"])[0]
    assert other.remove([other.acquire("k", "a", "b")]) == [None]
    post(other, body=B)
    other.release(other.acquire("k", "a", "c"))  # its state has the same version again
    current = board._board.look(link, ["k"])[0]
    assert current.state_stat.version == seen.state_stat.version
    from multiboard.backends import _zookeeper_layout as layout

    hold = layout.Hold("late", "z", None)
    assert board._claim(link, "k", hold, seen, layout.NO_MATTER) is None
    assert other.get(["k"])[0].lease is None


# -- processes, boards, leaks --------------------------------------------------------------------


def test_a_forked_child_has_a_session_of_its_own(make: Any) -> None:
    board = make()
    post(board)
    post(board, "l")
    lease = board.acquire("k", "parent", "c")
    cursor = board.changes(None, 0).cursor
    pid = os.fork()
    if pid == 0:
        status = 1
        with contextlib.suppress(BaseException):
            child = board.acquire("l", "child", "d")
            assert child.session != lease.session
            assert board.changes(cursor, 0).reset
            board.close()
            status = 0
        os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
    told = follow(board, cursor, Change(ChangeKind.EXPIRED, "l", 1))
    assert len(told) == 2
    assert board.get(["k"])[0].lease == lease
    assert board.remove([lease]) == [None]


def test_boards_of_different_names_share_nothing(make: Any) -> None:
    names = ["jobs", "jobs-a", "a/jobs", "a/jobs/x", "a", "a.jobs", "live"]
    top = uuid.uuid4().hex
    boards = [make(namespace=f"{top}/{name}") for name in names] + [make(namespace=top)]
    cursors = [board.changes(None, 0).cursor for board in boards]
    for index, board in enumerate(boards):
        assert board.count() == 0
        post(board, "k", str(index).encode())
    for index, (board, cursor) in enumerate(zip(boards, cursors, strict=True)):
        assert [one.body for one in board.list().postings] == [str(index).encode()]
        assert follow(board, cursor, Change(ChangeKind.POSTED, "k")) == [
            Change(ChangeKind.POSTED, "k")
        ]


def test_two_hundred_boards_leave_nothing_behind(make: Any) -> None:
    board = make()
    board.changes(None, 0)

    def left() -> tuple[int, int]:
        return threading.active_count(), len(os.listdir("/proc/self/fd"))

    def once() -> None:
        short = make()
        post(short)
        short.changes(None, 0)
        short.close()

    once()
    before = left()
    for _ in range(200):
        once()
    eventually(lambda: left() <= before)


def test_strangers_are_denied(make: Any) -> None:
    board = make(username="us", password="secret", root="/closed")
    post(board)
    with pytest.raises(errors.AccessDenied):
        make(root="/closed")
    friend = make(username="us", password="secret", root="/closed")
    assert friend.remove([friend.acquire("k", "us", "c")]) == [None]


# -- foreign nodes -------------------------------------------------------------------------------


def test_foreign_nodes_break_nothing_and_stay(make: Any, zk: KazooClient) -> None:
    board = make()
    for key in ("good", "parent", "spoilt", "kept"):
        post(board, key)
    cursor = board.changes(None, 0).cursor
    here = base(board)
    foreign = [
        "own folder",
        "live/what is this",
        "live/garbage",
        "live/parent/child",
        "live/kept/child",
        "states/odd one",
        "states/garbage",
        "leases/nonsense",
        "leases/good~1~0~s",
        "trash/rubbish",
        "trash/odd one",
        "entities/rubbish",
        "slots/foreign",
        "clock/foreign",
    ]
    for path in foreign:
        zk.create(f"{here}/{path}", b"\xff{garbage")
    zk.set(f"{here}/live/spoilt", b'{"v":1,"rank":"high"}\n')
    page = board.list()
    assert [one.key for one in page.postings] == ["good", "parent", "kept"]
    where = {damage.where for damage in page.damaged}
    for path in ("own folder", "live/what is this", "live/garbage", "live/spoilt", "live/parent"):
        assert f"{here}/{path}" in where
    for path in ("states/odd one", "leases/nonsense", "leases/good~1~0~s"):
        assert f"{here}/{path}" in where
    assert board.get(["garbage", "spoilt"]) == [None, None]
    assert isinstance(post(board, "garbage"), errors.PostingExists)
    for key in ("garbage", "spoilt"):
        with pytest.raises(errors.PostingNotFound):
            make().acquire(key, "me", "c")
    for shelf in (Shelf.TRASH, Shelf.ENTITIES):
        page = board.list(shelf)
        assert page.postings == []
        assert f"{here}/{shelf.value}/rubbish" in {damage.where for damage in page.damaged}
        assert board.purge(["rubbish"], shelf) == [False]
    with pytest.raises(errors.PostingNotFound):
        board.restore("rubbish")
    # A posting is consumed and trashed although somebody put a node under it; that node stays.
    parent, kept = board.acquire("parent", "me", "p"), board.acquire("kept", "me", "q", 60.0)
    zk.create(f"{here}/states/parent/foreign", b"")
    zk.create(f"{here}/leases/{_timed_name(zk, here)}/foreign", b"")
    assert board.remove([parent]) == [None]
    assert board.remove([kept], Shelf.TRASH) == [None]
    assert board.get(["parent", "kept"]) == [None, None]
    assert [one.key for one in board.list(Shelf.TRASH).postings] == ["kept"]
    told = follow(board, cursor, Change(ChangeKind.TRASHED, "kept", 1))
    assert Change(ChangeKind.REMOVED, "parent", 1) in told
    assert [pair[0].key for pair in board.acquire_next("me", ["n1", "n2"])] == ["good"]
    for path in [*foreign, "states/parent/foreign"]:
        assert zk.exists(f"{here}/{path}"), path


def _timed_name(zk: KazooClient, here: str) -> str:
    [name] = [name for name in zk.get_children(f"{here}/leases") if name.endswith("~t")]
    return str(name)


def test_a_node_that_is_no_board_is_refused(make: Any, zk: KazooClient) -> None:
    zk.ensure_path("/multiboard")
    zk.create("/multiboard/board:taken", b"something else")
    with pytest.raises(errors.Unsupported):
        make(namespace="taken")
    assert zk.get("/multiboard/board:taken")[0] == b"something else"


# -- the order and the feed ------------------------------------------------------------------------


def test_without_recursive_watches_each_change_is_a_reset(make: Any) -> None:
    board, other = make(), make()
    board._feed.recursive = False
    cursor = board.changes(None, 0).cursor
    assert not board.changes(cursor, 0.05).reset
    acts: list[Callable[[], Any]] = [
        lambda: post(other),
        lambda: other.acquire("k", "me", "c"),
        lambda: other.release(other.get(["k"])[0].lease),
        lambda: other.acquire("k", "me", "d", 0.3),
    ]
    for act in acts:
        act()
        changes = board.changes(cursor, SOON)
        assert changes.reset
        cursor = changes.cursor
    assert [pair[0].key for pair in board.acquire_next("me", ["e"])] == []
    assert board.changes(cursor, SOON).reset  # the timed lease ended, and was noticed
    assert [pair[0].key for pair in board.acquire_next("me", ["f"])] == ["k"]


def test_a_slow_reader_hears_a_reset(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from multiboard.backends import _zookeeper_feed

    monkeypatch.setattr(_zookeeper_feed, "HISTORY", 5)
    board = make()
    cursor = board.changes(None, 0).cursor
    for number in range(5):
        post(board, f"k{number}")
    assert len(eventually(lambda: _all(board, cursor, 5))) == 5
    post(board, "k5")
    assert eventually(lambda: board.changes(cursor, 0).reset)


def _all(board: ZooKeeperBackend, cursor: str, count: int) -> list[Change]:
    events = list(board.changes(cursor, 0.1).events)
    return events if len(events) == count else []


def test_the_next_is_the_first_due_whatever_happened(make: Any) -> None:
    board, other = make(), make()
    assert board.acquire_next("me", ["a"]) == []
    post(other, "late", rank=5)
    post(other, "early", rank=1)
    post(other, "notyet", delay=60.0)
    [(posting, lease)] = board.acquire_next("me", ["b"])
    assert (posting.key, posting.lease) == ("early", lease)
    assert board.get(["early"]) == [posting]
    assert board.acquire_next("me", ["b"]) == [(posting, lease)]
    board.release(lease, 60.0)
    assert [pair[0].key for pair in other.acquire_next("you", ["c", "d"])] == ["late"]
    post(other, "first", rank=0)
    assert [pair[0].key for pair in board.acquire_next("me", ["e"])] == ["first"]


def test_a_long_list_comes_in_pages(make: Any) -> None:
    board = make()
    board.add([NewPosting(f"k{n}", A, rank=n % 3) for n in range(25)])
    whole = board.list().postings
    assert len(whole) == board.count() == 25
    walked, after = [], None
    while True:
        page = board.list(after=after, limit=7)
        walked += page.postings
        after = page.after
        if after is None:
            break
    assert walked == whole


def test_large_bodies(make: Any) -> None:
    board = make()
    limit = board.traits.max_body
    body = os.urandom(limit)
    assert post(board, "big", body).body == body
    assert isinstance(post(board, "bigger", body + b"x"), errors.PostingTooLarge)
    lease = board.acquire("big", "me", "c")
    assert board.remove([lease], Shelf.TRASH) == [None]
    assert board.restore("big").body == board.get(["big"])[0].body == body


@pytest.mark.parametrize(
    ("url", "found"),
    [
        (("h1", 2182), {"hosts": ("h1:2182",)}),
        (("::1", None), {"hosts": ("[::1]:2181",)}),
    ],
)
def test_urls(url: Any, found: dict[str, Any]) -> None:
    read = ZooKeeperBackend.from_url(Url("zookeeper", "u", "p", (url,), "/a/b/"))
    assert read == {"username": "u", "password": "p", "root": "/a/b", **found}
