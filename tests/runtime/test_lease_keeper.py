# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The keeper keeps what lives, and says in time what may be lost."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from multiboard import errors
from multiboard.backends.memory import MemoryBackend, MemorySettings
from multiboard.primitives import Lease, NewPosting, Shelf, boottime
from multiboard.runtime import unconfirmed
from multiboard.runtime.deadlines import SAFE, Stamp
from multiboard.runtime.lease_keeper import LeaseKeeper
from tests.waiting import eventually

#: The stamp of what was asked before any session was lost.
FIRST = Stamp(0.0, 0)


class Store(MemoryBackend):
    """A memory backend that can be out of reach."""

    def __init__(self, session_timeout: float) -> None:
        super().__init__(MemorySettings(name=uuid.uuid4().hex, session_timeout=session_timeout))
        self.away = False
        self.renewals = 0
        #: The seconds that each renewal had.
        self.within: list[float | None] = []

    def keepalive(self, within: float | None = None) -> float:
        """Renew the session, if the store can be reached."""
        self.within.append(within)
        self._reach()
        self.renewals += 1
        return super().keepalive(within)

    def get(self, keys):  # type: ignore[no-untyped-def]
        """Read, if the store can be reached."""
        self._reach()
        return super().get(keys)

    def release(self, lease: Lease, delay: float = 0.0) -> None:
        """Release, if the store can be reached."""
        self._reach()
        super().release(lease, delay)

    def _reach(self) -> None:
        if self.away:
            raise errors.Unavailable("away")


class Kept:
    """A keeper, its store, and what it reported lost."""

    def __init__(self, session_timeout: float = 1.0) -> None:
        self.store = Store(session_timeout)
        self.store.open()
        self.lost: list[tuple[int, str, float]] = []
        self.keeper = LeaseKeeper(
            self.store, lambda lease, why: self.lost.append((lease.token, why, boottime()))
        )

    def claim(self, key: str = "k", expires_in: float | None = None) -> Lease:
        """Lease a posting and have it kept."""
        self.store.add([NewPosting(key, b"")])
        stamp = self.keeper.stamp()
        lease = self.store.acquire(key, "me", uuid.uuid4().hex, expires_in)
        self.keeper.keep(lease, stamp)
        return lease


@pytest.fixture
def kept() -> Iterator[Kept]:
    """A keeper of sessions of one second."""
    made = Kept()
    yield made
    made.store.away = False
    made.keeper.close()
    made.store.close()


def test_a_session_lives_as_long_as_it_is_kept(kept: Kept) -> None:
    lease = kept.claim()
    eventually(lambda: kept.store.renewals >= 5)
    [posting] = kept.store.get(["k"])
    assert posting is not None
    assert posting.lease == lease
    assert kept.lost == []


def test_one_renewal_serves_all_leases(kept: Kept) -> None:
    for number in range(50):
        kept.claim(f"k{number}")
    eventually(lambda: kept.store.renewals >= 4)
    assert kept.store.renewals < 20
    assert kept.lost == []


def test_a_store_out_of_reach_costs_the_leases_before_they_end(kept: Kept) -> None:
    lease = kept.claim()
    eventually(lambda: kept.keeper.seconds_left)
    kept.store.away = True
    renewed_at = boottime()
    eventually(lambda: kept.lost)
    [(token, why, when)] = kept.lost
    assert (token, why) == (lease.token, "its session could not be renewed in time")
    assert when - renewed_at < 1.0 * SAFE + 0.1
    assert not kept.keeper.keeps(lease)


def test_a_store_that_is_never_reached_again_costs_the_lease_in_time_too(kept: Kept) -> None:
    kept.store.away = True
    kept.claim()
    acquired_at = boottime()
    eventually(lambda: kept.lost)
    assert kept.lost[0][2] - acquired_at < 1.0 * SAFE + 0.1


def test_a_session_that_ended_costs_its_leases_once_each(kept: Kept) -> None:
    leases = [kept.claim(key) for key in ("a", "b")]
    eventually(lambda: kept.keeper.seconds_left)
    board = kept.store._board
    assert board is not None
    with board.changed:
        board.sessions.clear()  # as if this process had been suspended
    eventually(lambda: len(kept.lost) == 2)
    assert {token for token, _, _ in kept.lost} == {lease.token for lease in leases}
    again = kept.claim("a")
    eventually(lambda: kept.store.renewals >= 3)
    assert kept.keeper.keeps(again)
    assert len(kept.lost) == 2


def test_entities_come_back_with_the_next_session(kept: Kept) -> None:
    entity = NewPosting("me", b"here")
    kept.store.add([entity], Shelf.ENTITIES)
    kept.keeper.keep_entity(entity, FIRST)
    board = kept.store._board
    assert board is not None
    with board.changed:
        board.sessions.clear()
    assert kept.store.list(Shelf.ENTITIES).postings == []
    eventually(lambda: [e.key for e in kept.store.list(Shelf.ENTITIES).postings] == ["me"])


def test_a_timed_lease_that_ends_is_lost_before_it_ends(kept: Kept) -> None:
    lease = kept.claim(expires_in=0.5)
    acquired_at = boottime()
    eventually(lambda: kept.lost)
    [(token, why, when)] = kept.lost
    assert (token, why) == (lease.token, "its time ran out")
    assert when - acquired_at <= 0.5


def test_a_timed_lease_that_somebody_renews_is_not_lost(kept: Kept) -> None:
    lease = kept.claim(expires_in=2.0)
    for _ in range(5):
        threading.Event().wait(0.5)
        kept.store.renew(lease, 2.0)
    assert kept.lost == []
    assert kept.keeper.keeps(lease)


def test_a_timed_lease_whose_posting_somebody_finished_is_not_lost(kept: Kept) -> None:
    lease = kept.claim(expires_in=0.3)
    kept.store.remove([lease])
    eventually(lambda: not kept.keeper.keeps(lease))
    assert kept.lost == []


def test_what_could_not_be_given_back_is_given_back_later(kept: Kept) -> None:
    lease = kept.claim()
    kept.store.away = True
    kept.keeper.give_back(lease)
    threading.Event().wait(0.3)
    kept.store.away = False
    eventually(lambda: (posting := kept.store.get(["k"])[0]) and posting.lease is None)
    assert kept.lost == []


@pytest.mark.parametrize("key", ["k", None])
def test_a_claim_of_which_nobody_heard_is_given_back(kept: Kept, key: str | None) -> None:
    other = kept.claim("other")
    kept.store.add([NewPosting("k", b"")])
    kept.store.acquire("k", "me", "unheard")
    kept.store.away = True
    kept.keeper.note_unconfirmed(["unheard", "never done"], key)
    threading.Event().wait(0.3)
    kept.store.away = False
    eventually(lambda: (posting := kept.store.get(["k"])[0]) and posting.lease is None)
    assert kept.keeper.keeps(other)
    assert kept.store.get(["other"])[0].lease is not None


def test_a_claim_that_comes_late_is_given_back_and_a_later_one_is_not(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unconfirmed, "LATE", 0.5)
    kept.store.add([NewPosting("k", b"")])
    kept.keeper.note_unconfirmed(["late"], "k")
    threading.Event().wait(0.2)
    kept.store.acquire("k", "me", "late")
    eventually(lambda: kept.store.get(["k"])[0].lease is None)
    later = kept.store.acquire("k", "me", "heard")
    kept.keeper.keep(later, Stamp(boottime(), 0))
    threading.Event().wait(1.0)
    assert kept.store.get(["k"])[0].lease.token == later.token
    assert kept.lost == []


def test_nothing_kept_costs_nothing(kept: Kept) -> None:
    kept.keeper.forget(kept.claim().key)
    threading.Event().wait(0.2)
    before = kept.store.renewals
    threading.Event().wait(1.0)
    assert kept.store.renewals == before


def test_closing_is_quick_and_says_nothing(kept: Kept) -> None:
    kept.claim()
    begun = boottime()
    kept.store.close()
    kept.keeper.close()
    assert boottime() - begun < 0.5
    assert kept.lost == []


# -- sessions that end while others begin ------------------------------------------------------


def end_sessions(store: Store) -> None:
    """Let the store end all sessions, as if nobody had renewed them."""
    board = store._board
    assert board is not None
    with board.changed:
        board.sessions.clear()


def acquire(store: Store, key: str) -> Lease:
    """Lease a posting in a session that begins where there is none; nobody keeps it."""
    store.add([NewPosting(key, b"")])
    try:
        return store.acquire(key, "me", uuid.uuid4().hex)
    except errors.SessionLost:
        return store.acquire(key, "me", uuid.uuid4().hex)


def test_a_session_that_two_operations_find_ended_is_lost_once(kept: Kept) -> None:
    old = acquire(kept.store, "old")
    kept.keeper.keep(old, Stamp(boottime(), 0))
    end_sessions(kept.store)
    kept.keeper.session_lost(FIRST)
    new = acquire(kept.store, "new")
    kept.keeper.keep(new, kept.keeper.stamp())
    kept.keeper.session_lost(FIRST)  # an operation that was under way before
    eventually(lambda: not kept.keeper._kept.doubtful)
    assert [token for token, _, _ in kept.lost] == [old.token]
    assert kept.keeper.keeps(new)


def test_a_lease_of_an_earlier_session_that_is_kept_late_costs_no_later_one(kept: Kept) -> None:
    old = acquire(kept.store, "old")
    end_sessions(kept.store)
    kept.keeper.session_lost(FIRST)
    new = acquire(kept.store, "new")
    kept.keeper.keep(new, kept.keeper.stamp())
    kept.keeper.keep(old, Stamp(boottime(), 0))
    eventually(lambda: kept.lost)
    assert [(token, why) for token, why, _ in kept.lost] == [(old.token, "its session ended")]
    assert kept.keeper.keeps(new)


def test_a_claim_after_a_long_rest_is_kept(kept: Kept) -> None:
    kept.keeper.forget(kept.claim("a").key)
    threading.Event().wait(1.2)  # the session that was kept before is over
    later = acquire(kept.store, "b")
    kept.keeper.keep(later, kept.keeper.stamp())
    before = kept.store.renewals
    eventually(lambda: kept.store.renewals >= before + 3)
    assert kept.keeper.keeps(later)
    assert kept.lost == []


def test_an_answer_that_took_too_long_is_confirmed_before_it_is_kept(kept: Kept) -> None:
    lease = acquire(kept.store, "k")
    kept.keeper.keep(lease, Stamp(boottime() - 0.9, 0))
    assert kept.store.renewals
    assert kept.keeper.keeps(lease)


def test_an_answer_from_a_session_that_ended_meanwhile_is_not_kept(kept: Kept) -> None:
    lease = acquire(kept.store, "k")
    end_sessions(kept.store)
    with pytest.raises(errors.SessionLost):
        kept.keeper.keep(lease, Stamp(boottime() - 0.9, 0))
    assert not kept.keeper.keeps(lease)


def test_a_timed_lease_whose_answer_took_too_long_is_confirmed(kept: Kept) -> None:
    kept.store.add([NewPosting("k", b"")])
    lease = kept.store.acquire("k", "me", "claim", 5.0)
    kept.keeper.keep(lease, Stamp(boottime() - 4.5, 0))
    assert kept.keeper.keeps(lease)
    kept.store.release(lease)
    with pytest.raises(errors.LeaseLost):
        kept.keeper.keep(lease, Stamp(boottime() - 4.5, 0))


def test_a_renewal_has_no_more_time_than_is_left(kept: Kept) -> None:
    kept.claim()
    eventually(lambda: len(kept.store.within) >= 3)
    kept.store.away = True
    eventually(lambda: kept.lost)
    assert all(within is not None and within < SAFE for within in kept.store.within)


def test_a_lease_that_was_lost_in_a_session_that_lives_on_is_given_back(kept: Kept) -> None:
    entity = NewPosting("me", b"here")
    kept.store.add([entity], Shelf.ENTITIES)
    kept.keeper.keep_entity(entity, FIRST)
    kept.claim()
    kept.store.away = True
    board = kept.store._board
    assert board is not None

    def lives() -> bool:
        with board.changed:  # a renewal whose answers do not arrive
            board.sessions.update(dict.fromkeys(board.sessions, boottime() + 1.0))
        return bool(kept.lost)

    eventually(lives)
    kept.store.away = False
    eventually(lambda: (posting := kept.store.get(["k"])[0]) and posting.lease is None)
    assert kept.store.get(["k"])[0].deaths == 0
    assert len(kept.lost) == 1


def test_a_report_that_fails_costs_no_other_report(kept: Kept) -> None:
    def fail_first(lease: Lease, why: str) -> None:
        kept.lost.append((lease.token, why, boottime()))
        if len(kept.lost) == 1:
            raise RuntimeError("a bug above")

    kept.keeper._on_lost = fail_first
    for key in ("a", "b"):
        kept.claim(key)
    kept.store.away = True
    eventually(lambda: len(kept.lost) == 2)


def test_an_entity_whose_session_ended_before_it_was_kept_comes_back(kept: Kept) -> None:
    entity = NewPosting("me", b"here")
    kept.store.add([entity], Shelf.ENTITIES)
    end_sessions(kept.store)
    kept.keeper.session_lost(FIRST)
    kept.keeper.keep_entity(entity, FIRST)
    eventually(lambda: [e.key for e in kept.store.list(Shelf.ENTITIES).postings] == ["me"])


def test_an_attempt_in_hand_is_not_looked_for(kept: Kept) -> None:
    kept.store.add([NewPosting("k", b"")])
    kept.keeper.begin_claims(["mine"])
    asked_at = boottime()
    kept.keeper.note_unconfirmed(["mine"], "k")
    kept.keeper.note_unconfirmed(["other"], "k")
    lease = kept.store.acquire("k", "me", "mine")
    eventually(lambda: kept.keeper._unconfirmed.due(boottime()) == {})  # the other was looked for
    assert kept.store.get(["k"])[0].lease == lease
    kept.keeper.keep(lease, Stamp(asked_at, 0))
    kept.keeper.end_claims(["mine"])
    eventually(lambda: all(doubt.last for doubt in kept.keeper._unconfirmed._open.values()))
    assert kept.keeper.keeps(lease)
    assert kept.store.get(["k"])[0].lease == lease


def test_an_errand_that_is_refused_does_not_keep_the_others_from_being_done(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kept = Kept(session_timeout=60.0)  # nothing ends by itself meanwhile
    lease, read = kept.claim("given up"), kept.store.get
    refused = threading.Event()

    def refuse(_: Any) -> Any:
        refused.set()
        raise errors.AccessDenied("no right to read")

    monkeypatch.setattr(kept.store, "get", refuse)
    kept.claim("looked at")
    kept.keeper.interrupted()
    assert refused.wait(10.0)
    kept.keeper.give_back(lease)
    eventually(lambda: read(["given up"])[0].lease is None, 10.0)  # type: ignore[union-attr]
    kept.keeper.close()
    kept.store.close()
