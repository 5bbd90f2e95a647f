# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""What ends by itself, for :mod:`multiboard.backends.sqlite`: sessions and leases.

A session ends by its time-out, or as soon as its lock file shows that its process is dead. Every
transaction that writes ends first what is over. It imports the primitives and its sibling modules.
"""

from __future__ import annotations

import math
from typing import Any

from multiboard.backends.sqlite import records
from multiboard.backends.sqlite.liveness import probe_pause
from multiboard.backends.sqlite.transactions import Transaction
from multiboard.primitives import ChangeKind, Damage


def reap(tx: Transaction, *, probe: bool = False) -> bool:
    """End what is over: sessions by their time-out or their death, and timed leases.

    The lock files are probed now and then, or for sure with ``probe``. True if something had been
    over.
    """
    before, board = tx.position, tx.board.id
    if _is_due(tx.session_end, tx.now):
        for (session,) in tx.execute(
            "SELECT id FROM multiboard_sessions WHERE board = ? AND ends_at <= ?", (board, tx.now)
        ).fetchall():
            end_session(tx, session)
    if _is_due(tx.lease_end, tx.now):
        for row in tx.execute(
            records.BODILESS + " WHERE p.board = ? AND p.ends_at <= ?", (board, tx.now)
        ).fetchall():
            expire(tx, row)
    probed = tx.probed if isinstance(tx.probed, float) else -math.inf
    # Whoever writes shares the time of the last probe with all others.
    if probe or not probed <= tx.now < probed + 0.02:
        sessions = tx.execute(
            "SELECT id FROM multiboard_sessions WHERE board = ?", (board,)
        ).fetchall()
        if probe or tx.now >= probed + probe_pause(len(sessions)):
            tx.probed = tx.now
            for (session,) in sessions:
                if isinstance(session, str) and not tx.board.locks.alive(session):
                    end_session(tx, session)
    return tx.position != before or bool(tx.ended)


def end_session(tx: Transaction, session: str) -> None:
    """End a session, and all leases and entities under it."""
    for row in tx.execute(records.BODILESS + " WHERE p.session = ?", (session,)).fetchall():
        expire(tx, row)
    tx.execute("DELETE FROM multiboard_entities WHERE session = ?", (session,))
    tx.execute("DELETE FROM multiboard_sessions WHERE id = ?", (session,))
    tx.ended.append(session)


def expire(tx: Transaction, row: records.Row) -> None:
    """End a lease that nobody gave back. A damaged row is left alone."""
    posting = tx.read(row)
    if isinstance(posting, Damage):
        return
    tx.execute(
        records.END_LEASE + "deaths = deaths + 1, modified_on = ?, ready = ? WHERE id = ?",
        (tx.wall, int(posting.due_in <= 0), row[records.ID]),
    )
    tx.publish(ChangeKind.EXPIRED, posting.key, row[records.TOKEN])


def _is_due(end: Any, now: float) -> bool:
    """Tell whether the earliest end has come; what is no number is somebody's garbage."""
    return isinstance(end, float) and end <= now
