# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The board in Redis and a server that dies, refuses, replies too late or not at all.

Real servers only, apart from one that is too old to run.
"""

from __future__ import annotations

import pathlib
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import redis as client
import servers

from multiboard import errors
from multiboard.backends.redis import RedisBackend, RedisSettings
from multiboard.backends.redis.pool import FRESH
from multiboard.primitives import NewPosting, Shelf, Url
from tests.backends.redis.boards import Proxy, Where, at, drained, key_of, keys_of
from tests.waiting import eventually

PASSWORD = "s3cret-of-the-server"


def wait_in(board: RedisBackend, cursor: str, failed: list[Exception]) -> None:
    """Wait for a change until that fails."""
    try:
        board.changes(cursor, 60.0)
    except Exception as error:  # a native one is what the tests are after
        failed.append(error)


# -- the server goes away, and comes back ---------------------------------------------------------


def test_a_server_that_came_back_empty_is_a_lost_board() -> None:
    with servers.redis_server(appendonly=False) as running:
        board = at(running)
        assert board.traits.durable is False
        assert "warning_persistence" in board.server_info()
        board.add([NewPosting("a", b"1")])
        lease = board.acquire("a", "me", "c1")
        cursor = board.changes(None, 0.0).cursor
        running.kill()
        with pytest.raises((errors.Unavailable, errors.Indeterminate), match=str(running.port)):
            board.get(["a"])
        running.start()
        for verb in (
            lambda: board.get(["a"]),
            lambda: board.list(),
            lambda: board.count(),
            lambda: board.add([NewPosting("b", b"1")]),
            lambda: board.remove([lease]),
            lambda: board.release(lease),
            lambda: board.keepalive(),
            lambda: board.changes(cursor, 5.0),
        ):
            with pytest.raises(errors.BoardLost):
                verb()
        before = board.incarnation
        board.close()
        board.open()
        assert board.incarnation != before
        assert board.changes(cursor, 0.0).reset
        assert board.count() == 0
        board.close()


def test_a_server_with_a_log_goes_on_where_it_was_killed() -> None:
    with servers.redis_server(options=("--appendfsync", "always")) as running:
        board = at(running, session_timeout=60.0)
        assert board.traits.durable is True
        assert not [fact for fact in board.server_info() if fact.startswith("warning")]
        cursor = board.changes(None, 0.0).cursor
        board.add([NewPosting("a", b"1"), NewPosting("b", b"2")])
        lease = board.acquire("a", "me", "c1")
        running.kill()
        running.start()
        time.sleep(2 * FRESH)
        assert board.acquire("a", "me", "c1") == lease
        events, cursor = drained(board, cursor)
        assert [change.kind.value for change in events] == ["posted", "posted", "claimed"]
        board.release(lease)
        assert board.acquire("a", "me", "c2").token > lease.token
        assert [change.kind.value for change in drained(board, cursor)[0]] == [
            "released",
            "claimed",
        ]
        board.close()


def test_a_waiting_reader_gets_an_error_when_the_server_is_gone() -> None:
    with servers.redis_server(appendonly=False) as running:
        board = at(running)
        cursor = board.changes(None, 0.0).cursor
        failed: list[Exception] = []

        reader = threading.Thread(target=wait_in, args=(board, cursor, failed))
        reader.start()
        with client.Redis(port=running.port) as raw:
            eventually(lambda: raw.info("clients")["blocked_clients"] == 1)
        running.kill()
        reader.join(20.0)
        assert [type(error) for error in failed] == [errors.Unavailable]
        board.close()


@pytest.mark.parametrize("frozen", [False, True])
def test_close_wakes_its_readers_and_takes_no_time(frozen: bool) -> None:
    with servers.redis_server(appendonly=False) as running:
        board = at(running)
        cursor = board.changes(None, 0.0).cursor
        board.keepalive()
        failed: list[Exception] = []

        readers = [threading.Thread(target=wait_in, args=(board, cursor, failed)) for _ in range(3)]
        for reader in readers:
            reader.start()
        with client.Redis(port=running.port) as raw:
            eventually(lambda: raw.info("clients")["blocked_clients"] == 3)
        if frozen:
            running.pause()
        begun = time.monotonic()
        board.close()
        for reader in readers:
            reader.join(20.0)
        assert time.monotonic() - begun < 5.0
        running.resume()
        assert [type(error) for error in failed] == [errors.Closed] * 3
        with pytest.raises(errors.Closed):
            board.count()


def test_a_server_without_memory_refuses_postings_and_lets_them_be_worked_off() -> None:
    with servers.redis_server(appendonly=False) as running:
        board = at(running)
        raw = client.Redis(port=running.port)
        board.add([NewPosting(f"a{number}", bytes(1000)) for number in range(20)])
        cursor = board.changes(None, 0.0).cursor
        raw.config_set("maxmemory", "1mb")
        with pytest.raises(errors.Unavailable):
            board.add([NewPosting("b", b"")])
        [(_, first), (_, second)] = board.acquire_next("me", ["c1", "c2"])
        board.release(first)
        assert board.remove([second]) == [None]
        assert board.count() == 19
        board.keepalive()
        assert len(drained(board, cursor)[0]) == 4
        raw.config_set("maxmemory-policy", "allkeys-lru")
        raw.config_set("maxmemory", "0")
        assert "warning_eviction" in board.server_info()
        raw.close()
        board.close()


# -- lost replies ---------------------------------------------------------------------------------


def test_an_operation_whose_reply_was_lost_is_retried_and_applied_once(
    server: Any, make: Callable[..., RedisBackend], board: RedisBackend
) -> None:
    with Proxy(server.port) as proxy:
        far = make(hosts=(f"127.0.0.1:{proxy.port}",))

        def twice(verb: Callable[[], Any], error: type[Exception] = errors.Indeterminate) -> Any:
            proxy.swallow = True
            struck = proxy.swallowed
            with pytest.raises(error, match=str(proxy.port)):
                verb()
            assert proxy.swallowed == struck + 1, "the library repeated the command by itself"
            return verb()

        cursor = board.changes(None, 0.0).cursor
        assert twice(lambda: far.add([NewPosting("a", b"1")]))[0].key == "a"
        lease = twice(lambda: far.acquire("a", "me", "c1"))
        assert lease.claim_id == "c1"
        assert twice(lambda: far.renew(lease, 5.0)) == lease
        twice(lambda: far.release(lease))
        [(posting, lease)] = twice(lambda: far.acquire_next("me", ["c2"]))
        assert posting.attempts == 2
        assert twice(lambda: far.remove([lease], Shelf.TRASH)) == [None]
        assert twice(lambda: far.restore("a")).key == "a"
        [(posting, lease)] = far.acquire_next("me", ["c3"])
        assert twice(lambda: far.remove([lease])) == [None]
        [gone] = far.add([NewPosting("a", b"1")])
        assert isinstance(gone, errors.PostingNotFound)
        twice(lambda: far.add([NewPosting("e", b"me")], Shelf.ENTITIES))
        assert twice(far.keepalive) == far.settings.session_timeout
        assert twice(lambda: far.purge(["e"], Shelf.ENTITIES)) == [False]
        assert twice(far.count, errors.Unavailable) == 0
        assert [change.kind.value for change in drained(board, cursor)[0]] == [
            *("posted", "claimed", "released", "claimed", "trashed", "restored"),
            *("claimed", "removed"),
        ]


def test_an_idle_connection_that_the_server_dropped_is_no_failure(
    board: RedisBackend, raw: Any
) -> None:
    board.add([NewPosting("a", b"")])
    raw.client_kill_filter(_type="normal", skipme=True)
    time.sleep(2 * FRESH)
    assert keys_of(board.list().postings) == ["a"]
    assert board.acquire("a", "me", "c1").key == "a"


def test_scripts_that_the_server_forgot_are_sent_again(board: RedisBackend, raw: Any) -> None:
    board.add([NewPosting("a", b"")])
    raw.script_flush()
    lease = board.acquire("a", "me", "c1")
    raw.script_flush()
    assert board.remove([lease]) == [None]


def test_a_repeat_waits_for_replicas_on_a_board_that_was_opened_anew(
    make: Callable[..., RedisBackend], raw: Any
) -> None:
    """What is written behind a repeat carries the incarnation of the board that is open now."""
    board = make(durability="wait:1", connect_timeout=1.0)
    first = board.incarnation
    for _ in range(2):
        with pytest.raises(errors.Indeterminate, match="0 of 1 replicas"):
            board.add([NewPosting("a", b"")])
        with pytest.raises(errors.Indeterminate, match="0 of 1 replicas"):
            board.add([NewPosting("a", b"")])
        assert raw.hexists(key_of(board, "meta"), "touched")
        board.close()
        raw.delete(*raw.keys(key_of(board, "*").replace("{", "[{]").replace("}", "[}]")))
        board.open()
        assert board.incarnation != first


# -- connecting -----------------------------------------------------------------------------------


def test_a_server_that_is_not_there_is_unavailable_and_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(errors.Unavailable, match=f"127.0.0.1:{port}.*refused"):
        at(Where(port))


def test_a_server_that_does_not_reply_is_unavailable_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        begun = time.monotonic()
        with pytest.raises(errors.Unavailable, match=f"127.0.0.1:{port}.*(?i:time)"):
            at(Where(port), connect_timeout=0.3, password=PASSWORD)
        assert time.monotonic() - begun < 3.0


def test_a_server_that_is_too_old_is_unsupported() -> None:
    """No such server can be had: one line of its replies is enough."""
    with socket.create_server(("127.0.0.1", 0)) as old:

        def reply() -> None:
            connection, _ = old.accept()
            connection.recv(65536)
            connection.sendall(b"-NOSCRIPT No matching script.\r\n")
            connection.recv(65536)
            connection.sendall(b"*3\r\n:0\r\n$3\r\nOLD\r\n$6\r\n5.0.14\r\n")
            connection.close()

        thread = threading.Thread(target=reply)
        thread.start()
        with pytest.raises(errors.Unsupported, match=r"6\.2 or newer .* 5\.0\.14"):
            at(Where(old.getsockname()[1]))
        thread.join(10.0)


@pytest.mark.parametrize("given", [None, "wr0ng-password"])
def test_a_wrong_password_is_denied_and_never_shown(given: str | None) -> None:
    with servers.redis_server(appendonly=False, password=PASSWORD) as running:
        with pytest.raises(errors.AccessDenied, match=str(running.port)) as raised:
            at(running, password=given)
        board = at(running, password=PASSWORD)
        shown = [str(raised.value), repr(raised.value), repr(raised.value.__cause__)]
        shown += [repr(board), repr(board.settings), repr(board.server_info())]
        assert not [text for text in shown if PASSWORD in text or (given and given in text)]
        board.close()


def test_a_unix_socket_and_a_database_of_its_own(tmp_path: pathlib.Path) -> None:
    path = str(tmp_path / "s")
    with servers.redis_server(appendonly=False, options=("--unixsocket", path)) as running:
        board = RedisBackend(RedisSettings(socket=path, db=3))
        board.open()
        board.add([NewPosting("a", b"")])
        assert keys_of(board.list().postings) == ["a"]
        with client.Redis(port=running.port, db=3) as raw:
            assert raw.exists(key_of(board, "meta"))
        board.close()


@pytest.mark.parametrize(
    ("url", "settings"),
    [
        (Url("redis", None, None, (("h", None),), ""), {"hosts": ("h:6379",), "tls": False}),
        (
            Url("rediss", "u", "p", (("::1", 7),), "/2"),
            {"hosts": ("[::1]:7",), "tls": True, "db": 2},
        ),
        (Url("unix", None, "p", (), "/run/r.sock"), {"socket": "/run/r.sock", "password": "p"}),
    ],
)
def test_urls(url: Url, settings: dict[str, Any]) -> None:
    found = RedisBackend.from_url(url)
    assert {name: found[name] for name in settings} == settings


@pytest.mark.parametrize(
    "url",
    [
        Url("redis", None, None, (("h", None),), "/jobs"),
        Url("redis", None, None, (("h", 1), ("i", 1)), ""),
        Url("unix", None, None, (("h", None),), "/run/r.sock"),
        Url("unix", None, None, (), ""),
    ],
)
def test_urls_that_mean_nothing(url: Url) -> None:
    with pytest.raises(errors.ConfigError):
        RedisBackend.from_url(url)
