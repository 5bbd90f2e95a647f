# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""What a waiting reader reads, for :mod:`multiboard.backends.sqlite`.

It imports the primitives, the errors and its sibling modules.
"""

from __future__ import annotations

import sqlite3

from multiboard import errors
from multiboard.backends.sqlite import files as files
from multiboard.backends.sqlite import schema
from multiboard.backends.sqlite.liveness import probe_pause
from multiboard.backends.sqlite.opening import Opening
from multiboard.primitives import Change, ChangeKind, Changes

#: The most events of one answer.
EVENTS_AT_ONCE = 5_000

_ENDS = (
    "SELECT id, ends_at FROM multiboard_sessions WHERE board = ? UNION ALL"
    " SELECT NULL, min(ends_at) FROM multiboard_postings WHERE board = ? AND ends_at IS NOT NULL"
)
_KINDS = {kind.value: kind for kind in ChangeKind}


def read_log(
    connection: sqlite3.Connection, opening: Opening, cursor: str | None, patience: float
) -> Changes | None:
    """Return what is new behind the cursor, or None."""
    board, incarnation = opening.board, opening.incarnation
    before = opening.seen
    connection.execute("BEGIN")
    try:
        row = files.patiently(connection, schema.BOARD, (board, incarnation), patience).fetchone()
        if row is None:
            raise errors.BoardLost("the board's row is gone from the database")
        (told,) = row
        opening.note(told, before)
        known, _, position = (cursor or "").partition(":")
        if known == incarnation and position.isdecimal() and int(position) <= told:
            seen = int(position)
            if seen == told:
                return None
            events = _events(connection, board, seen, told)
            if events is not None:
                return Changes(events, f"{incarnation}:{seen + len(events)}")
        return Changes((), f"{incarnation}:{told}", reset=True)
    finally:
        files.rollback(connection)


def _events(
    connection: sqlite3.Connection, board: int, seen: int, told: int
) -> tuple[Change, ...] | None:
    """Return the changes just behind ``seen``; None where one is missing or garbage."""
    events = []
    for seq, kind, key, token in connection.execute(
        "SELECT seq, kind, key, token FROM multiboard_log WHERE board = ? AND seq > ?"
        " ORDER BY seq LIMIT ?",
        (board, seen, EVENTS_AT_ONCE),
    ):
        seen += 1
        sound = isinstance(key, str) and (token is None or isinstance(token, int))
        if seq != seen or kind not in _KINDS or not sound:
            return None
        events.append(Change(_KINDS[kind], key, token))
    if len(events) < EVENTS_AT_ONCE and seen != told:
        return None
    return tuple(events)


def look_at_ends(
    connection: sqlite3.Connection, opening: Opening, now: float, patience: float
) -> tuple[bool, float, float]:
    """Return whether something is over, when the next thing will be, and for how long to wait.

    The last is the time until the lock files should be looked at again.
    """
    ends = files.patiently(connection, _ENDS, (opening.board, opening.board), patience).fetchall()
    end = min((moment for _, moment in ends if isinstance(moment, float)), default=now + 3600.0)
    sessions = [session for session, _ in ends if isinstance(session, str)]
    dead = not all(map(opening.locks.alive, sessions))
    return dead or end <= now, end, probe_pause(len(sessions))
