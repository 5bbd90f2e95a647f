# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The fast scripts of a claim and a removal do in their case what the whole scripts do."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import pytest

from multiboard import errors
from multiboard.backends.redis import RedisBackend
from multiboard.primitives import Lease, NewPosting
from tests.backends.redis.boards import boards_on, drained, key_of


def _without_fast_scripts(board: RedisBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    run = board._board.run

    def whole(*args: Any, **options: Any) -> Any:
        return run(*args, **{**options, "fast": False})

    monkeypatch.setattr(board._board, "run", whole)


def _delayed(board: RedisBackend, _: Any) -> None:
    board.add([NewPosting("late", b"x", delay=60.0)])


def _taken(board: RedisBackend, _: Any) -> None:
    board.acquire("a", "other", "c0")


def _taken_for_a_time(board: RedisBackend, _: Any) -> None:
    board.acquire("a", "other", "c0", 60.0)


def _handed_out(board: RedisBackend, _: Any) -> None:
    board.acquire_next("other", ["c0"])


def _given_back(board: RedisBackend, _: Any) -> None:
    board.release(board.acquire("a", "other", "c0"))


def _in_a_future(board: RedisBackend, raw: Any) -> None:
    """A token that a failover left above the clock."""
    state = key_of(board, "live:state")
    fields = raw.hget(state, "a").split(b" ")
    fields[7] = b"9000000000000000"
    raw.hset(state, "a", b" ".join(fields))


def _without_a_body(board: RedisBackend, raw: Any) -> None:
    raw.hdel(key_of(board, "live:body"), "a")


def _without_a_state(board: RedisBackend, raw: Any) -> None:
    raw.hset(key_of(board, "live:state"), "a", "foreign")


def _set_aside(board: RedisBackend, raw: Any) -> None:
    raw.zadd(key_of(board, "index"), {"a": "+inf"})


def _feed_of_another_type(board: RedisBackend, raw: Any) -> None:
    raw.rename(key_of(board, "feed"), "was the feed")
    raw.set(key_of(board, "feed"), "foreign")


def _feed_ahead(board: RedisBackend, raw: Any) -> None:
    raw.xadd(key_of(board, "feed"), {"hello": "world"})


def _nothing(*_: Any) -> None:
    pass


PREPARED = (
    _nothing, _delayed, _taken, _taken_for_a_time, _handed_out, _given_back, _in_a_future,
    _without_a_body, _without_a_state, _set_aside, _feed_of_another_type, _feed_ahead,
)  # fmt: skip


def _did(action: Callable[..., Any], *given: Any) -> Any:
    """Return the part of a result that is the same each time."""
    try:
        result = action(*given)
    except errors.MultiboardError as error:
        return type(error).__name__
    if isinstance(result, Lease):
        return (result.key, result.holder, result.claim_id, result.session is None)
    return [None if one is None else type(one).__name__ for one in result]


def _kept(board: RedisBackend, raw: Any) -> dict[str, Any]:
    """Return what the store holds, without times and tokens."""
    kept: dict[str, Any] = {}
    states = raw.hgetall(key_of(board, "live:state"))
    for key, state in states.items():
        fields = state.split(b" ", 11)
        kept[key] = [fields[i] for i in (0, 1, 3, 4, 10, 11) if i < len(fields)]
        if len(fields) == 12:
            kept[key] += [fields[8] == b"0", fields[9] == b"0"]
    for name in ("index", "live", "timed", "delayed"):
        kept[name] = sorted(
            (key, "leased" if score < 0 else score == float("inf"))
            for key, score in raw.zrange(key_of(board, name), 0, -1, withscores=True)
        )
    kept["bodies"] = raw.hgetall(key_of(board, "live:body"))
    kept["consumed"] = sorted(raw.hkeys(key_of(board, "consumed")))
    kept["claims"] = raw.hgetall(key_of(board, "claims"))
    return kept


@pytest.mark.parametrize("prepare", PREPARED)
def test_a_fast_script_does_what_the_whole_script_does(
    server: Any, raw: Any, prepare: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends: list[Any] = []
    for fast in (True, False):
        raw.delete("was the feed")
        with boards_on(server) as make:
            board = make(namespace=f"t-{uuid.uuid4().hex[:12]}")
            if not fast:
                _without_fast_scripts(board, monkeypatch)
            board.add([NewPosting(key, key.encode()) for key in "abc"])
            board.keepalive()
            prepare(board, raw)
            end: list[Any] = []
            for key in ("a", "b", "late", "nothing"):
                end.append(_did(board.acquire, key, "me", f"c-{key}"))
                # Again: the same lease, where there is one.
                end.append(_did(board.acquire, key, "me", f"c-{key}"))
            end.append(_kept(board, raw))
            for posting in board.get(["a", "b"]):
                if posting is not None and posting.lease is not None:
                    lease = posting.lease
                    stale = Lease(lease.key, "me", "c-a", lease.token - 1, lease.session)
                    for given in (stale, lease, lease, stale):
                        end.append(_did(board.remove, [given]))
            end.append(_kept(board, raw))
            ends.append(end)
    assert ends[0] == ends[1]


def test_a_fast_claim_and_removal_are_in_the_feed(server: Any, raw: Any) -> None:
    with boards_on(server) as make:
        board = make()
        cursor = board.changes(None, 0.0).cursor
        board.add([NewPosting(f"k{number}", b"") for number in range(40)])
        for number in range(40):
            assert board.remove([board.acquire(f"k{number}", "me", f"c{number}")]) == [None]
        changes = drained(board, cursor)[0]
        assert [change.kind.value for change in changes[40:]] == ["claimed", "removed"] * 40
        assert raw.hlen(key_of(board, "consumed")) == 40
