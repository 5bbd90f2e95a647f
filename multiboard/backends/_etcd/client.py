# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Calls to the members of an etcd cluster: connections, failover, credentials, what errors mean.

Nothing is repeated here but what the member surely did not look at: a connection that could not be
made, a token that had run out. This module imports the errors and its own siblings; it knows
nothing of boards.
"""

from __future__ import annotations

import contextlib
import math
import ssl
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from multiboard import errors
from multiboard.backends._etcd.http2 import Broken, Channel, NotSent, Reply
from multiboard.backends._etcd.messages import M

#: Path and answer of each call.
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
#: A member that does not know the leader says so instead of waiting for one.
_LEADER = ("hasleader", "true")
_IDLE = 8

# gRPC's numbers.
_INVALID, _NOT_FOUND, _DENIED, _EXHAUSTED, _PRECONDITION = 3, 5, 7, 8, 9
_OUT_OF_RANGE, _UNAUTHENTICATED = 11, 16


class LeaseGone(Exception):
    """The etcd lease is not there; nothing was done."""


class Compacted(Exception):
    """The revision asked for is no longer kept; nothing was done."""


class NativeError(Exception):
    """What etcd answered."""

    def __init__(self, status: int | None, message: str) -> None:
        super().__init__(f"{message or 'no message'} (gRPC status {status})")
        self.status = status
        self.message = message


@dataclass(frozen=True)
class Access:
    """How to reach a cluster and who to be there."""

    hosts: tuple[tuple[str, int], ...]
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: bool = False
    tls_ca: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None
    tls_verify: bool = True

    def context(self) -> ssl.SSLContext | None:
        """Return the TLS context, or None.

        Raises: ``ConfigError`` for files that can't be used.
        """
        if not self.tls:
            return None
        try:
            context = ssl.create_default_context(cafile=self.tls_ca)
            if self.tls_cert is not None:
                context.load_cert_chain(self.tls_cert, self.tls_key)
        except (OSError, ssl.SSLError) as error:
            raise errors.ConfigError(f"etcd: the TLS files can't be used: {error}") from error
        if not self.tls_verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        context.set_alpn_protocols(["h2"])
        return context

    def __str__(self) -> str:
        return ",".join(f"{host}:{port}" for host, port in self.hosts)


class Client:
    """Any number of threads may call; each call has a connection to itself."""

    def __init__(self, access: Access, patience: float) -> None:
        self.access = access
        #: Seconds after which an answer is given up.
        self.patience = patience
        self._tls = access.context()
        self._lock = threading.Lock()
        self._idle: list[tuple[int, Channel]] = []
        self._member = 0
        self._token: str | None = None
        #: The highest revision that an answer told.
        self.revision = 0
        self.closed = False

    def close(self) -> None:
        """Drop all connections that nobody is using; the others are dropped after use."""
        with self._lock:
            self.closed = True
            idle, self._idle = self._idle, []
        for _, channel in idle:
            channel.close()

    # -- calls -----------------------------------------------------------------------------------

    def call(self, name: str, request: Any, *, write: bool, patience: float | None = None) -> Any:
        """Make one call; see :meth:`call_many`."""
        return self.call_many(name, [request], write=write, patience=patience)[0]

    def call_many(
        self, name: str, requests: Sequence[Any], *, write: bool, patience: float | None = None
    ) -> list[Any]:
        """Make calls on one connection, all under way at once, and return the answers in order.

        Raises: ``Unavailable``, ``AccessDenied``, ``Closed``; where they write, ``Indeterminate``;
        ``LeaseGone``, ``Compacted``.
        """
        deadline = time.monotonic() + (self.patience if patience is None else patience)
        bodies = [request.SerializeToString() for request in requests]
        for attempt in (0, 1):
            metadata = self._metadata(deadline, fresh=attempt > 0)
            replies = self._exchange(name, bodies, metadata, deadline, write=write)
            try:
                return [self._answer(name, reply, write=write) for reply in replies]
            except _TokenOver:
                if attempt:
                    raise errors.AccessDenied("etcd refuses the token that it gave") from None
                self._token = None
        raise AssertionError("the second attempt answers or raises")

    def _exchange(
        self, name: str, bodies: Sequence[bytes], metadata: Sequence[tuple[str, str]],
        deadline: float, *, write: bool,
    ) -> list[Reply]:  # fmt: skip
        path = f"/etcdserverpb.{CALLS[name][0]}"
        member, channel = self._checkout(deadline)
        # In steps: a header that is the same each time is sent as one byte. It only spares the
        # member work for an answer that nobody awaits; it is we who keep the time.
        left = max(1, math.ceil((deadline - time.monotonic()) * 10))
        metadata = [*metadata, ("grpc-timeout", f"{left}00m")]
        try:
            streams = [channel.begin(path, body, metadata, deadline) for body in bodies]
            replies = channel.finish(streams, deadline)
        except (Broken, OSError) as error:
            channel.close()
            self._distrust(member)
            kind = errors.Indeterminate if write else errors.Unavailable
            raise kind(f"{self._name(member)}: {error}") from error
        self._checkin(member, channel)
        return replies

    def _answer(self, name: str, reply: Reply, *, write: bool) -> Any:
        if reply.status == 0 and reply.messages:
            answer = M[CALLS[name][1]].FromString(reply.messages[0])
            self.revision = max(self.revision, answer.header.revision)
            return answer
        if reply.refused:
            raise errors.Unavailable("etcd did not take the request") from NotSent()
        raise self.error(reply, write=write)

    # -- what an error means -----------------------------------------------------------------------

    def error(self, reply: Reply, *, write: bool) -> Exception:
        """Return the error that a reply stands for."""
        native = NativeError(reply.status, reply.message)
        status, text = reply.status, reply.message
        made: Exception
        if status == _NOT_FOUND and "lease not found" in text:
            return LeaseGone()
        if status == _OUT_OF_RANGE and "compacted" in text:
            return Compacted()
        if "invalid auth token" in text or "revision in header is old" in text:
            return _TokenOver()
        if (
            status in (_DENIED, _UNAUTHENTICATED)
            or "authentication failed" in text
            or ("user name is empty" in text)
        ):
            made = errors.AccessDenied(f"etcd at {self.access} refused: {text}")
        elif status in (_EXHAUSTED, _OUT_OF_RANGE) or "no leader" in text:
            # Refused before it was proposed to the cluster. An exhausted quota is among them.
            made = errors.Unavailable(f"etcd at {self.access}: {text}")
        elif status in (_INVALID, _PRECONDITION):
            made = errors.BackendError(f"etcd at {self.access} refused: {text}")
        elif write:
            made = errors.Indeterminate(f"etcd at {self.access}: {native}")
        else:
            made = errors.Unavailable(f"etcd at {self.access}: {native}")
        made.__cause__ = native
        return made

    # -- credentials -------------------------------------------------------------------------------

    def _metadata(self, deadline: float, *, fresh: bool = False) -> list[tuple[str, str]]:
        if self.access.username is None:
            return [_LEADER]
        if fresh or self._token is None:
            self._token = self._authenticate(deadline)
        return [_LEADER, ("token", self._token)] if self._token else [_LEADER]

    def _authenticate(self, deadline: float) -> str:
        request = M["AuthenticateRequest"](
            name=self.access.username, password=self.access.password or ""
        )
        body = request.SerializeToString()
        (reply,) = self._exchange("Authenticate", [body], [], deadline, write=False)
        if reply.status == _PRECONDITION and "not enabled" in reply.message:
            return ""  # nobody is asked for a password there
        if reply.status != 0 and not reply.refused:
            # Not in the server's words, nor with them as the cause: it was sent the password.
            denied = isinstance(self.error(reply, write=False), errors.AccessDenied)
            denied = denied or reply.status == _INVALID
            kind = errors.AccessDenied if denied else errors.Unavailable
            words = "refused the user or the password" if denied else "could not authenticate"
            raise kind(f"etcd at {self.access} {words}") from NativeError(reply.status, words)
        answer = self._answer("Authenticate", reply, write=False)
        return str(answer.token)

    # -- connections -------------------------------------------------------------------------------

    def _name(self, member: int) -> str:
        host, port = self.access.hosts[member]
        return f"etcd at {host}:{port}"

    def _checkout(self, deadline: float) -> tuple[int, Channel]:
        while True:
            with self._lock:
                if self.closed:
                    raise errors.Closed("the etcd board is not open")
                if not self._idle:
                    break
                member, channel = self._idle.pop()
            if channel.fit:
                return member, channel
            channel.close()
        return self.connect(deadline)

    def connect(self, deadline: float) -> tuple[int, Channel]:
        """Return a new connection to the first member that answers; begin with the last good one.

        Raises: ``Unavailable``, ``Closed``.
        """
        hosts = self.access.hosts
        first = self._member
        troubles: list[str] = []
        cause: OSError | None = None
        for turn in range(len(hosts)):
            member = (first + turn) % len(hosts)
            left = deadline - time.monotonic()
            if left <= 0 and troubles:
                break
            try:
                # A member that says nothing must leave time for the others.
                patience = max(0.05, left / (len(hosts) - turn))
                channel = Channel(*hosts[member], self._tls, patience)
            except OSError as error:
                troubles.append(f"{self._name(member)}: {error}")
                cause = error
            except Broken as error:
                troubles.append(f"{self._name(member)}: {error}")
            else:
                self._member = member
                if self.closed:
                    channel.close()
                    raise errors.Closed("the etcd board was closed")
                return member, channel
        raise errors.Unavailable("; ".join(troubles)) from cause

    def _checkin(self, member: int, channel: Channel) -> None:
        with self._lock:
            if not self.closed and len(self._idle) < _IDLE and member == self._member:
                self._idle.append((member, channel))
                return
        channel.close()

    def _distrust(self, member: int) -> None:
        """Turn to another member: this one broke a connection or said nothing."""
        with self._lock:
            if member == self._member:
                self._member = (member + 1) % len(self.access.hosts)
            gone = [channel for at, channel in self._idle if at == member]
            self._idle = [(at, channel) for at, channel in self._idle if at != member]
        for channel in gone:
            with contextlib.suppress(OSError):
                channel.close()

    # -- streams -----------------------------------------------------------------------------------

    def watch(self, request: Any) -> Stream:
        """Begin to watch, on a connection of its own.

        Raises: ``Unavailable``, ``AccessDenied``, ``Closed``.
        """
        deadline = time.monotonic() + self.patience
        metadata = self._metadata(deadline)
        member, channel = self.connect(deadline)
        body = M["WatchRequest"](create_request=request).SerializeToString()
        try:
            stream = channel.begin("/etcdserverpb.Watch/Watch", body, metadata, deadline, end=False)
        except (Broken, OSError) as error:
            channel.close()
            self._distrust(member)
            raise errors.Unavailable(f"{self._name(member)}: {error}") from error
        return Stream(self, member, channel, stream)


class Stream:
    """A watch that is under way; used by one thread, closed by any."""

    def __init__(self, client: Client, member: int, channel: Channel, stream: int) -> None:
        self._client = client
        self._member = member
        self._channel = channel
        self._stream = stream

    def take(self, timeout: float, within: float) -> list[Any]:
        """Return what came, waiting up to ``timeout`` for something.

        Where nothing came the member is asked for a sign of life, and given up where it gives
        none ``within`` so many seconds.

        Raises: ``Unavailable``, ``AccessDenied``.
        """
        try:
            reply = self._channel.take(self._stream, timeout)
            if not reply.messages and not reply.ended:
                if self._channel.silent > within:
                    raise Broken(f"the member gave no sign of life in {within:g} s")
                self._channel.ping(within)
        except (Broken, OSError) as error:
            self.close()
            self._client._distrust(self._member)
            name = self._client._name(self._member)
            raise errors.Unavailable(f"{name}: {error}") from error
        if reply.ended and not reply.messages:
            self.close()
            self._client._distrust(self._member)
            said = self._client.error(reply, write=False)
            if isinstance(said, _TokenOver):
                self._client._token = None
                raise errors.Unavailable("etcd wants a new token") from said
            raise said
        return [M["WatchResponse"].FromString(message) for message in reply.messages]

    def close(self) -> None:
        """End it, from any thread."""
        self._channel.close()


class _TokenOver(Exception):
    """The token is no longer good; nothing was done."""
