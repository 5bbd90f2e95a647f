# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Checks of what ended while nobody looked, each verb from a state that no other has touched.

Also of how long sessions last, and of claims at the instant of a kill. All of it is prepared and
awaited once, see :mod:`.endings`; the checks ask, and judge.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from multiboard.primitives import Backend, Change, Lease, boottime
from multiboard.primitives import ChangeKind as K
from multiboard_conformance.backend import endings as scene
from multiboard_conformance.backend.answers import answer_of, eventually, name_of, persist, raised
from multiboard_conformance.backend.endings import (
    CLAIMS,
    ENTITIES,
    KEY,
    LONG,
    LOOKS,
    NEEDS,
    USES,
    Ended,
    Endings,
    state,
)
from multiboard_conformance.backend.feeds import BUSY, MOMENTS, Reader
from multiboard_conformance.backend.fixtures import SHORT_SESSION, Board, Store, try_to_take
from multiboard_conformance.backend.guarantees import guarantee
from multiboard_conformance.backend.reading import look
from multiboard_conformance.machinery.plugin import Effort, show


@pytest.fixture(scope="module")
def _endings(store: Store, effort: Effort) -> Iterator[Endings]:
    board = Board(store, session_timeout=SHORT_SESSION)
    try:
        yield scene.watched(board, effort)
    finally:
        board.close()


@pytest.fixture
def endings(request: pytest.FixtureRequest, _endings: Endings) -> Endings:
    """Return what was prepared and seen, once for all checks."""
    show(request, _endings.board)
    return _endings


#: What a board shows whose only lease ended by itself: one attempt, one death.
FREE: tuple[Any, ...] = (None, 1, 1, [])


def _opened(ended: Ended) -> Backend:
    """Return who is to judge; it is opened now where it was not before."""
    raised(ended.holder.open)
    return ended.holder


# -- the lease that ended --------------------------------------------------------------------


def _is_void(endings: Endings, question: str, verb: str) -> None:
    ended = endings.ended[question]
    backend = _opened(ended)
    answer = answer_of(lambda: persist(lambda: name_of(USES[verb](backend, ended.lease))))
    assert (answer, persist(lambda: state(backend))) == ("LeaseLost", FREE)


@guarantee("LEASE-2")
@pytest.mark.parametrize("verb", USES)
@pytest.mark.parametrize("kind", scene.KINDS)
def check_use_of_a_lease_that_ended_unnoticed(endings: Endings, kind: str, verb: str) -> None:
    """A lease whose end nobody noticed is LeaseLost to each verb, whoever uses it."""
    _is_void(endings, f"{kind} {verb}", verb)


@guarantee("LEASE-2")
@pytest.mark.parametrize("verb", USES)
def check_holder_that_woke_is_refused(endings: Endings, verb: str) -> None:
    """A holder that slept past its session is refused by each verb, though nobody noticed."""
    _is_void(endings, f"woken {verb}", verb)


@guarantee("LEASE-2", "LEASE-5")
@pytest.mark.parametrize("verb", USES)
def check_holder_of_a_timed_lease_that_ended_is_refused(endings: Endings, verb: str) -> None:
    """A holder whose timed lease is over is refused by each verb, though nobody noticed."""
    _is_void(endings, f"timed own {verb}", verb)


# -- what everybody sees ---------------------------------------------------------------------


def _shows_the_end(endings: Endings, question: str, verb: str) -> None:
    backend = _opened(endings.ended[question])
    posting = LOOKS[verb](backend)
    assert (posting.key, posting.lease, posting.attempts) == (KEY, None, 1)
    if verb != "add again":
        assert posting.deaths == 1
    assert state(backend) == FREE


@guarantee("LEASE-4")
@pytest.mark.parametrize("verb", LOOKS)
def check_look_at_a_lease_of_the_dead(endings: Endings, verb: str) -> None:
    """Each verb that shows postings shows the end of a dead session's lease, noticed or not."""
    _shows_the_end(endings, f"session {verb}", verb)


@guarantee("LEASE-5")
@pytest.mark.parametrize("verb", LOOKS)
def check_look_at_a_timed_lease_that_ended(endings: Endings, verb: str) -> None:
    """Each verb that shows postings shows the end of a timed lease, noticed or not."""
    _shows_the_end(endings, f"timed {verb}", verb)


@guarantee("LEASE-4")
@pytest.mark.parametrize("verb", ENTITIES)
def check_entity_of_the_dead(endings: Endings, verb: str) -> None:
    """A dead session's entity is in no list and no count, and nothing to purge, noticed or not."""
    backend = _opened(endings.ended[f"session entity {verb}"])
    gone = {"list": [], "count": 0, "purge": [False]}
    assert ENTITIES[verb](backend) == gone[verb]


# -- the next claim --------------------------------------------------------------------------


def _follows_a_death(endings: Endings, question: str, verb: str) -> None:
    ended = endings.ended[question]
    backend = _opened(ended)
    lease = CLAIMS[verb](backend)
    assert lease.token > ended.lease.token
    assert state(backend) == (lease, 2, 1, [])
    reader = Reader(backend)
    reader.cursor = ended.cursor
    reader.until(lambda: reader.resets or len(reader.received) >= 3)
    story = [Change(K.CLAIMED, KEY, ended.lease.token), Change(K.EXPIRED, KEY, ended.lease.token)]
    assert reader.resets or reader.received == [*story, Change(K.CLAIMED, KEY, lease.token)]


@guarantee("LEASE-8", "FEED-1")
@pytest.mark.parametrize("verb", CLAIMS)
@pytest.mark.parametrize("kind", scene.KINDS)
def check_claim_behind_a_death_that_nobody_noticed(endings: Endings, kind: str, verb: str) -> None:
    """A claim behind an end that nobody noticed counts the death, and is reported after it."""
    _follows_a_death(endings, f"{kind} {verb}", verb)


@guarantee("LEASE-6", "LEASE-5")
def check_repeat_behind_the_end(endings: Endings) -> None:
    """An attempt that is repeated when its lease is over does not bring that lease back."""
    ended = endings.ended["timed own again"]
    old, backend = ended.lease, ended.holder
    again = raised(lambda: backend.acquire(KEY, old.holder, old.claim_id, 30.0))
    if isinstance(again, Lease):
        assert again.token > old.token
        assert state(backend) == (again, 2, 1, [])
    else:
        assert (name_of(again), state(backend)) == ("LeaseLost", FREE)


# -- the holder that woke --------------------------------------------------------------------


@guarantee("LEASE-7")
@pytest.mark.parametrize("verb", NEEDS)
def check_holder_that_woke_hears_of_it(endings: Endings, verb: str) -> None:
    """Each verb that needs the session raises SessionLost to a holder that slept past its end."""
    backend = endings.ended[f"needs {verb}"].holder
    answer = answer_of(lambda: persist(lambda: NEEDS[verb](backend)))
    assert (answer, persist(lambda: state(backend))) == ("SessionLost", FREE)
    assert persist(lambda: ENTITIES["list"](backend)) == []


@guarantee("LEASE-7", "LEASE-5")
def check_timed_lease_needs_no_session(endings: Endings) -> None:
    """A holder that slept past its session's end acquires a timed lease as if nothing were."""
    backend = endings.ended["needs nothing"].holder
    lease = persist(lambda: backend.acquire(KEY, "me", "again", 60.0))
    assert persist(lambda: state(backend)) == (lease, 2, 1, [])
    assert answer_of(lambda: persist(backend.keepalive)) == "SessionLost", "it is reported once"


# -- how long a session lasts ----------------------------------------------------------------


@guarantee("LEASE-7")
@pytest.mark.parametrize("verb", CLAIMS)
def check_late_claim_has_half_of_the_time(endings: Endings, verb: str) -> None:
    """A lease by a session of which a quarter is left lives for half of the time-out at least."""
    span = endings.spans[f"late {verb}"]
    assert span.freed is None or span.freed - span.since >= span.granted / 2
    _ends_in_time(endings, f"late {verb}")


def _ends_in_time(endings: Endings, name: str) -> None:
    span = endings.spans[name]
    most = span.granted + endings.slack + BUSY
    assert span.freed is not None
    assert span.held - endings.stopped <= most


@guarantee("LEASE-4", "LEASE-7")
def check_keepalive_answers_what_was_granted(endings: Endings) -> None:
    """Who asks for a very short session is told how long it is: no less, and not much more."""
    span = endings.spans["short"]
    assert span.freed is None or span.freed - span.since >= span.granted
    _ends_in_time(endings, "short")


@guarantee("LEASE-1", "LEASE-7")
def check_refused_claim_leaves_all_times_alone(endings: Endings) -> None:
    """Claims that are refused leave the times of the asker's session and of all leases alone."""
    assert endings.refused == [["LeaseHeld", "LeaseHeld", "PostingNotFound", [], []]] * 3
    for lease, shown in endings.beside:
        assert shown == lease
        if lease.ends_in is not None:
            assert shown is not None
            assert shown.ends_in is not None
            assert lease.ends_in - BUSY * 10 <= shown.ends_in <= lease.ends_in
    span = endings.spans["asker"]
    assert span.freed is None or span.freed - span.since >= span.granted
    _ends_in_time(endings, "asker")


# -- a claim at the instant of a kill --------------------------------------------------------


@guarantee("LEASE-4", "LEASE-8")
def check_claim_at_the_instant_of_a_kill(endings: Endings) -> None:
    """A claim under way when its process was killed ends with its session, or never was."""
    witness, reader = endings.witness, endings.reader
    assert witness is not None
    assert reader is not None
    free, _ = eventually(
        lambda: all(posting and posting.lease is None for posting in witness.get(endings.struck)),
        BUSY,
    )
    assert free, "a killed process holds a lease"
    counted = {
        key: (look(witness, key).attempts, look(witness, key).deaths) for key in endings.struck
    }
    reader.until(
        lambda: len(reader.keys(K.EXPIRED)) >= sum(deaths for _, deaths in counted.values()),
        MOMENTS,
    )
    assert reader.resets == 0
    for key, count in counted.items():
        story = [K.CLAIMED, K.EXPIRED] if count != (0, 0) else []
        assert (count, reader.story(key)) in (((0, 0), []), ((1, 1), story))
        assert isinstance(try_to_take(witness, key), Lease)


# Last of all: the full suite waits on for it.


@guarantee("LEASE-7")
def check_keepalive_answers_no_more_than_was_granted(endings: Endings, effort: Effort) -> None:
    """Who asks for a very long session is told how long it is: it lasts for so long.

    The quick suite looks at it for as long as other sessions take to end, the full one for 42 s.
    """
    span = endings.spans["long"]
    most = min(span.granted, LONG)
    if effort.quick:
        most = min(most, span.held - span.since)
    while span.freed is None and boottime() < span.since + most:
        eventually(lambda: span.look() or span.freed, min(1.0, most))  # type: ignore[func-returns-value]
    assert span.freed is None or span.freed - span.since >= most
