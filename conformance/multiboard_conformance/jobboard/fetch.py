# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Whose boards are judged: how TaskFlow makes them, and the few things its API does not reach.

Every board comes out of ``taskflow.jobs.backends.fetch``, ours too. Past that API go only the
hooks that write garbage into a store, sweep it and ask for its version; they use the client that
the board itself has. Imports TaskFlow, the suite's own store, and the primitives for our garbage.
"""

from __future__ import annotations

import abc
import contextlib
import importlib
import importlib.metadata
import uuid
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from taskflow.jobs import backends

from multiboard.config import loading
from multiboard.primitives import Backend, NewPosting, Shelf
from multiboard_conformance.backend.fixtures import Store, address_settings
from multiboard_conformance.results import NotSupported


class Maker(abc.ABC):
    """One kind of board on one store."""

    #: The name in ``--taskflow-board`` and in TaskFlow's entry points.
    kind: str
    #: The distribution of its client library.
    client = ""
    #: Whether processes can share its boards.
    cross_process = True
    default_port = 0
    #: What is written where a record should be.
    rubbish: tuple[bytes, ...] = (b"\xff\x00 rubbish",)

    def __init__(self, conf: Mapping[str, str]) -> None:
        self.conf = dict(conf)
        url = self.conf.pop("url", "")
        server = urlsplit(url)
        if url:
            self.conf.setdefault("host", server.hostname or "127.0.0.1")
            self.conf.setdefault("port", str(server.port or self.default_port))

    @abc.abstractmethod
    def at(self, place: str, address: tuple[str, int] | None) -> dict[str, Any]:
        """Return the configuration of the board at a place, by another address where given."""

    def fetch(self, place: str, address: tuple[str, int] | None = None, **more: Any) -> Any:
        """Make the board at a place; it is not connected."""
        conf = {"board": self.kind, **self.at(place, address), **more}
        return backends.fetch("board", conf)

    def mixed(self, place: str, mixin: type) -> Any:
        """Make the board at a place over a backend with ``mixin`` before it; it is not connected.

        Raises: ``NotSupported`` where the board has no backend of multiboard's.
        """
        raise NotSupported(
            "no backend of multiboard's under this board, whose replies could be lost"
        )

    @property
    def address(self) -> tuple[str, int] | None:
        """The one server's host and port, or None where there is no such thing."""
        return self.conf.get("host", "127.0.0.1"), int(self.conf.get("port", self.default_port))

    def server_info(self) -> dict[str, str]:
        """Return the versions of all that is judged here.

        Raises: what the board raises where it can't be connected.
        """
        board = self.fetch(new_place())
        board.connect()
        facts = {
            "board": self.kind,
            "class": f"{type(board).__module__}.{type(board).__qualname__}",
            "taskflow": importlib.metadata.version("taskflow"),
        }
        if self.client:
            facts[self.client] = importlib.metadata.version(self.client)
        with contextlib.suppress(Exception):
            facts["store"] = self.store_version(board)
        return facts

    @abc.abstractmethod
    def store_version(self, board: Any) -> str:
        """Return the store's name and version."""

    def damage(self, board: Any, job: Any) -> Callable[[], object]:
        """Put records that can't be read beside a posted job; return how to read them again."""
        whole = self._record(board, job)
        return self._put(board, *self.rubbish, whole[: len(whole) // 2])

    def misprioritize(self, board: Any, job: Any) -> Callable[[], object]:
        """Put a copy of the record of a job of NORMAL priority with one that no version has."""
        return self._put(board, self._record(board, job).replace(b"NORMAL", b"URGENT"))

    @abc.abstractmethod
    def _record(self, board: Any, job: Any) -> bytes:
        """Return the record of a posted job."""

    @abc.abstractmethod
    def _put(self, board: Any, *records: bytes) -> Callable[[], object]:
        """Put records where those of jobs are; return how to read them again."""

    @abc.abstractmethod
    def sweep(self, place: str) -> None:
        """Leave nothing of a place and of those below it in the store."""

    def close(self) -> None:  # noqa: B027 - only ours makes anything
        """Delete what was made for the run."""


class RedisMaker(Maker):
    """TaskFlow's board on Redis."""

    kind = "redis"
    client = "redis"
    default_port = 6379

    def at(self, place: str, address: tuple[str, int] | None) -> dict[str, Any]:
        host, port = address or self.address or ("", 0)
        return {**self.conf, "host": host, "port": port, "namespace": place}

    def store_version(self, board: Any) -> str:
        return f"redis {board._client.info('server')['redis_version']}"

    def _record(self, board: Any, job: Any) -> bytes:
        whole: bytes = board._client.hget(board.listings_key, job.key)
        return whole

    def _put(self, board: Any, *records: bytes) -> Callable[[], object]:
        keys = [str(uuid.uuid4()) for _ in records]
        client, listings = board._client, board.listings_key
        for key, record in zip(keys, records, strict=True):
            client.hset(listings, key, record)
        return lambda: client.hmget(listings, keys)

    def sweep(self, place: str) -> None:
        board = self.fetch(place)
        board.connect()
        keys = list(board._client.scan_iter(f"{place.partition('/')[0]}*"))
        if keys:
            board._client.delete(*keys)


class ZooKeeperMaker(Maker):
    """TaskFlow's board on ZooKeeper."""

    kind = "zookeeper"
    client = "kazoo"
    default_port = 2181
    rubbish = (*Maker.rubbish, b"")

    def at(self, place: str, address: tuple[str, int] | None) -> dict[str, Any]:
        host, port = address or self.address or ("", 0)
        conf = {name: value for name, value in self.conf.items() if name not in ("host", "port")}
        return {
            # It asks by the four-letter word ``envi``, to which a stock server does not answer.
            "check_compatible": False,
            "timeout": 4.0,
            **conf,
            "hosts": f"{host}:{port}",
            "path": f"/{place}",
        }

    @property
    def address(self) -> tuple[str, int] | None:
        if "hosts" in self.conf:
            host, _, port = self.conf["hosts"].rpartition(":")
            return (host, int(port)) if "," not in host else None
        return super().address

    def store_version(self, board: Any) -> str:
        version = board._client.server_version(retries=0)
        return f"zookeeper {'.'.join(map(str, version))}"

    def _record(self, board: Any, job: Any) -> bytes:
        whole: bytes = board._client.get(job.path)[0]
        return whole

    def _put(self, board: Any, *records: bytes) -> Callable[[], object]:
        client = board._client
        paths = [client.create(f"{board.path}/job", record, sequence=True) for record in records]
        return lambda: [client.get(path)[0] if client.exists(path) else None for path in paths]

    def sweep(self, place: str) -> None:
        top = place.partition("/")[0]
        board = self.fetch(f"{top}/sweeper")
        board.connect()
        board._client.delete(f"/{top}", recursive=True)


class EtcdMaker(Maker):
    """TaskFlow's board on etcd."""

    kind = "etcd"
    client = "etcd3gw"
    default_port = 2379
    rubbish = (b"not json",)

    def at(self, place: str, address: tuple[str, int] | None) -> dict[str, Any]:
        host, port = address or self.address or ("", 0)
        return {**self.conf, "host": host, "port": port, "path": place}

    def store_version(self, board: Any) -> str:
        return f"etcd {board._client.status()['version']}"

    def _record(self, board: Any, job: Any) -> bytes:
        whole: bytes = board._client.get(f"{job.key}.data")[0]
        return whole

    def _put(self, board: Any, *records: bytes) -> Callable[[], object]:
        client, root = board._client, board._root_path
        keys = [f"{root}/job9{number}.data" for number in range(len(records))]
        for key, record in zip(keys, records, strict=True):
            client.put(key, record)
        return lambda: [client.get(key) for key in keys]

    def sweep(self, place: str) -> None:
        top = place.partition("/")[0]
        board = self.fetch(place)
        board.connect()
        for root in (board.ROOT_PATH, board.TRASH_PATH):
            board._client.delete_prefix(f"{root}/{top}")


class MultiboardMaker(Maker):
    """Our board, on whatever its URL names."""

    kind = "multiboard"
    rubbish = (*Maker.rubbish, b"")
    #: Deaths are noticed and outages are reported soon; whoever wants the defaults can set them.
    quick = {"session_timeout": "2", "connect_timeout": "2", "operation_timeout": "5"}

    def __init__(self, conf: Mapping[str, str]) -> None:
        super().__init__({})
        self.conf = {**self.quick, **conf}
        self._store = Store(self.conf.get("url", ""))
        self.cross_process = self._store.traits.cross_process

    def at(self, place: str, address: tuple[str, int] | None) -> dict[str, Any]:
        moved = {} if address is None else address_settings(self._store.load(), address)
        return {**self.conf, **self._store.settings(), **moved, "namespace": place}

    @property
    def address(self) -> tuple[str, int] | None:
        return self._store.address()

    def mixed(self, place: str, mixin: type) -> Any:
        conf = self.at(place, None)
        backend = loading.load(conf.pop("url"), **conf)
        chosen = type(mixin.__name__, (mixin, type(backend)), {})
        return backends.fetch("board", {"board": self.kind}, client=chosen(backend.settings))

    def store_version(self, board: Any) -> str:
        facts = self._store.server_info()
        return f"{facts['store']} {facts.get('version', '')}".strip()

    def misprioritize(self, board: Any, job: Any) -> Callable[[], object]:
        return self._put(board, self._record(board, job), rank=99)

    def _record(self, board: Any, job: Any) -> bytes:
        (posting,) = self._opened(board).get([job.key])
        assert posting is not None
        return posting.body

    def _put(self, board: Any, *records: bytes, rank: int = 2) -> Callable[[], object]:
        """Write bodies through the primitives, which take any: no store needs a hook of its own."""
        backend = self._opened(board)
        keys = [str(uuid.uuid4()) for _ in records]
        added = zip(keys, records, strict=True)
        backend.add([NewPosting(key, body, rank) for key, body in added])
        return lambda: [its and its.body for its in backend.get(keys)]

    def _opened(self, board: Any) -> Backend:
        backend = self._store.load(namespace=board.settings.namespace)
        backend.open()
        return backend

    def sweep(self, place: str) -> None:
        if not self._store.traits.cross_host:
            return  # a file of the run, or this process's memory
        board = self.fetch(place)
        board.connect()
        for job in board.iterjobs(ensure_fresh=True):
            owner = board.find_owner(job)
            if owner is None:
                board.claim(job, owner := "sweeper")
            board.consume(job, owner)
        board.purge(board.trashed())
        backend = loading.load(self.conf["url"], namespace=place)
        backend.open()
        leases = backend.acquire_next("sweeper", [uuid.uuid4().hex for _ in range(8)], 10.0)
        backend.remove([lease for _, lease in leases])  # bodies that no board can read
        backend.purge([posting.key for posting in backend.list(Shelf.TRASH).postings])

    def close(self) -> None:
        self._store.close()


_MAKERS: dict[str, type[Maker]] = {
    maker.kind: maker for maker in (RedisMaker, ZooKeeperMaker, EtcdMaker, MultiboardMaker)
}
#: What ``--taskflow-board`` takes.
KINDS = tuple(_MAKERS)


def make(kind: str, conf: Mapping[str, str]) -> Maker:
    """Return the maker of a kind of boards, or of those that ``module:Class`` makes.

    Raises: ``ValueError`` for a kind that is neither; what importing the module raises.
    """
    module, colon, name = kind.partition(":")
    if colon:
        maker = getattr(importlib.import_module(module), name, None)
        if not (isinstance(maker, type) and issubclass(maker, Maker)):
            raise ValueError(f"{kind} is no subclass of {Maker.__module__}.Maker")
        return maker(conf)
    if kind not in _MAKERS:
        raise ValueError(f"--taskflow-board {kind}: it is one of {', '.join(KINDS)}, module:Class")
    return _MAKERS[kind](conf)


def new_place() -> str:
    """Return the name of a board that nobody has used."""
    return f"conformance-{uuid.uuid4().hex[:12]}/jobs"
