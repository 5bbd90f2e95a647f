# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The tables of a board, for :mod:`multiboard.backends.sqlite`: making, checking, reading them.

All tables are named ``multiboard_*`` and leave those of others in the file alone. Times named
``*_on`` are seconds since the epoch; all others are seconds of this machine's boottime clock.

**Reboots.** No process survives one, so every session is over. Boottime starts again at zero, so
what ends or falls due later is also kept by the wall clock and as a duration: after a reboot it
has what is left by the wall clock, but never more than the duration it was given. A wall clock
set back thus delays an end by one duration at the worst, and one set forward ends a lease early,
which harms nobody: its holder's process is dead, and its token is refused from then on. Processes
that share a file must share a time namespace, too.
"""

from __future__ import annotations

import re
import sqlite3
import time
import uuid
from collections.abc import Callable
from typing import Any, NamedTuple

from multiboard import errors
from multiboard.backends.sqlite import files as files
from multiboard.primitives import Damage, Lease, Posting, boottime

#: "MLTB", in files that were empty before us; a file with another one belongs to its application.
APPLICATION_ID = 0x4D4C5442
SCHEMA = 1

# A posting's row. ``shelf`` is NULL once it was consumed: the row stays for a while to tell a
# repeat from a first call. ``ready`` is 1 in the queue, 0 while delayed, NULL when leased or not
# live. ``token`` is the last lease's; there is a lease where ``claim_id`` is not NULL. Bodies have
# a table of their own so that a lease does not rewrite them.
TABLES = """
CREATE TABLE multiboard_meta (name TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID;
CREATE TABLE multiboard_boards (
    id INTEGER PRIMARY KEY AUTOINCREMENT, namespace TEXT NOT NULL UNIQUE, incarnation TEXT,
    counter INTEGER DEFAULT 0, told INTEGER DEFAULT 0, probed REAL DEFAULT 0);
CREATE TABLE multiboard_sessions (
    id TEXT PRIMARY KEY, board INTEGER, ends_at REAL) WITHOUT ROWID;
CREATE INDEX multiboard_sessions_end ON multiboard_sessions (board, ends_at);
CREATE TABLE multiboard_postings (
    id INTEGER PRIMARY KEY, board INTEGER, key TEXT, shelf TEXT, rank INTEGER, serial INTEGER,
    digest BLOB, attempts INTEGER DEFAULT 0, deaths INTEGER DEFAULT 0,
    created_on REAL, modified_on REAL, ready INTEGER, due_at REAL, due_on REAL, delay REAL,
    token INTEGER DEFAULT 0, holder TEXT, claim_id TEXT, session TEXT,
    ends_at REAL, ends_on REAL, granted REAL, gone_at REAL,
    UNIQUE (board, key));
CREATE INDEX multiboard_postings_place ON multiboard_postings (board, shelf, rank, serial)
    WHERE shelf IS NOT NULL;
CREATE INDEX multiboard_postings_queue ON multiboard_postings (board, rank, serial)
    WHERE ready = 1;
CREATE INDEX multiboard_postings_delayed ON multiboard_postings (board, due_at) WHERE ready = 0;
CREATE INDEX multiboard_postings_claim ON multiboard_postings (board, claim_id)
    WHERE claim_id IS NOT NULL;
CREATE INDEX multiboard_postings_session ON multiboard_postings (session)
    WHERE session IS NOT NULL;
CREATE INDEX multiboard_postings_end ON multiboard_postings (board, ends_at)
    WHERE ends_at IS NOT NULL;
CREATE INDEX multiboard_postings_gone ON multiboard_postings (board, gone_at)
    WHERE gone_at IS NOT NULL;
CREATE TABLE multiboard_bodies (posting INTEGER PRIMARY KEY, body BLOB);
CREATE TABLE multiboard_entities (
    board INTEGER, key TEXT, rank INTEGER, serial INTEGER, body BLOB, created_on REAL,
    session TEXT, PRIMARY KEY (board, key)) WITHOUT ROWID;
CREATE INDEX multiboard_entities_session ON multiboard_entities (session);
CREATE TABLE multiboard_ended (
    board INTEGER, token INTEGER, how TEXT, at REAL, PRIMARY KEY (board, token)) WITHOUT ROWID;
CREATE TABLE multiboard_log (
    board INTEGER, seq INTEGER, kind TEXT, key TEXT, token INTEGER,
    PRIMARY KEY (board, seq)) WITHOUT ROWID;
"""

# Garbage of others is left as it is, hence the type checks.
REBOOTED = (
    "UPDATE multiboard_sessions SET ends_at = 0",
    "UPDATE multiboard_postings SET ends_at = :now + max(0, min(ends_on - :wall, granted))"
    " WHERE typeof(ends_at) = 'real' AND typeof(ends_on) = 'real' AND typeof(granted) = 'real'",
    "UPDATE multiboard_postings SET due_at = :now + max(0, min(due_on - :wall, delay))"
    " WHERE typeof(due_at) = 'real' AND typeof(due_on) = 'real' AND typeof(delay) = 'real'",
    "UPDATE multiboard_postings SET gone_at = :now WHERE typeof(gone_at) = 'real'",
    "UPDATE multiboard_ended SET at = :now",
    "UPDATE multiboard_boards SET probed = 0",
)


class Found(NamedTuple):
    """A board in a file."""

    board: int
    incarnation: str
    #: The number of its last change.
    told: int


def boot_id() -> str:
    """Return the id of this run of the kernel."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return "unknown"


def check_owner(connection: sqlite3.Connection, path: str) -> bool:
    """Tell whether the file is empty, before anything of it is changed.

    Raises: ``Unsupported`` (the file is another application's).
    """
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    if application not in (0, APPLICATION_ID):
        raise errors.Unsupported(
            f"{path} is the database of another application (application_id {application:#x})"
        )
    found = connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone()
    return application == 0 and found is None


def open_board(
    path: str, namespace: str, timeout: float, create: bool
) -> tuple[Found, tuple[int, int]]:
    """Return what is found of a board, and the identity of the file.

    What is missing is made; without ``create`` it is ``BoardNotFound``.
    """
    give_up = time.monotonic() + timeout
    while True:
        if not create and files.identify(path) is None:
            raise errors.BoardNotFound(namespace, path)
        try:
            with files.connecting(path, "rwc" if create else "rw") as connection:
                if not create and namespace not in _namespaces(connection, path):
                    raise errors.BoardNotFound(namespace, path)
                found = _find_or_make(connection, namespace, path)
                identity = files.identify(path)
            break
        except sqlite3.Error as error:
            if not files.is_busy(error) or time.monotonic() >= give_up:
                raise files.translate(error, path) from error
        time.sleep(0.002)
    if identity is None:
        raise errors.Unavailable(f"{path} was deleted while it was opened")
    return found, identity


def boards(path: str) -> list[str]:
    """Return the namespaces of the boards in a file, which need not be there."""
    if files.identify(path) is None:
        return []
    try:
        with files.connecting(path, "rw") as connection:
            return _namespaces(connection, path)
    except sqlite3.Error as error:
        raise files.translate(error, path) from error


def _namespaces(connection: sqlite3.Connection, path: str) -> list[str]:
    check_owner(connection, path)
    if not _has_tables(connection):
        return []
    rows = connection.execute("SELECT namespace FROM multiboard_boards ORDER BY namespace")
    return [name for (name,) in rows if isinstance(name, str)]


def _has_tables(connection: sqlite3.Connection) -> bool:
    select = "SELECT 1 FROM sqlite_master WHERE name = 'multiboard_meta'"
    return connection.execute(select).fetchone() is not None


def _find_or_make(connection: sqlite3.Connection, namespace: str, path: str) -> Found:
    empty = check_owner(connection, path)
    (mode,) = connection.execute("PRAGMA journal_mode").fetchone()
    if mode != "wal":
        (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise errors.Unsupported(f"{path}: SQLite can't keep a write-ahead log here")
    found = look_up(connection, namespace, path)
    if found is None:
        files.patiently(connection, "BEGIN IMMEDIATE", (), 0.1)
        if empty:
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        make(connection, namespace)
        found = look_up(connection, namespace, path)
        files.commit(connection, path)
    if found is None:
        raise errors.Unavailable(f"{path}: the board {namespace!r} can't be made")
    return found


def look_up(connection: sqlite3.Connection, namespace: str, path: str) -> Found | None:
    """Return what is found of the board; None where :func:`make` is needed.

    Raises: ``Unsupported`` (the tables were made by a newer multiboard).
    """
    if not _has_tables(connection):
        return None
    meta = dict(connection.execute("SELECT name, value FROM multiboard_meta"))
    if meta.get("schema") != str(SCHEMA):
        raise errors.Unsupported(
            f"{path} has tables of schema {meta.get('schema')!r}; this multiboard knows schema "
            f"{SCHEMA}: use the version of multiboard that made them, or a newer one"
        )
    if meta.get("boot") != boot_id():
        return None
    found = connection.execute(
        "SELECT id, incarnation, told FROM multiboard_boards WHERE namespace = ?", (namespace,)
    ).fetchone()
    if found is None:
        return None
    board, incarnation, told = found
    if not isinstance(incarnation, str):
        raise errors.Unavailable(f"{path}: the row of board {namespace!r} is damaged")
    return Found(board, incarnation, told if isinstance(told, int) else 0)


def make(connection: sqlite3.Connection, namespace: str) -> None:
    """Make what is missing of tables and board, and take note of a reboot. In a transaction."""
    if not _has_tables(connection):
        for statement in TABLES.split(";"):
            connection.execute(statement)
        connection.executemany(
            "INSERT INTO multiboard_meta VALUES (?, ?)",
            [("schema", str(SCHEMA)), ("boot", boot_id())],
        )
    (boot,) = connection.execute(
        "SELECT max(value) FROM multiboard_meta WHERE name = 'boot'"
    ).fetchone()
    if boot != boot_id():
        for statement in REBOOTED:
            connection.execute(statement, {"now": boottime(), "wall": time.time()})
        connection.execute(
            "INSERT OR REPLACE INTO multiboard_meta VALUES ('boot', ?)", (boot_id(),)
        )
    connection.execute(
        "INSERT OR IGNORE INTO multiboard_boards (namespace, incarnation) VALUES (?, ?)",
        (namespace, uuid.uuid4().hex),
    )


# -- reading rows ----------------------------------------------------------------------------

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

#: Whether the board is there, and how many changes its feed has told.
BOARD = "SELECT told FROM multiboard_boards WHERE id = ? AND incarnation = ?"

_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
Row = tuple[Any, ...]


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
        if lease is None:  # it ended by itself, and nobody has taken it down yet
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


def strays(connection: sqlite3.Connection, board: int) -> list[Damage]:
    """Return the damage that is on no shelf, and that no listing would meet."""
    where = ("shelf < 'live'", "shelf > 'live' AND shelf < 'trash'", "shelf > 'trash'")
    select = "SELECT id, key, shelf FROM multiboard_postings WHERE board = ? AND "
    rows = [row for term in where for row in connection.execute(select + term, (board,))]
    return [Damage(f"multiboard_postings row {row[0]}", _why(row[1], row[2])) for row in rows]
