# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""What the suite can't guess about our own stores: garbage, damage, the loss of a board.

It writes past the backends, with the stores' own clients. It knows how they lay out a board; that
is what a harness is for.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator, Mapping
from typing import Any

import kazoo.client
import redis
from multiboard_conformance.harness import Harness


class RedisHarness(Harness):
    """Foreign keys, members and fields beside the board's."""

    @contextlib.contextmanager
    def _client(self, settings: Any) -> Iterator[tuple[redis.Redis, str]]:
        host, _, port = settings.hosts[0].rpartition(":")
        with redis.Redis(host, int(port), settings.db) as client:
            yield client, f"{settings.prefix}:{{{settings.namespace}}}:"

    def write_garbage(self, settings: Any) -> Mapping[str, object]:
        with self._client(settings) as (client, prefix):
            client.set(f"{prefix}foreign", b"\xff\x00 not ours")
            client.hset(f"{prefix}live:state", "a ghost", b"rubbish")
            client.hset(f"{prefix}live:body", b"\xff\xfe", b"a body without a posting")
            client.zadd(f"{prefix}live", {b"\xfe not a key": 1.5})
            client.zadd(f"{prefix}free", {"nobody": 2.0})
            client.hset(f"{prefix}meta", "foreign", "field")
        return self.read_garbage(settings)

    def read_garbage(self, settings: Any) -> Mapping[str, object]:
        with self._client(settings) as (client, prefix):
            return {
                "key": client.get(f"{prefix}foreign"),
                "state": client.hget(f"{prefix}live:state", "a ghost"),
                "body": client.hget(f"{prefix}live:body", b"\xff\xfe"),
                "member": client.zscore(f"{prefix}live", b"\xfe not a key"),
                "field": client.hget(f"{prefix}meta", "foreign"),
            }

    def damage(self, settings: Any, key: str) -> None:
        with self._client(settings) as (client, prefix):
            client.hset(f"{prefix}live:state", key, b"\xff rubbish")

    def wipe(self, settings: Any) -> None:
        with self._client(settings) as (client, prefix):
            client.delete(*client.scan_iter(f"{prefix}*"))


class SQLiteHarness(Harness):
    """Foreign tables and rows in the board's file."""

    @contextlib.contextmanager
    def _connection(self, settings: Any) -> Iterator[tuple[sqlite3.Connection, int]]:
        connection = sqlite3.connect(settings.path, timeout=10.0)
        try:
            with connection:
                (board,) = connection.execute(
                    "SELECT id FROM multiboard_boards WHERE namespace = ?", (settings.namespace,)
                ).fetchone()
                yield connection, board
        finally:
            connection.close()

    def write_garbage(self, settings: Any) -> Mapping[str, object]:
        with self._connection(settings) as (connection, board):
            connection.execute("CREATE TABLE IF NOT EXISTS foreign_table (x)")
            connection.execute(
                "INSERT INTO multiboard_postings (board, key, shelf, rank, serial, ready)"
                " VALUES (?, 'not a key!', 'live', 'rank', x'ff', 1)",
                (board,),
            )
            connection.execute(
                "INSERT INTO multiboard_postings (board, key, shelf, rank, serial, ready, due_at)"
                " VALUES (?, x'fffe', 'live', 0, 1, 1, 'soon')",
                (board,),
            )
        return self.read_garbage(settings)

    def read_garbage(self, settings: Any) -> Mapping[str, object]:
        with self._connection(settings) as (connection, board):
            rows = connection.execute(
                "SELECT key, shelf, rank, serial FROM multiboard_postings WHERE board = ?"
                " AND (typeof(key) = 'blob' OR key = 'not a key!') ORDER BY id",
                (board,),
            ).fetchall()
            tables = connection.execute(
                "SELECT count(*) FROM sqlite_master WHERE name = 'foreign_table'"
            ).fetchone()
        return {"rows": rows, "tables": tables}

    def damage(self, settings: Any, key: str) -> None:
        with self._connection(settings) as (connection, board):
            connection.execute(
                "UPDATE multiboard_postings SET created_on = 'rubbish', attempts = x'ff'"
                " WHERE board = ? AND key = ?",
                (board, key),
            )

    def wipe(self, settings: Any) -> None:
        with self._connection(settings) as (connection, board):
            connection.execute("DELETE FROM multiboard_boards WHERE id = ?", (board,))


class ZooKeeperHarness(Harness):
    """Foreign nodes among the board's."""

    @contextlib.contextmanager
    def _client(self, settings: Any) -> Iterator[tuple[kazoo.client.KazooClient, str]]:
        client = kazoo.client.KazooClient(hosts=",".join(settings.hosts))
        client.start(timeout=10.0)
        try:
            top = f"{settings.root.rstrip('/')}/board:{settings.namespace.replace('/', ':')}"
            yield client, top
        finally:
            client.stop()
            client.close()

    @staticmethod
    def _base(client: kazoo.client.KazooClient, top: str) -> str:
        (incarnation,) = (name for name in client.get_children(top) if name != "foreign")
        return f"{top}/{incarnation}"

    _NODES = {
        "live/not a key!": b"rubbish",
        "live/ghost": b"\xff\x00 no record",
        "live/empty": b"",
        "leases/rubbish": b"x",
        "leases/ghost~x~y~z": b"x",
        "states/ghost": b"\xff",
        "trash/not a key!": b"x",
    }

    def write_garbage(self, settings: Any) -> Mapping[str, object]:
        with self._client(settings) as (client, top):
            base = self._base(client, top)
            client.create(f"{top}/foreign", b"ours not")
            for name, data in self._NODES.items():
                client.create(f"{base}/{name}", data, makepath=True)
        return self.read_garbage(settings)

    def read_garbage(self, settings: Any) -> Mapping[str, object]:
        with self._client(settings) as (client, top):
            base = self._base(client, top)
            paths = [f"{top}/foreign", *[f"{base}/{name}" for name in self._NODES]]
            return {path: client.get(path)[0] if client.exists(path) else None for path in paths}

    def damage(self, settings: Any, key: str) -> None:
        with self._client(settings) as (client, top):
            client.set(f"{self._base(client, top)}/live/{key}", b"\xff rubbish")

    def wipe(self, settings: Any) -> None:
        with self._client(settings) as (client, top):
            client.delete(top, recursive=True)
