# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Judge a history: whether the answers of many callers, and the feed, fit each other.

It reads only what the callers got back, so it finds violations that no single check could see.
Operations that overlap may have happened in either order; an unknown one may have happened or
not. The postings of a judged history are added before it begins, and never again. Imports the
primitives only.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from multiboard.primitives import Change, ChangeKind, Lease, Posting, Shelf
from multiboard_conformance.machinery.history import History, Operation

_ENDS = (ChangeKind.RELEASED, ChangeKind.EXPIRED)
_LEAVES = (ChangeKind.REMOVED, ChangeKind.TRASHED)


@dataclass(frozen=True)
class _Won:
    lease: Lease
    op: Operation

    @property
    def ended(self) -> float:
        return math.inf if self.op.ended is None else self.op.ended


@dataclass(frozen=True)
class _Use:
    """A use of a lease: renew, release, remove or trash, done or indeterminate."""

    verb: str
    lease: Lease
    op: Operation
    done: bool


def judge(
    history: History,
    *,
    posted: Collection[str],
    live: Collection[str],
    trash: Collection[str],
    feed: Sequence[Change] | None = None,
) -> list[str]:
    """Return the violations, each a sentence; none if the history is one of a right store.

    ``live`` and ``trash`` are what the board held when all was over. ``feed`` is what the feed
    reported from before the first operation until after the last; None where it reported a reset.
    """
    wins = _wins(history.operations("acquire", "acquire_next"))
    uses = _uses(history.operations("renew", "release", "remove"))
    found = [
        *_lost_or_doubled(posted, live, trash, uses),
        *_tokens(wins),
        *_exclusion(wins, uses),
        *_stale(wins, uses),
    ]
    if feed is not None:
        found += _feed(feed, posted, wins, live, trash)
    return found


def _wins(operations: Iterable[Operation]) -> dict[str, list[_Won]]:
    wins: dict[str, list[_Won]] = defaultdict(list)
    for op in operations:
        if not op.done:
            continue
        leases = [op.answer] if op.verb == "acquire" else [lease for _, lease in op.answer]
        for lease in leases:
            wins[lease.key].append(_Won(lease, op))
    return wins


def _uses(operations: Iterable[Operation]) -> dict[str, list[_Use]]:
    uses: dict[str, list[_Use]] = defaultdict(list)
    for op in operations:
        if op.outcome == "failed":
            continue
        if op.verb == "remove":
            verb = "trash" if op.args.get("to") is Shelf.TRASH else "remove"
            answers = op.answer if op.done else [None] * len(op.args["leases"])
            for lease, answer in zip(op.args["leases"], answers, strict=True):
                if answer is None:
                    uses[lease.key].append(_Use(verb, lease, op, op.done))
        else:
            lease = op.args["lease"]
            uses[lease.key].append(_Use(op.verb, lease, op, op.done))
    return uses


def _lost_or_doubled(
    posted: Collection[str],
    live: Collection[str],
    trash: Collection[str],
    uses: dict[str, list[_Use]],
) -> list[str]:
    found = []
    for key in posted:
        by = {use.lease.token for use in uses[key] if use.verb == "remove" and use.done}
        maybe = any(use.verb == "remove" for use in uses[key])
        if len(by) > 1:
            found.append(f"{key} was removed twice, by the tokens {sorted(by)}")
        if by and (key in live or key in trash):
            found.append(f"{key} was removed by token {by} and is there")
        if not maybe and key not in live and key not in trash:
            found.append(f"{key} is lost: it was posted, and nobody removed it")
        if key in live and key in trash:
            found.append(f"{key} is live and in the trash")
    return found


def _tokens(wins: dict[str, list[_Won]]) -> list[str]:
    found = []
    for key, won in wins.items():
        for a in won:
            for b in won:
                same = a.lease.claim_id == b.lease.claim_id
                if same and a.lease.token != b.lease.token and a.ended < b.op.began:
                    continue  # the first lease had ended; the attempt was made again
                if not same and a.lease.token == b.lease.token:
                    found.append(f"{key} was leased twice with token {a.lease.token}")
                if not same and a.ended < b.op.began and a.lease.token >= b.lease.token:
                    found.append(f"{key}: token {b.lease.token} came after token {a.lease.token}")
    return sorted(set(found))


def _exclusion(wins: dict[str, list[_Won]], uses: dict[str, list[_Use]]) -> list[str]:
    found = []
    for key, won in wins.items():
        for a in won:
            until = _held_until(a, uses[key])
            for b in won:
                if b.lease.token != a.lease.token and b.op.began > a.ended and b.ended < until:
                    found.append(
                        f"{key} was leased with token {b.lease.token} while token {a.lease.token}"
                        f" was held"
                    )
    return found


def _held_until(won: _Won, uses: Sequence[_Use]) -> float:
    """Return until when the winner certainly held its lease; a session is not judged."""
    if won.lease.ends_in is None:
        return -math.inf
    until = won.op.began + won.lease.ends_in
    for use in uses:
        if use.lease.token != won.lease.token:
            continue
        if use.verb == "renew":
            until = min(until, math.inf if use.done else until)
        else:
            until = min(until, use.op.began)
    return until


def _stale(wins: dict[str, list[_Won]], uses: dict[str, list[_Use]]) -> list[str]:
    found = []
    for key, used in uses.items():
        for use in used:
            if not use.done or _is_repeat(use, used):
                continue
            later = [w for w in wins[key] if w.lease.token > use.lease.token]
            if any(w.ended < use.op.began for w in later):
                found.append(
                    f"{key}: {use.verb} by token {use.lease.token} had effect after a higher token"
                )
    return found


def _is_repeat(use: _Use, used: Sequence[_Use]) -> bool:
    return use.verb != "renew" and any(
        other.verb == use.verb
        and other.lease.token == use.lease.token
        and other.op.began < use.op.began
        for other in used
    )


def _feed(
    feed: Sequence[Change],
    posted: Collection[str],
    wins: dict[str, list[_Won]],
    live: Collection[str],
    trash: Collection[str],
) -> list[str]:
    found = []
    stories: dict[str, list[Change]] = defaultdict(list)
    for change in feed:
        story = stories[change.key]
        if not story or story[-1] != change:  # "at least once" may be twice
            story.append(change)
    for key in posted:
        state = "free"
        for change in stories[key]:
            if change.kind is ChangeKind.POSTED:
                continue
            after = _after(state, change.kind)
            if after is None:
                found.append(f"the feed reports {change.kind.name} of {key}, which was {state}")
            state = after or _resulting(change.kind)
        ends = {"free": live, "held": live, "trashed": trash}
        if state == "removed" and (key in live or key in trash):
            found.append(f"the feed reports that {key} was removed, and it is there")
        if state != "removed" and key not in ends[state]:
            found.append(f"the feed leaves {key} {state}, and the directory does not")
        claimed = {change.token for change in stories[key] if change.kind is ChangeKind.CLAIMED}
        for won in wins[key]:
            if won.lease.token not in claimed:
                found.append(f"the feed never reported token {won.lease.token} on {key}")
    return found


def _after(state: str, kind: ChangeKind) -> str | None:
    legal = {
        ("free", ChangeKind.CLAIMED),
        *[("held", end) for end in (*_ENDS, *_LEAVES)],
        ("trashed", ChangeKind.RESTORED),
    }
    return _resulting(kind) if (state, kind) in legal else None


def _resulting(kind: ChangeKind) -> str:
    return {
        ChangeKind.CLAIMED: "held",
        ChangeKind.REMOVED: "removed",
        ChangeKind.TRASHED: "trashed",
    }.get(kind, "free")


def unlisted(postings: Sequence[Posting], names: Collection[str]) -> list[str]:
    """Return the names that a listing lacks."""
    there = {posting.key for posting in postings}
    return [name for name in names if name not in there]
