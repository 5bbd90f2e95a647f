# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The store under test, and the board that each check gets: backends, peers, their end.

Imports the primitives, the errors, the loader and the suite's own modules; never a backend.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import os
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from multiboard import errors, primitives
from multiboard.config import loading
from multiboard.primitives import Backend, Lease, NewPosting, Posting, Shelf, boottime
from multiboard_conformance.backend.answers import name_of, raised
from multiboard_conformance.machinery.history import History
from multiboard_conformance.machinery.peers import LocalPeer, Peer, RemotePeer, WorkerPool
from multiboard_conformance.machinery.programs import claim_id
from multiboard_conformance.machinery.recording import Recorded
from multiboard_conformance.machinery.worker import Actor

T = TypeVar("T")

#: What the death checks ask for; the store grants what it can.
SHORT_SESSION = 2.0


class Store:
    """What the command was given: a URL, a name or ``module:Class``."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.pool = WorkerPool()
        self._scratch: str | None = None
        self._settings = self._scratch_settings()

    def _scratch_settings(self) -> dict[str, Any]:
        """Give a store that is a file a temporary one, unless the target names a file."""
        bare = self.target.partition("?")[0].partition("://")[2] == ""
        fields = {field.name for field in dataclasses.fields(self.load().settings)}
        if not bare or "path" not in fields or "path=" in self.target:
            return {}
        if {"host", "hosts"} & fields:
            return {}
        self._scratch = tempfile.mkdtemp(prefix="multiboard-conformance-")
        return {"path": os.path.join(self._scratch, "board")}

    def load(self, **settings: Any) -> Backend:
        """Make a backend that is not opened."""
        return loading.load(self.target, **{**getattr(self, "_settings", {}), **settings})

    @functools.cached_property
    def traits(self) -> primitives.Traits:
        """What the backend declares; some of it may only be known of an open one."""
        backend = self.load(namespace=f"conformance-{uuid.uuid4().hex[:12]}")
        try:
            backend.open()
            return backend.traits
        except Exception:
            return backend.traits
        finally:
            with contextlib.suppress(Exception):
                backend.close()

    def server_info(self) -> dict[str, str]:
        """Return what the backend reports of its store, or why it does not."""
        backend = self.load(namespace=f"conformance-{uuid.uuid4().hex[:12]}")
        try:
            backend.open()
            return dict(backend.server_info())
        except Exception as error:
            return {"error": f"{type(error).__name__}: {error}"}
        finally:
            with contextlib.suppress(Exception):
                backend.close()

    def address(self) -> tuple[str, int] | None:
        """Return the host and port of the one server, or None where there is no such thing."""
        return address_of(self.load())

    def settings(self, **settings: Any) -> dict[str, Any]:
        """Return the settings by which another process reaches the same store."""
        return {**self._settings, **settings}

    def close(self) -> None:
        """End the worker processes and delete what was made for the run."""
        self.pool.close()
        if self._scratch is not None:
            import shutil

            shutil.rmtree(self._scratch, ignore_errors=True)


def address_of(backend: Backend) -> tuple[str, int] | None:
    """Return the one host and port in a backend's settings, or None."""
    settings: Any = backend.settings
    names = {field.name for field in dataclasses.fields(settings)}
    if {"host", "port"} <= names and settings.host and settings.port:
        return settings.host, int(settings.port)
    hosts: tuple[str, ...] = getattr(settings, "hosts", ())
    if len(set(hosts)) == 1:
        host, _, port = hosts[0].rpartition(":")
        if port.isdigit():
            return host, int(port)
    return None


def address_settings(backend: Backend, address: tuple[str, int]) -> dict[str, Any]:
    """Return the settings that lead a backend to another host and port."""
    names = {field.name for field in dataclasses.fields(backend.settings)}
    if {"host", "port"} <= names:
        return {"host": address[0], "port": address[1]}
    return {"hosts": (f"{address[0]}:{address[1]}",)}


class Board:
    """A board with a name that nobody used before, and everybody whom a check lets work on it."""

    def __init__(self, store: Store, **settings: Any) -> None:
        self.store = store
        self.namespace = f"conformance-{uuid.uuid4().hex[:12]}"
        self.history = History()
        self._defaults = settings
        self._backends: list[Recorded] = []
        self._peers: list[Peer] = []
        self._numbers = itertools.count(1)

    @property
    def traits(self) -> primitives.Traits:
        """What the backend declares."""
        return self.store.traits

    def make(self, **settings: Any) -> Recorded:
        """Make a backend for this board; it is not opened."""
        chosen = {"namespace": self.namespace, **self._defaults, **settings}
        backend = self.store.load(**chosen)
        who = "abcdefghijklmnopqrstuvwxyz"[len(self._backends) % 26]
        if chosen["namespace"] != self.namespace:
            who = f"{who} ({chosen['namespace']})"
        recorded = Recorded(backend, who, self.history)
        self._backends.append(recorded)
        return recorded

    def open(self, **settings: Any) -> Recorded:
        """Open a backend for this board, with a connection of its own."""
        backend = self.make(**settings)
        backend.open()
        return backend

    def peer(self, *, skew: float = 0.0, at: float | None = None, **settings: Any) -> Peer:
        """Let another process work on this board, or what stands for one on this store.

        It opens the board at an instant of ``boottime()`` if one is given.
        """
        chosen = {"namespace": self.namespace, **self._defaults, **settings}
        who = f"peer {next(self._numbers)}"
        if self.traits.cross_process:
            own = (self.store.load(**chosen).settings, self.traits)
            chosen = self.store.settings(**chosen)
            peer: Peer = RemotePeer(
                self.store.pool, self.store.target, chosen, who, self.history, own, skew, at
            )
        else:
            chosen = self.store.settings(**chosen)
            actor = Actor(self.store.target, chosen, who, self.history, at)
            peer = LocalPeer(actor, who, self.traits)
        self._peers.append(peer)
        return peer

    def peers(self, number: int, at: float | None = None, **settings: Any) -> list[Peer]:
        """Let several other processes work on this board."""
        return together([lambda: self.peer(at=at, **settings)] * number)

    def close(self) -> None:
        """Close everybody, and leave nothing in a store that others use too."""
        for peer in self._peers:
            with contextlib.suppress(Exception):
                peer.leave()
        if self.traits.cross_host:
            with contextlib.suppress(errors.MultiboardError):
                self._sweep()
        for backend in self._backends:
            with contextlib.suppress(Exception):
                backend.backend.close()

    def _sweep(self) -> None:
        backend = self.store.load(namespace=self.namespace)
        try:
            backend.open()
            postings = backend.list(Shelf.LIVE).postings
            leases = [posting.lease for posting in postings if posting.lease is not None]
            backend.remove(leases)
            free = sum(posting.lease is None and posting.due_in == 0 for posting in postings)
            for begin in range(0, free, 100):
                wanted = [claim_id() for _ in range(min(100, free - begin))]
                won = backend.acquire_next("sweeper", wanted, 60.0)
                backend.remove([lease for _, lease in won])
            backend.purge([posting.key for posting in backend.list(Shelf.TRASH).postings])
        finally:
            backend.close()


def open_patiently(opening: Callable[..., T], within: float = 30.0, **settings: float) -> T:
    """Open what soon gives up, on a store that may be too busy to greet it at the first try."""
    give_up = boottime() + within
    while True:
        try:
            return opening(**settings)
        except errors.Unavailable:
            if boottime() > give_up:
                raise


def together(calls: Sequence[Callable[[], T]]) -> list[T]:
    """Make calls at the same time, a thread each; return the answers, or raise the first error."""
    with ThreadPoolExecutor(len(calls)) as threads:
        futures = [threads.submit(call) for call in calls]
        return [future.result() for future in futures]


def race(peers: Sequence[Peer], call: Callable[[Peer], T]) -> list[T | errors.MultiboardError]:
    """Let peers do something in the same instant; return the answer or the error of each."""
    start = boottime() + 0.03

    def one(peer: Peer) -> T | errors.MultiboardError:
        peer.start_at = start
        try:
            return call(peer)
        except errors.MultiboardError as error:
            return error

    return together([functools.partial(one, peer) for peer in peers])


def contend(
    peers: Sequence[Peer], first: Callable[[Peer], Any], others: Callable[[Peer], Any]
) -> list[Any]:
    """Let the first peer do one thing, and all others another one, in the same instant.

    Return the answers, errors by the names of their classes.
    """
    answers = race(peers, lambda peer: first(peer) if peer is peers[0] else others(peer))
    return [name_of(answer) for answer in answers]


# -- short words for checks ------------------------------------------------------------------


def post(backend: Backend, *keys: str, body: bytes = b"body", **fields: Any) -> list[Posting]:
    """Post keys in one call and return the postings."""
    return added(backend.add([NewPosting(key, body, **fields) for key in keys]))


def fresh_keys(backend: Backend, number: int) -> Iterator[str]:
    """Post so many keys, one before each round of a check, and yield them."""
    for n in range(number):
        key = f"k{n}"
        post(backend, key)
        yield key


def post_and_trash(backend: Backend, key: str, released: int = 0) -> Lease:
    """Post a key, lease and release it so often, and trash it; return the lease that did."""
    post(backend, key)
    for _ in range(released):
        backend.release(take(backend, key))
    lease = take(backend, key)
    assert list(backend.remove([lease], Shelf.TRASH)) == [None]
    return lease


def close_with_a_lease(board: Board, key: str) -> Backend:
    """Let a backend post and lease a key by its session, and close; return another backend."""
    holder, other = board.open(), board.open()
    post(holder, key)
    take(holder, key)
    holder.close()
    return other


def added(answers: Sequence[Posting | errors.MultiboardError]) -> list[Posting]:
    """Return the postings of an answer that holds no error."""
    wrong = [answer for answer in answers if not isinstance(answer, Posting)]
    assert wrong == [], f"add answered {wrong}"
    return [answer for answer in answers if isinstance(answer, Posting)]


def take(backend: Backend, key: str, expires_in: float | None = None, holder: str = "me") -> Lease:
    """Acquire a posting in an attempt of its own."""
    return backend.acquire(key, holder, claim_id(), expires_in)


def try_to_take(backend: Backend, key: str) -> Lease | None:
    """Acquire a posting for half a minute, or return None where that is refused."""
    answer = raised(lambda: take(backend, key, 30.0))
    return answer if isinstance(answer, Lease) else None
