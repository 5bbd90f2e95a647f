# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The change feed of a ZooKeeper board, and the order of its postings, kept by one watch.

A recursive watch on ``live`` and one on ``leases`` (ZooKeeper 3.6) tell every change in the order
of the store's history, at a cost that does not grow with the board. Nothing is replayed after a
lost connection, so every connection begins a new feed and its readers hear a reset. Where the
server has no such watches, child watches tell that something happened, and each time is a reset.

Events arrive on kazoo's thread, which must never wait: they are only noted here. Readers do the
waiting, and the looking after timed leases. This module imports the primitives, the errors and
its own siblings.
"""

from __future__ import annotations

import bisect
import functools
import itertools
import random
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from kazoo.protocol import serialization as wire

from multiboard import errors
from multiboard.backends.zookeeper import client, records
from multiboard.backends.zookeeper.kazoo_ext import AddWatch
from multiboard.primitives import Change, ChangeKind, Changes, boottime, interrupts

#: How many changes a slow reader may be behind before it hears a reset.
HISTORY = 100_000
#: Seconds by which the readers of several boards spread what they do at a lease's end.
SPREAD = 0.02
#: Seconds between two answers in a burst: several changes at once cost little more than one.
PACE = 0.003
#: Changes told at once.
PART = 10_000
CREATED, DELETED, CHANGED = 1, 2, 3


@dataclass(frozen=True, slots=True)
class Place:
    """What the order of the postings needs to know of one: it holds while nobody claims it."""

    place: tuple[int, int]
    #: Milliseconds by the server's clock.
    due: float
    fresh: bool


class Feed:
    """What happened on one board since a point in its history, for any number of readers."""

    def __init__(self, paths: records.Paths, *, recursive: bool = True) -> None:
        self._paths = paths
        self.changed = interrupts.Condition()
        self._starting = threading.Lock()
        #: Of the thread that has it: so an interrupted one can tell whether it has it.
        self._reaping = threading.RLock()
        self._link: client.Link | None = None
        self._epoch = 0
        self._answered = 0.0
        self._forget()
        #: Whether the server has recursive watches.
        self.recursive = recursive

    def _forget(self) -> None:
        self._id = ""
        self._log: deque[Change] = deque(maxlen=HISTORY)
        self._told = 0
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
        link = self._link
        return self._seeded and link is not None and link.connected and link.epoch == self._epoch

    def wake(self) -> None:
        """Let all readers look again; runs on any thread."""
        with self.changed:
            self.changed.notify_all()

    def ensure(self, link: client.Link, *, ordered: bool = False) -> None:
        """Begin anew where the connection is another one than before.

        Raises: ``Unavailable``, ``BoardLost``, ``Closed``.
        """
        with self._starting:
            if not (self.alive and self._link is link):
                self._begin(link)
            if ordered and self._order is None:
                self._seed_order(link)

    def _begin(self, link: client.Link) -> None:
        with self.changed:
            self._forget()
            self._link, self._epoch = link, link.epoch
            self.changed.notify_all()
        link.on_event = functools.partial(self._on_event, link)
        try:
            link.truth(())  # the server of a new session may be behind, and lack a young board
        except client.Vanished as error:
            self._found(error)
        if self.recursive:
            watches = [AddWatch(self._paths.live, 1), AddWatch(self._paths.leases, 1)]
            for answer in [link.submit(watch) for watch in watches]:
                self._found(link.value(answer))
        watch = None if self.recursive else self._on_child
        if watch is not None:
            self._found(link.value(link.submit(wire.GetChildren(self._paths.live, watch))))
        # Seeded on kazoo's own thread: between the answer and the next event, not a moment later.
        listing = link.submit(wire.GetChildren(self._paths.leases, watch), self._seed)
        self._found(link.value(listing))

    @staticmethod
    def _found(answer: Any) -> None:
        if isinstance(answer, Exception):
            raise errors.BoardLost("the board is no longer in the store") from answer

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
        """Hear of a child watch: something changed, and the watch is used up."""
        with self.changed:
            self._stale = True
            self.changed.notify_all()

    def _on_event(self, link: client.Link, kind: int, path: str) -> None:
        folder, _, name = path.rpartition("/")
        with self.changed:
            if not self._seeded or not self.recursive or link is not self._link:
                return
            marked, self._marked = self._marked, ""
            if path in (self._paths.live, self._paths.leases):
                self._marked = path
                if kind == DELETED:  # the board was taken away: whoever begins anew finds out
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
            self._tell(ChangeKind.RESTORED if moved else ChangeKind.POSTED, key)
            return
        # It is gone, or it was overwritten, which nothing of ours does but to mark it as gone.
        if self._order is not None:
            if kind == CHANGED:
                self._order.add(key)
            else:
                self._order.discard(key)
        lease = self._leases.pop(key, None)
        token = None if lease is None else lease.token
        self._tell(ChangeKind.TRASHED if moved else ChangeKind.REMOVED, key, token)

    def _on_lease(self, kind: int, name: str, given_back: bool) -> None:
        if kind == CREATED:
            parts = self._open(name)
            if parts is not None:
                self._tell(ChangeKind.CLAIMED, parts.key, parts.token)
        elif kind == DELETED:
            self._over(name, ChangeKind.RELEASED if given_back else ChangeKind.EXPIRED)
        elif name in self._timed:  # renewed, perhaps to end sooner
            self._timed[name] = 0.0
            self.changed.notify_all()

    def _over(self, name: str, kind: ChangeKind) -> None:
        self._timed.pop(name, None)
        parts = records.parse_lease_name(name)
        if parts is None or self._leases.get(parts.key) != parts:
            return  # its posting was removed in the same transaction, and that was told
        del self._leases[parts.key]
        if self._order is not None:
            self._order.touch(parts.key)
        self._tell(kind, parts.key, parts.token)

    def _tell(self, kind: ChangeKind, key: str, token: int | None = None) -> None:
        self._log.append(Change(kind, key, token))
        self._told += 1
        self.changed.notify_all()

    # -- readers ---------------------------------------------------------------------------------

    def read(self, cursor: str | None, give_up: float) -> Changes | None:
        """Wait for news behind ``cursor``; None where something else has to be done first."""
        early = self._answered + PACE - boottime()
        if early > 0:
            time.sleep(early)
        with self.changed:
            if self._stale:
                self._seeded = False
                return None
            if not self.alive:
                return None
            now = f"{self._id}:{self._told}"
            name, _, position = (cursor or "").partition(":")
            seen = int(position) if position.isdecimal() and len(position) < 20 else -1
            if name != self._id or not self._told - len(self._log) <= seen <= self._told:
                return Changes((), now, reset=True)
            if seen < self._told:
                news, self._answered = self._behind(seen), boottime()
                return Changes(news, f"{self._id}:{seen + len(news)}")
            left = give_up - boottime()
            if left <= 0:
                return Changes((), now)
            look = min(self._timed.values(), default=give_up) - boottime()
            if look > 0:
                self.changed.wait(min(left, look))
            return None

    def _behind(self, seen: int) -> tuple[Change, ...]:
        """Return the changes behind a position, not so many that kazoo's thread has to wait."""
        behind = self._told - seen
        if behind <= PART // 100:  # near the right end a deque is quick to index
            return tuple(self._log[index] for index in range(-behind, 0))
        start = len(self._log) - behind
        return tuple(itertools.islice(self._log, start, start + PART))

    def look_after(
        self, link: client.Link, now: Callable[[client.Link], records.Now], *, wait: bool = False
    ) -> None:
        """End the timed leases that are over, whoever held them."""
        if not any(at <= boottime() for at in list(self._timed.values())):
            return
        try:
            if self._reaping.acquire(blocking=wait):
                self._reap(link, now)
                return
        finally:
            try:  # noqa: SIM105 - nothing may come between
                self._reaping.release()
            except RuntimeError:
                pass
        # Another reader is at it, and wakes us by what it finds.
        with self.changed:
            self.changed.wait(SPREAD)

    def _reap(self, link: client.Link, now: Callable[[client.Link], records.Now]) -> None:
        with self.changed:
            names = [name for name, at in self._timed.items() if at <= boottime()]
        if not names:
            return
        found = link.read([f"{self._paths.leases}/{name}" for name in names])
        current = now(link)
        ending: list[tuple[Any, None]] = []
        for name, answer in zip(names, found, strict=True):
            try:
                hold = None if isinstance(answer, Exception) else records.Hold.decode(answer[0])
            except ValueError:
                hold = None  # marked as gone, or damaged: nobody can hold it
            with self.changed:
                if hold is None or hold.expires_in is None:
                    if name in self._timed and not isinstance(answer, Exception):
                        # What is cut short here leaves a feed that has to begin anew.
                        seeded, self._seeded = self._seeded, False
                        self._over(name, ChangeKind.EXPIRED)
                        self._seeded = seeded
                    self._timed.pop(name, None)
                    continue
                left = (answer[1].mtime - current.earliest) / 1000.0 + hold.expires_in
                if name in self._timed:
                    again = max(left, 0.0) + random.uniform(0.001, SPREAD)
                    self._timed[name] = boottime() + again
            if left <= 0:
                path = f"{self._paths.leases}/{name}"
                ending.append(([wire.Delete(path, answer[1].version)], None))
        for outcome in link.commit(ending):
            if isinstance(outcome.error, errors.AccessDenied):
                raise outcome.error

    # -- the order -------------------------------------------------------------------------------

    def _seed_order(self, link: client.Link) -> None:
        """Read the names of all postings, once; the events keep the order from then on."""

        def seed(listing: Any) -> None:
            if listing.successful():
                with self.changed:
                    self._order = Order()
                    for name in filter(records.is_key, listing.value):
                        self._order.add(name)

        self._found(link.value(link.submit(wire.GetChildren(self._paths.live, None), seed)))

    @property
    def ordered(self) -> bool:
        """Whether the order is being kept."""
        return self.alive and self._order is not None

    def unknown(self, again: bool = False) -> dict[str, object]:
        """Return the keys that have to be looked up, each with a receipt for the answer.

        With ``again``, those too that were damaged: their state may be mended without a word.
        """
        with self.changed:
            if self._order is None:
                return {}
            if again:
                self._order.reconsider()
            return dict(self._order.unknown)

    def learn(self, receipts: dict[str, object], places: dict[str, Place | None]) -> None:
        """Take in the places looked up, where nothing has changed them since."""
        with self.changed:
            # Taken away meanwhile: an order that is cut short has to be read anew.
            order, self._order = self._order, None
            if order is not None:
                for key, place in places.items():
                    if order.unknown.get(key) is receipts[key]:
                        order.learn(key, place)
                self._order = order

    def has_delayed(self) -> bool:
        """Tell whether a posting may not be due yet."""
        with self.changed:
            return self._order is not None and self._order.delayed > 0

    def page(self, behind: tuple[int, int], limit: int) -> list[tuple[str, Place]]:
        """Return the first postings behind a place, leased or not, in order."""
        with self.changed:
            return [] if self._order is None else self._order.page(behind, limit)

    def claimed_as(self, marks: set[str]) -> list[str]:
        """Return the keys of the postings that are leased under one of these claim marks."""
        with self.changed:
            return [lease.key for lease in self._leases.values() if lease.mark in marks]

    def candidates(self, earliest: float) -> Iterator[tuple[str, Place]]:
        """Walk over the postings that are due and unleased, in order, as of each step."""
        behind: tuple[int, int] | None = None
        while True:
            with self.changed:
                order = self._order
                found = None if order is None else order.after(behind, earliest, self._leases)
            if found is None:
                return
            behind = found[1].place
            yield found


class Order:
    """The live postings by rank and serial, as far as they were looked up."""

    def __init__(self) -> None:
        #: What has to be looked up. Some have a place already, and may be due at another time.
        self.unknown: dict[str, object] = {}
        self._damaged: set[str] = set()
        self._known: dict[str, Place] = {}
        self._sorted: list[tuple[int, int]] = []
        self._keys: dict[tuple[int, int], str] = {}
        #: How many of the known ones have a time before which they are not handed out.
        self.delayed = 0

    def add(self, key: str) -> None:
        """Note a posting of which nothing is known yet."""
        self.discard(key)
        self.unknown[key] = object()

    def touch(self, key: str) -> None:
        """Note that a posting was claimed or given back: when it is due has to be looked up."""
        if key in self._known or key in self.unknown:
            self.unknown[key] = object()

    def reconsider(self) -> None:
        """Note that what was damaged has to be looked up again."""
        self.unknown.update((key, object()) for key in self._damaged)

    def discard(self, key: str) -> None:
        """Forget a posting."""
        self.unknown.pop(key, None)
        self._damaged.discard(key)
        place = self._known.pop(key, None)
        if place is not None:
            self.delayed -= place.due > 0
            del self._keys[place.place]
            del self._sorted[bisect.bisect_left(self._sorted, place.place)]

    def learn(self, key: str, place: Place | None) -> None:
        """Take in what was looked up; None for a posting that is damaged or gone."""
        self.discard(key)
        if place is None:
            self._damaged.add(key)  # where it is gone, that is about to be told
        else:
            self._known[key] = place
            self.delayed += place.due > 0
            # No two have one place: the serial is that of a transaction of their own.
            self._keys[place.place] = key
            bisect.insort(self._sorted, place.place)

    def page(self, behind: tuple[int, int], limit: int) -> list[tuple[str, Place]]:
        """Return the first postings behind a place, leased or not, in order."""
        start = bisect.bisect_right(self._sorted, behind)
        keys = [self._keys[place] for place in self._sorted[start : start + limit]]
        return [(key, self._known[key]) for key in keys]

    def after(
        self, behind: tuple[int, int] | None, earliest: float, leases: dict[str, Any]
    ) -> tuple[str, Place] | None:
        """Return the first posting behind a place that is due and not leased."""
        start = 0 if behind is None else bisect.bisect_right(self._sorted, behind)
        for index in range(start, len(self._sorted)):
            key = self._keys[self._sorted[index]]
            if key in leases or key in self.unknown:
                continue
            if self._known[key].due <= earliest:
                return key, self._known[key]
        return None
