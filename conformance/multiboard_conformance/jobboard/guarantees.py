# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""What a TaskFlow jobboard owes its users: id, sentence, and why anyone should care.

These are promises of the jobboard, whatever is under it; those of a multiboard backend are in
:mod:`multiboard_conformance.backend.guarantees`. Imports what a promise is only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from multiboard_conformance.promises import Promise, by_id, require_known

#: Seconds that a check may take before it is killed and its promise is broken.
DEADLINE = 40.0


Judge = Callable[[Any], None]

_ALL = (
    Promise(
        "BOARD-1",
        "Jobs are listed higher priority first, then oldest first.",
        "It is what TaskFlow's documentation says; in any other order an old or an urgent job "
        "starves.",
    ),
    Promise(
        "BOARD-2",
        "wait() returns as soon as there is a job, lists in the order of iterjobs(), and raises "
        "NotFound in time where there is none.",
        "A conductor's loop is made of it.",
    ),
    Promise(
        "BOARD-3",
        "Of any number of claimers one wins; all others get UnclaimableJob, also those who use "
        "the winner's name.",
        "Two winners run one job twice; names come back when a conductor is restarted.",
    ),
    Promise(
        "BOARD-4",
        "A refused claim changes nothing about the claim that stands.",
        "A worker that keeps asking would keep a dead worker's claim alive.",
    ),
    Promise(
        "BOARD-5",
        "A claim whose reply was lost is not held by nobody for ever: repeating it succeeds, or "
        "another can claim the job.",
        "One lost packet would take a job out of service, with nothing in any log.",
    ),
    Promise(
        "BOARD-6",
        "An owner that lost its claim can not consume, abandon, trash or extend its successor's, "
        "even under the same name.",
        "A worker that was frozen or cut off wakes up and takes its successor's job away.",
    ),
    Promise(
        "BOARD-7",
        "A record that can not be read is neither deleted nor fatal: all other jobs go on.",
        "One bad record must not stop every worker, and a reader has no right to destroy what it "
        "can't read.",
    ),
    Promise(
        "BOARD-8",
        "The default claim lives as long as its owner's process: it is kept while that lives, and "
        "is freed when it is killed.",
        "TaskFlow's conductors claim so and never renew: the work of a dead one waits for this.",
    ),
    Promise(
        "BOARD-9",
        "A claim with an expiry ends by itself when due, fractions of a second included, and "
        "expires_in() always answers a number.",
        "Keep-alive loops compare it with a number, for jobs that may end in that instant.",
    ),
    Promise(
        "BOARD-10",
        "extend_expiry() uses its argument, and works for a board that has the owner's name only.",
        "Octavia extends from another board of the process; a claim that is extended by the old "
        "value ends in the middle of the work.",
    ),
    Promise(
        "BOARD-11",
        "What is refused raises the right error: NotFound, exactly, for what is gone or "
        "unclaimed; JobFailure for what is another's; and nothing changes.",
        "A conductor survives these and no others.",
    ),
    Promise(
        "BOARD-12",
        "POSTED is reported once for each job, in order, on every board.",
        "A worker that waits for the event misses a job, or starts it twice.",
    ),
    Promise(
        "BOARD-13",
        "REMOVAL is reported once for each job, on the board that consumed it and on every other.",
        "Whoever keeps a view of the board keeps ghosts.",
    ),
    Promise(
        "BOARD-14",
        "Job.wait() returns soon after the job is complete, however long it waited.",
        "With a back-off the caller sleeps up to a minute beside a finished job.",
    ),
    Promise(
        "BOARD-15",
        "Boards beside or within each other's names share nothing: no jobs and no trash.",
        "Two services on one store; the test board of one is the production board's neighbour.",
    ),
    Promise(
        "BOARD-16",
        "Closing leaves no thread and no descriptor behind, and connecting again works.",
        "Octavia opens a board every few seconds, for weeks.",
    ),
    Promise(
        "BOARD-17",
        "register_entity() takes a conductor, twice too, and refuses every other kind with "
        "NotImplementedError.",
        "Silence looks like an entity that was registered.",
    ),
    Promise(
        "BOARD-18",
        "While the store is away each call raises JobFailure, and nothing else, within 20 seconds.",
        "Any other error ends a conductor, and a call without an end stops it.",
    ),
    Promise(
        "BOARD-19",
        "A board that can't reach its store does not look like an empty one.",
        "'No jobs' is a fact on which people act.",
    ),
    Promise(
        "BOARD-20",
        "After an outage a board goes on by itself: it works, and it sees what others posted.",
        "Nobody restarts all workers after a failover.",
    ),
    Promise(
        "BOARD-21",
        "A job's state is read live: UNCLAIMED, CLAIMED, COMPLETE (after trash too), and "
        "JobFailure once the board is closed.",
        "A state from memory is a guess.",
    ),
    Promise(
        "BOARD-22",
        "A fresh iteration sees every job that was acknowledged before, and none that is gone.",
        "An acknowledged job that no worker can see is lost without a trace.",
    ),
    Promise(
        "BOARD-23",
        "A job comes back as it was posted, 500 KB of details included; what can't be encoded is "
        "refused and nothing is posted.",
        "A job whose details changed on the way fails far from where they changed.",
    ),
    Promise(
        "BOARD-24",
        "created_on is the same on every board and never None; last_modified rises on claim and "
        "abandon.",
        "Operators find stuck jobs by these two.",
    ),
    Promise(
        "BOARD-25",
        "The jobs of one posting are equal and hash equal, on every board; those of two never are.",
        "Sets and dictionaries of jobs are how callers remember what they have seen.",
    ),
    Promise(
        "BOARD-26",
        "The claim belongs to the board and its owner's name, not to the job object.",
        "Owners list again and finish through the object that they found.",
    ),
    Promise(
        "BOARD-27",
        "A process that forgets to close its board still ends.",
        "A deploy that waits for its workers to stop waits for ever.",
    ),
    Promise(
        "BOARD-28",
        "A post whose reply was lost is on the board at most once.",
        "The client library's own repetition would run the job twice.",
    ),
    Promise(
        "BOARD-29",
        "A consume whose reply was lost ends well or is unknown (JobFailure); it is not "
        "reported as another's (NotFound), and repeated it ends.",
        "A worker that gets NotFound for its finished job reports work as lost that was done.",
    ),
    Promise(
        "BOARD-30",
        "A board that may have lost a claim reports LEASE_LOST, once, before anybody else can have "
        "the job, whether its store is silent, slow or refuses; and never of a claim that ended "
        "by its owner's will.",
        "Two workers run one job side by side, and the first of them never learns of it.",
    ),
    Promise(
        "BOARD-31",
        "A board relies on a claim for less than the store granted, counted from the request; "
        "while it holds claims it renews them in time for a second attempt.",
        "The claim ends on the server while its holder works on; or one lost packet costs it.",
    ),
    Promise(
        "BOARD-32",
        "What a board leased and nobody holds is given back when the store answers again: a claim "
        "that nobody received, that was reported lost, or that its owner could not give back.",
        "The session is kept for other jobs, and this one is locked for as long as the process "
        "lives.",
    ),
    Promise(
        "BOARD-33",
        "What had no answer is repeated as one and the same operation; where it has none in the "
        "end it is reported as unknown, never as done, refused or gone.",
        "A job is done twice, or not at all, and the caller was told otherwise.",
    ),
    Promise(
        "BOARD-34",
        "claim_next() hands out the first jobs of the order that are due, to each worker others; "
        "it wakes when one becomes free and passes over what can't be read.",
        "Workers sleep beside work, or urgent jobs wait behind others.",
    ),
    Promise(
        "BOARD-35",
        "A forked process and its parent share nothing: both go on, each keeps its own claims "
        "past the time-out, and the end of the child frees its own only.",
        "Servers fork their workers after they connected.",
    ),
    Promise(
        "BOARD-36",
        "A listing that took its time hides nothing that was posted meanwhile and shows nothing "
        "that went; each change of a job is reported once, by its kind and in order.",
        "A view with a ghost or a hole keeps it until somebody restarts the worker.",
    ),
    Promise(
        "BOARD-37",
        "After the loss of a session no claim that lived by it stands, one that was under way "
        "neither, and the conductors that were registered are shown again.",
        "A worker goes on with a job that another has, and operators see no worker at all.",
    ),
)

#: Every promise by its id.
PROMISES: dict[str, Promise] = by_id(_ALL)


def promise(*ids: str, deadline: float = DEADLINE) -> Callable[[Judge], Judge]:
    """Mark a check with the promises that it judges, and with its deadline."""
    require_known(ids, PROMISES)

    def mark(judge: Judge) -> Judge:
        vars(judge).update(ids=ids, deadline=deadline)
        return judge

    return mark
