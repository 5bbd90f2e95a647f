# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""What is special to the board in Redis: its history, its keys, its cost. Real servers only.

What every store promises is the conformance suite's matter.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from multiboard import errors
from multiboard.backends.redis import RedisBackend
from multiboard.backends.redis.records import KEYS
from multiboard.primitives import Change, ChangeKind, NewPosting, Shelf
from tests.backends.redis.boards import drained, key_of, keys_of
from tests.waiting import eventually

# -- the feed -------------------------------------------------------------------------------------


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
    events, cursor = drained(board, changes.cursor)
    assert events == [Change(ChangeKind.POSTED, "b")]
    board.add([NewPosting("c", b"")])
    assert drained(board, cursor)[0] == [Change(ChangeKind.POSTED, "c")]


def test_a_history_that_was_rewritten_is_a_reset_and_fences_still_rise(
    board: RedisBackend, make: Callable[..., RedisBackend], raw: Any
) -> None:
    """A replica that missed writes takes over, and is as long again before anybody looks.

    Who knew the server that it takes over from looks at another one now: it is as new to it as the
    board that is opened here. Where it is the same one, its board is lost.
    """
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
    with pytest.raises(errors.BoardLost):
        board.changes(cursor, 30.0)
    board = make()
    ahead = board.changes(cursor, 30.0)
    assert ahead.reset, "the cursor was ahead of the history"
    lease = board.acquire("a", "you", "c2", 30.0)
    assert lease.token > lost.token
    assert board.add([NewPosting("b", b"")])[0].serial > newest.serial
    assert raw.xlen(key_of(board, "feed")) == int(cursor.rpartition(":")[2].partition("-")[0])
    assert board.changes(cursor, 0.0).reset, "the history is as long, but another one"
    with pytest.raises(errors.LeaseLost):
        board.release(lost)


def test_ten_thousand_leases_that_end_at_once_are_all_in_the_feed(
    board: RedisBackend, make: Callable[..., RedisBackend]
) -> None:
    reader, holder = make(), make()
    total = 10_000
    board.add([NewPosting(f"p{number}", b"") for number in range(total)])
    cursor = reader.changes(None, 0.0).cursor
    counts: Counter[ChangeKind] = Counter()

    def wait() -> None:
        nonlocal cursor
        while counts[ChangeKind.EXPIRED] < total:
            changes = reader.changes(cursor, 30.0)
            assert changes.events, "a change was missed"
            assert not changes.reset
            cursor = changes.cursor
            counts.update(change.kind for change in changes.events)

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
    assert counts[ChangeKind.CLAIMED] >= counts[ChangeKind.EXPIRED] >= total
    assert len(board.acquire_next("you", [f"u{number}" for number in range(total)])) == total


def test_the_end_of_a_lease_cut_short_reaches_a_reader_that_waits_already(
    board: RedisBackend,
) -> None:
    board.add([NewPosting("a", b"")])
    lease = board.acquire("a", "me", "c1", 600.0)
    cursor = board.changes(None, 0.0).cursor
    events: list[Change] = []
    reader = threading.Thread(target=lambda: events.extend(board.changes(cursor, 60.0).events))
    reader.start()
    board.renew(lease, 0.3)
    reader.join(20.0)
    assert events == [Change(ChangeKind.EXPIRED, "a", lease.token)]


def test_a_board_that_is_flushed_under_a_waiting_reader_is_lost(
    board: RedisBackend, raw: Any
) -> None:
    cursor = board.changes(None, 0.0).cursor
    raw.delete(*raw.keys(key_of(board, "*").replace("{", "[{]").replace("}", "[}]")))
    with pytest.raises(errors.BoardLost):
        board.changes(cursor, 30.0)


# -- what others wrote ----------------------------------------------------------------------------


def test_what_others_wrote_is_skipped_reported_and_left(board: RedisBackend, raw: Any) -> None:
    board.add([NewPosting(f"g{number}", b"body") for number in range(6)])
    state, body, live = (key_of(board, name) for name in ("live:state", "live:body", "live"))
    raw.hset(state, "g0", b"\xff\xfe no state")
    raw.hdel(body, "g1")
    raw.hset(body, "g2", "another length")
    raw.hset(state, b"stray\xff", "1")
    raw.hset(body, "stray-body", "1")
    raw.zadd(live, {"g5": 1e17, "nothing": -3.5, b"\xff": "inf", "far": 9e15})
    for index in ("index", "delayed", "timed", "sessions", "present", "gone"):
        raw.zadd(key_of(board, index), {"not ours": 0, "g9": -1})
    raw.hset(key_of(board, "claims"), "c7", "g0")
    raw.hset(key_of(board, "consumed"), "x", "what?")
    raw.hset(key_of(board, "meta"), "comment", "hello")
    raw.set(key_of(board, "another"), "key")
    page = board.list()
    assert keys_of(page.postings) == ["g3", "g4"]
    assert len(page.damaged) == 9
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


# -- what is gone ---------------------------------------------------------------------------------


def test_what_is_gone_is_forgotten_after_a_while_and_tokens_rise_all_the_same(
    board: RedisBackend, raw: Any
) -> None:
    gone, consumed = key_of(board, "gone"), key_of(board, "consumed")
    board.add([NewPosting("a", b"1")])
    lease = board.acquire("a", "me", "c1")
    board.release(lease)
    last = board.acquire("a", "me", "c2")
    board.remove([last])
    assert isinstance(board.add([NewPosting("a", b"1")])[0], errors.PostingNotFound)
    assert isinstance(board.add([NewPosting("a", b"2")])[0], errors.PostingExists)
    long_ago = (time.time() - 301) * 1e6
    raw.zadd(gone, dict.fromkeys(raw.zrange(gone, 0, -1), long_ago))
    raw.hset(consumed, "a", b"%b %d" % (raw.hget(consumed, "a").rpartition(b" ")[0], long_ago))
    raw.hset(consumed, "old", f"1 ab {long_ago:.0f}")
    [again] = board.add([NewPosting("a", b"1")])
    assert again.attempts == 0  # another posting, as good as new
    with pytest.raises(errors.LeaseLost):
        board.release(lease)
    assert isinstance(board.remove([last])[0], errors.LeaseLost)
    newest = board.acquire("a", "me", "c3")
    assert newest.token > last.token
    board.remove([newest])
    others = [f"b{number}" for number in range(64)]  # what is old goes now and then
    board.add([NewPosting(key, b"") for key in others])
    for number in range(64):
        board.release(board.acquire("b0", "me", f"r{number}"))
    board.remove([board.acquire(key, "me", key) for key in others])
    assert raw.zcount(gone, "-inf", long_ago) == 0
    assert sorted(raw.hkeys(consumed)) == sorted([b"a", *(key.encode() for key in others)])


def test_a_purged_key_that_is_forgotten_is_new_and_its_tokens_rise(
    board: RedisBackend, raw: Any
) -> None:
    board.add([NewPosting("a", b"1")])
    last = board.acquire("a", "me", "c1")
    board.remove([last], Shelf.TRASH)
    assert board.purge(["a"]) == [True]
    assert isinstance(board.add([NewPosting("a", b"1")])[0], errors.PostingNotFound)
    assert isinstance(board.add([NewPosting("a", b"2")])[0], errors.PostingExists)
    raw.delete(key_of(board, "consumed"))
    [again] = board.add([NewPosting("a", b"2")])
    assert (again.body, again.attempts) == (b"2", 0)
    assert board.acquire("a", "me", "c2").token > last.token
    assert [type(error) for error in board.remove([last])] == [errors.LeaseLost]


def test_callers_that_lost_replies_are_forgotten_after_a_while(
    board: RedisBackend, raw: Any
) -> None:
    meta = key_of(board, "meta")
    old = {f"w{number:015x}": f"000000001{(time.time() - 301) * 1e6:.0f}" for number in range(40)}
    raw.hset(meta, mapping=old)
    process = board._board._process()
    for _ in range(40):
        process.lost_reply(process.tag)
        board.add([NewPosting("a", b"1")])
        raw.hincrby(meta, f"filler{raw.hlen(meta)}", 1)
    callers = [name for name in raw.hkeys(meta) if name.startswith(b"w")]
    assert callers == [process.tag[:16].encode()]


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


# -- cost -----------------------------------------------------------------------------------------


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


def test_a_session_that_was_deleted_from_outside_is_lost_and_its_leases_are_freed(
    board: RedisBackend, make: Callable[..., RedisBackend], raw: Any
) -> None:
    board.add([NewPosting("a", b"")])
    board.acquire("a", "me", "c1")
    raw.delete(key_of(board, "sessions"))
    assert board.get(["a"])[0].lease is None
    with pytest.raises(errors.SessionLost):
        board.keepalive()
    [(posting, _)] = make().acquire_next("you", ["c2"])
    assert (posting.key, posting.attempts, posting.deaths) == ("a", 2, 1)


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
    board.add([*postings[:1], NewPosting("plain", b"")])
    lease = board.acquire("a0000", "me", "c0")
    for verb in (  # load all scripts
        lambda: board.remove([board.acquire("plain", "me", "c0")]),
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
    assert calls(lambda: board.add(postings)) == 4
    assert calls(lambda: board.get(keys_of(postings))) == 1
    assert calls(board.list) == 1
    assert calls(board.count) == 1
    leases: list[Any] = []
    assert calls(lambda: leases.append(board.acquire("a0000", "me", "d0"))) == 1
    claims = [f"e{number}" for number in range(100)]
    assert calls(lambda: leases.extend(le for _, le in board.acquire_next("me", claims))) == 1
    assert calls(lambda: board.renew(leases[0], 5.0)) == 1
    assert calls(lambda: board.release(leases[0])) == 1
    assert calls(lambda: board.remove(leases[1:])) == 1
    assert calls(board.keepalive) == 1
    assert calls(lambda: board.purge(["x", "y"])) == 1
    assert calls(lambda: board.changes(None, 0.0)) == 1


def test_a_forked_child_has_a_session_of_its_own(board: RedisBackend) -> None:
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
    idle = board._board._process().pool._idle
    return [str(connection.sock.getsockname()) for connection, _ in idle]
