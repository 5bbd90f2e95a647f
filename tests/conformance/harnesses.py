# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""What the suite can't guess about our own stores: garbage, damage, restarts, the loss of a board.

It writes past the backends, with the stores' own clients. It encodes how they lay out a board; that
is what a harness is for. Servers are killed that nobody else uses: each harness starts a spare one.
"""

from __future__ import annotations

import contextlib
import gc
import os
import pathlib
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.parse
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import etcd3gw
import kazoo.client
import kazoo.exceptions
import redis
from multiboard_conformance.backend.feeds import MOMENTS
from multiboard_conformance.harness import Harness

from multiboard.backends.redis.locators import locator_factory
from multiboard.backends.redis.records import keys_of
from tests.conformance.short_histories import FEW, keeps_few

TOOLS = pathlib.Path(__file__).resolve().parents[2] / "tools"
if str(TOOLS) not in sys.path:
    sys.path.append(str(TOOLS))

import servers  # noqa: E402 - found through the line above
from servers import clusters  # noqa: E402


class ServerHarness(Harness):
    """A store with a server: the spare one is killed and started again."""

    store: str

    def __init__(self, target: str) -> None:
        super().__init__(target)
        self._stack = contextlib.ExitStack()
        self._spare: servers.Server | None = None

    def spare(self) -> str:
        self._spare = self._stack.enter_context(servers.server(self.store))
        return self._spare.url

    @property
    def server(self) -> servers.Server:
        """The spare server."""
        assert self._spare is not None, "only the spare server may be disturbed"
        return self._spare

    def restart(self) -> None:
        self.server.kill()
        self.server.start()

    def put_back(self, settings: Any, writes: Callable[[], None]) -> None:
        # What all of these servers hold is a folder; a snapshot that is restored is one, too.
        with tempfile.TemporaryDirectory() as folder:
            backup = os.path.join(folder, "data")
            self.server.back_up(backup)
            writes()
            self.server.put_back(backup)

    def close(self) -> None:
        self._stack.close()


class RedisRecords(Harness):
    """Foreign keys, members and fields beside the board's, in whichever server has it."""

    @contextlib.contextmanager
    def _client(self, settings: Any) -> Iterator[tuple[redis.Redis, str]]:
        keys = keys_of(settings.prefix, settings.namespace)
        connection = locator_factory(settings, keys["meta"])().connect(5.0)
        host, port = connection.address.host, connection.address.port
        connection.close()
        with redis.Redis(host, port, settings.db) as client:
            yield client, keys["meta"].removesuffix("meta")

    def write_garbage(self, settings: Any) -> Mapping[str, object]:
        with self._client(settings) as (client, prefix):
            client.set(f"{prefix}foreign", b"\xff\x00 not ours")
            client.hset(f"{prefix}live:state", "a ghost", b"rubbish")
            client.hset(f"{prefix}live:body", b"\xff\xfe", b"a body without a posting")
            client.zadd(f"{prefix}live", {b"\xfe not a key": 1.5})
            client.zadd(f"{prefix}index", {"nobody": 2.0})
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

    def fresh(self) -> str:
        return f"{self.target.partition('?')[0]}?prefix=fresh-{uuid.uuid4().hex[:12]}"

    def trim(self, settings: Any) -> None:
        with self._client(settings) as (client, prefix):
            client.xtrim(f"{prefix}feed", maxlen=1, approximate=False)


class RedisHarness(ServerHarness, RedisRecords):
    """One Redis, which may be killed."""

    store = "redis"

    def spare(self) -> str:
        # Otherwise a write waits in memory while the disk is slow, up to two seconds.
        always = ("--appendfsync", "always")
        self._spare = self._stack.enter_context(servers.redis_server(options=always))
        return self._spare.url

    def failover(self, writes: Callable[[], None]) -> None:
        # What a lagging replica holds is an earlier state of the primary: so is a copy of its file.
        with tempfile.TemporaryDirectory() as folder:
            data, replica = os.path.join(self.server.folder, "data"), os.path.join(folder, "data")
            shutil.copytree(data, replica)
            writes()
            self.server.kill()
            shutil.rmtree(data)
            shutil.copytree(replica, data)
            self.server.start()


#: A process that is killed in the middle of a write; its lines are the cue.
_WRITER = """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], timeout=10.0, isolation_level=None)
connection.execute("PRAGMA cache_spill = 1")
connection.execute("PRAGMA cache_size = 2")
connection.execute("BEGIN IMMEDIATE")
connection.execute("UPDATE multiboard_postings SET rank = 7, serial = serial + 1000, attempts = 9")
connection.execute("CREATE TABLE half (x)")
connection.executemany("INSERT INTO half VALUES (?)", [("x" * 4000,) for _ in range(50)])
print("written", flush=True)
time.sleep(60.0)
"""


class SQLiteHarness(Harness):
    """Foreign tables and rows in the board's file."""

    keep_changes = keeps_few("multiboard.backends.sqlite.transactions", HISTORY=FEW, TIDY_EVERY=3)

    def __init__(self, target: str) -> None:
        super().__init__(target)
        self._folder: str | None = None

    def _place(self) -> str:
        if self._folder is None:
            self._folder = tempfile.mkdtemp(prefix="multiboard-sqlite-")
        return self._folder

    def spare(self) -> str:
        return f"sqlite://{self._place()}/board.db"

    def fresh(self) -> str:
        return f"sqlite://{self._place()}/fresh-{uuid.uuid4().hex[:12]}.db"

    def restart(self) -> None:
        """Kill a process in the middle of a write: all of a restart that a file can have."""
        assert self._folder is not None
        writer = subprocess.Popen(
            [sys.executable, "-c", _WRITER, f"{self._folder}/board.db"],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert writer.stdout is not None
        with writer.stdout as output:
            line = output.readline()
        writer.kill()
        writer.wait()
        assert line == "written\n", "the process died before it wrote"

    def close(self) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

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

    def put_back(self, settings: Any, writes: Callable[[], None]) -> None:
        """Copy a backup over the file, in place: the processes have it open still."""
        with tempfile.TemporaryDirectory() as folder:
            backup = os.path.join(folder, "backup.db")
            self._settle(settings.path)
            shutil.copyfile(settings.path, backup)
            writes()
            self._settle(settings.path)
            shutil.copyfile(backup, settings.path)

    @staticmethod
    def _settle(path: str) -> None:
        """Have all that is in the log written into the file, and the log emptied."""
        with contextlib.closing(sqlite3.connect(path, timeout=10.0)) as connection:
            while connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
                time.sleep(0.01)  # a reader is at it this very moment

    def trim(self, settings: Any) -> None:
        with self._connection(settings) as (connection, board):
            connection.execute(
                "DELETE FROM multiboard_log WHERE board = ? AND seq <"
                " (SELECT max(seq) FROM multiboard_log WHERE board = ?)",
                (board, board),
            )


class UnhurriedHarness(SQLiteHarness):
    """A store that is wiped like one that was much used."""

    def wipe(self, settings: Any) -> None:
        time.sleep(3.5 * MOMENTS)
        super().wipe(settings)


class ZooKeeperHarness(ServerHarness):
    """Foreign nodes among the board's."""

    store = "zookeeper"
    keep_changes = keeps_few("multiboard.backends.zookeeper.feed", HISTORY=FEW)

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

    def fresh(self) -> str:
        return f"{self.target.partition('?')[0].rstrip('/')}/fresh-{uuid.uuid4().hex[:12]}"

    def wipe(self, settings: Any) -> None:
        with self._client(settings) as (client, top):
            while client.exists(top):
                # A worker may add a node to a folder between the look into it and its end.
                with contextlib.suppress(kazoo.exceptions.NotEmptyError):
                    client.delete(top, recursive=True)

    def failover(self, writes: Callable[[], None]) -> None:
        # An ensemble never elects a server that missed what was acknowledged.
        writes()
        self.restart()

    def trim(self, settings: Any) -> None:
        # The server keeps no history: the backend does, in this process, for its readers.
        from multiboard.backends.zookeeper import feed

        place = f"board:{settings.namespace.replace('/', ':')}/"
        for found in gc.get_objects():
            if isinstance(found, feed.Feed) and place in found._paths.live:
                with found.changed:
                    while len(found._log) > 1:
                        found._log.popleft()


class EnsembleHarness(ZooKeeperHarness):
    """Three servers: a restart is that of all, and a failover the death of the leader."""

    def spare(self) -> str:
        self._ensemble = clusters.ZooKeeperEnsemble()
        self._stack.enter_context(clusters.running(self._ensemble))
        self.target = self._ensemble.url
        return self.target

    def address(self) -> tuple[str, int]:
        # Who knows one of them only can be led astray on the way to it.
        host, _, port = urllib.parse.urlsplit(self.target).netloc.split(",")[0].rpartition(":")
        return host, int(port)

    def restart(self) -> None:
        self._ensemble.faults()["all killed"]()
        self._ensemble.heal()

    def put_back(self, settings: Any, writes: Callable[[], None]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            pairs = [
                (os.path.join(server.folder, "data"), os.path.join(folder, str(server.number)))
                for server in self._ensemble.servers
            ]
            self._ensemble.faults()["all killed"]()
            for data, backup in pairs:
                shutil.copytree(data, backup)
            self._ensemble.heal()
            writes()
            self._ensemble.faults()["all killed"]()
            for data, backup in pairs:
                shutil.rmtree(data)
                shutil.copytree(backup, data)
            self._ensemble.heal()

    def failover(self, writes: Callable[[], None]) -> None:
        writes()  # an ensemble never elects a server that missed what was acknowledged
        self._ensemble.faults()["leader killed"]()
        self._ensemble.heal()


class EtcdHarness(ServerHarness):
    """Foreign keys among the board's."""

    store = "etcd"
    keep_changes = keeps_few("multiboard.backends.etcd.feed", HISTORY=FEW)

    @contextlib.contextmanager
    def _client(self, settings: Any) -> Iterator[tuple[etcd3gw.Etcd3Client, str]]:
        host, _, port = settings.hosts[0].rpartition(":")
        client = etcd3gw.Etcd3Client(host, int(port), api_path="/v3/")
        try:
            name = settings.namespace.replace("/", ":")
            yield client, f"{settings.root.rstrip('/')}/board:{name}/"
        finally:
            client.session.close()

    _KEYS = {
        "foreign": b"not ours",
        "bodies/ghost": b"the body of nothing",
        "leases/not a key!": b"x",
        "leases/ghost": b"\xff",
        "lice/foreign": b"between the folders",
        "live/not a key!": b"rubbish",
        "live/ghost": b"\xff\x00 no record",
        "live/empty": b"",
        "live/sub/key": b"{}",
        "trash/not a key!": b"x",
        "trash/ghost": b'{"v":1}',
        "zoo": b"",
    }

    def write_garbage(self, settings: Any) -> Mapping[str, object]:
        with self._client(settings) as (client, top):
            for name, data in self._KEYS.items():
                client.put(top + name, data)
        return self.read_garbage(settings)

    def read_garbage(self, settings: Any) -> Mapping[str, object]:
        with self._client(settings) as (client, top):
            return {name: client.get(top + name) for name in self._KEYS}

    def damage(self, settings: Any, key: str) -> None:
        with self._client(settings) as (client, top):
            client.put(f"{top}live/{key}", b"\xff rubbish")

    def fresh(self) -> str:
        return f"{self.target.partition('?')[0].rstrip('/')}/fresh-{uuid.uuid4().hex[:12]}"

    def wipe(self, settings: Any) -> None:
        with self._client(settings) as (client, top):
            client.delete_prefix(top)

    def failover(self, writes: Callable[[], None]) -> None:
        # A cluster never elects a member that missed what was acknowledged.
        writes()
        self.restart()

    def trim(self, settings: Any) -> None:
        # The history that a reader is served from is the backend's, in this process.
        from multiboard.backends.etcd import feed

        place = f"/board:{settings.namespace.replace('/', ':')}/".encode()
        for found in gc.get_objects():
            if isinstance(found, feed.Feed) and found._board.keys.top.endswith(place):
                with found.changed:
                    while len(found._log) > 1:
                        found._since = found._log.popleft()[0]
