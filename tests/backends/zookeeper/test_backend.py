# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""What is special about the ZooKeeper backend: fencing, namespaces, foreign nodes, watches."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import threading
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from kazoo.client import KazooClient

from multiboard import errors
from multiboard.backends.zookeeper import ZooKeeperBackend, feed, kazoo_ext, records, server_info
from multiboard.backends.zookeeper.client import Client
from multiboard.backends.zookeeper.requests import MultiRead
from multiboard.primitives import Change, ChangeKind, NewPosting, Shelf, Url, interrupts
from tests.backends.zookeeper.boards import SOON, A, B, base, eventually, follow, post

# -- fencing -----------------------------------------------------------------------------------


def test_a_stale_lease_does_not_fit_a_posting_made_anew(make: Any) -> None:
    board, other = make(), make()
    post(board)
    stale = board.acquire("k", "same name", "c")
    twin = dataclasses.replace(stale)
    assert other.remove([stale]) == [None]
    post(other, body=B)
    current = other.acquire("k", "same name", "d")
    assert current.token > stale.token
    for act in (lambda: board.release(twin), lambda: board.renew(twin, 5.0)):
        with pytest.raises(errors.LeaseLost):
            act()
    assert [type(answer) for answer in board.remove([twin])] == [errors.LeaseLost]
    assert other.remove([current]) == [None]


def test_a_claim_that_was_prepared_for_an_earlier_posting_is_refused(make: Any) -> None:
    board, other = make(), make()
    post(other)
    other.release(other.acquire("k", "a", "a"))
    client = board._session.client()
    look = board._directory._board.look
    seen = look(client, ["k"])[0]
    assert other.remove([other.acquire("k", "a", "b")]) == [None]
    post(other, body=B)
    other.release(other.acquire("k", "a", "c"))  # its state has the same version again
    current = look(client, ["k"])[0]
    assert current.state_stat.version == seen.state_stat.version
    hold = records.Hold("late", "z", None)
    assert board._leases.claim(client, "k", hold, seen) is None
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
    token = board.acquire("l", "heir", "e").token
    changes = follow(board, cursor, Change(ChangeKind.CLAIMED, "l", token))
    assert [change.kind for change in changes] == [
        ChangeKind.CLAIMED,
        ChangeKind.EXPIRED,
        ChangeKind.CLAIMED,
    ]
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


def test_other_users_are_denied(make: Any) -> None:
    board = make(username="us", password="secret", root="/closed")
    post(board)
    with pytest.raises(errors.AccessDenied):
        make(root="/closed")
    friend = make(username="us", password="secret", root="/closed")
    assert friend.remove([friend.acquire("k", "us", "c")]) == [None]


# -- foreign nodes -------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", [b"[" * 100_000, b'{"v":1,"x":' * 50_000])
def test_a_record_without_end_is_damage(make: Any, zk: KazooClient, damage: bytes) -> None:
    board = make()
    for key in ("good", "bad"):
        post(board, key)
    zk.set(f"{base(board)}/live/bad", damage)
    for shelf in ("trash", "entities"):
        zk.create(f"{base(board)}/{shelf}/worse", damage)
    assert [posting.key for posting in board.list().postings] == ["good"]
    assert any("bad" in damaged.where for damaged in board.list().damaged)
    assert board.get(["bad", "good"])[0] is None
    assert [posting.key for posting, _ in board.acquire_next("me", ["c-1", "c-2"])] == ["good"]
    for shelf in (Shelf.TRASH, Shelf.ENTITIES):
        assert list(board.list(shelf).postings) == []


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
    changes = follow(board, cursor, Change(ChangeKind.TRASHED, "kept", kept.token))
    assert Change(ChangeKind.REMOVED, "parent", parent.token) in changes
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


def test_a_slow_reader_receives_a_reset(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "HISTORY", 5)
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


def test_a_page_is_right_whatever_happened_between(make: Any, zk: KazooClient) -> None:
    board, other = make(), make()
    board.add([NewPosting(f"k{n:02}", A, rank=n % 2) for n in range(20)])
    paths = board._session.paths
    first = board.list(limit=5)
    assert [posting.key for posting in first.postings] == ["k00", "k02", "k04", "k06", "k08"]
    # From here on the places are kept.
    second = board.list(after=first.after, limit=3)
    assert [posting.key for posting in second.postings] == ["k10", "k12", "k14"]
    other.acquire("k16", "me", "a")  # claimed, and there all the same
    other.remove([other.acquire("k18", "me", "b")])  # gone, and back at another place
    post(other, "k18", rank=1)
    other.remove([other.acquire("k01", "me", "c")])
    zk.set(f"{paths.live}/k03", b"garbage")
    post(other, "late")
    third = board.list(after=second.after, limit=3)
    assert [posting.key for posting in third.postings] == ["k16", "late", "k05"]
    assert third.postings[0].lease is not None
    walked, after = [], third.after
    while after is not None:
        page = board.list(after=after, limit=4)
        walked += [posting.key for posting in page.postings]
        after = page.after
    assert walked == ["k07", "k09", "k11", "k13", "k15", "k17", "k19", "k18"]


def test_a_page_shows_what_was_mended(make: Any, zk: KazooClient) -> None:
    board = make()
    board.add([NewPosting(f"k{n}", A) for n in range(4)])
    paths = board._session.paths
    start = board.list(limit=1).after
    mended, _ = zk.get(f"{paths.live}/k1")
    zk.set(f"{paths.live}/k1", b"garbage")
    zk.create(f"{paths.states}/k2", b"garbage")
    assert [posting.key for posting in board.list(after=start, limit=9).postings] == ["k3"]
    zk.set(f"{paths.live}/k1", mended)
    zk.delete(f"{paths.states}/k2")
    whole = [posting.key for posting in board.list(after=start, limit=9).postings]
    assert whole == ["k1", "k2", "k3"]
    won = board.acquire_next("me", ["a", "b", "c", "d"])
    assert [posting.key for posting, _ in won] == ["k0", "k1", "k2", "k3"]


def test_a_page_is_read_without_the_bodies_of_the_others(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = make()
    board.add([NewPosting(f"k{n}", A) for n in range(300)])
    start = board.list(limit=10).after
    board.list(after=start, limit=10)
    read: list[str] = []
    plain = Client.read

    def counted(client: Client, paths: Any, **options: Any) -> Any:
        read.extend(paths)
        return plain(client, paths, **options)

    monkeypatch.setattr(Client, "read", counted)
    assert len(board.list(after=start, limit=10).postings) == 10
    assert len(read) == 20  # state and posting of each


def test_a_server_without_the_newer_requests_is_served(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = make()
    board.add([NewPosting(f"k{n}", os.urandom(n)) for n in range(60)])
    board.acquire("k7", "me", "a")
    keys = ["k7", "no", "k0"]
    whole, some = board.list().postings, board.get(keys)
    with monkeypatch.context() as patch:
        patch.setattr(MultiRead, "type", 999)  # no server supports that request
        old = make()
        assert old.list().postings == whole
        assert old.get(keys) == some
    assert [found and found.key for found in old.get(keys)] == ["k7", None, "k0"]
    lease = old.acquire("k0", "me", "b")
    cursor = old.changes(None, 0).cursor
    board.acquire("k1", "me", "c")
    assert eventually(lambda: old.changes(cursor, 0).reset)
    assert [found and found.lease for found in old.get(["k0"])] == [lease]


def test_the_largest_body_is_kept_and_a_larger_one_is_refused(make: Any) -> None:
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
def test_a_url_gives_the_settings(url: Any, found: dict[str, Any]) -> None:
    read = ZooKeeperBackend.from_url(Url("zookeeper", "u", "p", (url,), "/a/b/"))
    assert read == {"username": "u", "password": "p", "root": "/a/b", **found}


def test_a_posting_that_no_claim_fits_is_passed_over(make: Any, zk: KazooClient) -> None:
    board = make()
    post(board, "odd")
    post(board, "good")
    # As on a server that shows what the others don't hold: whatever is tried is refused.
    state = records.State(token=2**60, attempts=1, deaths=0, born="nowhere")
    zk.create(f"{base(board)}/states/odd", state.encode())
    with pytest.raises(errors.Unavailable, match="'odd' changes hands too fast"):
        board.acquire("odd", "me", "c")
    assert [lease.key for _, lease in make().acquire_next("me", ["d", "e"])] == ["good"]


@pytest.mark.parametrize(
    ("version", "loses"),
    [
        *(("3.4.14", True), ("3.8.0", True), ("3.8.3", True), ("3.8.4", False), ("3.8.10", False)),
        *(("3.9.0", True), ("3.9.2", False), ("3.9.3", True), ("3.9.4", False), ("", False)),
    ],
)
def test_versions_that_lose_transactions_are_recognised(version: str, loses: bool) -> None:
    assert server_info.loses_transactions(version) is loses


def test_a_connection_may_be_stopped_before_its_thread_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On a busy machine a thread is begun long before it runs, and kazoo joins it at once."""
    begin, ran = interrupts.begin, threading.Event()

    def begin_late(thread: threading.Thread) -> None:
        threading.Timer(0.1, begin, (thread,)).start()

    monkeypatch.setattr(interrupts, "begin", begin_late)
    kazoo_ext.Handler(1.0).spawn(ran.set).join()
    assert ran.is_set()
