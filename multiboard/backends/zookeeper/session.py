# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""A board in ZooKeeper as one backend sees it: its connection, its time, its reads, its memory.

This module imports the primitives, the errors and its own siblings.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import os
import threading
import uuid
import weakref
from collections import OrderedDict
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from kazoo import exceptions as kz
from kazoo.protocol import serialization as wire

from multiboard import errors
from multiboard.backends.zookeeper import client, records
from multiboard.backends.zookeeper.kazoo_ext import MultiRead
from multiboard.backends.zookeeper.position import Reached, WentBack
from multiboard.primitives import Damage, NewPosting, Posting, boottime, interrupts

#: Seconds for which a repeated posting, removal or release is told from a new one.
REPEAT_WINDOW = 300.0
#: Seconds for which the server's clock is reckoned on from one look at it.
CLOCK_WINDOW = 1.0


@dataclass(frozen=True, slots=True)
class Added:
    """A posting that this backend added, without its body."""

    rank: int
    digest: bytes
    serial: int
    created: float

    def matches(self, new: NewPosting) -> bool:
        """Tell whether it is the very same posting."""
        return (self.rank, self.digest) == (new.rank, hashlib.sha256(new.body).digest())

    def posting(self, new: NewPosting) -> Posting:
        """Return the posting as it was added."""
        when = self.created
        return Posting(new.key, new.rank, self.serial, new.body, 0, 0, when, when)


class Memory:
    """What this backend did, and what it does not know whether it did."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._done: OrderedDict[tuple[Any, ...], tuple[float, Any]] = OrderedDict()
        self._doubts: OrderedDict[tuple[Any, ...], tuple[float, client.Doubt]] = OrderedDict()

    def evidence(self, what: str, key: str) -> bytes:
        """Return evidence for one write; no other write of this backend has the same."""
        return f"{next(self._numbers)} {what} {key}".encode()

    def done(self, what: tuple[Any, ...]) -> Any:
        """Return what was noted of an act that was done; None where nothing was."""
        with self._lock:
            return self._done.get(what, (0.0, None))[1]

    def note(self, what: tuple[Any, ...], value: Any = True) -> None:
        """Note that something was done."""
        with self._lock:
            self._doubts.pop(what, None)
            self._done.pop(what, None)
            self._done[what] = (boottime(), value)
            for memory in (self._done, self._doubts):
                while memory and next(iter(memory.values()))[0] < boottime() - REPEAT_WINDOW:
                    memory.popitem(last=False)

    def doubt(self, what: tuple[Any, ...], doubt: client.Doubt) -> None:
        """Note that something may have been done."""
        with self._lock:
            self._doubts[what] = (boottime(), doubt)

    def resolve(self, what: tuple[Any, ...], link: client.Link) -> bool | None:
        """Tell whether something was done that was in doubt; None where that can't be known.

        A doubt that no repeat may settle any more is forgotten: what is done now is no repeat.
        """
        with self._lock:
            noted = self._doubts.pop(what, None)
        if noted is None or noted[0] < boottime() - REPEAT_WINDOW:
            return False
        applied = None
        try:
            applied = link.was_applied(noted[1])
        finally:
            if applied is None:
                with self._lock:
                    self._doubts[what] = noted
        return applied


class Board:
    """The connection of one backend to one board, made anew as sessions come and go."""

    def __init__(
        self,
        *,
        dial: Callable[[], client.Link],
        root: str,
        namespace: str,
        patience: float,
        name: str,
        forked: Callable[[], None] = lambda: None,
    ) -> None:
        self._forked = forked
        self._dial = dial
        self._root = root
        self._top = records.Paths.board(root, namespace)
        self._namespace = namespace
        self._patience = patience
        self._name = name
        self._paths: records.Paths | None = None
        self.incarnation = ""
        #: Whether the servers know the requests of ZooKeeper 3.6.
        self.modern = True
        self._begin()
        self.closed = True
        _boards.add(self)

    def _begin(self) -> None:
        """Forget all that can't outlive the process: a forked child begins here too."""
        self.memory = Memory()
        self._lock = threading.Lock()
        self._link: client.Link | None = None
        self._owed = False
        #: Why the board is lost, for good; empty where it is not.
        self._lost = ""
        self.reached = Reached()
        self._sample = (0.0, 0.0, float("-inf"))
        self.closed = False

    def forked(self) -> None:
        """Become like newly opened, without a look at what was inherited."""
        _inherited.append((self._link, self._lock, self.memory))
        closed, lost, reached = self.closed, self._lost, self.reached
        self._begin()
        self.closed, self._lost = closed, lost
        self.reached.zxid, self.reached.changed = reached.zxid, reached.changed
        self._forked()

    @property
    def paths(self) -> records.Paths:
        """Where the board's nodes are."""
        if self._paths is None:
            raise errors.Closed("the ZooKeeper board was not opened")
        return self._paths

    # -- the link ------------------------------------------------------------------------------

    def link(self, wait: float | None = None) -> client.Link:
        """Return a link that is connected now; it may be one of a new session.

        Raises: ``Unavailable``, ``AccessDenied``, ``BoardLost``, ``Closed``.
        """
        deadline = boottime() + (self._patience if wait is None else min(wait, self._patience))
        while True:
            link = self._current()
            try:
                link.wait(deadline)
                if link.compared != link.epoch:
                    self._compare(link)
                return link
            except client.SessionOver:
                self._drop(link)
            except client.Refused:
                self._probe(deadline)

    def _current(self) -> client.Link:
        with self._lock:
            if self.closed:
                raise errors.Closed("the ZooKeeper board is not open")
            if self._lost:
                raise errors.BoardLost(self._lost)
            if self._link is None:
                interrupts.uninterrupted(self._begin_link)
            assert self._link is not None
            return self._link

    def _begin_link(self) -> None:
        """Dial: whole, since a link has a thread that keeps it."""
        link = self._dial()
        link.modern = self.modern
        self._lead(link)
        self._link = link

    def _lead(self, link: client.Link) -> None:
        """Tell a link where the board is, as far as that is known."""
        if self._paths is not None:
            link.slots_path, link.clock_path = self._paths.slots, self._paths.clock
            folders = self._paths.live, self._paths.leases
            link.on_applied = functools.partial(self.reached.note_applied, folders)

    @property
    def position(self) -> int:
        """The highest number of a transaction that is known."""
        with self._lock:
            if self._link is not None:
                self.reached.note_link(self._link)
        return self.reached.zxid

    def _compare(self, link: client.Link) -> None:
        """Raise ``BoardLost`` where the store is not as far as it had come."""
        if not self.incarnation:
            return
        try:
            self.reached.compare(link, (self.paths.live, self.paths.leases))
        except client.Vanished:
            self.lose()
        except WentBack:
            self.lose("was put back to an earlier state, or ZooKeeper lost its last changes")

    def _drop(self, link: client.Link) -> None:
        self.reached.note_link(link)
        with self._lock:
            if self._link is link:
                self._owed = self._owed or link.used
                self._link = None
        interrupts.uninterrupted(link.close)

    def _probe(self, deadline: float) -> None:
        """Look with new eyes: a store that came back empty refuses those who saw more than it."""
        if self._paths is None:
            return
        self.position  # noqa: B018 - it notes what was shown until now
        probe = self._dial()
        self._lead(probe)
        try:
            probe.wait(min(deadline, boottime() + self._patience / 2))
            self.confirm(probe)
            self._compare(probe)
        except (client.SessionOver, client.Refused, errors.Unavailable):
            pass  # it is just starting; the real link goes on trying
        finally:
            probe.close()

    @property
    def granted(self) -> float | None:
        """The seconds that the session lasts, where one was begun."""
        link = self._link
        return link.granted if link is not None and link.epoch else None

    def session(self, wait: float | None = None) -> client.Link:
        """Return a link whose session something is going to live by.

        Raises: ``SessionLost``, once for each session that ended and was relied on; and as
        :meth:`link`.
        """
        link = self.link(wait)
        with self._lock:
            owed, self._owed = self._owed, False
        if owed:
            raise errors.SessionLost(f"the session with {self._name} ended")
        link.used = True
        return link

    def session_over(self, link: client.Link) -> None:
        """Raise ``SessionLost`` where the session of ``link`` has ended."""
        if link.ended and not self.closed:
            self._drop(link)
            with self._lock:
                self._owed = False
            raise errors.SessionLost(f"the session with {self._name} ended")

    def confirm(self, link: client.Link, give_up: float | None = None) -> None:
        """Raise ``BoardLost`` where the board is gone: what is absent then means nothing."""
        self.truth(link, (), give_up)

    def truth(
        self, link: client.Link, requests: Iterable[Any], give_up: float | None = None
    ) -> list[Any]:
        """Ask what must be answered with all that was acknowledged to anyone before.

        Raises: ``BoardLost`` where the board is gone; as :meth:`Link.ask`.
        """
        try:
            return link.truth(requests, give_up)
        except client.Vanished:
            self.lose()

    def read(self, link: client.Link, paths: Sequence[str], *, fresh: bool = False) -> list[Any]:
        """Read nodes; ``fresh`` is for whoever must see all that was acknowledged before.

        Raises: as :meth:`truth`.
        """
        try:
            return link.read(paths, fresh=fresh)
        except client.Vanished:
            self.lose()

    def lose(self, why: str = "is no longer in ZooKeeper") -> NoReturn:
        """Raise ``BoardLost``, now and from now on."""
        self._lost = f"the board {self._top} {why}"
        raise errors.BoardLost(self._lost)

    def close(self) -> None:
        """End the session and drop the connection."""
        with self._lock:
            self.closed = True
            link, self._link = self._link, None
        if link is not None:
            link.dismiss()

    # -- making the board ------------------------------------------------------------------------

    def open(self, create: bool = True) -> None:
        """Connect, and make the board where there is none; without ``create`` it is not found."""
        self._begin()
        self.incarnation = ""
        try:
            self._make(create)
        except BaseException:
            self.close()
            raise

    def namespaces(self, within: float) -> list[str]:
        """Return the names of the boards under the root, over a connection of its own.

        Raises: ``Unavailable``, ``AccessDenied``.
        """
        link = self._dial()
        try:
            link.wait(boottime() + within)
            root = self._root.rstrip("/") or "/"
            names = link.ask([wire.Sync(root), wire.GetChildren(root, None)])[1]
            if isinstance(names, Exception):  # there is no root yet
                return []
        except (client.SessionOver, client.Refused) as error:
            raise errors.Unavailable(f"{self._name} ended the session") from error
        finally:
            link.close()
        tops = [name for name in names if name.startswith(records.Paths.BOARD)]
        return sorted(records.Paths.namespace(name) for name in tops)

    def _make(self, create: bool) -> None:
        for _ in range(10):
            link = self.link()
            found = link.ask([wire.Sync(self._top), wire.GetData(self._top, None)])[1]
            new = not isinstance(found, Exception)
            incarnation = self._read_incarnation(found[0]) if new else ""
            self._paths = records.Paths(self._top, incarnation)
            if incarnation:
                clock = self._look_at_clock(link)
                if isinstance(clock, kz.UnimplementedError):
                    # An older server ends the session of whoever asks what it does not know:
                    # that must never happen again, to a session by which something lives.
                    self.modern = False
                    self._drop(link)
                    continue
                if not isinstance(clock, Exception):
                    self._lead(link)
                    self.incarnation = incarnation
                    return
            if not create:
                raise errors.BoardNotFound(self._namespace, self._name)
            self._paths = records.Paths(self._top, uuid.uuid4().hex[:16])
            base = self._paths.base
            record = json.dumps({"v": 1, "incarnation": base.rpartition("/")[2]}).encode()
            if not new:
                self._make_parents(link)
            head = (
                wire.SetData(self._top, record, found[1].version)
                if new
                else link.create(self._top, record)
            )
            folders = [link.create(f"{base}/{name}", b"") for name in records.Paths.FOLDERS]
            outcome = link.commit([([head, link.create(base, b""), *folders], None)])[0]
            if isinstance(outcome.error, errors.AccessDenied):
                raise outcome.error
            # Whatever else happened, and whoever was faster: the next look tells.
        raise errors.Unavailable(f"the board {self._top} could not be made")

    def _look_at_clock(self, link: client.Link) -> Any:
        if not self.modern:
            return link.ask([wire.GetData(self.paths.clock, None)])[0]
        answer = link.ask([MultiRead([self.paths.clock])])[0]
        return answer if isinstance(answer, kz.UnimplementedError) else link.nodes(answer)[0]

    def _read_incarnation(self, data: bytes) -> str:
        try:
            record = json.loads(data)
            incarnation = record["incarnation"]
            if record["v"] == 1 and isinstance(incarnation, str) and "/" not in incarnation:
                return incarnation
        except (ValueError, TypeError, KeyError, RecursionError):
            pass
        raise errors.Unsupported(f"the node {self._top} holds no board that is known here")

    def _make_parents(self, link: client.Link) -> None:
        path = ""
        for part in self._root.strip("/").split("/"):
            path = f"{path}/{part}" if part else ""
            if path and link.ask([wire.Exists(path, None)])[0] is None:
                error = link.commit([([link.create(path, b"")], None)])[0].error
                if error is not None and not isinstance(error, errors.Indeterminate):
                    raise error

    # -- reading ---------------------------------------------------------------------------------

    def now(self, link: client.Link) -> records.Now:
        """Return what the server's clock shows: it is asked by a write, there is no other way."""
        stamp, sent, got = self._sample
        if boottime() - got > CLOCK_WINDOW:
            sent = boottime()
            outcome = link.commit([([wire.SetData(self.paths.clock, b"", -1)], None)])[0]
            if outcome.results is None:
                if outcome.refused is not None:
                    self.confirm(link)
                raise errors.Unavailable("the server's clock could not be read") from outcome.error
            stamp, got = float(outcome.results[0].mtime), boottime()
            self._sample = (stamp, sent, got)
        current = boottime()
        return records.Now(stamp + (current - got) * 1000, stamp + 1 + (current - sent) * 1000)

    def time_for(self, link: client.Link, seen: Iterable[Any]) -> records.Now:
        """Return the time, where it matters to one of the postings."""
        matters = any(isinstance(one, records.Seen) and one.needs_time for one in seen)
        return self.now(link) if matters else records.NO_MATTER

    def look(
        self,
        link: client.Link,
        keys: Sequence[str],
        claimed: Container[str] | None = None,
        *,
        fresh: bool = False,
    ) -> list[records.Seen | Damage | None]:
        """Read live postings with all that belongs to them, each as of one instant.

        Where ``claimed`` is given, the others had no state at an instant shortly before. ``fresh``
        is for whoever must see every write acknowledged before the call.
        """
        found: dict[str, records.Seen | Damage | None] = {}
        left = list(dict.fromkeys(keys))
        while left:
            nodes: list[str] = []
            for key in left:
                # The state first: what it says is true of the posting read after it, if that was
                # there before it.
                if claimed is None or key in claimed:
                    nodes.append(f"{self.paths.states}/{key}")
                nodes.append(f"{self.paths.live}/{key}")
            answers, fresh = iter(self.read(link, nodes, fresh=fresh)), False
            for key in left:
                state = next(answers) if claimed is None or key in claimed else NoNode()
                found[key] = self._seen(key, state, next(answers))
            left = self._look_at_leases(link, [found[key] for key in left])
        return [found[key] for key in keys]

    def _seen(self, key: str, state: Any, live: Any) -> records.Seen | Damage | None:
        if isinstance(live, Exception):
            return None
        path = f"{self.paths.live}/{key}"
        self.reached.note(live[1].czxid)
        try:
            seen = records.Seen(key, records.Job.decode(live[0]), live[1])
            if not isinstance(state, Exception):
                path = f"{self.paths.states}/{key}"
                seen.state_stat = state[1]
                # An older one was left behind by an earlier posting of that key.
                if state[1].mzxid >= live[1].czxid and state[0] != records.GONE:
                    seen.state = records.State.decode(state[0])
        except ValueError as error:
            return Damage(path, str(error))
        return seen

    def _look_at_leases(self, link: client.Link, found: Iterable[Any]) -> list[str]:
        """Read the leases; return the keys whose state went on meanwhile."""
        leased = [s for s in found if isinstance(s, records.Seen) and s.lease_name is not None]
        leases = f"{self.paths.leases}/"
        answers = link.read([leases + str(seen.lease_name) for seen in leased])
        over = []
        for seen, answer in zip(leased, answers, strict=True):
            if isinstance(answer, Exception) or answer[0] == records.GONE:
                over.append(seen)
                continue
            seen.hold_stat = answer[1]
            self.reached.note(answer[1].czxid)
            try:
                seen.hold = records.Hold.decode(answer[0])
            except ValueError:
                # Somebody overwrote it, and yet it is the lease: it keeps others away.
                seen.hold = records.Hold("", "", None)
        # Gone for ever: a lease's name is never used again. Where the state still names it, its
        # holder died; otherwise it was given back, or removed, since the state was read.
        states = link.ask(wire.Exists(f"{self.paths.states}/{seen.key}", None) for seen in over)
        return [
            seen.key
            for seen, stat in zip(over, states, strict=True)
            if stat is None or stat.mzxid != seen.state_stat.mzxid
        ]


_boards: weakref.WeakSet[Board] = weakref.WeakSet()
#: Kept so that a forked child does not close what belongs to its parent.
_inherited: list[Any] = []


def _after_fork() -> None:
    for board in list(_boards):
        board.forked()


os.register_at_fork(after_in_child=_after_fork)


NoNode: type[Exception] = kz.NoNodeError
NodeExists: type[Exception] = kz.NodeExistsError
