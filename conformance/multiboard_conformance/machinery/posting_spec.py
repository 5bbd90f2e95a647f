# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""What may become of one posting, as a sequential specification for :mod:`.linearizable`.

Every operation of a recorded history is cut into what it says of each posting. A lease that ends by
itself is a choice of the specification: not before its time from the begin of the call that asked
for it, and not later than that time, and some grace, after its end. Imports the primitives, the
errors and the history only.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from multiboard import errors
from multiboard.primitives import Lease, Posting, Shelf
from multiboard_conformance.machinery.history import History, Operation
from multiboard_conformance.machinery.linearizable import MOST, Call, order_of

#: Seconds by which the end of a timed lease may seem early or late: the store's clock may run a
#: little differently, and a store may notice the end at its next step.
EARLY, LATE = 0.02, 2.0

ABSENT, LIVE, TRASH, GONE = "absent", "live", "trash", "gone"


@dataclass(frozen=True)
class Part:
    """What one operation says of one posting."""

    verb: str
    op: Operation
    #: The lease that was used, or that an acquire was answered with.
    lease: Lease | None = None
    claim: str = ""
    span: float | None = None
    #: An answer, an error value, or None.
    answer: Any = None
    shelf: Shelf | None = None


@dataclass(frozen=True)
class Held:
    """A current lease."""

    claim: str
    #: None where the answer that named it was lost.
    token: int | None
    #: It ends by itself somewhere in between.
    earliest: float
    latest: float


@dataclass(frozen=True)
class State:
    """One posting at one instant."""

    where: str = ABSENT
    held: Held | None = None
    last: int = -1
    attempts: int = 0
    deaths: int = 0
    #: How the claims ended that were released or removed the posting.
    spent: frozenset[tuple[str, str]] = frozenset()
    #: No operation that comes now can have ended before.
    now: float = -math.inf


def explain(
    history: History, keys: Collection[str], most: int = MOST
) -> tuple[list[str], list[str]]:
    """Return the violations, a sentence for each posting, and the postings that are undecided."""
    violations, undecided = [], []
    parts: dict[str, list[Call]] = {key: [] for key in keys}
    for op in history.operations():
        for key, part in _parts(op, keys):
            unknown = op.outcome == "unknown"
            ended = math.inf if unknown or op.ended is None else op.ended
            parts[key].append(Call(op.began, ended, part, certain=not unknown))
    for key, calls in parts.items():
        found = order_of(calls, State(), step, most)
        if found.linearizable is None:
            undecided.append(key)
        elif not found.linearizable:
            blocked = ", ".join(_shown(call) for call in found.stuck) or "nothing"
            before = ", ".join(_shown(call) for call in found.order[-4:]) or "nothing"
            violations.append(
                f"{key}: its {len(calls)} operations can't have happened one after the other: after"
                f" {before} none of these can have come: {blocked}"
            )
    return violations, undecided


def _shown(call: Call) -> str:
    part: Part = call.what
    name = part.claim or (part.lease.claim_id if part.lease is not None else "")
    token = "" if part.lease is None else f" #{part.lease.token}"
    answer = type(part.answer).__name__ if part.answer is not None else "done"
    return f"{part.op.who} {part.verb}{token} {name[:8]} -> {answer if call.certain else 'unknown'}"


# -- from operations to what they say of a posting -------------------------------------------


def _parts(op: Operation, keys: Collection[str]) -> Iterator[tuple[str, Part]]:
    """Yield what an operation says of each posting; nothing where it was surely not applied."""
    known = (errors.LeaseHeld, errors.LeaseLost, errors.PostingNotFound, errors.PostingExists)
    if op.outcome == "failed" and not isinstance(op.answer, known):
        return
    if op.verb == "list":
        found = _of_list(op, keys)
    elif op.verb == "acquire_next":
        found = _of_acquire_next(op, keys)
    elif op.verb in _PARTS:
        found = _PARTS[op.verb](op)
    else:
        return
    for key, part in found:
        if key in keys:
            yield key, part


def _each(op: Operation, items: Collection[Any]) -> Iterable[tuple[Any, Any]]:
    answers = op.answer if op.done else [None] * len(items)
    return zip(items, answers, strict=True)


def _of_add(op: Operation) -> Iterator[tuple[str, Part]]:
    if op.args["shelf"] is Shelf.LIVE:
        for new, answer in _each(op, op.args["postings"]):
            yield new.key, Part("add", op, answer=answer)


def _of_get(op: Operation) -> Iterator[tuple[str, Part]]:
    if op.done:
        for key, answer in _each(op, op.args["keys"]):
            yield key, Part("read", op, answer=answer, shelf=Shelf.LIVE)


def _of_list(op: Operation, keys: Collection[str]) -> Iterator[tuple[str, Part]]:
    whole = op.args["after"] is None and op.args["limit"] is None
    if op.done and whole and op.args["shelf"] is not Shelf.ENTITIES and op.answer.after is None:
        there = {posting.key: posting for posting in op.answer.postings}
        for key in keys:
            yield key, Part("read", op, answer=there.get(key), shelf=op.args["shelf"])


def _of_acquire_next(op: Operation, keys: Collection[str]) -> Iterator[tuple[str, Part]]:
    span = op.args["expires_in"]
    if op.done:
        for posting, lease in op.answer:
            yield posting.key, Part("acquire", op, lease, lease.claim_id, span, lease)
    elif op.outcome == "unknown":
        # Which posting a claim got is not known: it may be any, and may even seem to be several.
        for claim in op.args["claim_ids"]:
            for key in keys:
                yield key, Part("acquire", op, None, claim, span)


def _of_acquire(op: Operation) -> Iterator[tuple[str, Part]]:
    lease = op.answer if isinstance(op.answer, Lease) else None
    args = op.args
    part = Part("acquire", op, lease, args["claim_id"], args["expires_in"], op.answer)
    yield args["key"], part


def _of_renew(op: Operation) -> Iterator[tuple[str, Part]]:
    lease = op.args["lease"]
    yield lease.key, Part("renew", op, lease, span=op.args["expires_in"], answer=op.answer)


def _of_release(op: Operation) -> Iterator[tuple[str, Part]]:
    yield op.args["lease"].key, Part("release", op, op.args["lease"], answer=op.answer)


def _of_remove(op: Operation) -> Iterator[tuple[str, Part]]:
    verb = "trash" if op.args["to"] is Shelf.TRASH else "remove"
    for lease, answer in _each(op, op.args["leases"]):
        yield lease.key, Part(verb, op, lease, answer=answer)


def _of_restore(op: Operation) -> Iterator[tuple[str, Part]]:
    yield op.args["key"], Part("restore", op, answer=op.answer)


_PARTS = {
    "add": _of_add,
    "get": _of_get,
    "acquire": _of_acquire,
    "renew": _of_renew,
    "release": _of_release,
    "remove": _of_remove,
    "restore": _of_restore,
}


# -- the specification -----------------------------------------------------------------------


def step(state: State, call: Call) -> Iterator[State]:
    """Yield the states that a call may lead to; none where it can't have had its answer."""
    part: Part = call.what
    change = {
        "add": _add, "read": _read, "acquire": _acquire, "renew": _renew, "release": _end,
        "remove": _end, "trash": _end, "restore": _restore,
    }[part.verb]  # fmt: skip
    for before in _as_of(state, call):
        after = change(before, part, call)
        if after is not None:
            yield after


def _as_of(state: State, call: Call) -> Iterator[State]:
    """Yield the state at the time of a call: its lease may be over by then, or must be."""
    now = max(state.now, call.began)
    held = state.held
    if call.ended < now:
        return
    if held is None or now <= held.latest + LATE:
        yield dataclasses.replace(state, now=now)
    if held is not None and held.earliest <= call.ended:
        yield dataclasses.replace(
            state, held=None, deaths=state.deaths + 1, now=max(now, held.earliest)
        )


def _add(state: State, part: Part, _call: Call) -> State | None:
    if state.where == ABSENT:
        if isinstance(part.answer, errors.MultiboardError):
            return None
        return dataclasses.replace(state, where=LIVE)
    return state


def _read(state: State, part: Part, _call: Call) -> State | None:
    there = state.where == (LIVE if part.shelf is Shelf.LIVE else TRASH)
    posting: Posting | None = part.answer
    if posting is None:
        return None if there else state
    if not there or (posting.attempts, posting.deaths) != (state.attempts, state.deaths):
        return None
    if posting.lease is None:
        return state if state.held is None else None
    return _matched(state, posting.lease)


def _matched(state: State, lease: Lease) -> State | None:
    """Return the state where this is its lease, with the token that it shows."""
    held = state.held
    if held is None or held.claim != lease.claim_id:
        return None
    if held.token is None:
        if lease.token <= state.last:
            return None
        named = dataclasses.replace(held, token=lease.token)
        return dataclasses.replace(state, held=named, last=lease.token)
    return state if held.token == lease.token else None


def _ends(part: Part, call: Call) -> tuple[float, float]:
    """Return when a lease that a call began or moved ends at the earliest, and the latest."""
    if part.span is None:
        return -math.inf, math.inf  # with its session, which is not judged here
    return call.began + part.span - EARLY, call.ended + part.span


def _acquire(state: State, part: Part, call: Call) -> State | None:
    held, answer = state.held, part.answer
    if isinstance(answer, errors.PostingNotFound):
        return state if state.where != LIVE else None
    if state.where != LIVE:
        return None
    if isinstance(answer, errors.LeaseHeld):
        return state if held is not None and held.claim != part.claim else None
    spent = any(claim == part.claim for claim, _ in state.spent)
    if isinstance(answer, errors.LeaseLost):
        return state if held is None and spent else None
    if held is not None:
        if held.claim != part.claim:
            return None
        return state if part.lease is None else _matched(state, part.lease)
    if spent or (part.lease is not None and part.lease.token <= state.last):
        return None
    token = None if part.lease is None else part.lease.token
    return dataclasses.replace(
        state, held=Held(part.claim, token, *_ends(part, call)), attempts=state.attempts + 1,
        last=state.last if token is None else token,
    )  # fmt: skip


def _renew(state: State, part: Part, call: Call) -> State | None:
    assert part.lease is not None
    if isinstance(part.answer, errors.PostingNotFound):
        return state if state.where != LIVE else None
    current = _matched(state, part.lease)
    if isinstance(part.answer, errors.LeaseLost):
        return state if state.where == LIVE and current is None else None
    if current is None or current.held is None:
        return None
    if part.lease.session is not None:
        return current
    earliest, latest = _ends(part, call)
    if not call.certain:  # it may have been done long after it was asked
        earliest = min(earliest, current.held.earliest)
    held = dataclasses.replace(current.held, earliest=earliest, latest=latest)
    return dataclasses.replace(current, held=held)


def _end(state: State, part: Part, _call: Call) -> State | None:
    """Release, remove or trash by a lease; a repeat finds it done."""
    assert part.lease is not None
    done = (part.lease.claim_id, part.verb) in state.spent
    if isinstance(part.answer, errors.PostingNotFound):
        return state if state.where != LIVE and not done else None
    current = _matched(state, part.lease)
    if isinstance(part.answer, errors.LeaseLost):
        return state if state.where == LIVE and current is None and not done else None
    if done:
        return state
    if current is None:
        return None
    where = {"release": LIVE, "remove": GONE, "trash": TRASH}[part.verb]
    spent = current.spent | {(part.lease.claim_id, part.verb)}
    return dataclasses.replace(current, where=where, held=None, spent=spent)


def _restore(state: State, part: Part, _call: Call) -> State | None:
    there = state.where in (LIVE, TRASH)
    if isinstance(part.answer, errors.PostingNotFound):
        return None if there else state
    return dataclasses.replace(state, where=LIVE) if there else None
