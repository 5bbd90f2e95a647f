# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The change feed of a board, for :mod:`multiboard.backends.sqlite`: a table, and who waits for it.

A reader that waits has a connection of its own, since it compares SQLite's ``data_version``: within
this process it is woken, changes of other processes it finds by polling. It imports the primitives,
the errors and its sibling modules.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading

from multiboard import errors
from multiboard.backends.sqlite import client, expiry, transactions
from multiboard.backends.sqlite.client import Connection
from multiboard.backends.sqlite.errors import translate_error
from multiboard.backends.sqlite.liveness import probe_pause
from multiboard.backends.sqlite.session import Board
from multiboard.backends.sqlite.state import OpenBoard
from multiboard.primitives import Change, ChangeKind, Changes, boottime

#: Seconds between two polls of the file by a waiting reader.
POLL_INTERVAL = 0.008
#: The most events of one answer.
EVENTS_AT_ONCE = 5_000

_VERSION = "PRAGMA data_version"
_ENDS = (
    "SELECT id, ends_at FROM multiboard_sessions WHERE board = ? UNION ALL"
    " SELECT NULL, min(ends_at) FROM multiboard_postings WHERE board = ? AND ends_at IS NOT NULL"
)
_KINDS = {kind.value: kind for kind in ChangeKind}


def changes(board: Board, cursor: str | None, timeout: float) -> Changes:
    opened = board.opened()
    try:
        connection = opened.idle.pop()
    except IndexError:
        connection = opened.new_connection()
    waiter = opened.shared.add_waiter()
    try:
        return _wait_for_changes(board, opened, connection, waiter, cursor, boottime() + timeout)
    except sqlite3.Error as error:
        raise translate_error(error, opened.path) from error
    finally:
        opened.shared.remove_waiter(waiter)
        if board.current is opened:
            opened.idle.append(connection)
        if board.current is not opened:  # closed by now; who appended too late tidies up
            with contextlib.suppress(ValueError):
                opened.idle.remove(connection)
            connection.close()


def _wait_for_changes(
    board: Board,
    opened: OpenBoard,
    connection: Connection,
    waiter: threading.Lock,
    cursor: str | None,
    give_up: float,
) -> Changes:
    seen: tuple[int, int] | None = None
    check_ends_at = end = 0.0
    busy_timeout = opened.settings.busy_timeout
    in_vain = 0
    while True:
        if board.current is not opened:
            raise errors.Closed("the SQLite board was closed")
        over = False
        with connection.lock:
            native = connection.opened()
            (version,) = client.retry_while_busy(native, _VERSION, (), busy_timeout).fetchone()
            if (connection.epoch, version) != seen:
                seen = (connection.epoch, version)
                answer = _read_log(native, opened, cursor)
                if answer is not None:
                    return answer
            now = boottime()
            if now >= check_ends_at or now >= end:
                board.opened()
                over, end, pause = _check_ends(native, opened, now)
                check_ends_at = now + pause
        if over:
            reaped = transactions.write(opened, lambda tx: expiry.reap(tx, probe=True))
            in_vain = 0 if reaped else in_vain + 1
            if in_vain < 3:  # others may have been quicker
                continue
            end = check_ends_at = now + 0.1  # somebody's garbage is over, and stays
        if now >= give_up:
            assert cursor is not None
            return Changes((), cursor)
        waiter.acquire(timeout=max(0.0, min(give_up, end, now + POLL_INTERVAL) - now))


def _read_log(
    connection: sqlite3.Connection, board: OpenBoard, cursor: str | None
) -> Changes | None:
    """Return what is new behind the cursor, or None."""
    incarnation = board.incarnation
    connection.execute("BEGIN")
    try:
        last = transactions.check_position(connection, board)
        known, _, position = (cursor or "").partition(":")
        if known == incarnation and position.isdecimal() and int(position) <= last:
            seen = int(position)
            if seen == last:
                return None
            events = _events(connection, board.id, seen, last)
            if events is not None:
                return Changes(events, f"{incarnation}:{seen + len(events)}")
        return Changes((), f"{incarnation}:{last}", reset=True)
    finally:
        client.rollback(connection)


def _events(
    connection: sqlite3.Connection, board: int, seen: int, last: int
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
    if len(events) < EVENTS_AT_ONCE and seen != last:
        return None
    return tuple(events)


def _check_ends(
    connection: sqlite3.Connection, board: OpenBoard, now: float
) -> tuple[bool, float, float]:
    """Return whether something is over, when the next thing will be, and for how long to wait.

    The last is the time until the lock files should be probed again.
    """
    ends = client.retry_while_busy(
        connection, _ENDS, (board.id, board.id), board.settings.busy_timeout
    ).fetchall()
    end = min((moment for _, moment in ends if isinstance(moment, float)), default=now + 3600.0)
    sessions = [session for session, _ in ends if isinstance(session, str)]
    dead = not all(map(board.locks.alive, sessions))
    return dead or end <= now, end, probe_pause(len(sessions))
