# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The change feed of a ZooKeeper board, and the order of its postings, kept by one watch.

A recursive watch on ``live`` and one on ``leases`` (ZooKeeper 3.6) report every change in the order
of the store's history, at a cost that does not grow with the board. Nothing is replayed after a
lost connection, so every connection begins a new feed and its readers receive a reset. Where the
server has no such watches, child watches report that something changed, and each time is a reset.

Events arrive on kazoo's thread, which must never wait: they are only noted here. Readers do the
waiting, and end the timed leases that are over. This module imports kazoo, the primitives, the
errors and its own siblings.
"""

from __future__ import annotations

import functools
import itertools
import random
import threading
import time
import uuid
from collections import deque
from collections.abc import Iterator
from typing import Any

from kazoo.protocol import serialization as wire

from multiboard import errors
from multiboard.backends.zookeeper import records
from multiboard.backends.zookeeper.board import Board
from multiboard.backends.zookeeper.client import Client
from multiboard.backends.zookeeper.errors import BoardGone
from multiboard.backends.zookeeper.order import Entry, Order
from multiboard.backends.zookeeper.requests import AddWatch
from multiboard.backends.zookeeper.seen import Seen
from multiboard.backends.zookeeper.transactions import Write, commit
from multiboard.primitives import Change, ChangeKind, Changes, Place, boottime, interrupts

#: How many changes a slow reader may be behind before it receives a reset.
HISTORY = 100_000
#: Seconds by which the readers of several boards spread what they do at a lease's end.
SPREAD = 0.02
#: Seconds between two replies in a burst: several changes at once cost little more than one.
PACE = 0.003
#: Changes returned at once.
PART = 10_000
#: Postings looked up at once, so that not all bodies are in memory together.
LOOK_UP = 1000
CREATED, DELETED, CHANGED = 1, 2, 3


class Feed:
    """What happened on one board since a point in its history, for any number of readers."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._paths = board.paths
        self.changed = interrupts.Condition()
        self._starting = threading.Lock()
        #: It has an owner: so an interrupted thread can find out whether it has it.
        self._reaping = threading.RLock()
        self._client: Client | None = None
        self._epoch = 0
        self._replied = 0.0
        self._forget()
        #: Whether the server has recursive watches.
        self.recursive = board.session.modern

    def _forget(self) -> None:
        self._id = ""
        self._log: deque[Change] = deque(maxlen=HISTORY)
        #: How many changes there were, those included that the log no longer has.
        self._count = 0
        self._marked = ""
        #: The children of ``live`` and ``leases`` were read: events count from here on.
        self._seeded = False
        self._stale = False
        self._leases: dict[str, records.LeaseName] = {}
        #: When to look at a timed lease, by boottime; 0.0 for at once.
        self._timed: dict[str, float] = {}
        self._order: Order | None = None

    # -- beginning -----------------------------------------------------------------------------

    @property
    def alive(self) -> bool:
        """Whether the watches are in place on the connection that is open now."""
        client = self._client
        return (
            self._seeded and client is not None and client.connected and client.epoch == self._epoch
        )

    def wake(self) -> None:
        """Let all readers look again; runs on any thread."""
        with self.changed:
            self.changed.notify_all()

    def ensure(self, client: Client, *, ordered: bool = False) -> None:
        """Begin anew where the connection is another one than before.

        Raises: ``Unavailable``, ``BoardLost``, ``Closed``.
        """
        with self._starting:
            if not (self.alive and self._client is client):
                self._begin(client)
            if ordered and self._order is None:
                self._seed_order(client)

    def _begin(self, client: Client) -> None:
        with self.changed:
            self._forget()
            self._client, self._epoch = client, client.epoch
            self.changed.notify_all()
        client.on_event = functools.partial(self._on_event, client)
        try:
            client.linearizable(())  # the server may be behind, and lack a board just made
        except BoardGone as error:
            self._found(error)
        if self.recursive:
            watches = [AddWatch(self._paths.live, 1), AddWatch(self._paths.leases, 1)]
            for reply in [client.submit(watch) for watch in watches]:
                self._found(client.value(reply))
        watch = None if self.recursive else self._on_child
        if watch is not None:
            self._found(client.value(client.submit(wire.GetChildren(self._paths.live, watch))))
        # Seeded on kazoo's own thread: between the reply and the next event, not a moment later.
        listing = client.submit(wire.GetChildren(self._paths.leases, watch), self._seed)
        self._found(client.value(listing))

    @staticmethod
    def _found(reply: Any) -> None:
        if isinstance(reply, Exception):
            raise errors.BoardLost("the board is no longer in the store") from reply

    def _seed(self, listing: Any) -> None:
        if not listing.successful():
            return
        with self.changed:
            self._leases, self._timed = {}, {}
            for name in listing.value:
                self._open(name)
            self._id = uuid.uuid4().hex[:12]
            self._seeded = True

    def _open(self, name: str) -> records.LeaseName | None:
        parts = records.parse_lease_name(name)
        if parts is not None:
            self._leases[parts.key] = parts
            if parts.timed:
                self._timed[name] = 0.0
            if self._order is not None:
                self._order.touch(parts.key)
        return parts

    # -- events (on kazoo's thread) --------------------------------------------------------------

    def _on_child(self, _event: Any) -> None:
        """Receive the event of a child watch: something changed, and the watch is used up."""
        with self.changed:
            self._stale = True
            self.changed.notify_all()

    def _on_event(self, client: Client, kind: int, path: str) -> None:
        folder, _, name = path.rpartition("/")
        with self.changed:
            if not self._seeded or not self.recursive or client is not self._client:
                return
            marked, self._marked = self._marked, ""
            if path in (self._paths.live, self._paths.leases):
                self._marked = path
                if kind == DELETED:  # the board was taken away: a new beginning reports that
                    self._seeded = False
                    self.changed.notify_all()
            elif folder == self._paths.live and records.is_key(name):
                self._on_posting(kind, name, marked == folder)
            elif folder == self._paths.leases:
                self._on_lease(kind, name, marked == folder)

    def _on_posting(self, kind: int, key: str, moved: bool) -> None:
        if kind == CREATED:
            if self._order is not None:
                self._order.add(key)
            self._note(ChangeKind.RESTORED if moved else ChangeKind.POSTED, key)
            return
        # It is gone, or it was overwritten, which nothing of ours does but to mark it as gone.
        if self._order is not None:
            if kind == CHANGED:
                self._order.add(key)
            else:
                self._order.discard(key)
        lease = self._leases.pop(key, None)
        token = None if lease is None else lease.token
        self._note(ChangeKind.TRASHED if moved else ChangeKind.REMOVED, key, token)

    def _on_lease(self, kind: int, name: str, released: bool) -> None:
        if kind == CREATED:
            parts = self._open(name)
            if parts is not None:
                self._note(ChangeKind.CLAIMED, parts.key, parts.token)
        elif kind == DELETED:
            self._over(name, ChangeKind.RELEASED if released else ChangeKind.EXPIRED)
        elif name in self._timed:  # renewed, perhaps to end sooner
            self._timed[name] = 0.0
            self.changed.notify_all()

    def _over(self, name: str, kind: ChangeKind) -> None:
        self._timed.pop(name, None)
        parts = records.parse_lease_name(name)
        if parts is None or self._leases.get(parts.key) != parts:
            return  # its posting was removed in the same transaction, and that was noted
        del self._leases[parts.key]
        if self._order is not None:
            self._order.touch(parts.key)
        self._note(kind, parts.key, parts.token)

    def _note(self, kind: ChangeKind, key: str, token: int | None = None) -> None:
        self._log.append(Change(kind, key, token))
        self._count += 1
        self.changed.notify_all()

    # -- readers ---------------------------------------------------------------------------------

    def changes(self, cursor: str | None, timeout: float) -> Changes:
        """Wait for changes behind ``cursor``, and end the timed leases that are over meanwhile."""
        give_up = boottime() + timeout
        while True:
            client = self._board.session.client(max(0.0, give_up - boottime()))
            self.ensure(client)
            self.end_timed_leases(client)
            found = self._read(cursor, give_up)
            if found is not None:
                return found

    def _read(self, cursor: str | None, give_up: float) -> Changes | None:
        """Wait for changes behind ``cursor``; None where something else has to be done first."""
        early = self._replied + PACE - boottime()
        if early > 0:
            time.sleep(early)
        with self.changed:
            if self._stale:
                self._seeded = False
                return None
            if not self.alive:
                return None
            now = f"{self._id}:{self._count}"
            name, _, position = (cursor or "").partition(":")
            seen = int(position) if position.isdecimal() and len(position) < 20 else -1
            if name != self._id or not self._count - len(self._log) <= seen <= self._count:
                return Changes((), now, reset=True)
            if seen < self._count:
                changes, self._replied = self._behind(seen), boottime()
                return Changes(changes, f"{self._id}:{seen + len(changes)}")
            left = give_up - boottime()
            if left <= 0:
                return Changes((), now)
            look = min(self._timed.values(), default=give_up) - boottime()
            if look > 0:
                self.changed.wait(min(left, look))
            return None

    def _behind(self, seen: int) -> tuple[Change, ...]:
        """Return the changes behind a position, not so many that kazoo's thread has to wait."""
        behind = self._count - seen
        if behind <= PART // 100:  # near the right end a deque is quick to index
            return tuple(self._log[index] for index in range(-behind, 0))
        start = len(self._log) - behind
        return tuple(itertools.islice(self._log, start, start + PART))

    def end_timed_leases(self, client: Client, *, wait: bool = False) -> None:
        """End the timed leases that are over, of any holder."""
        if not any(at <= boottime() for at in list(self._timed.values())):
            return
        try:
            if self._reaping.acquire(blocking=wait):
                self._reap(client)
                return
        finally:
            try:  # noqa: SIM105 - nothing may come between
                self._reaping.release()
            except RuntimeError:
                pass
        # Another reader does it, and what it finds wakes this one.
        with self.changed:
            self.changed.wait(SPREAD)

    def _reap(self, client: Client) -> None:
        with self.changed:
            names = [name for name, at in self._timed.items() if at <= boottime()]
        if not names:
            return
        found = client.read([f"{self._paths.leases}/{name}" for name in names])
        now = self._board.now(client)
        ending: list[Write] = []
        for name, reply in zip(names, found, strict=True):
            try:
                hold = None if isinstance(reply, Exception) else records.Hold.decode(reply[0])
            except ValueError:
                hold = None  # marked as gone, or damaged: nobody can hold it
            with self.changed:
                if hold is None or hold.expires_in is None:
                    if name in self._timed and not isinstance(reply, Exception):
                        # What is cut short here leaves a feed that has to begin anew.
                        seeded, self._seeded = self._seeded, False
                        self._over(name, ChangeKind.EXPIRED)
                        self._seeded = seeded
                    self._timed.pop(name, None)
                    continue
                left = (reply[1].mtime - now.earliest) / 1000.0 + hold.expires_in
                if name in self._timed:
                    again = max(left, 0.0) + random.uniform(0.001, SPREAD)
                    self._timed[name] = boottime() + again
            if left <= 0:
                path = f"{self._paths.leases}/{name}"
                ending.append(([wire.Delete(path, reply[1].version)], None))
        for outcome in commit(client, ending):
            if isinstance(outcome.error, errors.AccessDenied):
                raise outcome.error

    # -- the order -------------------------------------------------------------------------------

    def _seed_order(self, client: Client) -> None:
        """Read the names of all postings, once; the events keep the order from then on."""

        def seed(listing: Any) -> None:
            if listing.successful():
                with self.changed:
                    self._order = Order()
                    for name in filter(records.is_key, listing.value):
                        self._order.add(name)

        self._found(client.value(client.submit(wire.GetChildren(self._paths.live, None), seed)))

    @property
    def ordered(self) -> bool:
        """Whether the order is being kept."""
        return self.alive and self._order is not None

    def look_up(self, client: Client, *, again: bool = False) -> None:
        """Look up the postings that the order lacks.

        With ``again``, those too that were damaged: their state may be mended without an event.
        """
        receipts = self._unknown(again)
        keys = list(receipts)
        for start in range(0, len(keys), LOOK_UP):
            part = keys[start : start + LOOK_UP]
            entries: dict[str, Entry | None] = {}
            for key, seen in zip(part, self._board.look(client, part), strict=True):
                if isinstance(seen, Seen):
                    place = (seen.job.rank, seen.serial)
                    entries[key] = Entry(place, seen.due, seen.state_stat is None)
                else:
                    entries[key] = None
            self._learn(receipts, entries)

    def _unknown(self, again: bool) -> dict[str, object]:
        """Return the keys that have to be looked up, each with a receipt for the reply."""
        with self.changed:
            if self._order is None:
                return {}
            if again:
                self._order.reconsider()
            return dict(self._order.unknown)

    def _learn(self, receipts: dict[str, object], entries: dict[str, Entry | None]) -> None:
        """Take in what was looked up, where nothing has changed it since."""
        with self.changed:
            # Taken away meanwhile: an order that is cut short has to be read anew.
            order, self._order = self._order, None
            if order is not None:
                for key, entry in entries.items():
                    if order.unknown.get(key) is receipts[key]:
                        order.learn(key, entry)
                self._order = order

    def has_delayed(self) -> bool:
        """Return whether there may be a posting that is not due yet."""
        with self.changed:
            return self._order is not None and self._order.delayed > 0

    def page(self, behind: Place, limit: int) -> list[tuple[str, Entry]]:
        """Return the first postings behind a place, leased or not, in order."""
        with self.changed:
            return [] if self._order is None else self._order.page(behind, limit)

    def claimed_as(self, marks: set[str]) -> list[str]:
        """Return the keys of the postings that are leased under one of these claim marks."""
        with self.changed:
            return [lease.key for lease in self._leases.values() if lease.mark in marks]

    def is_free(self, key: str) -> bool:
        """Return whether a posting is live and unleased, as of the events received so far."""
        with self.changed:
            return self._order is None or (key in self._order and key not in self._leases)

    def candidates(self, earliest: float) -> Iterator[tuple[str, Entry]]:
        """Walk over the postings that are due and unleased, in order, as of each step."""
        behind: Place | None = None
        while True:
            with self.changed:
                order = self._order
                found = None if order is None else order.after(behind, earliest, self._leases)
            if found is None:
                return
            behind = found[1].place
            yield found
