# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Calls to the members of an etcd cluster: connections, failover, credentials.

Nothing is repeated here but what the member surely did not process: a connection that could not be
made, a call whose token had expired. This module imports the primitives, the errors and its own
siblings; boards are no matter of its.
"""

from __future__ import annotations

import contextlib
import functools
import math
import threading
import time
from collections.abc import Sequence
from typing import Any

from multiboard import errors
from multiboard.backends.etcd.errors import (
    Meaning,
    NativeError,
    TokenExpired,
    meaning,
    translate_error,
)
from multiboard.backends.etcd.grpc import Connection, ConnectionBroken, Reply, RequestRefused
from multiboard.backends.etcd.messages import M
from multiboard.backends.etcd.settings import EtcdSettings
from multiboard.primitives import format_address, interrupts

#: Path and reply of each call.
CALLS = {
    "Range": ("KV/Range", "RangeResponse"),
    "Txn": ("KV/Txn", "TxnResponse"),
    "LeaseGrant": ("Lease/LeaseGrant", "LeaseGrantResponse"),
    "LeaseRevoke": ("Lease/LeaseRevoke", "LeaseRevokeResponse"),
    "LeaseKeepAlive": ("Lease/LeaseKeepAlive", "LeaseKeepAliveResponse"),
    "LeaseTimeToLive": ("Lease/LeaseTimeToLive", "LeaseTimeToLiveResponse"),
    "Status": ("Maintenance/Status", "StatusResponse"),
    "Authenticate": ("Auth/Authenticate", "AuthenticateResponse"),
}
#: A member without a leader reports that instead of waiting for one.
_LEADER = ("hasleader", "true")
#: Connections that are kept while no call uses them.
_IDLE = 8
#: The gRPC status of an argument that can't be.
_INVALID = 3
#: How often a call requests a new token: accounts may change between that and the call.
_TOKENS = 3


class Client:
    """Any number of threads may call; each call has a connection to itself."""

    def __init__(self, settings: EtcdSettings, patience: float) -> None:
        self.settings = settings
        self.members = settings.members
        #: What names the cluster in a message.
        self.name = f"etcd at {settings.address}"
        #: Seconds after which a reply is no longer waited for.
        self.patience = patience
        self._tls = settings.tls_context()
        self._lock = threading.Lock()
        self._idle: list[tuple[int, Connection]] = []
        self._member = 0
        self._token: str | None = None
        #: The highest revision that a reply showed.
        self.revision = 0
        #: A ``Txn`` that only reads, serialized. Where it is given it is the first request on each
        #: connection: no cluster is put back to an earlier state under an open one.
        self.first_read: bytes | None = None
        #: Why the cluster's state is not the continuation of what it showed before; for good.
        self.went_back: str | None = None
        self.closed = False

    def close(self) -> None:
        """Drop all connections that nobody is using; the others are dropped after use."""
        with self._lock:
            self.closed = True
            idle, self._idle = self._idle, []
        for _, connection in idle:
            connection.close()

    # -- calls -----------------------------------------------------------------------------------

    def call(self, name: str, request: Any, *, write: bool, patience: float | None = None) -> Any:
        """Make one call; see :meth:`call_many`."""
        return self.call_many(name, [request], write=write, patience=patience)[0]

    def call_many(
        self, name: str, requests: Sequence[Any], *, write: bool, patience: float | None = None
    ) -> list[Any]:
        """Make calls on one connection, all in flight at once, and return the replies in order.

        Raises: ``Unavailable``, ``AccessDenied``, ``BoardLost``, ``Closed``; where they write,
        ``Indeterminate``; ``LeaseGone``, ``Compacted``.
        """
        if self.went_back is not None:
            raise errors.BoardLost(self.went_back)
        deadline = time.monotonic() + (self.patience if patience is None else patience)
        bodies = [request.SerializeToString() for request in requests]
        answers: list[Any] = [None] * len(bodies)
        left = list(range(len(bodies)))
        for _ in range(1 + _TOKENS):
            token = self.token(deadline)
            sent = [bodies[at] for at in left]
            replies = self._exchange(name, sent, self.metadata(token), deadline, write=write)
            again = list[int]()
            # What was done is not sent again.
            for at, reply in zip(left, replies, strict=True):
                try:
                    answers[at] = self._answer(name, reply, write=write)
                except TokenExpired:
                    again.append(at)
            if not again:
                return answers
            left = again
            self.forget_token(token)
        raise errors.Unavailable(
            f"{self.name} refuses each token that it gives: its accounts change all the"
            " time, or its members check tokens with different keys"
        )

    def _exchange(
        self, name: str, bodies: Sequence[bytes], metadata: Sequence[tuple[str, str]],
        deadline: float, *, write: bool,
    ) -> list[Reply]:  # fmt: skip
        path = f"/etcdserverpb.{CALLS[name][0]}"
        member, connection = self._checkout(deadline)
        # In steps: a header that is the same each time is sent as one byte. It only spares the
        # member work for a reply that nobody awaits; the deadline is kept on this side.
        left = max(1, math.ceil((deadline - time.monotonic()) * 10))
        metadata = [*metadata, ("grpc-timeout", f"{left}00m")]
        try:
            if not connection.verified:
                if self.first_read is not None and name != "Authenticate":
                    self._verify(connection, metadata, deadline)
                connection.verified = True
            streams = [connection.begin(path, body, metadata, deadline) for body in bodies]
            replies = connection.finish(streams, deadline)
        except errors.BoardLost:
            connection.close()
            raise
        except (ConnectionBroken, OSError) as error:
            connection.close()
            if interrupts.is_interrupt(error):
                raise
            self.avoid(member)
            kind = errors.Indeterminate if write and connection.verified else errors.Unavailable
            raise kind(f"{self.member_name(member)}: {error}") from error
        except BaseException:
            connection.close()  # replies to come would be taken for those of the next call
            raise
        if any(
            reply.status and meaning(reply.status, reply.message) is Meaning.OTHER_MEMBER
            for reply in replies
        ):
            connection.close()
            self.avoid(member)
        else:
            self._checkin(member, connection)
        return replies

    def _verify(
        self, connection: Connection, metadata: Sequence[tuple[str, str]], deadline: float
    ) -> None:
        """Read on a new connection, and check that the revision is not an earlier one."""
        known = self.revision
        path = f"/etcdserverpb.{CALLS['Txn'][0]}"
        stream = connection.begin(path, self.first_read or b"", metadata, deadline)
        (reply,) = connection.finish([stream], deadline)
        if reply.status == 0 and reply.messages:
            answer = M["TxnResponse"].FromString(reply.messages[0])
            self.check_revision(answer.header.revision, known)
        # The next call receives the same error, and reports it.

    def check_revision(self, revision: int, known: int) -> None:
        """Check the revision of a reply that a majority agreed to; ``known`` was shown before it.

        Revisions only rise, and a majority has every revision that was ever shown.

        Raises: ``BoardLost`` where it is an earlier one: a snapshot was restored.
        """
        if revision < known:
            self.went_back = (
                f"{self.name} was put back to an earlier state: it had come to revision"
                f" {known}, and is at {revision}"
            )
            raise errors.BoardLost(self.went_back)

    def _answer(self, name: str, reply: Reply, *, write: bool) -> Any:
        if reply.status == 0 and reply.messages:
            answer = M[CALLS[name][1]].FromString(reply.messages[0])
            self.revision = max(self.revision, answer.header.revision)
            return answer
        if reply.refused:
            raise errors.Unavailable("etcd did not take the request") from RequestRefused()
        raise self.error(reply, write=write)

    # -- errors ------------------------------------------------------------------------------------

    def error(self, reply: Reply, *, write: bool) -> Exception:
        """Return the error that a reply stands for."""
        return self.meant(reply.status, reply.message, write=write)

    def meant(self, status: int | None, text: str, *, write: bool = False) -> Exception:
        """Return the error that a status and a text stand for."""
        named = self.settings.username is not None
        return translate_error(status, text, self.name, write=write, named=named)

    # -- credentials -------------------------------------------------------------------------------

    def token(self, deadline: float) -> str | None:
        """Return the token to use, authenticating if need be; None without a user."""
        if self.settings.username is None:
            return None
        token = self._token
        if token is None:
            token = self._token = self._authenticate(deadline)
        return token

    def forget_token(self, token: str | None) -> None:
        """Let the next call request a new token, unless another thread has done so."""
        if self._token == token:
            self._token = None

    @staticmethod
    def metadata(token: str | None) -> list[tuple[str, str]]:
        """Return the headers that every call has."""
        return [_LEADER, ("token", token)] if token else [_LEADER]

    def _authenticate(self, deadline: float) -> str:
        request = M["AuthenticateRequest"](
            name=self.settings.username, password=self.settings.password or ""
        )
        body = request.SerializeToString()
        (reply,) = self._exchange("Authenticate", [body], [], deadline, write=False)
        if reply.status and "authentication is not enabled" in reply.message:
            return ""  # no call needs a token there
        if reply.status != 0 and not reply.refused:
            # Without the server's words, as text or as cause: they may repeat the password.
            meant = meaning(reply.status, reply.message)
            denied = meant in (Meaning.DENIED, Meaning.AUTHENTICATE) or reply.status == _INVALID
            kind = errors.AccessDenied if denied else errors.Unavailable
            words = "refused the user or the password" if denied else "could not authenticate"
            raise kind(f"{self.name} {words}") from NativeError(reply.status, words)
        answer = self._answer("Authenticate", reply, write=False)
        return str(answer.token)

    # -- connections -------------------------------------------------------------------------------

    def member_name(self, member: int) -> str:
        """Return what names a member in a message."""
        return f"etcd at {format_address(*self.members[member])}"

    def _checkout(self, deadline: float) -> tuple[int, Connection]:
        while True:
            with self._lock:
                if self.closed:
                    raise errors.Closed("the etcd board is not open")
                if not self._idle:
                    break
                member, connection = self._idle.pop()
            if connection.usable:
                return member, connection
            connection.close()
        return self.connect(deadline)

    def connect(self, deadline: float) -> tuple[int, Connection]:
        """Return a new connection to the first member that accepts one, the last good one first.

        Raises: ``Unavailable``, ``Closed``.
        """
        members = self.members
        first = self._member
        troubles: list[str] = []
        cause: OSError | None = None
        for turn in range(len(members)):
            member = (first + turn) % len(members)
            left = deadline - time.monotonic()
            if left <= 0 and troubles:
                break
            try:
                # A member that does not reply must leave time for the others.
                patience = max(0.05, left / (len(members) - turn))
                place = members[member]
                # An interrupt in it must not be taken for the failure of one member of several.
                connection = interrupts.uninterrupted(
                    functools.partial(Connection, *place, self._tls, patience)
                )
            except OSError as error:
                troubles.append(f"{self.member_name(member)}: {error}")
                cause = error
            except ConnectionBroken as error:
                troubles.append(f"{self.member_name(member)}: {error}")
            else:
                self._member = member
                if self.closed:
                    connection.close()
                    raise errors.Closed("the etcd board was closed")
                return member, connection
        raise errors.Unavailable("; ".join(troubles)) from cause

    def _checkin(self, member: int, connection: Connection) -> None:
        with self._lock:
            if not self.closed and len(self._idle) < _IDLE and member == self._member:
                self._idle.append((member, connection))
                return
        connection.close()

    def avoid(self, member: int) -> None:
        """Turn to another member: this one broke a connection or did not reply."""
        with self._lock:
            if member == self._member:
                self._member = (member + 1) % len(self.members)
            gone = [connection for at, connection in self._idle if at == member]
            self._idle = [(at, kept) for at, kept in self._idle if at != member]
        for connection in gone:
            with contextlib.suppress(OSError):
                connection.close()
