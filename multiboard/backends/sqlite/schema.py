# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The tables of a board, for :mod:`multiboard.backends.sqlite`: making and checking them.

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

import sqlite3
import time
import uuid
from typing import NamedTuple

from multiboard import errors
from multiboard.backends.sqlite import client
from multiboard.backends.sqlite.errors import is_busy, translate_error
from multiboard.primitives import boottime

#: "MLTB", in files that were empty before us; a file with another one belongs to its application.
APPLICATION_ID = 0x4D4C5442
SCHEMA = 1

# A board's row. ``counter`` is its last serial or token, ``told`` its position, the number of its
# last change; ``probed`` is when the lock files were last probed.
#
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


class BoardRow(NamedTuple):
    """A board in a file."""

    id: int
    incarnation: str
    #: The number of its last change.
    position: int


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
) -> tuple[BoardRow, tuple[int, int]]:
    """Return the row of a board, and the identity of the file.

    What is missing is made; without ``create`` it is ``BoardNotFound``.
    """
    give_up = time.monotonic() + timeout
    while True:
        if not create and client.identify(path) is None:
            raise errors.BoardNotFound(namespace, path)
        try:
            with client.connecting(path, "rwc" if create else "rw") as connection:
                if not create and namespace not in _namespaces(connection, path):
                    raise errors.BoardNotFound(namespace, path)
                found = _find_or_make(connection, namespace, path)
                identity = client.identify(path)
            break
        except sqlite3.Error as error:
            if not is_busy(error) or time.monotonic() >= give_up:
                raise translate_error(error, path) from error
        time.sleep(0.002)
    if identity is None:
        raise errors.Unavailable(f"{path} was deleted while it was opened")
    return found, identity


def boards(path: str) -> list[str]:
    """Return the namespaces of the boards in a file, which need not be there."""
    if client.identify(path) is None:
        return []
    try:
        with client.connecting(path, "rw") as connection:
            return _namespaces(connection, path)
    except sqlite3.Error as error:
        raise translate_error(error, path) from error


def _namespaces(connection: sqlite3.Connection, path: str) -> list[str]:
    check_owner(connection, path)
    if not _has_tables(connection):
        return []
    rows = connection.execute("SELECT namespace FROM multiboard_boards ORDER BY namespace")
    return [name for (name,) in rows if isinstance(name, str)]


def _has_tables(connection: sqlite3.Connection) -> bool:
    select = "SELECT 1 FROM sqlite_master WHERE name = 'multiboard_meta'"
    return connection.execute(select).fetchone() is not None


def _find_or_make(connection: sqlite3.Connection, namespace: str, path: str) -> BoardRow:
    empty = check_owner(connection, path)
    (mode,) = connection.execute("PRAGMA journal_mode").fetchone()
    if mode != "wal":
        (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise errors.Unsupported(f"{path}: SQLite can't keep a write-ahead log here")
    found = look_up(connection, namespace, path)
    if found is None:
        client.retry_while_busy(connection, "BEGIN IMMEDIATE", (), 0.1)
        if empty:
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        make(connection, namespace)
        found = look_up(connection, namespace, path)
        client.commit(connection, path)
    if found is None:
        raise errors.Unavailable(f"{path}: the board {namespace!r} can't be made")
    return found


def look_up(connection: sqlite3.Connection, namespace: str, path: str) -> BoardRow | None:
    """Return the row of the board; None where :func:`make` is needed.

    Raises: ``Unsupported`` (the tables were made by a newer multiboard).
    """
    if not _has_tables(connection):
        return None
    meta = dict(connection.execute("SELECT name, value FROM multiboard_meta"))
    if meta.get("schema") != str(SCHEMA):
        raise errors.Unsupported(
            f"{path} has tables of schema {meta.get('schema')!r}; this multiboard reads schema "
            f"{SCHEMA}: use the version of multiboard that made them, or a newer one"
        )
    if meta.get("boot") != boot_id():
        return None
    found = connection.execute(
        "SELECT id, incarnation, told FROM multiboard_boards WHERE namespace = ?", (namespace,)
    ).fetchone()
    if found is None:
        return None
    board, incarnation, position = found
    if not isinstance(incarnation, str):
        raise errors.Unavailable(f"{path}: the row of board {namespace!r} is damaged")
    return BoardRow(board, incarnation, position if isinstance(position, int) else 0)


def make(connection: sqlite3.Connection, namespace: str) -> None:
    """Make what is missing of tables and board, and record a reboot. In a transaction."""
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
