# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""What the ZooKeeper backend makes of deaths, lost sessions, servers that go and lost replies."""

from __future__ import annotations

import concurrent.futures
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from kazoo.client import KazooClient
from multiboard_conformance.machinery import proxy as silence

from multiboard import errors
from multiboard.backends.zookeeper import ZooKeeperBackend, ZooKeeperSettings, write_log
from multiboard.primitives import Change, ChangeKind, Lease, NewPosting, Shelf
from multiboard.runtime.retry import RetryingGuard
from tests.backends.zookeeper.boards import (
    SOON,
    TICK,
    TIMEOUT,
    A,
    end_session,
    eventually,
    follow,
    in_flight,
    post,
    script,
)
from tests.backends.zookeeper.proxy import Proxy

# -- deaths ----------------------------------------------------------------------------------


def test_a_killed_process_frees_its_leases_and_the_feed_reports_it(make: Any) -> None:
    board = make()
    post(board)
    cursor = board.changes(None, 0).cursor
    owner = script(
        "print(board.acquire('k', 'owner', 'c').token, flush=True); time.sleep(60)", board
    )
    assert owner.stdout is not None
    token = int(owner.stdout.readline())
    killed = time.monotonic()
    owner.kill()
    owner.wait()
    changes = follow(board, cursor, Change(ChangeKind.EXPIRED, "k", token))
    assert [change.kind for change in changes] == [ChangeKind.CLAIMED, ChangeKind.EXPIRED]
    assert time.monotonic() - killed < TIMEOUT + board.traits.lease_slack + 1.0
    posting = board.get(["k"])[0]
    assert (posting.lease, posting.attempts, posting.deaths) == (None, 1, 1)
    lease = board.acquire("k", "heir", "d")
    assert lease.token == token + 1
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
    follow(board, cursor, Change(ChangeKind.EXPIRED, "k", lease.token))
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
    assert other.acquire("k", "next", "d").token == lease.token + 1


# -- sessions and servers ----------------------------------------------------------------------


def test_an_expired_session_is_reported_once_and_replaced(make: Any, server: Any) -> None:
    board, other = make(), make()
    post(board)
    lease = board.acquire("k", "me", "c")
    board.add([NewPosting("me", b"")], Shelf.ENTITIES)
    assert board.keepalive() > 0
    cursor, seen = board.changes(None, 0).cursor, other.changes(None, 0).cursor
    end_session(server, board)
    follow(other, seen, Change(ChangeKind.EXPIRED, "k", lease.token))
    with pytest.raises(errors.SessionLost):
        board.keepalive()
    assert board.keepalive() > 0
    assert board.changes(cursor, 0).reset
    assert board.list(Shelf.ENTITIES).postings == []
    assert [type(answer) for answer in board.remove([lease])] == [errors.LeaseLost]
    again = board.acquire("k", "me", "c")
    assert again.token == lease.token + 1
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
    assert board.acquire("l", "me", "d").key == "l"


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


def test_opening_a_board_anew_leaves_no_client_behind(make: Any) -> None:
    board = make()
    before = board._session.client()
    board.open()
    assert before.ended
    assert board._session.client() is not before


def test_a_board_that_an_operator_deleted_is_lost(make: Any, zk: KazooClient) -> None:
    board = make()
    post(board)
    cursor = board.changes(None, 0).cursor
    zk.delete(board._session.paths.top, recursive=True)
    fresh = make()
    assert fresh.incarnation != board.incarnation
    assert post(fresh).attempts == 0
    with pytest.raises(errors.BoardLost):
        eventually(lambda: board.changes(cursor, 1.0).reset)
    with pytest.raises(errors.BoardLost):
        board.get(["k"])
    with pytest.raises(errors.BoardLost):
        post(board, "new")


def test_a_paused_server_blocks_no_caller_for_longer_than_allowed(make: Any, troubled: Any) -> None:
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


def test_a_silent_connection_is_left_by_callers_that_go_on_asking(make: Any, server: Any) -> None:
    """They leave no pause in which the client would look for a sign of life."""
    with silence.Proxy(server.host, server.port) as proxy:
        host, port = proxy.address
        board = make(hosts=(f"{host}:{port}",), session_timeout=4.0, connect_timeout=1.0)
        board.add([NewPosting("a", b"")])
        lease = board.acquire("a", "me", "c")
        proxy.lose()  # a new connection would be served
        answered = threading.Event()

        def ask(place: int) -> None:
            time.sleep(place / 8)
            while not answered.is_set():
                try:
                    board.list()
                    answered.set()
                except errors.Unavailable:
                    pass

        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            asking = [pool.submit(ask, place) for place in range(8)]
            assert answered.wait(SOON) or answered.set()
        assert [one.result() for one in asking] == [None] * 8
        board.release(lease)


def test_a_reply_that_came_while_the_process_was_paused_is_received(make: Any, server: Any) -> None:
    """It is there to be read when the process goes on, though the wait is over."""
    with silence.Proxy(server.host, server.port) as proxy:
        host, port = proxy.address
        # The session is longer than the patience: its pings are not answered either.
        settings = {"hosts": (f"{host}:{port}",), "connect_timeout": 2.0, "session_timeout": 6.0}
        code = "print(flush=True); sys.stdin.readline(); print(board.add([NewPosting('k', b'')]))"
        other = make()
        with script(code, make(**settings)) as process:
            try:
                assert process.stdin is not None
                assert process.stdout is not None
                process.stdout.readline()
                proxy.set(silence.Mode.HOLD_REPLIES)
                process.stdin.write("\n")
                process.stdin.flush()
                eventually(lambda: other.get(["k"])[0])
                process.send_signal(signal.SIGSTOP)
                proxy.heal()
                time.sleep(2.2)
                process.send_signal(signal.SIGCONT)
                assert process.stdout.read().startswith("[Posting(key='k', ")
            finally:
                process.kill()


def test_an_indeterminate_posting_is_found_or_not_made_anew(
    make: Any, server: Any, proxy: Proxy
) -> None:
    """The session that would show it has ended; one posting is still there, the other consumed."""
    board, other = make(hosts=(proxy.address,), session_timeout=4.0), make()
    board.keepalive()
    proxy.lose("reply")
    with pytest.raises(errors.Indeterminate):
        board.add([NewPosting("k", b"body"), NewPosting("l", b"body")])
    (there,) = other.get(["k"])
    other.remove([other.acquire("l", "other", "c")])
    end_session(server, board)
    guard = RetryingGuard(board, patience=1.0)
    assert guard.add([NewPosting("k", b"body")]) == [there]
    with pytest.raises(errors.Indeterminate, match="'l' was added can't be known"):
        guard.add([NewPosting("k", b"body"), NewPosting("l", b"body")])
    assert [posting.key for posting in other.list().postings] == ["k"]
    # What was found is remembered from then on, and so it does not come back either.
    other.remove([other.acquire("k", "other", "d")])
    assert isinstance(guard.add([NewPosting("k", b"body")])[0], errors.PostingNotFound)
    assert other.count() == 0


def test_an_indeterminate_release_is_lost_after_the_repeat_window(
    make: Any, server: Any, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The session that would show it has ended: indeterminate for minutes, and then simply lost."""
    board, other = make(hosts=(proxy.address,), session_timeout=4.0), make()
    post(board)
    lease = board.acquire("k", "me", "c")
    proxy.lose("reply")
    with pytest.raises(errors.Indeterminate):
        board.release(lease)
    end_session(server, board)
    other.acquire("k", "other", "d")
    guard = RetryingGuard(board, patience=1.0)

    def again() -> type[Exception] | None:
        try:
            guard.release(lease)
        except errors.MultiboardError as error:
            return type(error)
        return None

    eventually(lambda: again() is errors.Indeterminate)
    now = write_log.boottime
    over = write_log.REPEAT_WINDOW + 1.0
    monkeypatch.setattr(write_log, "boottime", lambda: now() + over)
    assert again() is errors.LeaseLost


def test_an_unreachable_store_and_a_closed_board_are_reported() -> None:
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


def test_the_granted_time_out_is_the_session_time(make: Any) -> None:
    board = make(session_timeout=600.0)
    assert board.session_time == pytest.approx(20 * TICK)
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


def test_closing_ends_what_is_in_flight_and_logs_nothing(
    make: Any, troubled: Any, caplog: pytest.LogCaptureFixture
) -> None:
    board = make(hosts=(f"{troubled.host}:{troubled.port}",), session_timeout=10.0)
    post(board)
    guard = RetryingGuard(board)
    troubled.pause()
    try:
        with concurrent.futures.ThreadPoolExecutor() as pool:
            in_flight_now = [
                pool.submit(guard.get, ["k"]),
                pool.submit(guard.list),
                pool.submit(guard.add, [NewPosting("l", A)]),
            ]
            eventually(lambda: in_flight(board) >= len(in_flight_now))
            caplog.clear()
            guard.close()
            ends = [type(one.exception(SOON)) for one in in_flight_now]
    finally:
        troubled.resume()
    # Whether the posting was added can't be found out any more.
    assert ends == [errors.Closed, errors.Closed, errors.Indeterminate]
    assert caplog.records == []


# -- lost replies ------------------------------------------------------------------------------


@pytest.mark.parametrize("lost", ["reply", "request"])
def test_an_operation_whose_request_or_reply_was_lost_is_retried_and_applied_once(
    make: Any, proxy: Proxy, lost: str
) -> None:
    board, other = make(hosts=(proxy.address,), session_timeout=4.0), make()

    def twice(act: Callable[[], Any]) -> Any:
        proxy.lose(lost)
        with pytest.raises((errors.Indeterminate, errors.Unavailable)):
            act()
        assert proxy.lost
        return eventually(lambda: (act(),))[0]

    assert twice(lambda: post(board)) == other.get(["k"])[0]
    lease = twice(lambda: board.acquire("k", "me", "c"))
    first = lease.token
    assert other.get(["k"])[0].attempts == 1
    twice(lambda: board.release(lease))
    assert other.get(["k"])[0].deaths == 0
    lease = board.acquire("k", "me", "d", 60.0)
    assert twice(lambda: board.renew(lease, 30.0)) == lease
    assert twice(lambda: board.remove([lease], Shelf.TRASH)) == [None]
    assert twice(lambda: board.restore("k")).attempts == 2
    lease = board.acquire("k", "me", "e")
    assert lease.token == first + 2
    assert twice(lambda: board.remove([lease])) == [None]
    assert other.list().postings == []
    [entry] = twice(lambda: board.add([NewPosting("me", b"")], Shelf.ENTITIES))
    assert other.list(Shelf.ENTITIES).postings == [entry]


def test_a_posting_whose_reply_was_lost_does_not_come_back(make: Any, proxy: Proxy) -> None:
    board, worker = make(hosts=(proxy.address,), session_timeout=4.0), make()
    proxy.lose("reply")
    with pytest.raises(errors.Indeterminate):
        post(board)
    assert worker.remove([worker.acquire("k", "w", "c")]) == [None]
    [answer] = eventually(lambda: board.add([NewPosting("k", A)]))
    assert isinstance(answer, errors.PostingNotFound)
    assert worker.list().postings == []


def test_a_lost_removal_is_distinguished_from_that_of_a_successor(make: Any, proxy: Proxy) -> None:
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
