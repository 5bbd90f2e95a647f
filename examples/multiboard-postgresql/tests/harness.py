# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""What the conformance suite needs for PostgreSQL: its garbage, its loss, its restart."""

from __future__ import annotations

import contextlib
import pathlib
import uuid
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

import psycopg
from multiboard.primitives import Settings
from multiboard_conformance.harness import Harness
from server import Server

from multiboard_postgresql import PostgreSQLSettings

_POSTING = """
    INSERT INTO multiboard.postings
        (namespace, shelf, key, rank, serial, body, created_on, modified_on, due_on)
    VALUES (%s, {shelf}, {key}, {rank}, 1, 'body', now(), now(), now())
"""
GARBAGE = (
    "INSERT INTO multiboard.postings (namespace, key) VALUES (%s, 'empty')",
    _POSTING.format(shelf="'attic'", key="'elsewhere'", rank=0),
    _POSTING.format(shelf="'live'", key="'../ no key'", rank=0),
    _POSTING.format(shelf="'live'", key="'no-rank'", rank=-5),
    _POSTING.format(shelf="'trash'", key="'no-rank-either'", rank=100),
    _POSTING.format(shelf="'entities'", key="'of-nobody'", rank=0),
    "INSERT INTO multiboard.events "
    "VALUES (%s, nextval('multiboard.numbers'), 'danced', 'x', NULL, now())",
    "INSERT INTO multiboard.past VALUES (%s, 'x', 1, 'danced', 0, '', 'infinity')",
    "INSERT INTO multiboard.sessions VALUES ('nobody-' || %s, %s, 'infinity')",
)
#: Where it is found again.
LEFT = {
    "postings": "NOT sound",
    "events": "kind = 'danced'",
    "past": "operation = 'danced'",
    "sessions": "deadline = 'infinity'",
}


class PostgreSQLHarness(Harness):
    """The hooks."""

    _spare: Server | None = None

    def write_garbage(self, settings: Settings) -> Mapping[str, object]:
        with self._connected() as connection:
            for statement in GARBAGE:
                connection.execute(statement, [settings.namespace] * statement.count("%s"))
        return self.read_garbage(settings)

    def read_garbage(self, settings: Settings) -> Mapping[str, object]:
        found: dict[str, object] = {}
        with self._connected() as connection:
            for table, which in LEFT.items():
                rows = connection.execute(
                    f"SELECT t::text FROM multiboard.{table} t "
                    f"WHERE namespace = %s AND {which} ORDER BY 1",
                    [settings.namespace],
                )
                found[table] = [row[0] for row in rows]
        return found

    def damage(self, settings: Settings, key: str) -> None:
        with self._connected() as connection:
            connection.execute(
                "UPDATE multiboard.postings SET body = NULL "
                "WHERE namespace = %s AND shelf = 'live' AND key = %s",
                [settings.namespace, key],
            )

    def wipe(self, settings: Settings) -> None:
        with self._connected() as connection:
            for table in ("postings", "sessions", "past", "events", "boards"):
                connection.execute(
                    f"DELETE FROM multiboard.{table} WHERE namespace = %s", [settings.namespace]
                )

    def trim(self, settings: Settings) -> None:
        with self._connected() as connection:
            connection.execute(
                "WITH old AS (DELETE FROM multiboard.events WHERE namespace = %s RETURNING id) "
                "UPDATE multiboard.boards SET trimmed = (SELECT max(id) FROM old) "
                "WHERE namespace = %s AND EXISTS (SELECT FROM old)",
                [settings.namespace] * 2,
            )

    def fresh(self) -> str:
        name = f"fresh_{uuid.uuid4().hex[:12]}"
        with contextlib.closing(self._connected()) as connection:
            connection.autocommit = True
            connection.execute(f"CREATE DATABASE {name}")
        return urlunsplit(urlsplit(self.target)._replace(path=name, query=""))

    def spare(self) -> str:
        self._spare = Server.start_new()
        self.target = self._spare.url
        return self.target

    def close(self) -> None:
        if self._spare is not None:
            self._spare.close()

    def restart(self) -> None:
        server = self._server()
        server.kill()
        server.start()

    def failover(self, writes: Callable[[], None]) -> None:
        self._server().fall_back(writes)

    def _server(self) -> Server:
        with self._connected() as connection:
            row = connection.execute("SHOW data_directory").fetchone()
        assert row is not None
        return Server(str(pathlib.Path(row[0]).parent))

    def _connected(self) -> psycopg.Connection[Any]:
        # To the server itself, also where the suite put a proxy into the settings.
        url = urlsplit(self.target)
        return psycopg.connect(
            host=url.hostname,
            port=url.port or PostgreSQLSettings().port,
            user=url.username,
            password=unquote(url.password or ""),
            dbname=url.path.strip("/"),
            autocommit=False,
        )
