# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""What is special about the etcd backend: the past, the fence, the clock, the keys, settings."""

from __future__ import annotations

import dataclasses
import os
import threading
from typing import Any

import pytest

from multiboard import errors
from multiboard.backends.etcd import EtcdBackend, EtcdSettings, feed, past, records, transactions
from multiboard.backends.etcd.clock import GRACE, Stamp
from multiboard.config import loading
from multiboard.primitives import ChangeKind, NewPosting, Shelf
from tests.backends.etcd.boards import Maker, lease_left, make, server, value, write
from tests.waiting import eventually

#: Fixtures that are used by name.
__all__ = ["make", "server"]


def post(board: EtcdBackend, *keys: str, **options: Any) -> None:
    for key in keys or ("k",):
        (answer,) = board.add([NewPosting(key, b"body", **options)])
        assert not isinstance(answer, Exception), answer


# -- settings ----------------------------------------------------------------------------------


def test_a_url_names_members_user_and_root() -> None:
    made = loading.load("etcd+https://me:secret@a,b:1,[::1]/x/y?namespace=n&tls_verify=no")
    settings = made.settings
    assert isinstance(settings, EtcdSettings)
    assert settings.hosts == ("a:2379", "b:1", "[::1]:2379")
    assert (settings.username, settings.root, settings.tls) == ("me", "/x/y", True)
    assert "secret" not in repr(made._session.settings)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"root": "no slash"}, "root"),
        ({"username": "u"}, "together"),
        ({"hosts": ("nonsense",)}, "host:port"),
        ({"hosts": ()}, "at least one"),
        ({"tls_ca": "/x"}, "tls_"),
        ({"tls": True, "tls_key": "/x"}, "tls_cert"),
    ],
)
def test_bad_settings_are_named(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(errors.ConfigError, match=complaint):
        EtcdBackend(EtcdSettings(**options))


def test_a_file_that_is_not_there_is_named_when_the_board_is_opened() -> None:
    board = EtcdBackend(EtcdSettings(tls=True, tls_ca="/nowhere"))
    with pytest.raises(errors.ConfigError, match="TLS files"):
        board.open()


# -- the past is the evidence ------------------------------------------------------------------


@pytest.mark.parametrize("between", [0, 1, 49, 50, 51, 300])
def test_the_fate_of_a_lease_is_read_from_the_past(make: Maker, between: int) -> None:
    board = make()
    post(board, "removed", "trashed", "released", "expired", "held")
    leases = {
        n: board.acquire(n, "me", n, 60.0) for n in ("removed", "trashed", "released", "held")
    }
    leases["expired"] = board.acquire("expired", "me", "e", 0.05)
    for number in range(between):
        write(board, "other", str(number).encode())
    board.remove([leases["removed"]])
    board.remove([leases["trashed"]], Shelf.TRASH)
    board.release(leases["released"])
    assert eventually(lambda: board.get(["expired"])[0].lease is None)  # type: ignore[union-attr]
    for number in range(between):
        write(board, "other", str(number).encode())
    fates = {
        name: past.how_lease_ended(board._session, name, lease.token)
        for name, lease in leases.items()
    }
    assert fates == {
        "removed": "remove", "trashed": "trash", "released": "release", "expired": "expiry",
        "held": None,
    }  # fmt: skip
    assert past.how_lease_ended(board._session, "removed", leases["removed"].token + 1) is None


def test_what_was_shut_out_by_the_fence_is_never_done(make: Maker) -> None:
    board = make()
    old = board._board.transactions.fence
    board._board.transactions.close_fence()
    assert board._board.transactions.fence != old
    board._board.transactions.fence = old  # a request that was sent before, and arrives now
    new = NewPosting("late", b"body")
    _, step = board._additions._step(new, 0, 1.0)
    assert board._board.transactions.commit([step], news=True, fence=True) == []
    assert board.get(["late"]) == [None]


def test_an_addition_in_doubt_does_not_come_back_after_it_was_consumed(make: Maker) -> None:
    board, other = make(), make()
    new = NewPosting("k", b"body")
    board._additions._note(new, None, board._session.client.revision)  # as after a lost answer
    other.add([new])
    other.remove([other.acquire("k", "me", "c")])
    assert [type(answer) for answer in board.add([new])] == [errors.PostingNotFound]
    board._additions._note(NewPosting("never", b""), None, board._session.client.revision)
    assert board.add([NewPosting("never", b"")])[0].key == "never"  # type: ignore[union-attr]


# -- transactions ------------------------------------------------------------------------------


def test_a_batch_is_one_round_trip_for_a_hundred(make: Maker, monkeypatch: Any) -> None:
    board = make()
    calls: list[str] = []
    call_many = board._session.client.call_many

    def counted(name: str, *args: Any, **kwargs: Any) -> Any:
        calls.append(name)
        return call_many(name, *args, **kwargs)

    monkeypatch.setattr(board._session.client, "call_many", counted)
    answers = board.add([NewPosting(f"k{n}", b"x") for n in range(transactions.STEPS)])
    assert calls == ["Txn"]
    serials = [answer.serial for answer in answers]  # type: ignore[union-attr]
    assert serials == sorted(set(serials))
    calls.clear()
    won = board.acquire_next("me", [f"c{n}" for n in range(50)], 60.0)
    assert len(won) == 50
    calls.clear()
    won = board.acquire_next("me", [f"d{n}" for n in range(50)], 60.0)
    assert (len(won), calls.count("Txn")) == (50, 1)


def test_bodies_that_fill_requests_are_parted(make: Maker) -> None:
    board = make()
    body = bytes(700_000)
    answers = board.add([NewPosting(f"k{n}", body) for n in range(3)])
    assert [type(answer).__name__ for answer in answers] == ["Posting"] * 3
    assert [posting.body for posting in board.list().postings] == [body] * 3


# -- the clock ---------------------------------------------------------------------------------


def test_a_new_term_prolongs_and_never_shortens(make: Maker) -> None:
    clock = make()._session.clock
    now = clock.stamp()
    assert clock.passed("k", Stamp(now.term, now.latest - 100.0)) >= 98.0
    earlier = Stamp(now.term - 1, now.latest - 10_000.0)
    assert clock.passed("k", earlier) < max(1.0, now.latest - GRACE + 1.0)
    assert clock.passed("k", Stamp(now.term + 1, 0.0)) < 1.0


def test_the_clock_is_made_with_the_first_timed_lease(make: Maker) -> None:
    board = make()
    post(board)
    board.acquire("k", "me", "c", 30.0)
    assert lease_left(board, board._session.clock._lease) > 10**9


def test_a_board_without_timed_things_makes_no_clock(make: Maker) -> None:
    board = make()
    post(board)
    board.remove([board.acquire("k", "me", "c")])
    assert lease_left(board, board._session.clock._lease) == -1


# -- keys --------------------------------------------------------------------------------------


def test_a_finished_posting_leaves_nothing(make: Maker) -> None:
    board = make()
    post(board, "a", "b")
    board.remove([board.acquire("a", "me", "c")])
    board.remove([board.acquire("b", "me", "d")], Shelf.TRASH)
    board.purge(["b"])
    prefix = board._board.keys.top
    left = board._board.scan("bodies").kvs, board._board.scan("leases", end="trash").kvs
    names = [kv.key.removeprefix(prefix).decode() for part in left for kv in part]
    assert names == ["meta", "news"]


def test_an_overwritten_meta_is_named(make: Maker) -> None:
    board = make()
    post(board)
    before = value(board, "meta")
    write(board, "meta", b"rubbish")
    with pytest.raises(errors.BackendError, match="meta was overwritten") as caught:
        board.count()
    assert type(caught.value) is errors.BackendError
    write(board, "meta", before)
    assert board.count() == 1


def test_a_board_of_an_unknown_version_is_not_opened(make: Maker) -> None:
    board = make()
    write(board, "meta", b'{"v":9}')
    with pytest.raises(errors.Unsupported, match="version"):
        make()


@pytest.mark.parametrize(
    "damage", [b"[" * 100_000, b'{"v":1,"x":' * 100_000, b'{"v":1,"rank":0,"created":Infinity}']
)
def test_a_record_without_end_is_damage(make: Maker, damage: bytes) -> None:
    board = make()
    board.add([NewPosting("good", b""), NewPosting("bad", b"")])
    for name in ("live/bad", "trash/worse", "entities/worst"):
        write(board, name, damage)
    assert [posting.key for posting in board.list().postings] == ["good"]
    assert any("bad" in damaged.where for damaged in board.list().damaged)
    assert board.get(["bad", "good"])[0] is None
    assert [posting.key for posting, _ in board.acquire_next("me", ["c-1", "c-2"])] == ["good"]
    for shelf in (Shelf.TRASH, Shelf.ENTITIES):
        assert list(board.list(shelf).postings) == []


def test_boards_that_are_made_at_once_are_one(make: Maker) -> None:
    made: list[EtcdBackend] = []
    threads = [threading.Thread(target=lambda: made.append(make())) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({board.incarnation for board in made}) == 1


def test_a_record_survives_the_way_through_its_bytes() -> None:
    head = records.Head(3, 7, 1.5, 2.5, 4, 1, True, 0.5, Stamp(2, 8.25))
    assert records.Head.decode(head.encode()) == head
    hold = records.Hold("me", "c", 0.25, Stamp(2, 8.25))
    assert records.Hold.decode(hold.encode()) == hold
    for rubbish in (b"", b"\xff", b"[]", b'{"v":2}', b'{"v":1}', b'{"v":1,"rank":true}'):
        with pytest.raises(ValueError, match=r"its|it is|names"):
            records.Head.decode(rubbish)


# -- feed --------------------------------------------------------------------------------------


def test_a_cursor_goes_on_over_a_cut_watch(make: Maker) -> None:
    board, other = make(), make()
    cursor = board.changes(None, 1.0).cursor
    post(other, "before")
    for number in range(3):
        stream = board._feed._watch
        if stream is not None:
            stream.close()
        post(other, f"k{number}")
    told: list[str] = []
    while len(told) < 4:
        answer = board.changes(cursor, 5.0)
        assert not answer.reset
        told += [change.key for change in answer.events if change.kind is ChangeKind.POSTED]
        cursor = answer.cursor
    assert told == ["before", "k0", "k1", "k2"]


def test_a_forked_child_dials_anew_while_the_parent_works(make: Maker) -> None:
    board = make()
    board.changes(None, 1.0)
    post(board, *[f"k{n}" for n in range(6)], rank=9)
    post(board, *[f"next{n}" for n in range(5)])
    lease = board.acquire("k0", "parent", "c")
    children = []
    for number in range(1, 6):
        child = os.fork()
        if not child:
            try:
                mine = board.acquire(f"k{number}", "child", f"c{number}")
                same = board.acquire_next("child", [f"d{number}"])
                board.remove([mine, same[0][1]])
                board.close()
                os._exit(0)
            except BaseException:
                os._exit(1)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 5
    assert board.renew(dataclasses.replace(lease), 5.0) == lease
    assert board.remove([lease]) == [None]


def test_an_event_that_the_watch_lost_is_noticed(make: Maker, monkeypatch: Any) -> None:
    monkeypatch.setattr(feed, "COMPARE", 0.1)
    monkeypatch.setattr(feed, "SURE", 0.1)
    monkeypatch.setattr(feed, "PULSE", 0.1)
    board, other = make(), make()
    write(board, "live/odd", b"rubbish")  # it differs from the picture for ever, and is no loss
    post(board, "a")
    cursor = board.changes(None, 1.0).cursor
    take_in, lost = feed.Feed._take_in, []

    def losing(self: Any, events: Any) -> None:
        if events and self is board._feed and not lost:
            lost.extend(events)
        else:
            take_in(self, events)

    monkeypatch.setattr(feed.Feed, "_take_in", losing)
    post(other, "b")
    assert board.changes(cursor, 10.0).reset
    assert [posting.key for posting, _ in board.acquire_next("me", ["c1", "c2"])] == ["a", "b"]


def test_a_reader_that_never_waits_passes_nothing_over(make: Maker) -> None:
    board, other = make(), make()
    cursor = board.changes(None, 1.0).cursor
    names = [f"k{number}" for number in range(300)]
    poster = threading.Thread(target=post, args=(other, *names))
    poster.start()
    told: list[str] = []

    def heard() -> bool:
        nonlocal cursor
        answer = board.changes(cursor, 0.0)
        cursor = answer.cursor
        told.extend(change.key for change in answer.events)
        return len(told) >= len(names) or answer.reset

    assert eventually(heard)
    poster.join()
    assert told == names
