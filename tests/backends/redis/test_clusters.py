# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The board in Redis when the master dies: behind sentinels, and in a Redis Cluster.

Real servers, which are killed and frozen. What is lost is what the master had acknowledged and
no replica had yet; what must hold all the same is here, and is written in ADR 0011.
"""

from __future__ import annotations

import concurrent.futures
import time
from collections.abc import Callable
from typing import Any

import pytest
from servers import clusters
from servers.clusters.redis_member import RedisMember, ask

from multiboard import errors
from multiboard.backends.redis import RedisBackend
from multiboard.backends.redis.pool import FRESH
from multiboard.config import loading
from multiboard.primitives import NewPosting
from multiboard.runtime.retry import RetryingGuard
from tests.backends.redis.accounts import ACCOUNT, documented
from tests.backends.redis.boards import key_of, keys_of
from tests.backends.redis.clusters import (
    Reader,
    boards_on_cluster,
    cut_off,
    in_step,
    master_of,
    replaced,
    replicas_of,
)
from tests.waiting import eventually

pytestmark = pytest.mark.timeout(180)


# -- the master goes away -------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [RedisMember.kill, RedisMember.pause])
def test_work_goes_on_when_the_master_is_gone(
    cluster: clusters.Cluster,
    board: RedisBackend,
    guarded: RetryingGuard,
    fault: Callable[[Any], None],
) -> None:
    guarded.add([NewPosting(f"a{number}", b"body") for number in range(3)])
    held = guarded.acquire("a0", "me", "c0")
    guarded.keepalive()
    reader = Reader(board)
    in_step(cluster, board)
    old = master_of(cluster, board)
    fault(old)
    [late] = guarded.add([NewPosting("late", b"")])
    replaced(cluster, board, old)
    assert guarded.acquire("a0", "me", "c0") == held, "a repeated claim is the claim"
    assert guarded.remove([held]) == [None]
    [(_, second)] = guarded.acquire_next("me", ["c1"])
    assert second.key == "a1"
    guarded.release(second)
    assert guarded.keepalive() == board.settings.session_timeout
    assert keys_of(guarded.list().postings) == ["a1", "a2", "late"]
    eventually(lambda: reader.received("late"))
    assert {type(failure) for failure in reader.failures} <= {errors.Unavailable}
    cluster.heal()
    assert keys_of(guarded.list().postings) == ["a1", "a2", "late"]
    assert getattr(late, "key", late) == "late"


def test_a_reader_leaves_a_frozen_master_when_another_thread_finds_the_new_one(
    cluster: clusters.Cluster,
    board: RedisBackend,
    guarded: RetryingGuard,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It waits in the server for so long that it would be the last one to notice."""
    monkeypatch.setattr("multiboard.backends.redis.feed.LONGEST_BLOCK", 60.0)
    guarded.add([NewPosting("a", b"")])
    in_step(cluster, board)
    reader = Reader(board)
    eventually(lambda: bool(board._board._process().pool._waiting))
    master_of(cluster, board).pause()
    guarded.add([NewPosting("b", b"")])
    eventually(lambda: reader.received("b"))


def test_a_replica_that_is_gone_is_no_outage(
    cluster: clusters.Cluster, board: RedisBackend, guarded: RetryingGuard
) -> None:
    guarded.add([NewPosting("a", b"")])
    replicas_of(cluster, master_of(cluster, board))[0].kill()
    board.remove([board.acquire("a", "me", "c1")])
    assert board.count() == 0


def test_a_master_that_was_frozen_during_a_failover_is_not_used(
    cluster: clusters.Cluster, board: RedisBackend
) -> None:
    """When it resumes it still acts as a master, and connections to it are open."""
    board.add([NewPosting("a", b"")])
    in_step(cluster, board)
    old = master_of(cluster, board)
    old.pause()
    new = replaced(cluster, board, old)
    old.resume()
    time.sleep(2 * FRESH)
    guard = RetryingGuard(board)
    guard.add([NewPosting("b", b"")])
    assert ask(new, "HEXISTS", key_of(board, "live:state"), "b") == 1
    assert keys_of(guard.list().postings) == ["a", "b"]


def test_a_master_that_resumes_serves_no_stale_read(
    cluster: clusters.Cluster, make: Callable[..., RedisBackend]
) -> None:
    """Neither to a call that was in flight when it froze, nor to a client that was idle."""
    patient, idle, writer = (
        RetryingGuard(make(connect_timeout=30.0)),
        RetryingGuard(make()),
        RetryingGuard(make()),
    )
    writer.add([NewPosting("before", b"")])
    for reader in (patient, idle):
        assert keys_of(reader.list().postings) == ["before"]
    board = writer.backend
    assert isinstance(board, RedisBackend)
    in_step(cluster, board)
    old = master_of(cluster, board)
    old.pause()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        asked = pool.submit(patient.list)
        replaced(cluster, board, old)
        writer.add([NewPosting("after", b"")])
        old.resume()
        for listing in (idle.list(), asked.result()):
            assert keys_of(listing.postings) == ["before", "after"]


def test_a_history_that_was_rolled_back_is_a_reset_and_stale_leases_stay_fenced(
    cluster: clusters.Cluster, board: RedisBackend, make: Callable[..., RedisBackend]
) -> None:
    guard, other = RetryingGuard(board), make()
    guard.add([NewPosting("a", b"1"), NewPosting("done", b"1")])
    first = guard.acquire("a", "me", "c1", 300.0)
    guard.release(first)
    done = guard.acquire("done", "me", "c2")
    in_step(cluster, board)
    reader = Reader(other)
    master = master_of(cluster, board)
    replicas = cut_off(cluster, master)
    # Acknowledged by the master, and on no replica.
    lost = guard.acquire("a", "me", "c3", 300.0)
    assert guard.remove([done]) == [None]
    [newest] = guard.add([NewPosting("gone", b"1")])
    assert getattr(newest, "key", None) == "gone"
    eventually(lambda: reader.received("gone"))
    assert reader.resets == 0
    master.kill()
    for replica in replicas:
        replica.resume()
    eventually(lambda: reader.resets == 1, 40.0)
    # What was lost is not there; what was consumed is back, and its consumer is known still.
    assert sorted(keys_of(guard.list().postings)) == ["a", "done"]
    successor = guard.acquire("a", "you", "c4", 300.0)
    assert successor.token > lost.token > first.token
    with pytest.raises(errors.LeaseLost):
        guard.renew(lost, 60.0)
    with pytest.raises(errors.LeaseLost):
        guard.release(lost)
    for stale in (lost, first):
        assert isinstance(guard.remove([stale])[0], errors.LeaseLost)
    assert guard.renew(successor, 60.0).token == successor.token
    [again] = guard.add([NewPosting("gone", b"1")])
    assert again.serial > newest.serial  # type: ignore[union-attr]
    assert guard.remove([done]) == [None], "its lease was older than what was lost"
    eventually(lambda: reader.received("gone"))


def test_a_board_that_no_replica_had_is_lost(
    cluster: clusters.Cluster, board: RedisBackend, make: Callable[..., RedisBackend]
) -> None:
    """A new board can't take the place of one whose postings are missing."""
    in_step(cluster, board)
    master = master_of(cluster, board)
    replicas = cut_off(cluster, master)
    ask(master, "DEL", *board._board.keys.values())
    young = make()
    young.add([NewPosting("a", b"")])
    master.kill()
    for replica in replicas:
        replica.resume()
    with pytest.raises(errors.BoardLost):
        RetryingGuard(young).count()


# -- replicas that have to have it ----------------------------------------------------------------


def test_durability_is_a_change_that_replicas_have(
    cluster: clusters.Cluster, make: Callable[..., RedisBackend]
) -> None:
    plain, durable = make(), make(durability="wait:1", operation_timeout=2.0)
    in_step(cluster, durable)
    assert "warning_durability" not in durable.server_info()
    assert "warning_failover" in plain.server_info()
    durable.add([NewPosting(f"a{number}", b"") for number in range(9)])
    lease = durable.acquire("a0", "me", "c0", 60.0)
    master = master_of(cluster, durable)
    touched = ("HEXISTS", key_of(durable, "meta"), "touched")
    assert ask(master, *touched) == 0, "nothing was indeterminate yet"
    replicas = cut_off(cluster, master)
    why = "0 of 1 replicas"
    late = [NewPosting("late", b"")]
    with pytest.raises(errors.Indeterminate, match=why):
        durable.add(late)
    assert plain.count() == 10, "the master has it"
    # The repeat changes nothing more, and must wait all the same; on another connection too.
    ask(master, "CLIENT", "KILL", "TYPE", "normal")
    time.sleep(2 * FRESH)
    for verb in (
        lambda: durable.add(late),
        lambda: durable.acquire("a1", "me", "c1"),
        lambda: durable.acquire("a1", "me", "c1"),
        lambda: durable.acquire_next("me", ["c2"]),
        lambda: durable.renew(lease, 120.0),
        lambda: durable.release(lease),
        lambda: durable.release(lease),
        lambda: durable.keepalive(),
    ):
        with pytest.raises(errors.Indeterminate, match=why):
            verb()
    # WAIT waits for what its connection wrote, and a repeat writes nothing: hence this.
    assert ask(master, *touched) == 1
    with pytest.raises(errors.Indeterminate, match=why):
        RetryingGuard(durable).add(late)
    with pytest.raises(errors.LeaseLost):
        durable.renew(lease, 60.0)  # it was released: nothing changed, and nothing is indeterminate
    with pytest.raises(errors.PostingNotFound):
        durable.acquire("nothing", "me", "c9")
    for replica in replicas:
        replica.resume()
    guard = RetryingGuard(make(durability="wait:1"))
    assert [posting.key for posting in guard.add(late)] == ["late"]  # type: ignore[union-attr]
    eventually(lambda: _settled(durable, late))
    assert durable.acquire("a1", "me", "c1").key == "a1"
    durable.release(lease)
    assert durable.count() == 10


def _settled(board: RedisBackend, postings: list[NewPosting]) -> bool:
    try:
        board.add(postings)
    except errors.Indeterminate:
        return False
    return True


def test_what_replicas_have_survives_the_master(
    cluster: clusters.Cluster, make: Callable[..., RedisBackend]
) -> None:
    durable = make(durability="wait:1")
    guard = RetryingGuard(durable)
    acknowledged = []
    for number in range(200):
        guard.add([NewPosting(f"a{number}", b"")])
        acknowledged.append(f"a{number}")
    held = guard.acquire("a0", "me", "c0")
    guard.remove([guard.acquire("a1", "me", "c1")])
    master_of(cluster, durable).kill()
    acknowledged.remove("a1")
    assert keys_of(guard.list().postings) == acknowledged
    cluster.heal()  # until there is a replica again, all changes are indeterminate
    assert guard.remove([held]) == [None]


def test_more_replicas_than_there_are_is_warned_of(
    cluster: clusters.Cluster, make: Callable[..., RedisBackend]
) -> None:
    there = len(replicas_of(cluster, master_of(cluster, make())))
    board = make(durability=f"wait:{there + 1}", connect_timeout=1.0)
    warning = board.server_info()["warning_durability"]
    assert f"wait:{there + 1}" in warning
    with pytest.raises(errors.Indeterminate, match=f"{there} of {there + 1} replicas"):
        board.add([NewPosting("a", b"")])


# -- a cluster's slots ----------------------------------------------------------------------------


def test_boards_are_named_whichever_node_has_them(
    cluster: clusters.Cluster, make: Callable[..., RedisBackend]
) -> None:
    prefix, names = f"look-{time.time_ns()}", [f"board-{number}" for number in range(9)]
    for name in names:
        make(prefix=prefix, namespace=name)
    looking = loading.load(cluster.url, prefix=prefix, namespace="typo", create=False)
    with pytest.raises(errors.BoardNotFound) as raised:
        RetryingGuard(looking).open()
    assert raised.value.boards == names


def test_the_error_of_a_single_node_names_the_url_that_finds_the_board(
    nodes: clusters.RedisCluster,
) -> None:
    for node in nodes.nodes:
        if node is not nodes.owner("multiboard:{default}:meta"):
            alone = RedisBackend(RedisBackend.settings_class(hosts=(f"127.0.0.1:{node.port}",)))
            with pytest.raises(errors.Unsupported, match=rf"{node.port}.*redis\+cluster://"):
                alone.open()


def move(nodes: clusters.RedisCluster, board: RedisBackend, during: Callable[[], Any]) -> None:
    """Move the slot of a board to another master, and do something half-way."""
    source = nodes.owner(key_of(board, "meta"))
    target = next(n for n in nodes.nodes if n.role == "master" and n is not source)
    slot = str(ask(source, "CLUSTER", "KEYSLOT", key_of(board, "meta")))
    ask(target, "CLUSTER", "SETSLOT", slot, "IMPORTING", source.id)
    ask(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", target.id)
    keys = ask(source, "CLUSTER", "GETKEYSINSLOT", slot, "100")
    for number, key in enumerate(keys):
        if number == len(keys) // 2:
            during()
        ask(source, "MIGRATE", target.host, str(target.port), key, "0", "5000")
    during()
    masters = [node for node in nodes.nodes if node.role == "master"]
    for node in [target, source, *masters]:
        ask(node, "CLUSTER", "SETSLOT", slot, "NODE", target.id)


def test_a_board_that_moves_to_another_node_is_followed(nodes: clusters.RedisCluster) -> None:

    def refused() -> None:
        with pytest.raises(errors.Unavailable, match="on its way to another node"):
            board.add([NewPosting("b", b"")])

    with boards_on_cluster(nodes) as make:
        board, other = make(), make()
        board.add([NewPosting("a", b"")])
        lease = board.acquire("a", "me", "c1")
        reader = Reader(other)
        move(nodes, board, refused)
        # Not one call fails: the old node names the new one.
        assert board.remove([lease]) == [None]
        board.add([NewPosting("b", b"")])
        assert other.count() == 1
        eventually(lambda: reader.received("b"))
        fresh = make()
        assert keys_of(fresh.list().postings) == ["b"]


def test_the_nodes_that_were_given_need_not_be_those_that_live(
    nodes: clusters.RedisCluster,
) -> None:

    first = nodes.nodes[0]
    with boards_on_cluster(nodes) as make:
        board = make(hosts=(f"127.0.0.1:{first.port}",))
        board.add([NewPosting("a", b"")])
        try:
            first.kill()
            assert keys_of(RetryingGuard(board).list().postings) == ["a"]
            with pytest.raises(errors.Unavailable, match=f"found no node.*{first.port}.*refused"):
                make(hosts=(f"127.0.0.1:{first.port}",))
        finally:
            nodes.heal()


@pytest.mark.parametrize("more", [(), ("+cluster|slots",), ("+cluster|slots", "+cluster|nodes")])
def test_the_documented_account_finds_its_node(
    nodes: clusters.RedisCluster, more: tuple[str, ...]
) -> None:
    """Without the right to ask for the slots, a node's redirection for a key will do."""
    for node in nodes.nodes:
        ask(node, "ACL", "SETUSER", "multiboard", *documented(), *more)
    with boards_on_cluster(nodes) as make:
        boards = [make(namespace=f"least-{number}", **ACCOUNT) for number in range(6)]
        for board in boards:
            board.add([NewPosting("a", b"")])
            for _ in range(2):  # a peer is asked each time
                board._board._process().pool.locator._check_at = 0.0  # type: ignore[attr-defined]
                assert board.count() == 1
        assert len({board.server_info()["server"] for board in boards}) > 1


# -- warnings -------------------------------------------------------------------------------------


def test_settings_that_endanger_the_board_are_warned_of(sentinel: clusters.RedisSentinel) -> None:
    master = sentinel.master

    def warned(**options: Any) -> set[str]:
        settings = RedisBackend.settings_class(namespace="warned", **options)
        board = RedisBackend(settings)
        board.open()
        names = {name for name in board.server_info() if name.startswith("warning")}
        board.close()
        return names

    at_master = {"hosts": (f"127.0.0.1:{master.port}",)}
    at_replica = {"hosts": (f"127.0.0.1:{sentinel.replicas[0].port}",)}
    assert warned(**at_master) == {"warning_failover"}
    assert warned(**at_master, durability="wait:2") == set()
    eventually(lambda: master.replicas == 2)
    assert warned(**at_replica) == {"warning_replica"}
    try:
        ask(master, "CONFIG", "SET", "min-replicas-to-write", "1")
        assert warned(**at_master) == set()
        ask(master, "CONFIG", "SET", "maxmemory-policy", "volatile-lru")
        assert warned(**at_master) == set(), "the board's keys have no time to live"
        ask(master, "CONFIG", "SET", "maxmemory-policy", "allkeys-random")
        assert warned(**at_master) == {"warning_eviction"}
        ask(master, "CONFIG", "SET", "appendonly", "no")
        assert warned(**at_master) == {"warning_eviction", "warning_persistence"}
    finally:
        ask(master, "CONFIG", "SET", "appendonly", "yes")
        ask(master, "CONFIG", "SET", "maxmemory-policy", "noeviction")
        ask(master, "CONFIG", "SET", "min-replicas-to-write", "0")
