# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Checks of sessions: the death of a holder, its freezing, and the life of all the others.

All the waiting is done once: one holder is killed, one is frozen, one lives on, and a reader
listens. The checks judge what was seen.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Event
from typing import Any

import pytest

from multiboard.primitives import Change, ChangeKind, Lease, NewPosting, Shelf, boottime
from multiboard_conformance.backend.answers import answer_of, eventually, name_of, persist, raised
from multiboard_conformance.backend.feeds import BUSY, Reader
from multiboard_conformance.backend.fixtures import SHORT_SESSION, Board, Store, post, take
from multiboard_conformance.backend.guarantees import guarantee
from multiboard_conformance.backend.reading import listed, look
from multiboard_conformance.machinery.plugin import Effort, show
from multiboard_conformance.machinery.recording import Recorded

KILLED = ["killed1", "killed2", "killed3"]
#: The posting of the killed that a rival asks for all the time.
CONTESTED = "killed3"


@dataclass
class Deaths:
    """What was seen of three holders: one killed, one frozen, one alive."""

    board: Board
    slack: float
    granted: float = 0.0
    killed_at: float = 0.0
    #: When each key was seen unleased.
    freed: dict[str, float] = field(default_factory=dict)
    entity_gone: float | None = None
    reported: list[tuple[float, Change]] = field(default_factory=list)
    #: Of the frozen holder: before its last renewal, what was granted, its lease, its successor.
    renewed: tuple[float, float] = (0.0, 0.0)
    frozen_lease: Lease | None = None
    successor: tuple[float, Lease] | None = None
    #: What the frozen holder got back when it was thawed.
    thawed: dict[str, Any] = field(default_factory=dict)
    #: Whether the living holder's lease was held at every look, and at the end.
    living_held: list[bool] = field(default_factory=list)
    living_end: dict[str, Any] = field(default_factory=dict)

    def expired(self, key: str) -> list[float]:
        """Return when the feed reported the end of a key's lease."""
        return [
            at
            for at, change in self.reported
            if (change.kind, change.key) == (ChangeKind.EXPIRED, key)
        ]


@pytest.fixture(scope="module")
def _deaths(store: Store) -> Iterator[Deaths]:
    board = Board(store, session_timeout=SHORT_SESSION)
    try:
        yield _watch(board)
    finally:
        board.close()


@pytest.fixture
def deaths(request: pytest.FixtureRequest, _deaths: Deaths) -> Deaths:
    """Return what was seen, once for all checks."""
    show(request, _deaths.board)
    return _deaths


def _watch(board: Board) -> Deaths:
    seen = Deaths(board, board.traits.lease_slack)
    watcher, rival = board.open(), board.open()
    listener = board.open()
    killed, frozen, living = board.peers(3)
    post(watcher, *KILLED, "frozen", "living")
    for peer in (killed, frozen, living):
        _, seen.granted = peer.keep()
    for key in KILLED:
        take(killed, key, holder="killed")
    killed.add([NewPosting("killed", b"entity")], Shelf.ENTITIES)
    living.add([NewPosting("living", b"entity")], Shelf.ENTITIES)
    seen.frozen_lease = take(frozen, "frozen", holder="same")
    living_lease = take(living, "living", holder="living")

    stop = Event()
    with ThreadPoolExecutor(1) as threads:
        reader = Reader(listener).start()
        listening = threads.submit(_listen, reader, seen, stop)
        try:
            seen.renewed = frozen.unkeep()
            frozen.pause()
            killed.kill()
            seen.killed_at = boottime()
            _look_on(watcher, rival, seen, living_lease)
            # The reader may be in the middle of a call.
            eventually(lambda: all(seen.expired(key) for key in [*KILLED, "frozen"]), BUSY, 0.1)
        finally:
            frozen.resume()
            stop.set()
        listening.result()
    _thaw(frozen, seen)
    seen.living_end = {
        "keepalive": answer_of(living.keepalive),
        "remove": [name_of(answer) for answer in living.remove([living_lease])],
        "entities": listed(watcher, Shelf.ENTITIES),
    }
    return seen


def _listen(reader: Reader, seen: Deaths, stop: Event) -> None:
    while not stop.is_set():
        known = len(reader.received)
        reader.read(0.5)
        now = boottime()
        seen.reported += [(now, change) for change in reader.received[known:]]


def _look_on(watcher: Recorded, rival: Recorded, seen: Deaths, living: Lease) -> None:
    """Look at the board until every death was noticed, and the living could have been taken."""
    began = boottime()
    least = began + seen.granted * 1.5
    most = began + max(seen.granted, seen.renewed[1]) + seen.slack + BUSY
    while boottime() < most:
        postings = dict(zip(KILLED, watcher.get(KILLED), strict=True))
        for key, posting in postings.items():
            if posting is not None and (posting.lease is None or posting.attempts > 1):
                seen.freed.setdefault(key, boottime())
        if CONTESTED not in seen.freed:
            _ask_for_it(rival)
        if seen.entity_gone is None and "killed" not in listed(watcher, Shelf.ENTITIES):
            seen.entity_gone = boottime()
        if seen.successor is None:
            answer = raised(lambda: take(watcher, "frozen", 60.0, "same"))
            if isinstance(answer, Lease):
                seen.successor = (boottime(), answer)
        seen.living_held.append(look(watcher, "living").lease == living)
        done = len(seen.freed) == len(KILLED) and seen.entity_gone and seen.successor
        if done and boottime() > least:
            return
        time.sleep(0.05)


def _ask_for_it(rival: Recorded) -> None:
    """Ask for the contested posting by a session of one's own; give it back where it is given."""
    answer = raised(lambda: take(rival, CONTESTED, None, "rival"))
    if isinstance(answer, Lease):
        rival.release(answer)


def _thaw(frozen: Any, seen: Deaths) -> None:
    lease = seen.frozen_lease

    def of(call: Callable[[], Any]) -> Any:
        return answer_of(lambda: persist(call))

    seen.thawed["remove"] = of(lambda: name_of(frozen.remove([lease])[0]))
    seen.thawed["release"] = of(lambda: frozen.release(lease))
    seen.thawed["renew"] = of(lambda: frozen.renew(lease, 30.0))
    seen.thawed["acquire"] = of(lambda: take(frozen, KILLED[0]))
    # SessionLost is raised once, by the first call that needs the session.
    seen.thawed["keepalive"] = of(frozen.keepalive)
    seen.thawed["acquire again"] = of(lambda: take(frozen, KILLED[0]))


# -- the dead --------------------------------------------------------------------------------


@guarantee("LEASE-4")
def check_leases_of_the_killed_are_freed(deaths: Deaths) -> None:
    """All session leases of a killed process end within its time-out plus lease_slack.

    A rival that asks for one of them all the time, and is refused, does not keep it alive.
    """
    late = deaths.granted + deaths.slack + BUSY
    assert sorted(deaths.freed) == KILLED
    assert [key for key, at in deaths.freed.items() if at - deaths.killed_at > late] == []


@guarantee("LEASE-4")
def check_lease_slack_is_what_the_store_needs(deaths: Deaths) -> None:
    """lease_slack is neither less than what the store takes nor many times as much: declare that.

    A board waits for it; and who declares a minute and takes a moment hides a fault to come.
    """
    before, granted = deaths.renewed
    assert deaths.successor is not None
    late = max(0.0, deaths.successor[0] - before - granted)
    declared = deaths.slack
    assert late <= declared + BUSY, f"lease_slack is {declared:g} s; the lease was {late:g} s late"
    assert declared <= max(5.0, 10 * late), (
        f"lease_slack is {declared:g} s for {late:g} s: declare less"
    )


@guarantee("LEASE-4", "FEED-3")
def check_feed_tells_of_the_killed(deaths: Deaths) -> None:
    """The feed reports EXPIRED for every lease of a killed process, to a reader that only waits."""
    late = deaths.killed_at + deaths.granted + deaths.slack + BUSY
    assert [len(deaths.expired(key)) for key in KILLED] == [1, 1, 1]
    assert [key for key in KILLED if deaths.expired(key)[0] > late] == []


@guarantee("LEASE-4")
def check_entities_of_the_killed_are_gone(deaths: Deaths) -> None:
    """What a killed process added to ENTITIES is gone as its leases are."""
    assert deaths.entity_gone is not None
    assert deaths.entity_gone - deaths.killed_at <= deaths.granted + deaths.slack + BUSY


@guarantee("LEASE-8", "LEASE-4")
def check_death_is_counted(deaths: Deaths) -> None:
    """Each lease of a killed process counts one death."""
    postings = deaths.board.open().get(KILLED)
    assert [posting and posting.deaths for posting in postings] == [1, 1, 1]


# -- the living ------------------------------------------------------------------------------


@guarantee("LEASE-4", "LEASE-7")
def check_living_keep_their_leases(deaths: Deaths) -> None:
    """Who keeps its session keeps its leases and entities, whoever dies around it."""
    assert deaths.living_held
    assert all(deaths.living_held)
    assert deaths.expired("living") == []
    assert deaths.living_end["remove"] == [None]
    assert deaths.living_end["entities"] == ["living"]
    assert isinstance(deaths.living_end["keepalive"], float)


# -- the frozen ------------------------------------------------------------------------------


@guarantee("LEASE-4")
def check_lease_of_the_frozen_is_freed(deaths: Deaths) -> None:
    """The session lease of a frozen process ends within its time-out plus lease_slack."""
    assert deaths.successor is not None
    before, granted = deaths.renewed
    assert deaths.successor[0] - before <= granted + deaths.slack + BUSY
    assert len(deaths.expired("frozen")) == 1


@guarantee("LEASE-7")
def check_nobody_gets_it_before_the_deadline(deaths: Deaths) -> None:
    """Nobody gets a posting before its holder's deadline: before sending + time-out x 0.8."""
    assert deaths.successor is not None
    before, granted = deaths.renewed
    assert deaths.successor[0] - before >= granted * 0.8


@guarantee("LEASE-7")
def check_keepalive_is_no_mere_hope(deaths: Deaths) -> None:
    """A session lasts as long as keepalive answered, counted from before it was asked."""
    assert deaths.successor is not None
    before, granted = deaths.renewed
    assert granted > 0
    assert deaths.successor[0] - before >= granted


@guarantee("LEASE-2", "LEASE-7")
@pytest.mark.parametrize("verb", ["remove", "release", "renew"])
def check_thawed_holder_is_refused(deaths: Deaths, verb: str) -> None:
    """A holder that was frozen and succeeded, under its own name, can do nothing any more."""
    assert deaths.thawed[verb] == "LeaseLost"


@guarantee("LEASE-2")
def check_thawed_holder_changed_nothing(deaths: Deaths) -> None:
    """The successor's lease stands after all that the thawed holder tried."""
    assert deaths.successor is not None
    assert look(deaths.board.open(), "frozen").lease == deaths.successor[1]


@guarantee("LEASE-3")
def check_successor_has_a_higher_token(deaths: Deaths) -> None:
    """The lease that follows a dead one has a higher token."""
    assert deaths.successor is not None
    assert deaths.frozen_lease is not None
    assert deaths.successor[1].token > deaths.frozen_lease.token


@guarantee("LEASE-7", "LEASE-4")
def check_thawed_holder_hears_session_lost_once(deaths: Deaths) -> None:
    """The next call that needs the session raises SessionLost; after it a new session begins."""
    answers = [deaths.thawed[name] for name in ("acquire", "keepalive", "acquire again")]
    assert answers[0] == "SessionLost"
    assert isinstance(answers[1], float)
    assert isinstance(answers[2], Lease)


# -- leaving ---------------------------------------------------------------------------------


@guarantee("LEASE-4")
def check_close_ends_session_leases_at_once(board: Board) -> None:
    """Close ends the session leases and entities of its backend at once; the feed reports it."""
    backend, other = board.open(), board.open()
    post(backend, "a", "b")
    take(backend, "a")
    take(backend, "b")
    backend.add([NewPosting("me", b"")], Shelf.ENTITIES)
    reader = Reader(other).start()
    backend.close()
    free, _ = eventually(lambda: all(p.lease is None for p in other.list().postings), BUSY)
    assert free
    assert (listed(other), listed(other, Shelf.ENTITIES)) == (["a", "b"], [])
    assert reader.receives(ChangeKind.EXPIRED, "a")
    assert reader.receives(ChangeKind.EXPIRED, "b")


@guarantee("LEASE-4")
def check_sessions_of_one_process_are_apart(board: Board) -> None:
    """Closing one backend ends nothing of another one in the same process."""
    backend, other = board.open(), board.open()
    post(backend, "k")
    lease = take(backend, "k")
    backend.add([NewPosting("me", b"")], Shelf.ENTITIES)
    post(other, "theirs")
    take(other, "theirs")
    other.close()
    time.sleep(0.2)
    assert look(backend, "k").lease == lease
    assert listed(backend, Shelf.ENTITIES) == ["me"]


@guarantee("LEASE-4", "LEASE-7")
def check_keepalive_grants_what_was_asked_or_says_so(board: Board) -> None:
    """Keepalive answers how long the session lasts, also where it begins the session."""
    backend = board.open(session_timeout=8.0)
    first, second = backend.keepalive(), backend.keepalive()
    assert 0.0 < first <= 60.0
    assert abs(second - first) <= first / 2


@guarantee("LEASE-4", "LEASE-2")
def check_many_deaths_at_once(board: Board, effort: Effort) -> None:
    """A session that ends with many leases frees them all, each with one death and one EXPIRED."""
    backend, other = board.open(session_timeout=30.0), board.open()
    number = effort.rounds(100, 1000)
    names = [f"k{n}" for n in range(number)]
    won: list[object] = []
    for start in range(0, number, 100):
        post(backend, *names[start : start + 100])
        won += backend.acquire_next("me", names[start : start + 100])
        backend.keepalive()
    assert len(won) == number
    reader = Reader(other).start()
    backend.close()
    reader.until(lambda: len(reader.keys(ChangeKind.EXPIRED)) >= number, 30.0)
    assert sorted(reader.keys(ChangeKind.EXPIRED)) == sorted(names)
    assert {(p.lease, p.attempts, p.deaths) for p in other.list().postings} == {(None, 1, 1)}
