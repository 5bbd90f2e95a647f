# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Checks of timed leases: they end when due, by the store's clock, and neither before nor late."""

from __future__ import annotations

import time

import pytest

from multiboard.primitives import Backend, ChangeKind, Lease, boottime
from multiboard_conformance.backend.answers import answer_of, eventually, raised
from multiboard_conformance.backend.feeds import BUSY, MOMENTS, Reader, beside
from multiboard_conformance.backend.fixtures import Board, post, race, take, together
from multiboard_conformance.backend.guarantees import guarantee
from multiboard_conformance.backend.reading import is_free, look
from multiboard_conformance.machinery.plugin import Effort


@guarantee("LEASE-5")
def check_timed_lease_ends_when_due(board: Board) -> None:
    """A timed lease lasts as long as was asked for, and then everybody sees it ended."""
    backend, other = board.open(), board.open()
    post(backend, "k")
    sent = boottime()
    take(backend, "k", 1.0)
    answered = boottime()
    freed, _ = eventually(lambda: is_free(other, "k"), 1.0 + BUSY)
    seen = boottime()
    assert freed
    assert seen - sent >= 1.0
    assert seen - answered <= 1.0 + BUSY


@guarantee("LEASE-5")
def check_fractions_of_a_second_count(board: Board) -> None:
    """A lease of 0.4 seconds has not ended at once and does not last a second longer."""
    backend = board.open()
    post(backend, "k")
    sent = boottime()
    take(backend, "k", 0.4)
    held = not is_free(backend, "k")
    early = boottime() - sent
    freed, _ = eventually(lambda: is_free(backend, "k"), 1.4)
    assert held or early >= 0.4
    assert freed
    assert boottime() - sent >= 0.4


@guarantee("LEASE-5")
def check_answer_tells_when_it_ends(board: Board) -> None:
    """ends_in is the time that is left: at most what was asked for, less as time goes by."""
    backend = board.open()
    post(backend, "k")
    sent = boottime()
    first = take(backend, "k", 30.0).ends_in
    time.sleep(0.3)
    lease = look(backend, "k").lease
    passed = boottime() - sent
    assert first is not None
    assert 30.0 - passed <= first <= 30.0
    assert lease is not None
    assert lease.ends_in is not None
    assert 30.0 - passed - 0.1 <= lease.ends_in <= 29.75


@guarantee("LEASE-5")
def check_renewal_counts_from_now(board: Board) -> None:
    """Renew lets a lease end so many seconds from now, later or sooner than before."""
    backend, other = board.open(), board.open()
    post(backend, "longer", "shorter")
    longer, shorter = take(backend, "longer", 1.0), take(backend, "shorter", 60.0)
    answers = backend.renew(longer, 30.0), backend.renew(shorter, 0.3)
    time.sleep(1.2)
    assert answers == (longer, shorter)
    assert [posting and posting.lease for posting in other.get(["longer", "shorter"])] == [
        longer, None,
    ]  # fmt: skip


@guarantee("LEASE-5")
def check_repeated_renewal_keeps_a_lease(board: Board) -> None:
    """A lease that is renewed in time is kept, under the same token."""
    backend, other = board.open(), board.open()
    post(backend, "k")
    lease = take(backend, "k", 1.5)
    for _ in range(6):
        time.sleep(0.4)
        assert backend.renew(lease, 1.5) == lease
    assert look(other, "k").lease == lease


@guarantee("LEASE-5", "LEASE-1")
def check_refused_attempt_does_not_prolong(board: Board) -> None:
    """Attempts that are refused do not keep alive the lease that stands."""
    backend, other = board.open(), board.open()
    post(backend, "k")
    sent = boottime()
    take(backend, "k", 1.0)
    most = 1.0 + BUSY
    won, _ = eventually(
        lambda: not isinstance(raised(lambda: take(other, "k", 5.0)), Exception), most, 0.1
    )
    assert won
    assert boottime() - sent >= 1.0


@guarantee("LEASE-5")
def check_timed_lease_outlives_close(board: Board) -> None:
    """A timed lease goes on when its backend is closed, and another may use it."""
    backend, other = board.open(), board.open()
    post(backend, "k")
    lease = take(backend, "k", 30.0)
    backend.close()
    time.sleep(0.2)
    assert look(other, "k").lease == lease
    assert list(other.remove([lease])) == [None]


_SKEWS = {"right": 0.0, "ahead": 3600.0, "behind": -3600.0}


@guarantee("LEASE-5")
def check_timed_lease_outlives_its_process(board: Board) -> None:
    """A timed lease of a killed process goes on and ends when due, whatever its clock showed."""
    watcher = board.open()
    holders = {name: board.peer(skew=skew) for name, skew in _SKEWS.items()}
    post(watcher, *_SKEWS)
    reader = Reader(watcher).start()
    sent, answered, reported = {}, {}, dict[str, float]()
    leases = {}
    for name, holder in holders.items():
        sent[name] = boottime()
        leases[name] = take(holder, name, 2.0, "dead")
        answered[name] = boottime()
    for holder in holders.values():
        holder.kill()
    early = {name: look(watcher, name).lease for name in _SKEWS}
    looked = boottime()
    assert early == leases or looked - sent["right"] >= 2.0

    def all_are_told() -> bool:
        for name in reader.keys(ChangeKind.EXPIRED):
            reported.setdefault(name, boottime())
        return len(reported) == len(_SKEWS)

    assert reader.until(all_are_told, 2.0 + BUSY)
    assert all(is_free(watcher, name) for name in _SKEWS)
    assert [name for name in _SKEWS if reported[name] - sent[name] < 2.0] == []
    assert [name for name in _SKEWS if reported[name] - answered[name] > 2.0 + BUSY] == []


@guarantee("LEASE-5", "NEXT-2")
@pytest.mark.parametrize("skew", [3600.0, -3600.0], ids=["ahead", "behind"])
def check_wrong_clock_takes_nothing(board: Board, skew: float) -> None:
    """A process whose clock is wrong takes only what is due and unleased by the store's clock."""
    backend, odd = board.open(), board.peer(skew=skew)
    post(backend, "leased", "due")
    post(backend, "later", delay=600.0)
    lease = take(backend, "leased", 600.0)
    assert answer_of(lambda: take(odd, "leased", 5.0)) == "LeaseHeld"
    won = odd.acquire_next("odd", ["c1", "c2", "c3"], 600.0)
    assert [posting.key for posting, _ in won] == ["due"]
    assert look(backend, "leased").lease == lease
    post(odd, "theirs", delay=600.0)
    assert 500.0 < look(backend, "theirs").due_in <= 600.0
    ends_in = look(backend, "due").lease.ends_in  # type: ignore[union-attr]
    assert ends_in is not None
    assert 500.0 < ends_in <= 600.0


@guarantee("LEASE-7", "LEASE-5")
def check_nobody_is_early(board: Board) -> None:
    """Nobody gets a posting before its timed lease, counted from before it was sent, is over."""
    backend = board.open()
    rivals = board.peers(2)
    post(backend, "k")
    sent = boottime()
    take(backend, "k", 1.5)
    won: list[float] = []

    def rival(peer: Backend) -> None:
        while not won and boottime() < sent + 1.5 + BUSY:
            if not isinstance(raised(lambda: take(peer, "k", 30.0)), Exception):
                won.append(boottime())
            time.sleep(0.01)

    together([lambda peer=peer: rival(peer) for peer in rivals])  # type: ignore[misc]
    assert len(won) == 1
    assert won[0] - sent >= 1.5


@guarantee("LEASE-5", "FEED-3")
def check_end_is_noticed_by_a_reader_alone(board: Board) -> None:
    """A lease that ends is reported to a waiting reader though nobody else does anything."""
    backend, waiting = board.open(), board.open()
    post(backend, "k")
    take(backend, "k", 1.0)
    ends = boottime() + 1.0
    backend.close()
    reader = Reader(waiting).start()
    due = max(ends, boottime())
    reader.call = 60.0
    assert reader.receives(ChangeKind.EXPIRED, "k", 20.0)
    assert boottime() - due <= MOMENTS


@guarantee("FEED-3", "LEASE-5")
def check_waiting_reader_hears_of_a_lease_made_shorter(board: Board) -> None:
    """A lease that a renewal made shorter is reported to a reader that waited all the time."""
    backend, waiting = board.open(), board.open()
    post(backend, "k")
    lease = take(backend, "k", 600.0)
    reader = Reader(waiting).start()
    reader.call = 60.0
    with beside(lambda shorter: reader.receives(ChangeKind.EXPIRED, "k", 20.0, shorter)) as (
        [hearing],
        shorter,
    ):
        time.sleep(0.3)
        backend.renew(lease, 0.4)
        renewed = boottime()
        shorter.set()
        assert hearing.result()
    assert boottime() - renewed <= 0.4 + MOMENTS


@guarantee("LEASE-5", "LEASE-1")
def check_many_ends_at_once(board: Board, effort: Effort) -> None:
    """Many leases that end in the same instant all end, once each, and can be had again."""
    backend, other = board.open(), board.open()
    number = effort.rounds(60, 1000)
    names = [f"k{n}" for n in range(number)]
    reader = Reader(other).start()
    won: list[Lease] = []
    for start in range(0, number, 100):
        post(backend, *names[start : start + 100])
        pairs = backend.acquire_next("me", names[start : start + 100], 600.0)
        won += [lease for _, lease in pairs]
    assert len(won) == number
    end = boottime() + effort.rounds(1, 5)
    for lease in won:
        backend.renew(lease, max(0.05, end - boottime()))
    # Those that were renewed when that instant had passed end a little later.
    within = max(0.05, end - boottime()) + MOMENTS * 4
    assert reader.until(lambda: len(reader.keys(ChangeKind.EXPIRED)) >= number, within)
    assert sorted(reader.keys(ChangeKind.EXPIRED)) == sorted(names)
    again = other.acquire_next("you", [f"d{n}" for n in range(number + 1)], 60.0)
    assert [posting.key for posting, _ in again] == names
    assert {(posting.attempts, posting.deaths) for posting, _ in again} == {(2, 1)}


@guarantee("LEASE-5", "LEASE-2", "RUN-1")
def check_renewal_races_with_the_end(board: Board) -> None:
    """A renewal at the end of a lease keeps it or gets LeaseLost, never both."""
    backend, peers = board.open(), board.peers(2)
    post(backend, "k")
    lease = take(peers[0], "k", 0.5)
    time.sleep(0.45)

    def act(peer: Backend) -> object:
        return peer.renew(lease, 30.0) if peer is peers[0] else take(peer, "k", 30.0)

    renewed, taken = race(peers, act)
    current = look(backend, "k").lease
    if isinstance(renewed, Exception):
        assert current is None or current.token > lease.token
    else:
        assert isinstance(taken, Exception)
        assert current == lease
