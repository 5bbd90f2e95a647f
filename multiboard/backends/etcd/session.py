# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""One backend and one board in etcd: opening and closing it, its session, reading, forks.

A lost session is noticed in :meth:`Session.keepalive`, and by a write that names it:
:meth:`Session.over`. This module imports the primitives, the errors and its own siblings.
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

from multiboard import errors
from multiboard.backends.etcd import creation, messages, records
from multiboard.backends.etcd.client import Client
from multiboard.backends.etcd.clock import Clock
from multiboard.backends.etcd.errors import LeaseGone
from multiboard.backends.etcd.messages import M
from multiboard.backends.etcd.records import Keys
from multiboard.backends.etcd.settings import EtcdSettings
from multiboard.primitives import boottime

#: etcd grants no session shorter than this, in seconds.
LEAST_SESSION = 2
#: How often a renewal is repeated because the leader changed beside it.
TERMS = 3


class Session:
    """What one backend has of one board for as long as it is open, and its lease in etcd."""

    _all: ClassVar[weakref.WeakSet[Session]] = weakref.WeakSet()
    #: Kept so that a forked child does not close what belongs to its parent.
    _inherited: ClassVar[list[Any]] = []

    def __init__(self, settings: EtcdSettings, forked: Callable[[], None]) -> None:
        self.settings = settings
        self.keys = Keys(settings.root, settings.namespace)
        self.incarnation = ""
        self._patience = settings.attempt_timeout
        self._forked = forked
        self.closed = True
        self._begin()
        self._all.add(self)

    def _begin(self) -> None:
        """Forget all that can't outlive the process: a forked child begins here too."""
        self._client: Client | None = None
        self._clock: Clock | None = None
        self._lock = threading.Lock()
        #: The id of the etcd lease that is the session; 0 for none.
        self._lease = 0
        #: By boottime: when the session was last renewed, and for how many seconds.
        self._renewed = self._granted = 0.0
        self.lost = False

    @classmethod
    def leave_parent(cls) -> None:
        """Make the sessions of a forked child like newly opened; leave alone what it inherited."""
        for session in list(cls._all):
            session._leave_parent()

    def _leave_parent(self) -> None:
        inherited = self._client
        self._inherited.append((inherited, self._lock, self._clock))
        self._begin()
        if not self.closed:
            self._dial()
            if self._client is not None and inherited is not None:
                self._client.revision = inherited.revision
                self._client.went_back = inherited.went_back
        self._forked()

    def _dial(self) -> None:
        self._client = Client(self.settings, self._patience)
        if self.incarnation:
            self._opened()

    def _opened(self) -> None:
        assert self._client is not None
        self._client.first_read = messages.transaction(
            [], [messages.read(self.keys.meta)]
        ).SerializeToString()
        self._clock = Clock(self._client, int(self.incarnation[:15], 16) + 1)

    @property
    def client(self) -> Client:
        """The client, where the board is open and not lost.

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
        """The highest revision that a reply showed."""
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
        """What names the board in a message."""
        return self.keys.top.decode()

    # -- opening and closing -----------------------------------------------------------------------

    def open(self) -> None:
        """Connect, and find the board or make it, as the settings say."""
        self._begin()
        self.incarnation = ""
        self.closed = False
        self._dial()
        try:
            self.incarnation = creation.find_or_make(self.client, self.keys, self.settings)
            self._opened()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the session and drop the connections."""
        with self._lock:
            closed, self.closed = self.closed, True
            lease, self._lease = self._lease, 0
        client = self._client
        if client is None or closed:
            return
        if lease:
            # Where it can't be done the lease ends by itself.
            with contextlib.suppress(errors.MultiboardError, LeaseGone):
                request = M["LeaseRevokeRequest"](ID=lease)
                patience = min(1.0, self._patience)
                client.call("LeaseRevoke", request, write=True, patience=patience)
        client.close()

    # -- the session -------------------------------------------------------------------------------

    def ensure(self) -> int:
        """Return the id of a session with at least half of its time left, beginning one if need be.

        Raises: ``SessionLost``, once for each that ended; ``Unavailable``, ``AccessDenied``,
        ``BoardLost``, ``Closed``.
        """
        lease = self._lease
        if lease and boottime() - self._renewed < self._granted / 2:
            return lease
        self.keepalive()
        return self._lease

    def keepalive(self, within: float | None = None) -> float:
        """Renew the session, or begin one; return the seconds that it lasts."""
        client = self.client
        patience = self._patience if within is None else min(within, self._patience)
        give_up = boottime() + patience
        with self._locked(-1 if within is None else patience):
            sent = boottime()
            try:
                if self._lease:
                    sent, granted = self._prolonged(give_up)
                else:
                    request = M["LeaseGrantRequest"](
                        TTL=max(LEAST_SESSION, math.ceil(self.settings.session_timeout))
                    )
                    left = _left(give_up)
                    answer = client.call("LeaseGrant", request, write=True, patience=left)
                    self._lease, granted = answer.ID, answer.TTL
            except LeaseGone:
                granted = 0
            except errors.Indeterminate as error:
                # A session whose id was lost with the reply ends by itself; nothing lives by it.
                raise errors.Unavailable(str(error)) from error.__cause__
            if granted <= 0:
                self._lease = 0
                raise self._ended()
            self._renewed, self._granted = sent, float(granted)
            return self._granted

    @contextlib.contextmanager
    def _locked(self, timeout: float) -> Iterator[None]:
        """Hold the session's lock, which another renewal may hold for a round trip."""
        lock = self._lock
        if not lock.acquire(timeout=timeout):
            raise errors.Unavailable(
                f"etcd at {self.settings.address}: another renewal is in flight"
            )
        try:
            yield
        finally:
            lock.release()

    def _prolonged(self, give_up: float) -> tuple[float, int]:
        """Renew the session; return when that was sent (boottime), and the seconds granted.

        A leader that was frozen and replaced replies to a renewal by itself when it wakes, without
        a majority. So a read that needs one follows, and the renewal counts where the same member
        was in the same term at both.
        """
        for _ in range(TERMS):
            sent = boottime()
            request = M["LeaseKeepAliveRequest"](ID=self._lease)
            left = _left(give_up)
            answer = self.client.call("LeaseKeepAlive", request, write=False, patience=left)
            before = answer.header
            if answer.TTL <= 0:
                return sent, 0
            after = self.read([messages.read(self.keys.news)], _left(give_up)).header
            if (before.member_id, before.raft_term) == (after.member_id, after.raft_term):
                return sent, answer.TTL
        raise errors.Unavailable(f"etcd at {self.settings.address} changes its leader too often")

    def over(self, lease: int) -> errors.SessionLost:
        """Note that a session has ended, and return the error that reports it."""
        with self._lock:
            if self._lease == lease:
                self._lease = 0
        return self._ended()

    def _ended(self) -> errors.SessionLost:
        return errors.SessionLost(f"the session with etcd at {self.settings.address} ended")

    def server_info(self) -> dict[str, str]:
        """Return the server's name, version and warnings, for an operator."""
        status = self.client.call("Status", M["StatusRequest"](), write=False)
        address, asked = self.settings.address, self.settings.session_timeout
        info = {"store": "etcd", "version": status.version, "address": address}
        if asked < LEAST_SESSION:
            info["warning_session_timeout"] = (
                f"etcd grants no session below {LEAST_SESSION} s; {asked:g} s were asked for"
            )
        return info

    # -- reading ---------------------------------------------------------------------------------

    def board_lost(self) -> errors.BackendError:
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

    def read(self, operations: Sequence[Any], patience: float | None = None) -> Any:
        """Read as of one revision, that of this call or a later one; return the reply.

        Raises: ``Unavailable``, ``AccessDenied``, ``BoardLost``, ``Closed``, ``Compacted``.
        """
        return self.read_many([operations], patience)[0]

    def read_many(
        self, parts: Sequence[Sequence[Any]], patience: float | None = None, *, agreed: bool = True
    ) -> list[Any]:
        """Read parts, each as of one revision, in one round trip.

        Without ``agreed`` the reads are those of one member, which may be behind the others.
        """
        requests = [messages.transaction([self.same_board()], part) for part in parts]
        client = self.client
        known = client.revision
        answers = client.call_many("Txn", requests, write=False, patience=patience)
        for answer in answers if agreed else ():
            client.check_revision(answer.header.revision, known)
        if not all(answer.succeeded for answer in answers):
            raise self.board_lost()
        return answers


def _left(give_up: float) -> float:
    return max(0.001, give_up - boottime())


os.register_at_fork(after_in_child=Session.leave_parent)
