# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The connection of one backend to one board in etcd: its client, its session, its clock.

This module imports the primitives, the errors and its own siblings.
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
import uuid
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from multiboard import errors
from multiboard.backends.etcd import messages, records
from multiboard.backends.etcd.client import Access, Client
from multiboard.backends.etcd.clock import Clock
from multiboard.backends.etcd.errors import LeaseGone
from multiboard.backends.etcd.messages import M
from multiboard.backends.etcd.records import Keys
from multiboard.primitives import boottime

#: etcd grants no session shorter than this, in seconds.
LEAST_SESSION = 2
#: Seconds that a call is waited for at most, see ``clock.GRACE``.
MOST_PATIENCE = 30.0
#: How often a renewal is repeated because the leader changed beside it.
TERMS = 3


class Connection:
    """The connection of one backend to one board."""

    def __init__(
        self,
        access: Access,
        *,
        root: str,
        namespace: str,
        session_timeout: float,
        patience: float,
        forked: Callable[[], None],
    ) -> None:
        self.access = access
        self.keys = Keys(root, namespace)
        self.incarnation = ""
        self._patience = min(patience, MOST_PATIENCE)
        self._asked = max(LEAST_SESSION, math.ceil(session_timeout))
        self._forked = forked
        self.closed = True
        self._begin()
        _boards.add(self)

    def _begin(self) -> None:
        """Forget all that can't outlive the process: a forked child begins here too."""
        self._client: Client | None = None
        self._clock: Clock | None = None
        self._lock = threading.Lock()
        self._session = 0
        self._owed = False
        #: By boottime: when the session was last renewed, and for how many seconds.
        self._renewed = self._granted = 0.0
        self.lost = False
        self.fence = uuid.uuid4().hex

    def forked(self) -> None:
        """Become like newly opened, without a look at what was inherited."""
        inherited = self._client
        _inherited.append((inherited, self._lock, self._clock))
        self._begin()
        if not self.closed:
            self._dial()
            if self._client is not None and inherited is not None:
                self._client.revision = inherited.revision
                self._client.went_back = inherited.went_back
        self._forked()

    def _dial(self) -> None:
        self._client = Client(self.access, self._patience)
        if self.incarnation:
            self._opened()

    def _opened(self) -> None:
        assert self._client is not None
        self._client.question = messages.transaction(
            [], [messages.read(self.keys.meta)]
        ).SerializeToString()
        self._clock = Clock(self._client, int(self.incarnation[:15], 16) + 1)

    @property
    def client(self) -> Client:
        """The client, where the board is open and there.

        Raises: ``Closed``, ``BoardLost``.
        """
        client = self._client
        if client is None or self.closed:
            raise errors.Closed("the etcd board is not open")
        if self.lost:
            raise errors.BoardLost(f"the board {self.name} is no longer in etcd")
        if client.went_back is not None:
            raise errors.BoardLost(client.went_back)
        return client

    @property
    def position(self) -> int:
        """The highest revision that is known."""
        return 0 if self._client is None else self._client.revision

    @property
    def clock(self) -> Clock:
        """The board's clock.

        Raises: ``Closed``, ``BoardLost``.
        """
        assert self.client
        if self._clock is None:
            raise errors.Closed("the etcd board is not open")
        return self._clock

    @property
    def name(self) -> str:
        """What names the board to an operator."""
        return self.keys.top.decode()

    # -- opening and closing -----------------------------------------------------------------------

    def open(self, create: bool = True) -> None:
        """Connect, and make the board where there is none; without ``create`` it is not found."""
        self._begin()
        self.incarnation = ""
        self.closed = False
        self._dial()
        try:
            self._make(create)
        except BaseException:
            self.close()
            raise

    def namespaces(self, within: float) -> list[str]:
        """Return the names of the boards under the root, over a connection of its own.

        Raises: ``Unavailable``, ``AccessDenied``.
        """
        give_up = boottime() + within
        client = Client(self.access, min(within, self._patience))
        names: list[str] = []
        begin, end = self.keys.all, messages.prefix_end(self.keys.all)
        try:
            while True:
                # From board to board: what is in them is not read.
                first = messages.read(begin, end, limit=1, keys_only=True)
                kvs = self._ranged(client, first, give_up)
                if not kvs:
                    return sorted(names)
                keys = self.keys.around(kvs[0].key)
                if self._ranged(client, messages.read(keys.meta, keys_only=True), give_up):
                    names.append(keys.namespace)
                # A name that is no text stands elsewhere in the order than what it reads as.
                begin = max(messages.prefix_end(keys.top), kvs[0].key + b"\0")
        finally:
            client.close()

    @staticmethod
    def _ranged(client: Client, read: Any, give_up: float) -> Any:
        request = messages.transaction([], [read])
        left = max(0.05, give_up - boottime())
        answer = client.call("Txn", request, write=False, patience=min(left, client.patience))
        return answer.responses[0].response_range.kvs

    def _make(self, create: bool) -> None:
        made = uuid.uuid4().hex
        meta, news = self.keys.meta, self.keys.news
        request = messages.transaction([], [messages.read(meta)])
        found = self.client.call("Txn", request, write=False)
        if not create and not found.responses[0].response_range.kvs:
            raise errors.BoardNotFound(self.keys.namespace, f"etcd at {self.access}")
        if not found.responses[0].response_range.kvs:
            # In one step, so that of two that make it at once one finds the other's.
            request = messages.transaction(
                [messages.created(meta, 0)],
                [messages.put(meta, records.encode_meta(made)), messages.put(news, b"")],
            )
            try:
                self.client.call("Txn", request, write=True)
            except errors.Indeterminate as error:
                raise errors.Unavailable(f"the board could not be made: {error}") from error
            request = messages.transaction([], [messages.read(meta)])
            found = self.client.call("Txn", request, write=False)
        kvs = found.responses[0].response_range.kvs
        try:
            self.incarnation = records.decode_meta(kvs[0].value) if kvs else ""
        except ValueError as error:
            raise errors.Unsupported(
                f"the key {meta.decode()} holds no board that is known here: {error}"
            ) from None
        if not self.incarnation:
            raise errors.Unavailable(f"the board {self.name} was deleted while it was made")
        self._opened()

    def close(self) -> None:
        """End the session and drop the connections."""
        with self._lock:
            closed, self.closed = self.closed, True
            session, self._session = self._session, 0
        client = self._client
        if client is None or closed:
            return
        if session:
            # Where it can't be done it ends by itself.
            with contextlib.suppress(errors.MultiboardError, LeaseGone):
                request = M["LeaseRevokeRequest"](ID=session)
                patience = min(1.0, self._patience)
                client.call("LeaseRevoke", request, write=True, patience=patience)
        client.close()

    # -- the session -------------------------------------------------------------------------------

    def session(self) -> int:
        """Return the id of a session with at least half of its time left, beginning one if need be.

        Raises: ``SessionLost``, once for each that ended; ``Unavailable``, ``AccessDenied``,
        ``BoardLost``, ``Closed``.
        """
        session = self._session
        if session and not self._owed and boottime() - self._renewed < self._granted / 2:
            return session
        self.keepalive()
        return self._session

    def keepalive(self, within: float | None = None) -> float:
        """Renew the session, or begin one; return the seconds that it lasts."""
        client = self.client
        patience = self._patience if within is None else min(within, self._patience)
        give_up = boottime() + patience
        with self._locked(-1 if within is None else patience):
            owed, self._owed = self._owed, False
            if owed:
                raise errors.SessionLost(f"the session with etcd at {self.access} ended")
            sent = boottime()
            try:
                if self._session:
                    sent, granted = self._prolonged(give_up)
                else:
                    request = M["LeaseGrantRequest"](TTL=self._asked)
                    left = _left(give_up)
                    answer = client.call("LeaseGrant", request, write=True, patience=left)
                    self._session, granted = answer.ID, answer.TTL
            except LeaseGone:
                granted = 0
            except errors.Indeterminate as error:
                # A session that nobody knows of ends by itself, and nothing lives by it.
                raise errors.Unavailable(str(error)) from error.__cause__
            if granted <= 0:
                self._session = 0
                raise errors.SessionLost(f"the session with etcd at {self.access} ended")
            self._renewed, self._granted = sent, float(granted)
            return self._granted

    @contextlib.contextmanager
    def _locked(self, patience: float) -> Iterator[None]:
        """Hold the session's lock, which another renewal may hold while it waits for etcd."""
        lock = self._lock
        if not lock.acquire(timeout=patience):
            raise errors.Unavailable(f"etcd at {self.access}: another renewal is under way")
        try:
            yield
        finally:
            lock.release()

    def _prolonged(self, give_up: float) -> tuple[float, int]:
        """Renew the session; return when that was asked (boottime), and the seconds granted.

        A leader that was frozen and replaced answers a renewal by itself when it wakes: it does
        not ask the others. So a read that they have to agree to follows, and the renewal counts
        where the same member was in the same term before the one and after the other.
        """
        for _ in range(TERMS):
            sent = boottime()
            request = M["LeaseKeepAliveRequest"](ID=self._session)
            left = _left(give_up)
            answer = self.client.call("LeaseKeepAlive", request, write=False, patience=left)
            before = answer.header
            if answer.TTL <= 0:
                return sent, 0
            after = self.ask([messages.read(self.keys.news)], _left(give_up)).header
            if (before.member_id, before.raft_term) == (after.member_id, after.raft_term):
                return sent, answer.TTL
        raise errors.Unavailable(f"etcd at {self.access} changes its leader too often")

    def session_over(self, session: int) -> errors.SessionLost:
        """Note that a session is gone, and return the error that says so."""
        with self._lock:
            if self._session == session:
                self._session = 0
        return errors.SessionLost(f"the session with etcd at {self.access} ended")

    # -- asking ----------------------------------------------------------------------------------

    def lose(self) -> errors.BackendError:
        """Find out why the board is not the one that was opened; return the error."""
        meta = self.keys.meta
        request = messages.transaction([], [messages.read(meta)])
        kvs = self.client.call("Txn", request, write=False).responses[0].response_range.kvs
        try:
            if kvs and records.decode_meta(kvs[0].value) == self.incarnation:
                return errors.Unavailable(f"the board {self.name} was away for a moment")
        except ValueError as error:
            return errors.BackendError(f"the key {meta.decode()} was overwritten: {error}")
        self.lost = True
        return errors.BoardLost(f"the board {self.name} is no longer in etcd")

    def same_board(self) -> Any:
        """Return the condition that this is the board that was opened."""
        return messages.holds(self.keys.meta, records.encode_meta(self.incarnation))

    def ask(self, operations: Sequence[Any], patience: float | None = None) -> Any:
        """Read as of one revision, that of this call or a later one; return the answer.

        Raises: ``Unavailable``, ``AccessDenied``, ``BoardLost``, ``Closed``, ``Compacted``.
        """
        return self.ask_many([operations], patience)[0]

    def ask_many(
        self,
        parts: Sequence[Sequence[Any]],
        patience: float | None = None,
        *,
        agreed: bool = True,
    ) -> list[Any]:
        """Read parts, each as of one revision, in one round trip.

        Without ``agreed`` they are read from one member, which may be behind the others.
        """
        requests = [messages.transaction([self.same_board()], part) for part in parts]
        client = self.client
        known = client.revision
        answers = client.call_many("Txn", requests, write=False, patience=patience)
        for answer in answers if agreed else ():
            client.judge(answer.header.revision, known)
        if not all(answer.succeeded for answer in answers):
            raise self.lose()
        return answers


def _left(give_up: float) -> float:
    return max(0.001, give_up - boottime())


_boards: weakref.WeakSet[Connection] = weakref.WeakSet()
#: Kept so that a forked child does not close what belongs to its parent.
_inherited: list[Any] = []


def _after_fork() -> None:
    for board in list(_boards):
        board.forked()


os.register_at_fork(after_in_child=_after_fork)
