# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Checks of the lease: one holder, by its token, distinguished from all before and after it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

import pytest

from multiboard.primitives import Backend, ChangeKind, Lease, Shelf
from multiboard_conformance.backend.answers import answer_of, eventually, name_of, raised
from multiboard_conformance.backend.feeds import Reader
from multiboard_conformance.backend.fixtures import (
    Board,
    contend,
    fresh_keys,
    post,
    post_and_trash,
    race,
    take,
    together,
    try_to_take,
)
from multiboard_conformance.backend.guarantees import BOTH_KINDS, guarantee
from multiboard_conformance.backend.reading import listed, look, snapshot
from multiboard_conformance.machinery.plugin import Effort
from multiboard_conformance.machinery.programs import claim_id

# -- LEASE-1 ---------------------------------------------------------------------------------


@guarantee("LEASE-1")
@BOTH_KINDS
def check_acquire_leases_a_posting(board: Board, expires_in: float | None) -> None:
    """Acquire answers with the lease as it was asked for, and everybody sees it."""
    backend, other = board.open(), board.open()
    post(backend, "k")
    lease = backend.acquire("k", "me", "attempt-1", expires_in)
    assert (lease.key, lease.holder, lease.claim_id) == ("k", "me", "attempt-1")
    assert (lease.session is None, lease.ends_in is None) == (
        expires_in is not None, expires_in is None,
    )  # fmt: skip
    assert (look(other, "k").lease, other.list().postings[0].lease) == (lease, lease)


@guarantee("LEASE-1", "ERR-2")
@BOTH_KINDS
def check_leased_posting_is_refused(board: Board, expires_in: float | None) -> None:
    """A second attempt, under the same name or another, raises LeaseHeld with the holder."""
    backend, other = board.open(), board.open()
    post(backend, "k")
    take(backend, "k", expires_in, "first")
    before = snapshot(backend)
    for rival in (backend, other):
        for holder in ("first", "second"):
            error = raised(lambda: take(rival, "k", expires_in, holder))  # noqa: B023
            assert (name_of(error), error.key, error.holder) == ("LeaseHeld", "k", "first")
    assert snapshot(backend) == before


@guarantee("LEASE-1")
def check_acquire_of_what_is_not_live(board: Board) -> None:
    """Acquire of an unknown, a removed or a trashed posting raises PostingNotFound."""
    backend = board.open()
    post(backend, "removed", "trashed")
    backend.remove([take(backend, "removed")])
    backend.remove([take(backend, "trashed")], Shelf.TRASH)
    names = ["unknown", "removed", "trashed"]
    assert [answer_of(lambda: take(backend, key)) for key in names] == ["PostingNotFound"] * 3  # noqa: B023
    assert listed(backend) == []


@guarantee("LEASE-1")
@BOTH_KINDS
def check_released_posting_can_be_leased(board: Board, expires_in: float | None) -> None:
    """A released posting is unleased for everybody at once."""
    backend, other = board.open(), board.open()
    post(backend, "k")
    backend.release(take(backend, "k", expires_in))
    assert look(other, "k").lease is None
    assert take(other, "k", expires_in).key == "k"


@guarantee("LEASE-1")
def check_acquire_by_key_may_be_early(board: Board) -> None:
    """Acquire leases a posting that is not due yet."""
    backend = board.open()
    post(backend, "k", delay=60.0)
    assert take(backend, "k").key == "k"


@guarantee("LEASE-1", "RUN-1")
@BOTH_KINDS
def check_one_of_many_racers_wins(board: Board, effort: Effort, expires_in: float | None) -> None:
    """Of processes that acquire in the same instant one wins and the others get LeaseHeld."""
    backend, peers = board.open(), board.peers(4)
    for key in fresh_keys(backend, effort.rounds(6, 40)):
        answers = race(peers, lambda peer: take(peer, key, expires_in, peer.who))  # noqa: B023
        winners = [answer for answer in answers if isinstance(answer, Lease)]
        losers = [name_of(answer) for answer in answers if not isinstance(answer, Lease)]
        assert (len(winners), losers) == (1, ["LeaseHeld"] * 3)
        assert look(backend, key).lease == winners[0]


@guarantee("LEASE-1", "RUN-1")
def check_threads_of_one_backend_race_too(board: Board, effort: Effort) -> None:
    """Of threads that acquire on one backend in the same instant one wins."""
    backend = board.open()
    for key in fresh_keys(backend, effort.rounds(5, 40)):
        answers = together([lambda: answer_of(lambda: take(backend, key))] * 4)  # noqa: B023
        assert sum(isinstance(answer, Lease) for answer in answers) == 1


@guarantee("LEASE-1", "LEASE-2", "RUN-1")
def check_removal_and_acquisition_race(board: Board, effort: Effort) -> None:
    """A posting that is removed while others try to acquire it is leased to none of them."""
    backend, peers = board.open(), board.peers(3)
    for key in fresh_keys(backend, effort.rounds(4, 25)):
        lease = take(backend, key, 30.0)
        first, *others = contend(
            peers,
            lambda peer: peer.remove([lease])[0],  # noqa: B023
            lambda peer: take(peer, key, 30.0),  # noqa: B023
        )
        assert first is None
        assert set(others) <= {"LeaseHeld", "PostingNotFound"}
        assert backend.get([key])[0] is None


# -- LEASE-2 ---------------------------------------------------------------------------------


def _verbs(lease: Lease) -> dict[str, Callable[[Backend], object]]:
    return {
        "renew": lambda backend: backend.renew(lease, 40.0),
        "release": lambda backend: backend.release(lease),
        "remove": lambda backend: backend.remove([lease])[0],
        "trash": lambda backend: backend.remove([lease], Shelf.TRASH)[0],
    }


VERBS = pytest.mark.parametrize("verb", ["renew", "release", "remove", "trash"])


@guarantee("LEASE-2")
@pytest.mark.parametrize("verb", ["renew", "remove", "trash"])
@BOTH_KINDS
def check_superseded_lease_is_refused(board: Board, verb: str, expires_in: float | None) -> None:
    """A lease whose posting has a new lease, under the same names, is lost; nothing changes."""
    backend = board.open()
    post(backend, "k")
    old = take(backend, "k", expires_in, "same")
    backend.release(old)
    current = take(backend, "k", expires_in, "same")
    before = snapshot(backend)
    answer = answer_of(lambda: name_of(_verbs(old)[verb](backend)))
    assert (answer, snapshot(backend)) == ("LeaseLost", before)
    assert list(backend.remove([current])) == [None]


@guarantee("LEASE-2", "ERR-2")
def check_repeated_release_spares_the_successor(board: Board) -> None:
    """A release that is repeated after the next one took the posting changes nothing."""
    backend, other = board.open(), board.open()
    post(backend, "k")
    old = take(backend, "k", 30.0)
    backend.release(old)
    take(other, "k", 30.0)
    before = snapshot(other)
    assert answer_of(lambda: backend.release(old)) is None
    assert snapshot(other) == before


@guarantee("LEASE-2")
def check_lease_that_ended_unheard_is_refused(board: Board) -> None:
    """After its end and a successor of the same name, every use of a lease is refused."""
    backend, other = board.open(), board.open()
    post(backend, "k")
    old = take(backend, "k", 0.2, "same")
    current, _ = eventually(lambda: try_to_take(other, "k"), 3.0)
    assert isinstance(current, Lease)
    before = snapshot(backend)
    answers = {
        name: answer_of(lambda: name_of(use(backend)))  # noqa: B023
        for name, use in _verbs(old).items()
    }
    assert answers == dict.fromkeys(_verbs(old), "LeaseLost")
    assert snapshot(backend) == before
    assert list(other.remove([current])) == [None]


@guarantee("LEASE-2")
def check_ended_lease_is_refused(board: Board) -> None:
    """A timed lease that has ended is lost though nobody took the posting since."""
    backend = board.open()
    names = ["renew", "release", "remove", "trash"]
    post(backend, *names)
    leases = {name: take(backend, name, 0.3) for name in names}
    time.sleep(0.5)
    answers = [answer_of(lambda: name_of(_verbs(leases[v])[v](backend))) for v in names]  # noqa: B023
    assert answers == ["LeaseLost"] * 4
    assert (listed(backend), listed(backend, Shelf.TRASH)) == (names, [])


@guarantee("LEASE-2")
@VERBS
@pytest.mark.parametrize("off", [-1, 1])
def check_token_is_the_proof(board: Board, verb: str, off: int) -> None:
    """A lease with every name right and another token is refused."""
    backend, other = board.open(), board.open()
    post(backend, "k")
    lease = take(backend, "k", 30.0)
    forged = dataclasses.replace(lease, token=lease.token + off)
    before = snapshot(backend)
    answer = answer_of(lambda: name_of(_verbs(forged)[verb](other)))
    assert (answer, snapshot(backend)) == ("LeaseLost", before)


@guarantee("LEASE-2")
@pytest.mark.parametrize("verb", ["renew", "remove", "trash"])
def check_lease_on_what_is_gone(board: Board, verb: str) -> None:
    """A lease on a posting that was removed by another one is answered PostingNotFound."""
    backend, other = board.open(), board.open()
    post(backend, "k")
    old = take(backend, "k", 30.0)
    backend.release(old)
    other.remove([take(other, "k")])
    assert answer_of(lambda: name_of(_verbs(old)[verb](backend))) == "PostingNotFound"
    assert (listed(backend), listed(backend, Shelf.TRASH)) == ([], [])


@guarantee("LEASE-2")
@VERBS
@BOTH_KINDS
def check_lease_serves_on_another_connection(
    board: Board, verb: str, expires_in: float | None
) -> None:
    """Whoever has the current lease may use it, on any connection."""
    backend, other = board.open(), board.open()
    post(backend, "k")
    lease = take(backend, "k", expires_in)
    answer = answer_of(lambda: name_of(_verbs(lease)[verb](other)))
    assert answer == (lease if verb == "renew" else None)
    gone = verb in ("remove", "trash")
    assert listed(backend) == ([] if gone else ["k"])
    if not gone:
        assert look(backend, "k").lease == (lease if verb == "renew" else None)


@guarantee("LEASE-2")
def check_renew_leaves_a_session_lease(board: Board) -> None:
    """Renew checks a session lease and leaves it as it is."""
    backend = board.open()
    post(backend, "k")
    lease = take(backend, "k")
    before = look(backend, "k")
    renewed = backend.renew(lease, 0.05)
    time.sleep(0.3)
    assert (renewed, renewed.ends_in) == (lease, None)
    assert look(backend, "k") == before


@guarantee("LEASE-2", "ERR-2", "RUN-1")
def check_one_lease_used_twice_at_once(board: Board, effort: Effort) -> None:
    """Of a release and a removal by one lease, in the same instant, one has its effect."""
    backend, peers = board.open(), board.peers(2)
    for key in fresh_keys(backend, effort.rounds(5, 40)):
        lease = take(backend, key, 30.0)
        released, removed = contend(
            peers,
            lambda peer: peer.release(lease),  # noqa: B023
            lambda peer: peer.remove([lease])[0],  # noqa: B023
        )
        if removed is None:
            assert (released, listed(backend)) == ("PostingNotFound", [])
        else:
            assert (released, removed, listed(backend)) == (None, "LeaseLost", [key])
            backend.remove([take(backend, key)])


# -- LEASE-3 ---------------------------------------------------------------------------------


@guarantee("LEASE-3")
def check_tokens_rise_after_release(board: Board) -> None:
    """Each lease on a posting has a higher token than the one before, whoever holds it."""
    backends = [board.open(), board.open()]
    post(backends[0], "k")
    tokens = []
    for n in range(6):
        lease = take(backends[n % 2], "k", None if n % 3 else 30.0)
        tokens.append(lease.token)
        backends[n % 2].release(lease)
    assert tokens == sorted(set(tokens))


@guarantee("LEASE-3")
def check_tokens_rise_after_expiry(board: Board) -> None:
    """The lease after one that ended by itself has a higher token."""
    backend = board.open()
    post(backend, "k")
    old = take(backend, "k", 0.2)
    new, _ = eventually(lambda: try_to_take(backend, "k"), 5.0)
    assert isinstance(new, Lease)
    assert new.token > old.token


@guarantee("LEASE-3")
def check_tokens_rise_over_trash_and_restore(board: Board) -> None:
    """A posting that comes back from the trash goes on with higher tokens."""
    backend = board.open()
    old = post_and_trash(backend, "k", released=3)
    backend.restore("k")
    new = take(backend, "k")
    assert new.token > old.token
    assert [name_of(answer) for answer in board.open().remove([old])] == ["LeaseLost"]


@guarantee("LEASE-3")
def check_tokens_rise_when_all_have_left(board: Board) -> None:
    """Tokens go on rising when every backend was closed in between."""
    backend = board.open()
    post(backend, "k")
    old = take(backend, "k", 30.0)
    backend.release(old)
    backend.close()
    assert take(board.open(), "k", 30.0).token > old.token


@guarantee("LEASE-3", "RUN-1")
def check_tokens_rise_between_processes(board: Board, effort: Effort) -> None:
    """Whichever process wins the next lease, its token is the higher one."""
    backend, peers = board.open(), board.peers(3)
    post(backend, "k")
    tokens = []
    for _ in range(effort.rounds(4, 25)):
        answers = race(peers, lambda peer: take(peer, "k", 30.0, peer.who))
        (lease,) = [answer for answer in answers if isinstance(answer, Lease)]
        tokens.append(lease.token)
        backend.release(lease)
    assert tokens == sorted(set(tokens))


# -- LEASE-6 ---------------------------------------------------------------------------------


@guarantee("LEASE-6")
@BOTH_KINDS
def check_repeated_acquire_finds_its_lease(board: Board, expires_in: float | None) -> None:
    """Acquire with the same claim id answers with the same lease and changes nothing."""
    backend = board.open()
    post(backend, "k")
    reader = Reader(backend).start()
    first = backend.acquire("k", "me", "one", expires_in)
    before = look(backend, "k")
    again = [backend.acquire("k", "me", "one", expires_in) for _ in range(3)]
    assert (again, look(backend, "k")) == ([first] * 3, before)
    backend.release(first)
    assert reader.tale("k", 2) == [ChangeKind.CLAIMED, ChangeKind.RELEASED]


@guarantee("LEASE-6")
def check_repeated_acquire_leaves_the_end(board: Board) -> None:
    """A repeat does not move the end of a timed lease, whatever it asks for."""
    backend = board.open()
    post(backend, "k")
    backend.acquire("k", "me", "one", 30.0)
    again = backend.acquire("k", "me", "one", 3000.0)
    shown = look(backend, "k").lease
    assert again.ends_in is not None
    assert again.ends_in <= 30.0
    assert shown is not None
    assert shown.ends_in is not None
    assert shown.ends_in <= 30.0


@guarantee("LEASE-6")
def check_timed_lease_is_found_by_another_connection(board: Board) -> None:
    """A timed lease is found again by its claim id on any connection."""
    backend, other = board.open(), board.open()
    post(backend, "k")
    first = backend.acquire("k", "me", "one", 30.0)
    assert other.acquire("k", "me", "one", 30.0) == first


@guarantee("LEASE-6")
def check_session_lease_belongs_to_its_session(board: Board) -> None:
    """A session lease is found again within its session only; others get LeaseHeld."""
    backend, other = board.open(), board.open()
    post(backend, "k")
    backend.acquire("k", "me", "one")
    assert answer_of(lambda: other.acquire("k", "me", "one")) == "LeaseHeld"


@guarantee("LEASE-6", "RUN-1")
def check_one_attempt_from_many_threads(board: Board, effort: Effort) -> None:
    """One attempt that is sent several times at once is one lease."""
    backend = board.open()
    for key in fresh_keys(backend, effort.rounds(4, 25)):
        attempt = claim_id()
        answers = together([lambda: backend.acquire(key, "me", attempt)] * 4)  # noqa: B023
        assert (set(answers), look(backend, key).attempts) == ({look(backend, key).lease}, 1)
