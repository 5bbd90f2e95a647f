# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Rows <-> values, for :mod:`multiboard.backends.sqlite`.

A posting is a row of ``multiboard_postings`` and one of ``multiboard_bodies``, an entity a row of
``multiboard_entities``, a session a row of ``multiboard_sessions`` and a locked file, the feed the
rows of ``multiboard_log``; :mod:`.schema` has the tables and what each column means. A row with a
wrong value is damage: it is reported and left alone. It imports the primitives.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable
from typing import Any

from multiboard.primitives import Damage, Lease, Posting

#: What :func:`read_posting` takes.
POSTING = (
    "SELECT p.id, p.key, p.shelf, p.rank, p.serial, b.body, p.attempts, p.deaths, p.created_on,"
    " p.modified_on, p.due_at, p.token, p.holder, p.claim_id, p.session, p.ends_at, s.ends_at"
    " FROM multiboard_postings p LEFT JOIN multiboard_bodies b ON b.posting = p.id"
    " LEFT JOIN multiboard_sessions s ON s.id = p.session"
)
#: The same with any body read as an empty one.
BODILESS = POSTING.replace("b.body", "CASE typeof(b.body) WHEN 'blob' THEN x'' END")
#: What :func:`read_entity` takes.
ENTITY = (
    "SELECT e.key, e.rank, e.serial, e.body, e.created_on, e.session, s.ends_at"
    " FROM multiboard_entities e LEFT JOIN multiboard_sessions s ON s.id = e.session"
)

#: The board's position, where the board is there.
POSITION = "SELECT told FROM multiboard_boards WHERE id = ? AND incarnation = ?"

#: The first half of the statement that ends a lease.
END_LEASE = (
    "UPDATE multiboard_postings SET holder = NULL, claim_id = NULL, session = NULL,"
    " ends_at = NULL, ends_on = NULL, granted = NULL, "
)

_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
Row = tuple[Any, ...]
#: Columns of :data:`POSTING`.
ID, SHELF, TOKEN, CLAIM_ID = 0, 2, 11, 13


def session_lives(session: str, ends_at: Any, now: float, alive: Callable[[str], bool]) -> bool:
    """Tell whether a session has a row, time left, and a living process."""
    return isinstance(ends_at, float) and ends_at > now and alive(session)


def read_posting(row: Row, now: float, alive: Callable[[str], bool]) -> Posting | Damage:
    """Return the posting in a row as of ``now``, without a lease that is over."""
    (row_id, key, shelf, rank, serial, body, attempts, deaths, created_on, modified_on, due_at,
     token, holder, claim_id, session, ends_at, session_ends) = row  # fmt: skip
    if (
        not _sound(key, rank, serial, body)
        or shelf not in ("live", "trash")
        or not isinstance(attempts, int)
        or not isinstance(deaths, int)
        or not isinstance(token, int)
        or not isinstance(created_on, float)
        or not isinstance(modified_on, float)
        or not isinstance(due_at, float)
    ):
        return Damage(f"multiboard_postings row {row_id}", _why(key, shelf))
    lease = None
    if claim_id is not None:
        if not isinstance(claim_id, str) or not isinstance(holder, str):
            return Damage(f"multiboard_postings row {row_id}", f"{key}: the lease is garbage")
        if session is None and isinstance(ends_at, float):
            if ends_at > now:
                lease = Lease(key, holder, claim_id, token, None, ends_at - now)
        elif isinstance(session, str) and ends_at is None:
            if session_lives(session, session_ends, now, alive):
                lease = Lease(key, holder, claim_id, token, session)
        else:
            return Damage(f"multiboard_postings row {row_id}", f"{key}: the lease is garbage")
        if lease is None:  # it ended by itself, and nobody has recorded that yet
            deaths += 1
    due_in = due_at - now if due_at > now else 0.0
    return Posting(
        key, rank, serial, body, attempts, deaths, created_on, modified_on, due_in, lease
    )


def read_entity(row: Row, now: float, alive: Callable[[str], bool]) -> Posting | Damage | None:
    """Return the entity in a row; None where its session is over."""
    key, rank, serial, body, created_on, session, session_ends = row
    if (
        not _sound(key, rank, serial, body)
        or not isinstance(created_on, float)
        or not isinstance(session, str)
    ):
        return Damage(f"multiboard_entities key {str(key)[:40]!r}", "a column has a wrong value")
    if not session_lives(session, session_ends, now, alive):
        return None
    return Posting(key, rank, serial, body, 0, 0, created_on, created_on)


def _sound(key: Any, rank: Any, serial: Any, body: Any) -> bool:
    return (
        isinstance(rank, int)
        and isinstance(serial, int)
        and isinstance(body, bytes)
        and isinstance(key, str)
        and _KEY.fullmatch(key) is not None
    )


def _why(key: Any, shelf: Any) -> str:
    if shelf not in ("live", "trash"):
        return f"key {str(key)[:40]!r} is on the unknown shelf {str(shelf)[:40]!r}"
    return f"key {str(key)[:40]!r}: a column has a wrong value, or the body is missing"


def damage_on_no_shelf(connection: sqlite3.Connection, board: int) -> list[Damage]:
    """Return the postings whose shelf is damaged, so that the listing of no shelf meets them."""
    where = ("shelf < 'live'", "shelf > 'live' AND shelf < 'trash'", "shelf > 'trash'")
    select = "SELECT id, key, shelf FROM multiboard_postings WHERE board = ? AND "
    rows = [row for term in where for row in connection.execute(select + term, (board,))]
    return [Damage(f"multiboard_postings row {row[0]}", _why(row[1], row[2])) for row in rows]
