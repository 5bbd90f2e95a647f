# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The leases of a board, for :mod:`multiboard.backends.sqlite`: the verbs of ``LeaseLock``.

Each is a part of one writing transaction. It imports the primitives, the errors and its sibling
modules.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from multiboard import errors
from multiboard.backends.sqlite import records
from multiboard.backends.sqlite.expiry import expire, reap
from multiboard.backends.sqlite.session import ensure_session
from multiboard.backends.sqlite.transactions import Transaction
from multiboard.primitives import ChangeKind, Lease, Posting

_QUEUE = records.POSTING + " WHERE p.board = ? AND p.ready = 1 ORDER BY p.rank, p.serial"


@dataclasses.dataclass(frozen=True)
class Claim:
    """Who leases, by which session if any, and for how long."""

    holder: str
    session: str | None
    expires_in: float | None

    @classmethod
    def begin(cls, tx: Transaction, holder: str, expires_in: float | None) -> Claim:
        session = ensure_session(tx) if expires_in is None else None
        return cls(holder, session, expires_in)


def acquire(
    tx: Transaction, key: str, holder: str, claim_id: str, expires_in: float | None
) -> Lease:
    claim = Claim.begin(tx, holder, expires_in)
    row, posting = _find_live(tx, key)
    held = posting.lease
    if held is not None:
        if held.claim_id == claim_id and held.session == claim.session:
            return held
        raise errors.LeaseHeld(key, held.holder)
    if claim_id in tx.board.spent:
        raise errors.LeaseLost(key, row[records.TOKEN], f"claim id {claim_id!r} had its lease")
    if row[records.CLAIM_ID] is not None:  # a lease that is over, which nobody has recorded
        expire(tx, row)
    return _grant(tx, row[records.ID], posting, claim, claim_id)[1]


def acquire_next(
    tx: Transaction, holder: str, claim_ids: Sequence[str], expires_in: float | None
) -> list[tuple[Posting, Lease]]:
    won: list[tuple[Posting, Lease]] = []
    claim = Claim.begin(tx, holder, expires_in)
    unused = []
    for claim_id in claim_ids:
        held = _held_by(tx, claim_id, claim.session)
        won += held
        if not held and claim_id not in tx.board.spent:
            unused.append(claim_id)
    won.sort(key=lambda pair: pair[0].place)
    if not unused:
        return won
    queue = _due_postings(tx, len(unused))
    if len(queue) < len(unused) and reap(tx, probe=True):
        queue = _due_postings(tx, len(unused))
    for claim_id, (row_id, posting) in zip(unused, queue, strict=False):
        won.append(_grant(tx, row_id, posting, claim, claim_id))
    return won


def renew(tx: Transaction, lease: Lease, expires_in: float) -> Lease:
    row_id, current = find_leased(tx, lease)
    if current.session is not None:
        return current
    span = float(expires_in)
    tx.execute(
        "UPDATE multiboard_postings SET ends_at = ?, ends_on = ?, granted = ? WHERE id = ?",
        (tx.now + span, tx.wall + span, span, row_id),
    )
    return dataclasses.replace(current, ends_in=span)


def release(tx: Transaction, lease: Lease, delay: float) -> None:
    try:
        row_id, _ = find_leased(tx, lease)
    except (errors.PostingNotFound, errors.LeaseLost):
        if not tx.has_ended(lease, ChangeKind.RELEASED):
            raise
        return
    tx.execute(
        records.END_LEASE + "modified_on = ?, ready = ?, due_at = ?, due_on = ?, delay = ?"
        " WHERE id = ?",
        (tx.wall, int(delay <= 0), tx.now + delay, tx.wall + delay, delay, row_id),
    )
    tx.note_end(lease, ChangeKind.RELEASED)
    tx.publish(ChangeKind.RELEASED, lease.key, lease.token)
    tx.board.spent.note(lease.claim_id)


def find_leased(tx: Transaction, lease: Lease) -> tuple[int, Lease]:
    """Return the row id of the posting that ``lease`` is the current lease of, and that lease.

    Raises: ``PostingNotFound``, ``LeaseLost``.
    """
    row, posting = _find_live(tx, lease.key)
    current = posting.lease
    if current is None or current.token != lease.token:
        raise errors.LeaseLost(lease.key, lease.token)
    return row[records.ID], current


def _find_live(tx: Transaction, key: str) -> tuple[records.Row, Posting]:
    """Return the row of a live posting, and the posting without its body.

    Raises: ``PostingNotFound``.
    """
    row = tx.execute(
        records.BODILESS + " WHERE p.board = ? AND p.key = ? AND p.shelf = 'live'",
        (tx.board.id, key),
    ).fetchone()
    posting = None if row is None else tx.read(row)
    if not isinstance(posting, Posting):
        raise errors.PostingNotFound(key)
    return row, posting


def _held_by(tx: Transaction, claim_id: str, session: str | None) -> list[tuple[Posting, Lease]]:
    """Return the posting, if any, that this claim of this session has leased already."""
    held = []
    for row in tx.execute(
        records.POSTING + " WHERE p.board = ? AND p.claim_id = ?", (tx.board.id, claim_id)
    ).fetchall():
        posting = tx.read(row)
        if isinstance(posting, Posting) and posting.lease and posting.lease.session == session:
            held.append((posting, posting.lease))
    return held


def _due_postings(tx: Transaction, limit: int) -> list[tuple[int, Posting]]:
    """Return the row ids and the first postings of the queue that are due."""
    tx.execute(
        "UPDATE multiboard_postings SET ready = 1 WHERE board = ? AND ready = 0 AND due_at <= ?",
        (tx.board.id, tx.now),
    )
    queue: list[tuple[int, Posting]] = []
    rows = tx.execute(_QUEUE, (tx.board.id,))
    while len(queue) < limit and (row := rows.fetchone()) is not None:
        posting = tx.read(row)
        if isinstance(posting, Posting) and posting.lease is None and row[records.SHELF] == "live":
            queue.append((row[records.ID], posting))
    rows.close()
    return queue


def _grant(
    tx: Transaction, row_id: int, posting: Posting, claim: Claim, claim_id: str
) -> tuple[Posting, Lease]:
    """Begin a lease on an unleased posting; return the posting with it, and the lease."""
    holder, session, expires_in = claim.holder, claim.session, claim.expires_in
    token = tx.next_number()
    ends_at = ends_on = span = None
    if expires_in is not None:
        span = float(expires_in)
        ends_at, ends_on = tx.now + span, tx.wall + span
    tx.execute(
        "UPDATE multiboard_postings SET attempts = attempts + 1, modified_on = ?,"
        " ready = NULL, token = ?, holder = ?, claim_id = ?, session = ?, ends_at = ?,"
        " ends_on = ?, granted = ? WHERE id = ?",
        (tx.wall, token, holder, claim_id, session, ends_at, ends_on, span, row_id),
    )
    tx.publish(ChangeKind.CLAIMED, posting.key, token)
    lease = Lease(posting.key, holder, claim_id, token, session, expires_in)
    attempts = posting.attempts + 1
    return dataclasses.replace(posting, attempts=attempts, modified_on=tx.wall, lease=lease), lease
