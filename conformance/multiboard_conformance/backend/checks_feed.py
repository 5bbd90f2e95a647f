# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Checks of the change feed: everything, in order, in time, or an honest reset."""

from __future__ import annotations

import functools
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from multiboard.primitives import ChangeKind, NewPosting, Shelf, boottime
from multiboard_conformance.backend.answers import answer_of
from multiboard_conformance.backend.feeds import MOMENTS, Reader, beside
from multiboard_conformance.backend.fixtures import Board, post, take, together
from multiboard_conformance.backend.guarantees import guarantee
from multiboard_conformance.backend.reading import listed, look
from multiboard_conformance.machinery.plugin import Effort

K = ChangeKind

# -- FEED-1 ----------------------------------------------------------------------------------


@guarantee("FEED-1")
def check_first_call_is_a_reset_at_once(board: Board) -> None:
    """The first call is answered at once: no events, a cursor, and reset."""
    backend = board.open()
    post(backend, "old")
    began = boottime()
    changes = backend.changes(None, 30.0)
    assert (list(changes.events), changes.reset, boottime() - began < MOMENTS) == ([], True, True)
    assert isinstance(changes.cursor, str)


@guarantee("FEED-1")
def check_feed_tells_a_postings_life(board: Board) -> None:
    """Posted, claimed, released, claimed, removed: all are reported, in order, everywhere."""
    backend, other = board.open(), board.open()
    own, others = Reader(backend).start(), Reader(other).start()
    post(backend, "k")
    first = take(backend, "k")
    backend.release(first)
    second = take(other, "k", 30.0)
    other.remove([second])
    life = [K.POSTED, K.CLAIMED, K.RELEASED, K.CLAIMED, K.REMOVED]
    assert (own.tale("k", 5), others.tale("k", 5)) == (life, life)
    tokens = [c.token for c in own.received if c.kind in (K.CLAIMED, K.RELEASED)]
    assert tokens == [first.token, first.token, second.token]
    assert {c.token for c in own.received if c.kind is K.REMOVED} <= {second.token, None}
    assert (own.resets, others.resets) == (0, 0)


@guarantee("FEED-1")
def check_feed_tells_of_the_trash(board: Board) -> None:
    """Trashed and restored are reported, with everything in between them."""
    backend = board.open()
    reader = Reader(board.open()).start()
    post(backend, "k")
    backend.remove([take(backend, "k")], Shelf.TRASH)
    backend.restore("k")
    take(backend, "k")
    assert reader.tale("k", 5) == [K.POSTED, K.CLAIMED, K.TRASHED, K.RESTORED, K.CLAIMED]


@guarantee("FEED-1", "LEASE-4")
def check_end_is_told_before_the_next_claim(board: Board) -> None:
    """A lease that ended unnoticed is reported as EXPIRED before the CLAIMED that follows it."""
    backend = board.open()
    reader = Reader(backend).start()
    post(backend, "k")
    old = take(backend, "k", 0.2)
    time.sleep(0.4)
    new = take(backend, "k", 30.0)
    assert reader.tale("k", 4) == [K.POSTED, K.CLAIMED, K.EXPIRED, K.CLAIMED]
    tokens = [c.token for c in reader.received if c.kind is not K.POSTED]
    assert tokens == [old.token, old.token, new.token]


@guarantee("FEED-1")
def check_feed_is_silent_about_what_changed_nothing(board: Board) -> None:
    """Entities, renewals, refused and repeated operations, purges and reads are not reported."""
    backend, other = board.open(), board.open()
    post(backend, "k")
    lease = take(backend, "k", 30.0)
    reader = Reader(backend).start()
    backend.add([NewPosting("me", b"")], Shelf.ENTITIES)
    backend.purge(["me"], Shelf.ENTITIES)
    backend.renew(lease, 30.0)
    answer_of(lambda: take(other, "k"))
    post(backend, "k")
    backend.list()
    backend.keepalive()
    post(backend, "last")
    assert reader.receives(K.POSTED, "last")
    assert [(c.kind, c.key) for c in reader.received] == [(K.POSTED, "last")]


@guarantee("FEED-1")
def check_order_of_the_feed_is_the_order_of_events(board: Board, effort: Effort) -> None:
    """Changes of different postings come in the order in which they happened."""
    backends = [board.open(), board.open()]
    reader = Reader(board.open()).start()
    expected = []
    for n in range(effort.rounds(10, 60)):
        backend, key = backends[n % 2], f"k{n}"
        post(backend, key)
        lease = take(backends[1 - n % 2], key, 30.0)
        expected += [(K.POSTED, key), (K.CLAIMED, key)]
        if n % 3 == 0:
            backend.remove([lease])
            expected.append((K.REMOVED, key))
    reader.until(lambda: reader.resets or len(reader.received) >= len(expected))
    if not reader.resets:
        assert [(c.kind, c.key) for c in reader.received] == expected


@guarantee("FEED-1", "FEED-4")
def check_slow_reader_is_told_all_or_reset(board: Board, effort: Effort) -> None:
    """A reader that slept through many changes receives all of them in order, or a reset."""
    backend, other = board.open(), board.open()
    reader = Reader(other).start()
    names = [f"k{n}" for n in range(effort.rounds(120, 3000))]
    for start in range(0, len(names), 100):
        post(backend, *names[start : start + 100])
    reader.until(lambda: reader.resets or len(reader.received) >= len(names), 20.0)
    reported = [c.key for c in reader.received]
    assert reader.resets or reported == names
    post(backend, "last")
    assert reader.receives(K.POSTED, "last")


@guarantee("FEED-1")
def check_readers_have_cursors_of_their_own(board: Board) -> None:
    """Each reader of one backend receives everything, and a cursor used twice gives it twice."""
    backend = board.open()
    one, two = Reader(backend).start(), Reader(backend).start()
    before = one.cursor
    post(backend, "a")
    assert one.receives(K.POSTED, "a")
    post(backend, "b")
    assert (one.receives(K.POSTED, "b"), two.receives(K.POSTED, "b")) == (True, True)
    assert [c.key for c in two.received] == ["a", "b"]
    again = Reader(backend)
    again.cursor = before
    again.until(lambda: again.resets or len(again.received) >= 2)
    assert again.resets or [c.key for c in again.received] == ["a", "b"]


@guarantee("FEED-1")
def check_nothing_falls_between_cursor_and_list(board: Board, effort: Effort) -> None:
    """What is listed after the first call and what is reported later leave nothing out."""
    backend, poster = board.open(), board.peer()
    for n in range(effort.rounds(3, 12)):
        names = [f"k{n}.{m}" for m in range(40)]
        with ThreadPoolExecutor(1) as threads:
            posting = threads.submit(poster.run, "post", keys=names)
            time.sleep(0.002 * n)
            reader = Reader(backend).start()
            first = set(listed(backend))
            posting.result()
        rest = set(names) - first
        reader.until(lambda: reader.resets or rest <= {c.key for c in reader.received})  # noqa: B023
        assert reader.resets or rest <= {c.key for c in reader.received}


@guarantee("FEED-1", "RUN-1")
def check_feed_of_many_processes_is_complete(board: Board, effort: Effort) -> None:
    """What many processes do at once is reported to every reader, each posting's story in order."""
    backend, peers = board.open(), board.peers(3)
    reader = Reader(backend).start()
    number = effort.rounds(25, 200)
    names = [[f"p{p}.{n}" for n in range(number)] for p in range(3)]
    together([lambda p=p: peers[p].run("post", keys=names[p]) for p in range(3)])  # type: ignore[misc]
    done = together(
        [
            lambda p=p: p.run("drain", holder=p.who, batch=3, expires_in=30.0, idle=0.3)  # type: ignore[misc]
            for p in peers
        ]
    )
    everything = [key for part in names for key in part]
    assert sorted(key for part in done for key in part) == sorted(everything)
    reader.until(lambda: reader.resets or len(reader.received) >= 3 * len(everything), 20.0)
    if not reader.resets:
        stories = {tuple(reader.story(key)) for key in everything}
        assert stories == {(K.POSTED, K.CLAIMED, K.REMOVED)}
        for part in names:
            order = [c.key for c in reader.received if c.kind is K.POSTED and c.key in part]
            assert order == part


# -- FEED-2 ----------------------------------------------------------------------------------


@guarantee("FEED-2")
@pytest.mark.parametrize("look_by", ["list", "get"])
def check_told_posting_can_be_seen(board: Board, effort: Effort, look_by: str) -> None:
    """When POSTED is reported, the listing and the get of that instant show the posting."""
    backend, poster = board.open(), board.peer()
    reader = Reader(backend).start()
    names = [f"k{n}" for n in range(effort.rounds(30, 150))]
    unseen = []
    with ThreadPoolExecutor(1) as threads:
        posting = threads.submit(poster.run, "post", keys=names)
        while len(reader.received) < len(names) and not reader.resets:
            known = len(reader.received)
            reader.read(MOMENTS)
            reported = [change.key for change in reader.received[known:]]
            assert reported or reader.resets, "the feed fell silent"
            there = (
                listed(backend)
                if look_by == "list"
                else [p.key for p in backend.get(reported) if p is not None]
            )
            unseen += [key for key in reported if key not in there]
        posting.result()
    assert unseen == []


@guarantee("FEED-2")
def check_told_lease_can_be_seen(board: Board, effort: Effort) -> None:
    """When CLAIMED, RELEASED or REMOVED is reported, a look of that instant agrees."""
    backend, other = board.open(), board.open()
    reader = Reader(other).start()
    for n in range(effort.rounds(6, 40)):
        key = f"k{n}"
        post(backend, key)
        lease = take(backend, key, 30.0)
        assert reader.receives(K.CLAIMED, key)
        assert look(other, key).lease == lease
        backend.release(lease)
        assert reader.receives(K.RELEASED, key)
        assert look(other, key).lease is None
        backend.remove([take(backend, key)])
        assert reader.receives(K.REMOVED, key)
        assert other.get([key])[0] is None


# -- FEED-3 ----------------------------------------------------------------------------------


@guarantee("FEED-3")
def check_waiting_reader_is_woken(board: Board, effort: Effort) -> None:
    """A reader that waits for long receives a change within moments."""
    backend, poster = board.open(), board.open()
    reader = Reader(backend).start()
    delays = []
    for n in range(effort.rounds(4, 15)):
        with ThreadPoolExecutor(1) as threads:
            waiting = threads.submit(_received_at, reader)
            time.sleep(0.05)
            began = boottime()
            post(poster, f"k{n}")
            delays.append(waiting.result() - began)
    assert max(delays) < MOMENTS
    assert sorted(delays)[len(delays) // 2] < 0.5


def _received_at(reader: Reader) -> float:
    reader.read(30.0)
    return boottime()


@guarantee("FEED-3", "RUN-1")
def check_many_waiting_readers_are_woken(board: Board) -> None:
    """Any number of readers wait on one backend, and each is woken."""
    backend, poster = board.open(), board.open()
    readers = [Reader(backend).start() for _ in range(8)]
    calls = [functools.partial(reader.receives, K.POSTED, "k", 15.0) for reader in readers]
    with beside(*calls) as (waiting, posted):
        time.sleep(0.2)
        post(poster, "k")
        posted.set()
        assert [future.result() for future in waiting] == [True] * 8


@guarantee("FEED-3")
def check_other_verbs_go_on_while_a_reader_waits(board: Board) -> None:
    """A reader that waits blocks no other verb of its backend."""
    backend = board.open()
    reader = Reader(backend).start()
    with beside(lambda posted: reader.receives(K.POSTED, "k", 15.0, posted)) as ([waiting], posted):
        time.sleep(0.2)
        began = boottime()
        backend.list()
        backend.keepalive()
        post(backend, "k")
        took = boottime() - began
        posted.set()
        assert waiting.result()
    assert took < MOMENTS


@guarantee("FEED-3")
def check_idle_reader_waits(board: Board) -> None:
    """Where nothing happens, a call waits its time and answers with nothing, and no reset."""
    backend = board.open()
    reader = Reader(backend).start()
    began = boottime()
    reader.read(0.6)
    took = boottime() - began
    assert (reader.received, reader.resets) == ([], 0)
    assert 0.5 <= took <= 0.6 + MOMENTS


@guarantee("FEED-3")
def check_call_without_waiting(board: Board) -> None:
    """With a time-out of zero the call answers at once with what there is."""
    backend = board.open()
    reader = Reader(backend).start()
    post(backend, "k")
    began = boottime()
    while not reader.received and boottime() - began < MOMENTS:
        reader.read(0.0)
    assert [change.key for change in reader.received] == ["k"]


@guarantee("FEED-3", "ERR-1")
def check_close_wakes_a_waiting_reader(board: Board) -> None:
    """A waiting call raises Closed within 100 ms of close (the best of three counts)."""
    delays = []
    for _ in range(3):
        backend = board.open()
        cursor = backend.changes(None, 0.0).cursor
        with ThreadPoolExecutor(1) as threads:
            waiting = threads.submit(answer_of, lambda: backend.changes(cursor, 20.0))  # noqa: B023
            time.sleep(0.1)
            began = boottime()
            backend.close()
            assert waiting.result() == "Closed"
            delays.append(boottime() - began)
    assert min(delays) < 0.1 + 0.05  # what the machine takes to run a thread again
    assert max(delays) < MOMENTS


# -- FEED-4 ----------------------------------------------------------------------------------

_CURSORS = ["", "x", "0", "-1", "99999999999999999999", "0-0", "nobody:7", "\u2603", "a" * 500]


@guarantee("FEED-4")
@pytest.mark.parametrize("cursor", _CURSORS)
def check_unknown_cursor_is_a_reset(board: Board, cursor: str) -> None:
    """A cursor that the backend can't continue from is a reset and no error, never silence."""
    backend = board.open()
    post(backend, "old")
    reader = Reader(backend)
    reader.cursor = cursor
    reader.read(MOMENTS)
    assert reader.resets == 1
    post(backend, "new")
    assert reader.receives(K.POSTED, "new")


@guarantee("FEED-4")
def check_cursor_of_another_board_is_a_reset(board: Board) -> None:
    """A cursor of another board of the same store is a reset."""
    backend, other = board.open(), board.open(namespace=f"{board.namespace}-other")
    post(other, "a", "b", "c")
    foreign = Reader(other).start().cursor
    reader = Reader(backend)
    reader.cursor = foreign
    reader.read(MOMENTS)
    assert reader.resets == 1


@guarantee("FEED-4")
def check_cursor_moves_to_another_connection(board: Board) -> None:
    """A cursor that another connection gave continues or is a reset; nothing is skipped."""
    first, second = board.open(), board.open()
    reader = Reader(first).start()
    post(first, "a")
    first.close()
    reader.backend = second
    assert reader.until(lambda: reader.resets or K.POSTED in reader.story("a"))
    post(second, "b")
    assert reader.receives(K.POSTED, "b")


@guarantee("FEED-4")
def check_frozen_reader_continues_or_resets(board: Board) -> None:
    """A reader whose process was frozen while much happened receives it, or a reset."""
    backend, peer = board.open(), board.peer()
    cursor = peer.changes(None, 0.0).cursor
    peer.pause()
    names = [f"k{n}" for n in range(30)]
    post(backend, *names)
    time.sleep(0.3)
    peer.resume()
    reader = Reader(peer)
    reader.cursor = cursor
    assert reader.until(lambda: reader.resets or len(reader.received) >= 30)
    if not reader.resets:
        assert [change.key for change in reader.received] == names
    post(backend, "last")
    assert reader.receives(K.POSTED, "last")
