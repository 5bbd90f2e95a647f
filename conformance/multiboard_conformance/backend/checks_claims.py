# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Checks of claims beside others: early ones, those of one call, their ends, and who may ask again.

Also of sessions and entities that others touch, and of several boards of one store at once.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from multiboard import errors
from multiboard.primitives import Backend, Lease, NewPosting, Shelf, boottime
from multiboard.primitives import ChangeKind as K
from multiboard_conformance.backend.answers import answer_of, eventually, name_of, raised
from multiboard_conformance.backend.feeds import BUSY, MOMENTS, Reader
from multiboard_conformance.backend.fixtures import Board, post, take, together
from multiboard_conformance.backend.guarantees import BOTH_KINDS, guarantee
from multiboard_conformance.backend.reading import keys, listed, look, snapshot
from multiboard_conformance.machinery.plugin import Effort
from multiboard_conformance.machinery.programs import claim_id
from multiboard_conformance.machinery.proxy import Mode, Proxy


def _ids(number: int) -> list[str]:
    return [claim_id() for _ in range(number)]


def _handed_out(backend: Backend, number: int = 9) -> list[str]:
    return [posting.key for posting, _ in backend.acquire_next("me", _ids(number), 60.0)]


# -- claims made before not_before -----------------------------------------------------------


@guarantee("NEXT-2")
@pytest.mark.parametrize("noticed", [True, False], ids=["noticed", "unnoticed"])
def check_early_claim_that_ended_changes_no_delay(board: Board, noticed: bool) -> None:
    """A claim made before not_before leaves that as it is, whether it ends before it or after."""
    backend, other = board.open(), board.open()
    sent = boottime()
    post(backend, "before", delay=2.0)
    post(backend, "after", delay=0.9)
    take(backend, "before", 0.2)
    take(backend, "after", 1.2)
    answered = boottime()
    held = look(other, "before").due_in
    assert 2.0 - (boottime() - sent) - 0.1 <= held <= 2.0, "a lease shows when its posting is due"
    if noticed:
        time.sleep(0.4)
        assert _handed_out(other) == [] or boottime() - sent >= 1.2
        shown = look(other, "before")
        assert (shown.lease, shown.due_in > 0 or boottime() - sent >= 2.0) == (None, True)
    time.sleep(max(0.0, answered + 1.25 - boottime()))
    # Who added it knows best when it is due. A delay that began anew would last longer than this.
    taken, _ = eventually(lambda: _handed_out(backend), 0.6)
    assert "after" in taken
    assert "before" not in taken or boottime() - sent >= 2.0
    last, _ = eventually(lambda: look(other, "before").lease or _handed_out(other), 2.0 + BUSY)
    assert last
    assert boottime() - sent >= 2.0
    assert look(backend, "before").due_in == 0.0
    assert {(p.attempts, p.deaths) for p in other.list().postings} == {(2, 1)}


@guarantee("NEXT-2", "LEASE-4")
def check_early_claim_of_a_closed_session(board: Board) -> None:
    """A posting that was claimed early by a session is held back again when that has ended."""
    holder, other = board.open(), board.open()
    post(holder, "k", delay=60.0)
    take(holder, "k")
    holder.close()
    free, _ = eventually(lambda: look(other, "k").lease is None, BUSY)
    assert free
    assert _handed_out(other) == []
    assert 60.0 - 30.0 <= look(other, "k").due_in <= 60.0


@guarantee("NEXT-2", "DIR-1")
def check_early_claim_that_was_trashed_is_due_when_restored(board: Board) -> None:
    """What was claimed early, trashed and restored is due: the trash has no delay."""
    backend = board.open()
    post(backend, "k", delay=60.0)
    backend.remove([take(backend, "k")], Shelf.TRASH)
    assert backend.restore("k").due_in == 0.0
    assert _handed_out(backend) == ["k"]


# -- acquire_next ----------------------------------------------------------------------------


@guarantee("NEXT-1", "NEXT-2")
def check_many_due_at_once_come_in_order(board: Board) -> None:
    """Of 150 postings that become due at once the first are handed out first, however few ask."""
    backend = board.open()
    late = [f"late{n}" for n in range(120)]
    first = [f"first{n}" for n in range(30)]
    post(backend, *late, rank=5, delay=0.3)
    post(backend, *first, rank=1, delay=0.4)
    time.sleep(0.5)
    assert _handed_out(backend, 1) == first[:1]
    assert _handed_out(backend, 149) == [*first[1:], *late]


@guarantee("NEXT-1", "LEASE-6")
def check_next_with_the_claim_id_of_another_session(board: Board) -> None:
    """A claim id asked again from another session gets nothing of what it holds in the first."""
    backend, other = board.open(), board.open()
    post(backend, "k")
    attempt = claim_id()
    ((_, lease),) = backend.acquire_next("me", [attempt])
    assert list(other.acquire_next("me", [attempt])) == []
    assert list(other.acquire_next("me", [attempt], 60.0)) == []
    assert (look(other, "k").lease, look(other, "k").attempts) == (lease, 1)
    assert [found for _, found in backend.acquire_next("me", [attempt])] == [lease]


@guarantee("NEXT-1", "LEASE-6")
def check_timed_next_is_found_by_another_connection(board: Board) -> None:
    """A repeat of acquire_next finds timed leases on any connection, and takes no more."""
    backend, other = board.open(), board.open()
    post(backend, "a", "b", "c")
    attempts = _ids(2)
    first = backend.acquire_next("me", attempts, 60.0)
    assert [lease for _, lease in other.acquire_next("me", attempts, 60.0)] == [
        lease for _, lease in first
    ]
    assert look(other, "c").lease is None


@guarantee("LEASE-2", "LEASE-8")
@BOTH_KINDS
def check_leases_of_one_call_end_apart(board: Board, expires_in: float | None) -> None:
    """Of the leases of one call one is released, one ends by itself, and one goes on."""
    backend, other = board.open(), board.open()
    post(backend, "released", "ended", "removed", "kept")
    reader = Reader(other).start()
    won = [lease for _, lease in backend.acquire_next("me", _ids(4), expires_in)]
    released, ended, removed, kept = won
    assert len({lease.token for lease in won} | {lease.claim_id for lease in won}) >= 5
    backend.release(released)
    assert [p and p.lease for p in other.get(["released", "ended", "kept"])] == [None, ended, kept]
    assert list(backend.remove([removed])) == [None]
    if expires_in is None:
        backend.close()
    else:
        backend.renew(ended, 0.2)
    free, _ = eventually(lambda: look(other, "ended").lease is None, MOMENTS)
    assert free
    counted = {p.key: (p.attempts, p.deaths) for p in other.list().postings}
    assert counted == {
        "released": (1, 0), "ended": (1, 1), "kept": (1, 1 if expires_in is None else 0),
    }  # fmt: skip
    assert [reader.tale(key, 2) for key in ("released", "ended", "removed")] == [
        [K.CLAIMED, K.RELEASED], [K.CLAIMED, K.EXPIRED], [K.CLAIMED, K.REMOVED],
    ]  # fmt: skip
    if expires_in is not None:
        assert look(other, "kept").lease == kept
        assert list(other.remove([kept])) == [None]


# -- ends_in ---------------------------------------------------------------------------------


def _left(lease: Lease | None) -> float:
    assert lease is not None
    assert lease.ends_in is not None
    return lease.ends_in


@guarantee("LEASE-5")
def check_ends_in_after_a_repeat_and_a_renewal(board: Board) -> None:
    """ends_in is what is left in a repeat, too, in a renewal, and to whoever looks."""
    backend = board.open()
    # A backend that did not see it begin may know less: as much as where a session ended.
    coarse = 0.6 + board.traits.lease_slack
    post(backend, "k", "next")
    sent = boottime()
    backend.acquire("k", "me", "one", 300.0)
    backend.acquire_next("me", ["two"], 300.0)
    answered = boottime()
    time.sleep(0.4)
    asked = boottime()
    ((_, again),) = backend.acquire_next("me", ["two"], 900.0)
    seen = [_left(backend.acquire("k", "me", "one", 900.0)), _left(again)]
    looks = [_left(posting.lease) for posting in board.open().list().postings]
    assert max(seen) <= 300.0 - (asked - answered) + 0.1
    assert max(looks) <= min(300.0, 300.0 - (asked - answered) + coarse)
    assert min(seen + looks) >= 300.0 - (boottime() - sent) - 0.1
    for span in (900.0, 100.0):
        sent = boottime()
        renewed = [backend.renew(p.lease, span) for p in backend.list().postings if p.lease]
        answers = [_left(lease) for lease in renewed]
        looks = [_left(posting.lease) for posting in board.open().list().postings]
        passed = boottime() - sent
        assert span - passed - 0.1 <= min(answers + looks) <= max(answers + looks) <= span
        repeated = _left(backend.acquire("k", "me", "one", 5.0))
        assert span - (boottime() - sent) - 0.1 <= repeated <= span


@guarantee("LEASE-5", "LEASE-7")
def check_fresh_backend_ends_nothing_early(board: Board) -> None:
    """Who opens the board just now lets no timed lease end before its time, renewed or not."""
    backend = board.open()
    post(backend, "k", "renewed")
    renewed = take(backend, "renewed", 30.0)
    sent = boottime()
    take(backend, "k", 1.6)
    backend.renew(renewed, 1.6)
    fresh: Backend | None = None
    ended: dict[str, float] = {}
    while len(ended) < 2 and boottime() < sent + 1.6 + 2 * BUSY:
        if boottime() < sent + 1.6 or fresh is None:
            fresh = board.open()
        for key in ("k", "renewed"):
            if key not in ended and isinstance(raised(lambda: take(fresh, key, 60.0)), Lease):  # noqa: B023
                ended[key] = boottime()
        time.sleep(0.15)
    assert sorted(ended) == ["k", "renewed"]
    assert min(ended.values()) - sent >= 1.6


# -- whose token, whose entity ---------------------------------------------------------------


@guarantee("LEASE-2", "ERR-2")
@pytest.mark.parametrize("to", [None, Shelf.TRASH], ids=["remove", "trash"])
def check_removal_repeated_by_another_token(board: Board, to: Shelf | None) -> None:
    """A removal is a repeat for the very lease that did it; for another one there is no posting."""
    backend, other = board.open(), board.open()
    post(backend, "k")
    earlier = take(backend, "k", 60.0)
    backend.release(earlier)
    lease = take(backend, "k", 60.0)
    assert list(backend.remove([lease], to)) == [None]
    forged = [dataclasses.replace(lease, token=lease.token + off) for off in (-1, 1)]
    for one in (backend, other):
        answers = [name_of(answer) for answer in one.remove([earlier, *forged], to)]
        assert answers == ["PostingNotFound"] * 3
    assert list(backend.remove([lease], to)) == [None]


@guarantee("LEASE-2", "ERR-2")
def check_release_repeated_by_another_token(board: Board) -> None:
    """A release is a repeat for the very lease that was given back, and for no other one."""
    backend = board.open()
    post(backend, "k", "never")
    lease = take(backend, "k", 60.0)
    backend.release(lease)
    before = snapshot(backend)
    forged = [dataclasses.replace(lease, token=lease.token + off) for off in (-1, 1)]
    forged.append(dataclasses.replace(lease, key="never"))
    assert [answer_of(lambda: backend.release(one)) for one in forged] == ["LeaseLost"] * 3  # noqa: B023
    assert answer_of(lambda: backend.release(lease)) is None
    assert snapshot(backend) == before


@guarantee("LEASE-4", "DIR-2")
def check_replaced_entity_lives_by_its_new_session(board: Board) -> None:
    """An entity that another session replaced lives by that one: neither longer nor shorter."""
    first, second, third = board.open(), board.open(), board.open()
    for backend in (first, second):
        backend.add(
            [NewPosting("me", backend.who.encode()), NewPosting(backend.who, b"")], Shelf.ENTITIES
        )
    first.close()
    gone, _ = eventually(lambda: first.who not in listed(third, Shelf.ENTITIES), BUSY)
    assert gone
    assert sorted(listed(third, Shelf.ENTITIES)) == sorted(["me", second.who])
    third.add([NewPosting("me", b"last"), NewPosting("mine", b"")], Shelf.ENTITIES)
    third.add([NewPosting("mine", b"again", rank=7)], Shelf.ENTITIES)
    second.close()
    gone, _ = eventually(lambda: second.who not in listed(third, Shelf.ENTITIES), BUSY)
    assert gone
    entries = {p.key: (p.body, p.rank) for p in third.list(Shelf.ENTITIES).postings}
    assert entries == {"me": (b"last", 0), "mine": (b"again", 7)}
    assert third.count(Shelf.ENTITIES) == 2
    fourth = board.open()
    fourth.add([NewPosting("me", b"fourth")], Shelf.ENTITIES)
    fourth.close()
    left, _ = eventually(lambda: "me" not in listed(third, Shelf.ENTITIES), BUSY)
    assert left, "it outlives the session that added it, for another one had it before"


# -- sessions --------------------------------------------------------------------------------


@guarantee("LEASE-4", "LEASE-5")
def check_end_of_a_session_ends_nothing_else(board: Board) -> None:
    """Close ends the leases of its session, and no timed lease that the same backend acquired."""
    backend, other = board.open(), board.open()
    post(backend, "session", "timed", "next")
    take(backend, "session")
    timed = take(backend, "timed", 60.0)
    ((_, following),) = backend.acquire_next("me", _ids(1), 60.0)
    backend.close()
    free, _ = eventually(lambda: look(other, "session").lease is None, BUSY)
    assert free
    assert [p and p.lease for p in other.get(["timed", "next"])] == [timed, following]
    assert list(other.remove([timed, following])) == [None, None]


@guarantee("LEASE-4", "LEASE-7")
def check_session_outlives_its_leases(board: Board) -> None:
    """The session goes on when the last lease by it is given back, used up, or refused."""
    backend, other = board.open(), board.open()
    backend.add([NewPosting("me", b"")], Shelf.ENTITIES)
    post(backend, "a", "b", "c")
    first = take(backend, "a")
    backend.release(first)
    backend.remove([take(backend, "b")])
    take(other, "c", 60.0)
    assert answer_of(lambda: take(backend, "c")) == "LeaseHeld"
    assert listed(other, Shelf.ENTITIES) == ["me"]
    assert isinstance(backend.keepalive(), float)
    assert take(backend, "a").session == first.session


@guarantee("LEASE-7")
def check_keepalive_within_a_time(board: Board) -> None:
    """Keepalive that is given a time begins and renews the session like one that is given none."""
    backend, other = board.open(), board.open()
    post(backend, "k")
    granted = backend.keepalive(MOMENTS)
    lease = take(backend, "k")
    assert backend.keepalive(MOMENTS * 2) == backend.keepalive() == granted
    assert take(other, "k", 1.0).key if look(other, "k").lease is None else True
    assert look(other, "k").lease == lease


@guarantee("LEASE-7", "ERR-1")
def check_keepalive_within_a_silence(faulty: Board, proxy: Proxy) -> None:
    """Keepalive that is given a time is back by then, also where a server is silent.

    Another verb of the same backend waits for the server meanwhile, for much longer.
    """
    patient = {"connect_timeout": 40.0, "operation_timeout": 80.0, "session_timeout": 30.0}
    backend = faulty.open(**patient)
    post(backend, "k", "l")
    take(backend, "k")
    backend.keepalive()
    proxy.set(Mode.BLACK_HOLE)
    renewed = threading.Event()

    def renew() -> tuple[Any, float]:
        time.sleep(0.3)
        began = boottime()
        answer = raised(lambda: backend.keepalive(0.5))
        renewed.set()
        return answer, boottime() - began

    def verb() -> Any:
        return raised(lambda: take(backend, "l"))

    def heal() -> None:
        renewed.wait(0.5 + MOMENTS * 2)
        proxy.heal()
        proxy.cut()

    calls: list[Callable[[], Any]] = [renew, verb, heal]
    (answer, took), _, _ = together(calls)
    assert isinstance(answer, (errors.Unavailable, errors.Indeterminate))
    assert took <= 0.5 + MOMENTS


# -- several boards of one store -------------------------------------------------------------


def _work_off(backend: Backend, turn: int) -> list[Any]:
    """Do what every board sees at the same time, by the same names; return what is to be equal."""
    names = [f"k{turn}.{n}" for n in range(4)]
    claims = [f"claim{turn}.{n}" for n in range(4)]
    story: list[Any] = [keys(post(backend, *names))]
    lease = backend.acquire(names[0], "me", claims[0], 60.0)
    won = backend.acquire_next("me", claims[1:3], 60.0)
    story.append([posting.key for posting, _ in won])
    backend.release(lease)
    story.append([name_of(answer) for answer in backend.remove([won[0][1]])])
    story.append([name_of(answer) for answer in backend.remove([won[1][1]], Shelf.TRASH)])
    story.append(answer_of(lambda: backend.acquire(names[0], "me", claims[0], 60.0)))
    session = take(backend, names[3])
    backend.add([NewPosting("me", b"")], Shelf.ENTITIES)
    story.append(isinstance(backend.keepalive(), float))
    story.append(backend.restore(names[2]).key)
    story += [listed(backend), listed(backend, Shelf.TRASH), listed(backend, Shelf.ENTITIES)]
    left = [lease for _, lease in backend.acquire_next("me", _ids(2), 60.0)]
    story.append([name_of(answer) for answer in backend.remove([session, *left])])
    story.append([backend.count(), backend.count(Shelf.TRASH)])
    return story


@guarantee("RUN-1", "DIR-5")
def check_boards_of_one_store_at_once(board: Board, effort: Effort) -> None:
    """Several boards of one store are driven at once, by the same names, and each is by itself."""
    rounds = effort.rounds(4, 25)
    boards = [board.open(namespace=f"{board.namespace}-{n}") for n in range(3)]
    boards.append(board.open(namespace=f"{board.namespace}-0-more"))
    readers = [Reader(backend).start() for backend in boards]
    stories = together(
        [lambda one=one: [_work_off(one, turn) for turn in range(rounds)] for one in boards]  # type: ignore[misc]
    )
    for turn, story in enumerate(stories[0]):
        assert story[1:6] == [
            [f"k{turn}.1", f"k{turn}.2"], [None], [None], "LeaseLost", True,
        ]  # fmt: skip
        assert story[-2:] == [[None, None, None], [0, 0]]
    assert [story for story in stories if story != stories[0]] == []
    for reader in readers:
        reader.until(lambda reader=reader: len(reader.received) >= rounds * 17)  # type: ignore[misc]
    told = [[(change.kind, change.key) for change in reader.received] for reader in readers]
    if not any(reader.resets for reader in readers):
        assert [one for one in told if one != told[0]] == []
