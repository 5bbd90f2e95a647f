# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""What is special to the board in Redis. Real servers only, apart from one that is too old to run.

What every store promises is the conformance suite's matter.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
import redis as client
import servers

from multiboard import errors
from multiboard.backends._redis_board import KEYS
from multiboard.backends.redis import RedisBackend, RedisSettings
from multiboard.primitives import Change, ChangeKind, NewPosting, Shelf, Url

PASSWORD = "s3cret-of-the-server"


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    with servers.redis_server(appendonly=False) as running:
        yield running


@pytest.fixture
def raw(server: Any) -> Iterator[Any]:
    with client.Redis(port=server.port) as connection:
        yield connection


@pytest.fixture
def make(server: Any) -> Iterator[Callable[..., RedisBackend]]:
    """Make and open a backend on a board of the test's own."""
    namespace = f"t-{uuid.uuid4().hex[:12]}"
    made: list[RedisBackend] = []

    def make(**options: Any) -> RedisBackend:
        options = {"hosts": (f"127.0.0.1:{server.port}",), "namespace": namespace, **options}
        made.append(RedisBackend(RedisSettings(**options)))
        made[-1].open()
        return made[-1]

    yield make
    for backend in made:
        backend.close()


@pytest.fixture
def board(make: Callable[..., RedisBackend]) -> RedisBackend:
    return make()


def key_of(board: RedisBackend, name: str) -> str:
    return f"multiboard:{{{board.settings.namespace}}}:{name}"


class Where(NamedTuple):
    """The place of something that is no server of ours."""

    port: int


def at(running: Any, **options: Any) -> RedisBackend:
    """Return an open backend on a server of the test's own."""
    board = RedisBackend(RedisSettings(hosts=(f"127.0.0.1:{running.port}",), **options))
    board.open()
    return board


def keys_of(postings: Any) -> list[str]:
    return [posting.key for posting in postings]


def drained(board: RedisBackend, cursor: str) -> tuple[list[Change], str]:
    """Return all that the feed has now, which must be no reset."""
    told: list[Change] = []
    while True:
        changes = board.changes(cursor, 0.0)
        assert not changes.reset
        cursor = changes.cursor
        if not changes.events:
            return told, cursor
        told += changes.events


def eventually(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up, "it did not happen in time"
        time.sleep(0.02)


class Proxy:
    """Passes bytes to a server, and swallows the next reply when told to."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.swallow = False
        self.swallowed = 0
        self._sockets = [self._listener]
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *error: object) -> None:
        for one in self._sockets:
            one.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._port))
                self._sockets += [near, far]
                threading.Thread(target=self._pass, args=(near, far, False), daemon=True).start()
                threading.Thread(target=self._pass, args=(far, near, True), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket, replies: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                # A script that is not loaded yet is no reply worth losing.
                if replies and self.swallow and not data.startswith(b"-NOSCRIPT"):
                    self.swallow = False
                    self.swallowed += 1
                    break
                sink.sendall(data)
        for one in (source, sink):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


# -- the server goes away, and comes back ----------------------------------------------------


def test_a_server_that_came_back_empty_is_a_lost_board() -> None:
    with servers.redis_server(appendonly=False) as running:
        board = at(running)
        assert board.traits.durable is False
        assert "warning_persistence" in board.facts()
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


def test_a_board_that_is_flushed_under_a_waiting_reader_is_lost(
    board: RedisBackend, raw: Any
) -> None:
    cursor = board.changes(None, 0.0).cursor
    raw.delete(*raw.keys(key_of(board, "*").replace("{", "[{]").replace("}", "[}]")))
    with pytest.raises(errors.BoardLost):
        board.changes(cursor, 30.0)


def test_a_server_with_a_log_goes_on_where_it_was_killed() -> None:
    with servers.redis_server(options=("--appendfsync", "always")) as running:
        board = at(running, session_timeout=60.0)
        assert board.traits.durable is True
        assert not [fact for fact in board.facts() if fact.startswith("warning")]
        cursor = board.changes(None, 0.0).cursor
        board.add([NewPosting("a", b"1"), NewPosting("b", b"2")])
        lease = board.acquire("a", "me", "c1")
        running.kill()
        running.start()
        assert board.acquire("a", "me", "c1") == lease
        told, cursor = drained(board, cursor)
        assert [change.kind.value for change in told] == ["posted", "posted", "claimed"]
        board.release(lease)
        assert board.acquire("a", "me", "c2").token > lease.token
        assert [change.kind.value for change in drained(board, cursor)[0]] == [
            "released",
            "claimed",
        ]
        board.close()


def test_a_reader_that_waits_hears_that_the_server_is_gone() -> None:
    with servers.redis_server(appendonly=False) as running:
        board = at(running)
        cursor = board.changes(None, 0.0).cursor
        failed: list[Exception] = []

        def wait() -> None:
            try:
                board.changes(cursor, 60.0)
            except errors.MultiboardError as error:
                failed.append(error)

        reader = threading.Thread(target=wait)
        reader.start()
        with client.Redis(port=running.port) as raw:
            eventually(lambda: raw.info("clients")["blocked_clients"] == 1)
        running.kill()
        reader.join(20.0)
        assert [type(error) for error in failed] == [errors.Unavailable]
        board.close()


# -- the feed --------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["trimmed", "a hole", "emptied", "deleted", "foreign entry"])
def test_a_history_that_is_not_whole_is_a_reset_and_goes_on(
    board: RedisBackend, raw: Any, fault: str
) -> None:
    feed = key_of(board, "feed")
    cursor = board.changes(None, 0.0).cursor
    board.add([NewPosting(f"a{number}", b"") for number in range(9)])
    if fault == "trimmed":
        raw.xtrim(feed, maxlen=3, approximate=False)
    elif fault == "a hole":
        raw.xdel(feed, raw.xrange(feed)[4][0])
    elif fault == "emptied":
        raw.xtrim(feed, maxlen=0, approximate=False)
    elif fault == "deleted":
        raw.delete(feed)
    else:
        raw.xadd(feed, {"hello": "world"})
    changes = board.changes(cursor, 0.0)
    assert (list(changes.events), changes.reset) == ([], True)
    board.add([NewPosting("b", b"")])
    told, cursor = drained(board, changes.cursor)
    assert told == [Change(ChangeKind.POSTED, "b")]
    board.add([NewPosting("c", b"")])
    assert drained(board, cursor)[0] == [Change(ChangeKind.POSTED, "c")]


def test_a_history_that_was_rewritten_is_a_reset_and_fences_still_rise(
    board: RedisBackend, raw: Any
) -> None:
    """A replica that missed writes takes over, and is as long again before anybody looks."""
    board.add([NewPosting("a", b"")])
    names = [key_of(board, name) for name in KEYS]
    kept = {name: raw.dump(name) for name in names}
    lost = board.acquire("a", "me", "c1")
    newest = board.add([NewPosting("lost", b"")])[0]
    cursor = board.changes(None, 0.0).cursor
    for name, value in kept.items():
        raw.delete(name)
        if value is not None:
            raw.restore(name, 0, value)
    ahead = board.changes(cursor, 30.0)
    assert ahead.reset, "the cursor was ahead of the history"
    lease = board.acquire("a", "you", "c2", 30.0)
    assert lease.token > lost.token
    assert board.add([NewPosting("b", b"")])[0].serial > newest.serial
    assert raw.xlen(key_of(board, "feed")) == int(cursor.rpartition(":")[2].partition("-")[0])
    assert board.changes(cursor, 0.0).reset, "the history is as long, but another one"
    with pytest.raises(errors.LeaseLost):
        board.release(lost)


def test_ten_thousand_leases_that_end_at_once_are_all_told(
    board: RedisBackend, make: Callable[..., RedisBackend]
) -> None:
    reader, holder = make(), make()
    total = 10_000
    board.add([NewPosting(f"p{number}", b"") for number in range(total)])
    cursor = reader.changes(None, 0.0).cursor
    told: Counter[ChangeKind] = Counter()

    def wait() -> None:
        nonlocal cursor
        while told[ChangeKind.EXPIRED] < total:
            changes = reader.changes(cursor, 30.0)
            assert changes.events, "a change was missed"
            assert not changes.reset
            cursor = changes.cursor
            told.update(change.kind for change in changes.events)

    waiting = threading.Thread(target=wait)
    waiting.start()
    half = total // 2
    timed = holder.acquire_next("me", [f"t{number}" for number in range(half)], 1.0)
    held = holder.acquire_next("me", [f"s{number}" for number in range(half)])
    assert len(timed) >= half
    holder.close()  # as by death: the session's leases are over
    assert all(posting.lease is None for posting in board.get(keys_of(p for p, _ in held)))
    waiting.join(60.0)
    assert not waiting.is_alive()
    # Timed leases that ended while the rest was still being leased may have been leased again.
    assert told[ChangeKind.CLAIMED] >= told[ChangeKind.EXPIRED] >= total
    assert len(board.acquire_next("you", [f"u{number}" for number in range(total)])) == total


def test_a_lease_cut_short_is_told_to_a_reader_that_waits_already(board: RedisBackend) -> None:
    board.add([NewPosting("a", b"")])
    lease = board.acquire("a", "me", "c1", 600.0)
    cursor = board.changes(None, 0.0).cursor
    told: list[Change] = []
    reader = threading.Thread(target=lambda: told.extend(board.changes(cursor, 60.0).events))
    reader.start()
    board.renew(lease, 0.3)
    reader.join(20.0)
    assert told == [Change(ChangeKind.EXPIRED, "a", lease.token)]


@pytest.mark.parametrize("frozen", [False, True])
def test_close_wakes_its_readers_and_takes_no_time(frozen: bool) -> None:
    with servers.redis_server(appendonly=False) as running:
        board = at(running)
        cursor = board.changes(None, 0.0).cursor
        board.keepalive()
        failed: list[Exception] = []

        def wait() -> None:
            try:
                board.changes(cursor, 60.0)
            except errors.MultiboardError as error:
                failed.append(error)

        readers = [threading.Thread(target=wait) for _ in range(3)]
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


# -- answers that are lost -------------------------------------------------------------------


def test_what_was_done_and_not_heard_of_is_done_once(
    server: Any, make: Callable[..., RedisBackend], board: RedisBackend
) -> None:
    with Proxy(server.port) as proxy:
        far = make(hosts=(f"127.0.0.1:{proxy.port}",))

        def twice(verb: Callable[[], Any], doubt: type[Exception] = errors.Indeterminate) -> Any:
            proxy.swallow = True
            struck = proxy.swallowed
            with pytest.raises(doubt, match=str(proxy.port)):
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
    assert keys_of(board.list().postings) == ["a"]
    assert board.acquire("a", "me", "c1").key == "a"


def test_scripts_that_the_server_forgot_are_sent_again(board: RedisBackend, raw: Any) -> None:
    board.add([NewPosting("a", b"")])
    raw.script_flush()
    lease = board.acquire("a", "me", "c1")
    raw.script_flush()
    assert board.remove([lease]) == [None]


# -- connecting ------------------------------------------------------------------------------


def test_a_server_that_is_not_there_is_unavailable_and_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(errors.Unavailable, match=f"127.0.0.1:{port}.*refused"):
        at(Where(port))


def test_a_server_that_does_not_answer_is_unavailable_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        begun = time.monotonic()
        with pytest.raises(errors.Unavailable, match=f"127.0.0.1:{port}.*(?i:time)"):
            at(Where(port), connect_timeout=0.3, password=PASSWORD)
        assert time.monotonic() - begun < 3.0


def test_a_server_that_is_too_old_is_unsupported() -> None:
    """No such server can be had: one line of its answers is enough."""
    with socket.create_server(("127.0.0.1", 0)) as old:

        def answer() -> None:
            connection, _ = old.accept()
            connection.recv(65536)
            connection.sendall(b"-NOSCRIPT No matching script.\r\n")
            connection.recv(65536)
            connection.sendall(b"*2\r\n$3\r\nOLD\r\n$6\r\n5.0.14\r\n")
            connection.close()

        thread = threading.Thread(target=answer)
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
        shown += [repr(board), repr(board.settings), repr(board.facts())]
        assert not [text for text in shown if PASSWORD in text or (given and given in text)]
        board.close()


#: All that the backend asks of an ACL user beside its keys.
RIGHTS = [
    *("+eval", "+evalsha", "+time", "+type", "+del"),
    *("+hget", "+hmget", "+hset", "+hsetnx", "+hdel", "+hlen", "+hstrlen", "+hkeys"),
    *("+zcard", "+zadd", "+zrem", "+zscore", "+zmscore", "+zrange", "+zrangebyscore", "+zcount"),
    *("+xadd", "+xlen", "+xrange", "+xrevrange", "+xread", "+xinfo|stream"),
]


def test_a_user_with_the_least_rights_can_work(server: Any, raw: Any) -> None:
    raw.execute_command(
        "ACL", "SETUSER", "least", "reset", "on", f">{PASSWORD}", "~mine:*", *RIGHTS
    )
    options = {"username": "least", "password": PASSWORD, "namespace": "acl"}
    board = at(server, prefix="mine", **options)
    assert board.traits.durable is False  # INFO is refused, and so it can't be known
    assert dict(board.facts())["version"] == server.version
    cursor = board.changes(None, 0.0).cursor
    board.add([NewPosting("a", b""), NewPosting("b", b"", delay=0.01)])
    board.add([NewPosting("e", b"")], Shelf.ENTITIES)
    [(_, lease)] = board.acquire_next("me", ["c1"])
    board.release(lease)
    lease = board.renew(board.acquire("a", "me", "c2", 5.0), 6.0)
    assert board.remove([lease], Shelf.TRASH) == [None]
    board.restore("a")
    assert board.remove([board.acquire("a", "me", "c3")]) == [None]
    assert board.purge(["e"], Shelf.ENTITIES) == [True]
    assert len(drained(board, cursor)[0]) == 9
    assert not board.changes(drained(board, cursor)[1], 0.01).events
    raw.set("mine:{acl}:wrong", "")
    board.close()
    with pytest.raises(errors.AccessDenied):
        at(server, prefix="others", **options)
    raw.execute_command("ACL", "SETUSER", "least", "-xadd")
    with pytest.raises(errors.AccessDenied, match="XADD"):
        at(server, prefix="mine", **{**options, "namespace": "another"})
    assert raw.keys("mine:[{]another[}]*") == []


def test_a_unix_socket_and_a_database_of_its_own(tmp_path: Any) -> None:
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


# -- what others wrote -----------------------------------------------------------------------


def test_what_others_wrote_is_skipped_reported_and_left(board: RedisBackend, raw: Any) -> None:
    board.add([NewPosting(f"g{number}", b"body") for number in range(5)])
    state, body, live = (key_of(board, name) for name in ("live:state", "live:body", "live"))
    raw.hset(state, "g0", b"\xff\xfe no state")
    raw.hdel(body, "g1")
    raw.hset(body, "g2", "another length")
    raw.hset(state, b"stray\xff", "1")
    raw.hset(body, "stray-body", "1")
    raw.zadd(live, {"nothing": -3.5, b"\xff": "inf", "far": 9e15})
    for index in ("free", "delayed", "timed", "held", "sessions", "present", "gone"):
        raw.zadd(key_of(board, index), {"not ours": 0, "g9": -1})
    raw.hset(key_of(board, "claims"), "c7", "g0")
    raw.hset(key_of(board, "consumed"), "x", "what?")
    raw.hset(key_of(board, "meta"), "comment", "hello")
    raw.set(key_of(board, "another"), "key")
    page = board.list()
    assert keys_of(page.postings) == ["g3", "g4"]
    assert len(page.damaged) == 8
    assert any("g0" in damage.where and "state" in damage.why for damage in page.damaged)
    assert any("stray" in damage.where for damage in page.damaged)
    walked: list[str] = []
    after = None
    while True:
        part = board.list(after=after, limit=1)
        walked += keys_of(part.postings)
        after = part.after
        if after is None:
            break
    assert walked == ["g3", "g4"]
    assert [posting and posting.key for posting in board.get(["g0", "g1", "g2", "g3", "far"])] == [
        *(None, None, None, "g3"),
        None,
    ]
    assert isinstance(board.add([NewPosting("stray-body", b"1")])[0], errors.PostingExists)
    assert isinstance(board.add([NewPosting("x", b"1")])[0], object)
    cursor = board.changes(None, 0.0).cursor
    assert not board.changes(cursor, 0.05).events
    won = board.acquire_next("me", ["c7", "c8", "c9", "c10"])
    assert keys_of(posting for posting, _ in won) == ["g3", "g4", "x"]
    with pytest.raises(errors.PostingNotFound):
        board.acquire("g1", "me", "c11")
    assert board.remove([lease for _, lease in won]) == [None] * 3
    board.keepalive()
    assert raw.hget(state, "g0") == b"\xff\xfe no state"
    assert raw.hget(state, b"stray\xff") == b"1"
    assert raw.hget(body, "stray-body") == b"1"
    assert raw.zscore(live, "nothing") == -3.5
    assert raw.zscore(key_of(board, "timed"), "not ours") is not None
    assert raw.hget(key_of(board, "meta"), "comment") == b"hello"


@pytest.mark.parametrize("name", KEYS)
def test_a_key_of_the_wrong_type_is_named_and_left(
    board: RedisBackend, raw: Any, name: str
) -> None:
    board.add([NewPosting("a", b"")])
    for key in (key_of(board, other) for other in KEYS):
        if key == key_of(board, name):
            raw.delete(key)
            raw.set(key, "mine")
    before = {key: raw.dump(key_of(board, key)) for key in KEYS}
    with pytest.raises(errors.BackendError, match=f"{name}' holds a string"):
        board.add([NewPosting("b", b"")])
    with pytest.raises(errors.BackendError, match=f"{name}' holds a string"):
        board.changes(None, 0.0)
    assert {key: raw.dump(key_of(board, key)) for key in KEYS} == before


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
        assert "warning_eviction" in board.facts()
        raw.close()
        board.close()


# -- what is gone ----------------------------------------------------------------------------


def test_what_is_gone_is_forgotten_after_a_while_and_tokens_rise_all_the_same(
    board: RedisBackend, raw: Any
) -> None:
    gone = key_of(board, "gone")
    board.add([NewPosting("a", b"1")])
    lease = board.acquire("a", "me", "c1")
    board.release(lease)
    last = board.acquire("a", "me", "c2")
    board.remove([last])
    assert isinstance(board.add([NewPosting("a", b"1")])[0], errors.PostingNotFound)
    assert isinstance(board.add([NewPosting("a", b"2")])[0], errors.PostingExists)
    long_ago = (time.time() - 301) * 1e6
    raw.zadd(gone, dict.fromkeys(raw.zrange(gone, 0, -1), long_ago))
    [again] = board.add([NewPosting("a", b"1")])
    assert again.attempts == 0  # another posting, as good as new
    with pytest.raises(errors.LeaseLost):
        board.release(lease)
    assert isinstance(board.remove([last])[0], errors.LeaseLost)
    newest = board.acquire("a", "me", "c3")
    assert newest.token > last.token
    board.remove([newest])
    board.add([NewPosting("b", b"")])
    board.remove([board.acquire("b", "me", "c4")])
    assert raw.zcard(gone) == 2  # what is old goes two for one
    assert raw.hlen(key_of(board, "consumed")) == 2


def test_bodies_of_the_largest_size_are_read_in_parts(board: RedisBackend) -> None:
    large = os.urandom(board.traits.max_body)
    board.add([NewPosting(f"a{number}", large) for number in range(3)])
    assert [posting.body == large for posting in board.list().postings] == [True] * 3
    assert [posting.body == large for posting in board.get(["a0", "a1", "a2"])] == [True] * 3
    won = board.acquire_next("me", ["c1", "c2", "c3"])
    assert keys_of(posting for posting, _ in won) == ["a0", "a1", "a2"]
    assert keys_of(posting for posting, _ in board.acquire_next("me", ["c3", "c1", "c2"])) == [
        *("a0", "a1", "a2")
    ]
    assert board.remove([lease for _, lease in won]) == [None] * 3


# -- cost ------------------------------------------------------------------------------------


def test_two_hundred_boards_leave_nothing_behind(
    make: Callable[..., RedisBackend], raw: Any
) -> None:
    def used() -> tuple[int, int, int]:
        clients = raw.info("clients")["connected_clients"]
        return len(os.listdir("/proc/self/fd")), threading.active_count(), clients

    def once(number: int) -> None:
        board = make()
        board.add([NewPosting(f"a{number}", b"")])
        board.close()

    once(-1)
    before = used()
    for number in range(200):
        once(number)
    eventually(lambda: used() <= before)


def test_calls_of_each_verb(make: Callable[..., RedisBackend], raw: Any) -> None:
    def calls(verb: Callable[[], Any]) -> int:
        raw.config_resetstat()
        verb()
        stats = raw.info("commandstats")
        return sum(
            stats.get(f"cmdstat_{name}", {"calls": 0})["calls"]
            for name in ("eval", "evalsha", "hello", "client|setinfo", "select", "xread")
        )

    board, made = make(), make()
    made.close()
    postings = [NewPosting(f"a{number:04}", b"") for number in range(400)]
    board.add(postings[:1])
    lease = board.acquire("a0000", "me", "c0")
    for verb in (  # load all scripts
        lambda: board.renew(lease, 1.0),
        lambda: board.release(lease),
        lambda: board.remove([board.acquire_next("me", ["c1"])[0][1]], Shelf.TRASH),
        lambda: board.restore("a0000"),
        lambda: board.purge(["x"]),
        lambda: (board.list(), board.count(), board.keepalive(), board.changes(None, 0.0)),
    ):
        verb()
    assert calls(made.open) == 1
    assert calls(made.close) == 0, "there was no session to end"
    assert calls(lambda: board.add(postings)) == 2
    assert calls(lambda: board.get(keys_of(postings))) == 1
    assert calls(board.list) == 1
    assert calls(board.count) == 1
    leases: list[Any] = []
    assert calls(lambda: leases.append(board.acquire("a0000", "me", "d0"))) == 1
    claims = [f"e{number}" for number in range(200)]
    assert calls(lambda: leases.extend(le for _, le in board.acquire_next("me", claims))) == 1
    assert calls(lambda: board.renew(leases[0], 5.0)) == 1
    assert calls(lambda: board.release(leases[0])) == 1
    assert calls(lambda: board.remove(leases[1:])) == 1
    assert calls(board.keepalive) == 1
    assert calls(lambda: board.purge(["x", "y"])) == 1
    assert calls(lambda: board.changes(None, 0.0)) == 1


def test_a_forked_child_is_a_stranger(board: RedisBackend) -> None:
    board.add([NewPosting("a", b""), NewPosting("b", b""), NewPosting("c", b"")])
    mine = board.acquire("a", "parent", "c1")
    sockets = set(board_sockets(board))
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            theirs = board.acquire("b", "child", "c2")
            assert theirs.session != mine.session
            assert not sockets & set(board_sockets(board))
            assert board.changes(None, 0.0).reset
            board.close()
            os.write(writing, b"well")
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        assert pipe.read() == b"well"
    os.waitpid(child, 0)
    assert board.renew(mine, 1.0) == mine
    assert set(board_sockets(board)) == sockets, "the child closed or used the parent's connection"
    [posting] = board.get(["b"])
    assert (posting.lease, posting.deaths) == (None, 1)


def board_sockets(board: RedisBackend) -> list[str]:
    """Return the names of the backend's own idle connections, as the server sees them."""
    idle = board._board._process().connections._idle
    return [str(connection._sock.getsockname()) for connection in idle]
