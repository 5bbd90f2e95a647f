# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The guarantees as data: id, sentence, and why anyone should care. Imports pytest for the marker.

The sentence is the same here, in ``GUARANTEES.md`` and in the text of a failure.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import pytest

from multiboard_conformance.promises import Promise, by_id, require_known

Check = TypeVar("Check", bound=Callable[..., None])


_ALL = (
    Promise(
        "DIR-1",
        "An acknowledged posting is in every later list, from any connection, until it is removed.",
        "An acknowledged job that no worker can see is a job lost without a trace.",
    ),
    Promise(
        "DIR-2",
        "Adding the same key again is the same posting, not a second one.",
        "A poster that lost the reply must post again; the job must not run twice for that.",
    ),
    Promise(
        "DIR-3",
        "A list is ordered by rank, then serial; a post begun after another was acknowledged "
        "never sorts before it.",
        "Workers take from the front: without one order an old job starves behind younger ones.",
    ),
    Promise(
        "DIR-4",
        "A body comes back byte for byte up to max_body; over it, PostingTooLarge before anything "
        "is sent.",
        "On some stores a body over the limit costs the connection, and the session with it.",
    ),
    Promise(
        "DIR-5",
        "Foreign or damaged data in the board's space breaks nothing and is never deleted: it is "
        "quarantined and reported.",
        "One bad record must not stop every worker, and a reader has no right to destroy what it "
        "can't read.",
    ),
    Promise(
        "DIR-6",
        "Where create is off nothing is made: a board that is not there is BoardNotFound, before "
        "and after.",
        "Whoever looks at a board under a mistyped name must not find an empty one, and take it "
        "for theirs.",
    ),
    Promise(
        "LEASE-1",
        "Acquire succeeds if and only if the posting is live and unleased: of any number of "
        "racers one wins.",
        "Two winners run one job twice; no winner leaves it lying there.",
    ),
    Promise(
        "LEASE-2",
        "Renew, release and remove succeed if and only if the token is current and the lease has "
        "not ended; else LeaseLost and nothing changed.",
        "A holder that was frozen or cut off wakes up and consumes its successor's job.",
    ),
    Promise(
        "LEASE-3",
        "Tokens rise over a posting's life: after release, expiry and a restart of the store.",
        "A token that comes back lets an old holder pass for the new one.",
    ),
    Promise(
        "LEASE-4",
        "The leases of a dead session end within the session's time-out plus lease_slack, and the "
        "feed reports it.",
        "The work of a dead worker waits for exactly this.",
    ),
    Promise(
        "LEASE-5",
        "A timed lease outlives its process and ends when due, by the store's clock, whatever the "
        "client's clock shows.",
        "A machine with a wrong clock must not steal jobs, nor hold them for ever.",
    ),
    Promise(
        "LEASE-6",
        "Acquiring again with the same claim id is the same lease (a lost reply costs nothing).",
        "Else a claim whose reply was lost is held by nobody who has its token.",
    ),
    Promise(
        "LEASE-7",
        "A holder learns that it may have lost a lease before anyone else can hold it (deadline = "
        "time before sending + time-out x 0.8).",
        "A worker can stop its work in time only if the answer it got was the store's, and true.",
    ),
    Promise(
        "LEASE-8",
        "attempts counts the acquisitions of a posting, deaths apart from abandons.",
        "A job that kills its workers must be distinguished from one that was given back.",
    ),
    Promise(
        "NEXT-1",
        "acquire_next hands out the first of the order that is due and unleased; workers asking "
        "together get different postings, none is left out.",
        "It is the whole work of a worker's loop.",
    ),
    Promise(
        "NEXT-2",
        "A posting is not handed out before its not_before, and is soon after.",
        "Delays and back-off after a failure are both made of this.",
    ),
    Promise(
        "BATCH-1",
        "A batch of n has the effect of n single operations, item by item, with an answer for "
        "each.",
        "A batch that loses one item, or shifts the answers by one, is worse than none.",
    ),
    Promise(
        "FEED-1",
        "Every change is reported at least once, in order, or the feed reports a reset.",
        "The local view of a board is built from this alone.",
    ),
    Promise(
        "FEED-2",
        "A change is never reported before the listing can show it.",
        "Who receives the event of a job and looks must find it, or it sleeps until the next one.",
    ),
    Promise(
        "FEED-3",
        "A waiting reader receives a change without polling (SQLite: a poll that a person would "
        "not notice).",
        "A worker that sleeps through a posting adds its whole nap to the latency of the job.",
    ),
    Promise(
        "FEED-4",
        "After a reconnect, a restart, a trimmed or compacted history the reader continues or "
        "receives a reset; never silence.",
        "A feed that died quietly looks exactly like a board on which nothing happens.",
    ),
    Promise(
        "ERR-1",
        "No native error escapes; not-applied and unknown are distinguished.",
        "The caller repeats what was surely not applied and resolves what is unknown; an error of "
        "the client library allows neither.",
    ),
    Promise(
        "ERR-2",
        "A failed operation changes nothing; an unknown one, repeated, has one effect.",
        "This is what makes repeating the whole operation a cure.",
    ),
    Promise(
        "RUN-1",
        "All of this from many threads, processes and forks at once.",
        "Services fork, and run threads; what holds only for one caller does not hold.",
    ),
)

#: Every guarantee by its id, in the order of the design.
GUARANTEES: dict[str, Promise] = by_id(_ALL)


#: A check of either kind of lease, by what it passes to acquire.
BOTH_KINDS = pytest.mark.parametrize("expires_in", [None, 30.0], ids=["session", "timed"])


def guarantee(*ids: str) -> Callable[[Check], Check]:
    """Mark a check with the guarantees that it judges."""
    require_known(ids, GUARANTEES)
    return cast("Callable[[Check], Check]", pytest.mark.guarantee(*ids))


def ids_of(item: Any) -> tuple[str, ...]:
    """Return the ids that a collected check is marked with."""
    return tuple(name for mark in item.iter_markers("guarantee") for name in mark.args)
