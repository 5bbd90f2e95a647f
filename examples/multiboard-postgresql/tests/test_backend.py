# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""What the suite can't check on any store: what is PostgreSQL's own."""

from __future__ import annotations

import concurrent.futures
import contextlib
import time
import uuid
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from multiboard import errors
from multiboard.primitives import ChangeKind, NewPosting, Posting
from server import HOST, PASSWORD, Server

from multiboard_postgresql import PostgreSQLBackend, PostgreSQLSettings


@contextlib.contextmanager
def _backend(server: Server, **more: Any) -> Iterator[PostgreSQLBackend]:
    words = {"host": HOST, "port": server.port, "user": "board", "password": PASSWORD, **more}
    words.setdefault("namespace", f"test-{uuid.uuid4().hex}")
    backend = PostgreSQLBackend(PostgreSQLSettings(**words))
    backend.open()
    yield backend
    backend.close()


def _administrator(server: Server) -> psycopg.Connection[Any]:
    return psycopg.connect(server.url, autocommit=True)


def test_backends_that_open_together_make_the_tables_once(server: Server) -> None:
    with _administrator(server) as connection:
        connection.execute("DROP DATABASE IF EXISTS fresh")
        connection.execute("CREATE DATABASE fresh")

    def open_one(_: int) -> str:
        with _backend(server, dbname="fresh", namespace="one") as backend:
            return backend.incarnation

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(open_one, range(8)))) == 1


def test_a_wrong_password_is_denied_and_no_password_is_shown(server: Server) -> None:
    wrong = "incorrect-horse"
    with pytest.raises(errors.AccessDenied) as caught, _backend(server, password=wrong):
        pass
    assert str(server.port) in str(caught.value)
    assert isinstance(caught.value.__cause__, psycopg.Error)
    shown = f"{caught.value} {caught.value.__cause__} {PostgreSQLSettings(password=wrong)}"
    assert wrong not in shown


def test_a_missing_database_is_named_in_the_error(server: Server) -> None:
    with pytest.raises(errors.Unavailable, match="nowhere"), _backend(server, dbname="nowhere"):
        pass


def test_a_dropped_schema_is_a_lost_board(server: Server) -> None:
    with _administrator(server) as connection:
        connection.execute("DROP DATABASE IF EXISTS dropped WITH (FORCE)")
        connection.execute("CREATE DATABASE dropped")
    with _backend(server, dbname="dropped") as backend:
        with psycopg.connect(server.url, dbname="dropped", autocommit=True) as connection:
            connection.execute("DROP SCHEMA multiboard CASCADE")
        with pytest.raises(errors.BoardLost):
            backend.add([NewPosting("a", b"")])
        with pytest.raises(errors.BoardLost):
            backend.count()


def test_acquire_next_skips_a_row_that_another_client_has_locked(server: Server) -> None:
    with _backend(server, operation_timeout=5.0) as backend:
        backend.add([NewPosting("first", b""), NewPosting("second", b"")])
        with psycopg.connect(server.url) as connection:
            connection.execute(
                "SELECT FROM multiboard.postings WHERE namespace = %s AND key = 'first' FOR UPDATE",
                [backend.settings.namespace],
            )
            won = backend.acquire_next("me", ["claim-1"])
        assert [posting.key for posting, _ in won] == ["second"]


def test_a_client_that_does_not_read_its_reply_blocks_nobody(server: Server) -> None:
    body = bytes(8 * 1024 * 1024)
    with _backend(server, operation_timeout=10.0) as backend:
        backend.add([NewPosting(f"large-{n}", body) for n in range(4)])
        claims = [f"claim-{n}" for n in range(4)]
        arguments = [backend.settings.namespace, backend.incarnation, "s", False, 60.0]
        marks = ", ".join(["%s"] * (len(arguments) + 3))
        with _administrator(server) as frozen:
            query = psycopg.ClientCursor(frozen).mogrify(
                f"SELECT * FROM multiboard.acquire_next({marks})", [*arguments, "me", claims, 60.0]
            )
            frozen.pgconn.send_query(query.encode())
            while frozen.pgconn.flush():
                pass
            give_up = time.monotonic() + 10.0
            while not all(posting.lease for posting in backend.list().postings):
                assert time.monotonic() < give_up
                time.sleep(0.01)
            assert isinstance(backend.add([NewPosting("next", b"")])[0], Posting)
            frozen.pgconn.finish()


def test_a_cursor_behind_the_trimmed_history_gets_a_reset(server: Server) -> None:
    with _backend(server) as backend:
        cursor = backend.changes(None, 0.0).cursor
        backend.add([NewPosting("old", b"")])
        board = [backend.settings.namespace]
        with _administrator(server) as connection:
            for statement in (
                "UPDATE multiboard.events SET published_on = published_on - interval '1 hour'"
                " WHERE namespace = %s",
                "UPDATE multiboard.boards SET swept_on = swept_on - interval '1 hour'"
                " WHERE namespace = %s",
            ):
                connection.execute(statement, board)
        backend.add([NewPosting("new", b"")])
        changes = backend.changes(cursor, 0.0)
        assert (changes.reset, changes.events) == (True, [])
        backend.add([NewPosting("newest", b"")])
        later = backend.changes(changes.cursor, 0.0)
        assert [(event.kind, event.key) for event in later.events] == [
            (ChangeKind.POSTED, "newest")
        ]
        assert not later.reset
