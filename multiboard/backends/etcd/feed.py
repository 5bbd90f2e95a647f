# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The change feed of an etcd board: one watch, a thread that reads it, any number of readers.

The watch reports every revision whole, and in order: what was written together comes together,
which is how a release is told from a death. It goes on at the next revision on whatever member can
be reached. Where that revision was compacted, or the store is not as far as it was, all is read
anew and the readers receive a reset. This module imports the primitives, the errors and its own
siblings.
"""

from __future__ import annotations

import bisect
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from multiboard import errors
from multiboard.backends.etcd import messages, records
from multiboard.backends.etcd.board import Board
from multiboard.backends.etcd.errors import Compacted
from multiboard.backends.etcd.expiry_timer import ExpiryTimer
from multiboard.backends.etcd.messages import M
from multiboard.backends.etcd.order import Order
from multiboard.backends.etcd.records import Held, Seen
from multiboard.backends.etcd.watch import Watch
from multiboard.primitives import Change, ChangeKind, Changes, boottime, interrupts

LOG = logging.getLogger(__name__)

#: How many changes a slow reader may be behind before it receives a reset.
HISTORY = 100_000
#: Changes in one reply.
PART = 10_000
#: Seconds of silence after which the member is sent a ping.
PULSE = 3.0
#: Seconds for which changes gather where nobody waits for them: to take in one costs as much as
#: ten that came together.
GATHER = 0.01
#: Seconds between attempts to watch.
BACKOFF = (0.02, 0.5)
#: etcd 3.4 has lost events of a watch. This often the order is compared with the store, and
#: where they differ it is read anew and readers receive a reset.
COMPARE = 45.0
#: Seconds after which a difference can't be a write whose event is on its way.
SURE = 3.0


class Feed:
    """What happened on one board, and how it stands, for the readers of one backend."""

    def __init__(self, board: Board, timer: ExpiryTimer) -> None:
        self._board = board
        self._timer = timer
        self.changed = interrupts.Condition()
        #: A reader has begun to wait for what the watch will report.
        self._hurry = interrupts.Event()
        self.order = Order()
        self._thread: threading.Thread | None = None
        self._watch: Watch | None = None
        self._seeded = False
        self._trouble: errors.MultiboardError | None = None
        #: Records that can't be read, by their revision: they stand in no order.
        self._odd: dict[str, int] = {}
        #: The last revision that was taken in, and the one from which on the log is whole.
        self.revision = self._since = 0
        self._log: deque[tuple[int, Change]] = deque()

    # -- life ------------------------------------------------------------------------------------

    def ensure(self, patience: float) -> None:
        """Begin to watch, where nobody did; return when the order is there.

        Raises: ``Unavailable``, ``AccessDenied``, ``BoardLost``, ``Closed``.
        """
        if not self.order.whole:
            self._begin_anew()
        if self._seeded and self._trouble is None and not self._board.session.closed:
            return
        give_up = boottime() + patience
        with self.changed:
            if self._thread is None:
                self._trouble = None
                self._thread = threading.Thread(
                    target=self._run, name="multiboard-etcd-watch", daemon=True
                )
            interrupts.begin(self._thread)
            while not self._seeded or self._trouble is not None:
                self._check()
                if not self.changed.wait(min(0.5, max(0.0, give_up - boottime()))):
                    self._check()
                    if boottime() >= give_up:
                        raise self._trouble or errors.Unavailable("etcd does not show the board")

    def _begin_anew(self) -> None:
        """Have the board read anew, since a change of the order was cut short."""
        with self.changed:
            self._seeded, watch = False, self._watch
        if watch is not None:
            watch.close()

    def change(self, step: Callable[[Order], None]) -> None:
        """Change the order from outside of the watch; what is cut short is read anew."""
        with self.changed:
            self.order.whole = False
            step(self.order)
            self.order.whole = True

    def _check(self) -> None:
        """Raise what waiting does not cure."""
        assert self._board.session.client
        if self._trouble is not None and not isinstance(self._trouble, errors.Unavailable):
            raise self._trouble

    def close(self) -> None:
        """Let the thread and all readers end."""
        with self.changed:
            watch, self._watch = self._watch, None
            self.changed.notify_all()
        if watch is not None:
            watch.close()

    def _run(self) -> None:
        pause = BACKOFF[0]
        while not self._board.session.closed:
            try:
                self._begin()
                pause = BACKOFF[0]
                self._follow()
                continue
            except Compacted:
                self._seeded = False
                continue
            except errors.Closed:
                break
            except errors.MultiboardError as error:
                trouble: errors.MultiboardError = error
            except (Exception, SystemExit, KeyboardInterrupt) as error:
                # A reader must receive it, whatever it is.
                trouble = errors.Unavailable(f"the feed failed: {error!r}")
                trouble.__cause__ = error
            with self.changed:
                self._trouble = trouble
                self.changed.notify_all()
                if not isinstance(trouble, errors.Unavailable):
                    break
                if not self._board.session.closed:
                    self.changed.wait(pause)
            pause = min(pause * 2, BACKOFF[1])
        with self.changed:
            self._thread = None
            self.changed.notify_all()

    def _begin(self) -> None:
        """Read the order, where there is none that can be continued."""
        news = messages.read(self._board.keys.news)
        now = self._board.session.read([news]).header.revision
        if self._seeded and self.order.whole and now >= self.revision:
            return
        leases, live = self._board.scan("leases"), None
        live = self._board.scan("live", revision=leases.revision)
        held = {kv.key: kv for kv in leases.kvs}
        order, odd = Order(), {}
        for kv in live.kvs:
            _, name = self._board.keys.part(kv.key)
            seen = self._read(name, kv, held.get(self._board.keys.of("leases", name)))
            if seen is not None:
                order.put(seen)
            else:
                odd[name] = kv.mod_revision
        (answer,) = self._board.session.read(
            [messages.read(self._board.keys.news, revision=leases.revision)]
        ).responses
        kvs = answer.response_range.kvs
        order.news = kvs[0].mod_revision if kvs else 0
        with self.changed:
            self.order, self._odd = order, odd
            self.revision = self._since = leases.revision
            self._log.clear()
            self._seeded = True
            self.changed.notify_all()
        for seen in order.all.values():
            self._timer.note(seen.held)

    @staticmethod
    def _read(name: str, kv: Any, lease: Any) -> Seen | None:
        if not records.is_key(name):
            return None
        try:
            return Seen.read(name, kv, lease)
        except ValueError:
            return None

    def _follow(self) -> None:
        """Watch from behind the last revision until the watch ends."""
        begin, end = self._board.keys.watched
        request = M["WatchCreateRequest"](
            key=begin, range_end=end, start_revision=self.revision + 1, prev_kv=True
        )
        watch = Watch(self._board.session.client, request)
        with self.changed:
            self._watch = watch
        compared, suspects = boottime(), set[tuple[str, int]]()
        try:
            while not self._board.session.closed:
                if boottime() - compared > (SURE if suspects else COMPARE):
                    before, suspects = suspects, self._differences()
                    if before & suspects:
                        LOG.warning("etcd's watch has lost an event: the board is read anew")
                        raise Compacted
                    compared = boottime()
                for response in watch.receive(PULSE, self._board.session.client.patience):
                    if response.canceled:
                        raise Compacted  # any other end of a watch was raised
                    self._take_in(response.events)
                    with self.changed:
                        if self._trouble is not None:
                            self._trouble = None
                            self.changed.notify_all()
                with self.changed:
                    self._hurry.clear()
                    awaited = self.changed.awaited
                if not awaited:
                    self._hurry.wait(GATHER)
        finally:
            watch.close()

    def _differences(self) -> set[tuple[str, int]]:
        """Compare the order with the store; what was written just now differs for a moment."""
        leases, live = dict[str, int](), dict[str, int]()
        for kv in self._board.scan("leases", end="live", keys_only=True).kvs:
            folder, name = self._board.keys.part(kv.key)
            if records.is_key(name) and folder in ("leases", "live"):
                (live if folder == "live" else leases)[name] = kv.mod_revision
        there = {(name, revision + leases.get(name, 0)) for name, revision in live.items()}
        with self.changed:
            known = {
                (name, seen.revision + (0 if seen.held is None else seen.held.revision))
                for name, seen in self.order.all.items()
            }
            odd = {(n, r + leases.get(n, 0)) for n, r in self._odd.items() if records.is_key(n)}
        return there ^ (known | odd)

    # -- events ----------------------------------------------------------------------------------

    def _take_in(self, events: Iterable[Any]) -> None:
        together: dict[tuple[int, str], dict[str, Any]] = {}
        foreign = False
        last = 0
        for event in events:
            last = event.kv.mod_revision
            folder, name = self._board.keys.part(event.kv.key)
            if folder in ("live", "leases", "trash") and records.is_key(name):
                together.setdefault((last, name), {})[folder] = event
            elif folder == "news" and event.type == messages.PUT:
                together.setdefault((last, ""), {})["news"] = event
            elif folder in ("meta", "news"):
                foreign = True
        if foreign:
            error = self._board.session.board_lost()
            if not isinstance(error, errors.Unavailable):
                raise error
        if not last:
            return
        happened: list[tuple[int, Change]] = []
        with self.changed:
            for (revision, name), parts in together.items():
                if revision <= self.revision:
                    continue
                if "news" in parts:
                    self.order.news = revision
                    continue
                change = self._change(name, revision, parts)
                if change is not None:
                    happened.append((revision, change))
            self._log.extend(happened)
            while len(self._log) > HISTORY:
                self._since = self._log.popleft()[0]
            self.revision = max(self.revision, last)
            self.changed.notify_all()

    def _change(self, key: str, revision: int, parts: dict[str, Any]) -> Change | None:
        """Take in what one revision did to one posting; return the change to report, if any."""
        live, lease, trash = (parts.get(folder) for folder in ("live", "leases", "trash"))
        before = self.order.all.get(key)
        token = None
        if lease is not None and lease.type == messages.DELETE:
            token = lease.prev_kv.create_revision or None
            if token is None and before is not None and before.held is not None:
                token = before.held.token
            self._timer.drop(key)
        if live is None:
            return self._on_lease(key, lease, before, token)
        if live.type == messages.DELETE:
            self.order.drop(key)
            self._odd.pop(key, None)
            moved = trash is not None and trash.type == messages.PUT
            return Change(ChangeKind.TRASHED if moved else ChangeKind.REMOVED, key, token)
        taken = lease.kv if lease is not None and lease.type == messages.PUT else None
        seen = self._read(key, live.kv, taken)
        if seen is None:
            self.order.drop(key)  # somebody overwrote it
            self._odd[key] = revision
            return None
        self._odd.pop(key, None)
        if taken is None and lease is None and before is not None:
            seen = replace(seen, held=before.held)
        if before is None or before.revision < seen.revision:
            self.order.put(seen)
        self._timer.note(seen.held)
        if live.kv.create_revision == revision:
            moved = trash is not None and trash.type == messages.DELETE
            return Change(ChangeKind.RESTORED if moved else ChangeKind.POSTED, key)
        if taken is not None:
            return Change(ChangeKind.CLAIMED, key, revision)
        return None if token is None else Change(ChangeKind.RELEASED, key, token)

    def _on_lease(
        self, key: str, lease: Any, before: Seen | None, token: int | None
    ) -> Change | None:
        """Take in that a lease ended by itself, or was renewed."""
        if lease is None or before is None:
            return None
        if lease.type == messages.DELETE:
            if before.held is None or before.held.token == token:
                self.order.put(replace(before, held=None))
            return Change(ChangeKind.EXPIRED, key, token)
        held = Held.read(key, lease.kv)
        self.order.put(replace(before, held=held))
        self._timer.note(held)
        return None

    # -- readers ---------------------------------------------------------------------------------

    def wait_for(self, revision: int, patience: float) -> None:
        """Return when everything up to a revision at which the board changed was taken in.

        Raises: ``Unavailable``, ``AccessDenied``, ``BoardLost``, ``Closed``.
        """
        give_up = boottime() + patience
        with self.changed:
            while self.revision < revision:
                self._check()
                left = give_up - boottime()
                if left <= 0:
                    raise self._trouble or errors.Unavailable("etcd's watch is late")
                self._await(left)

    def _await(self, timeout: float) -> None:
        """Wait for something to be taken in, at once when it comes; called with the lock held."""
        self._hurry.set()
        self.changed.wait(timeout)

    def read(self, cursor: str | None, timeout: float) -> Changes:
        """Return the changes as :meth:`multiboard.primitives.ChangeFeed.changes` does."""
        give_up = boottime() + timeout
        incarnation = self._board.session.incarnation
        name, _, text = (cursor or "").partition(":")
        known = name == incarnation and text.isdecimal() and len(text) < 19
        seen = int(text) if known else -1
        if seen > self.revision:
            # Another backend was faster, or it is no cursor of this store's.
            news = messages.read(self._board.keys.news)
            if seen > self._board.session.read([news]).header.revision:
                seen = -1
        with self.changed:
            while True:
                self._check()
                if self._seeded:
                    if seen < self._since:
                        return Changes((), f"{incarnation}:{self.revision}", reset=True)
                    later = self._behind(seen)
                    if later:
                        last = later[-1][0]
                        return Changes([change for _, change in later], f"{incarnation}:{last}")
                left = give_up - boottime()
                if left <= 0:
                    break
                self._await(left)
            if self._trouble is not None:
                raise self._trouble
            # Under the lock: a revision that is taken in meanwhile must not be passed over.
            return Changes((), f"{incarnation}:{max(seen, self.revision)}")

    def _behind(self, seen: int) -> list[tuple[int, Change]]:
        """Return the changes after a revision, whole revisions and not too many at once."""
        if not self._log or self._log[-1][0] <= seen:
            return []
        start = bisect.bisect_right(self._log, seen, key=lambda entry: entry[0])
        later: list[tuple[int, Change]] = []
        for index in range(start, len(self._log)):
            entry = self._log[index]
            if len(later) >= PART and entry[0] != later[-1][0]:
                break
            later.append(entry)
        return later
