# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Calls to the members of an etcd cluster: connections, failover, credentials, what errors mean.

Nothing is repeated here but what the member surely did not look at: a connection that could not be
made, a token that had run out. This module imports the errors and its own siblings; it knows
nothing of boards.
"""

from __future__ import annotations

import contextlib
import functools
import math
import ssl
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from multiboard import errors
from multiboard.backends.etcd.errors import (
    Meaning,
    NativeError,
    TokenOver,
    meaning,
    translate_error,
)
from multiboard.backends.etcd.grpc import Broken, Channel, NotSent, Reply
from multiboard.backends.etcd.messages import M
from multiboard.primitives import interrupts

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

#: The gRPC status of an argument that can't be.
_INVALID = 3
#: How often a call asks for a new token: accounts may change between that and the call.
_TOKENS = 3


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
        #: A ``Txn`` that only reads, serialized. It is the first thing that a new connection is
        #: asked where it is given: no cluster is put back to an earlier state under an open one.
        self.question: bytes | None = None
        #: Why what the cluster shows is not the continuation of what it showed; for good.
        self.went_back: str | None = None
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
            token = self._signed_in(deadline)
            sent = [bodies[at] for at in left]
            replies = self._exchange(name, sent, self._metadata(token), deadline, write=write)
            again = list[int]()
            # What was done is not asked for again.
            for at, reply in zip(left, replies, strict=True):
                try:
                    answers[at] = self._answer(name, reply, write=write)
                except TokenOver:
                    again.append(at)
            if not again:
                return answers
            left = again
            self._forget(token)
        raise errors.Unavailable(
            f"etcd at {self.access} refuses each token that it gives: its accounts change all the"
            " time, or its members check tokens with different keys"
        )

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
            if not channel.asked:
                if self.question is not None and name != "Authenticate":
                    self._ask_first(channel, metadata, deadline)
                channel.asked = True
            streams = [channel.begin(path, body, metadata, deadline) for body in bodies]
            replies = channel.finish(streams, deadline)
        except errors.BoardLost:
            channel.close()
            raise
        except (Broken, OSError) as error:
            channel.close()
            if interrupts.is_interrupt(error):
                raise
            self._distrust(member)
            kind = errors.Indeterminate if write and channel.asked else errors.Unavailable
            raise kind(f"{self._name(member)}: {error}") from error
        except BaseException:
            channel.close()  # answers to come would be taken for those of the next call
            raise
        if any(
            reply.status and meaning(reply.status, reply.message) is Meaning.ELSEWHERE
            for reply in replies
        ):
            channel.close()
            self._distrust(member)
        else:
            self._checkin(member, channel)
        return replies

    def _ask_first(
        self, channel: Channel, metadata: Sequence[tuple[str, str]], deadline: float
    ) -> None:
        known = self.revision
        path = f"/etcdserverpb.{CALLS['Txn'][0]}"
        stream = channel.begin(path, self.question or b"", metadata, deadline)
        (reply,) = channel.finish([stream], deadline)
        if reply.status == 0 and reply.messages:
            answer = M["TxnResponse"].FromString(reply.messages[0])
            self.judge(answer.header.revision, known)
        # An error is the next call's, too.

    def judge(self, revision: int, known: int) -> None:
        """Judge the revision of an answer to which the members agreed; ``known`` was before it.

        Revisions only rise, and who agrees knows all that was ever shown to anyone.

        Raises: ``BoardLost`` where it is an earlier one: a snapshot was restored.
        """
        if revision < known:
            self.went_back = (
                f"etcd at {self.access} was put back to an earlier state: it had come to revision"
                f" {known}, and is at {revision}"
            )
            raise errors.BoardLost(self.went_back)

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
        return self.meant(reply.status, reply.message, write=write)

    def meant(self, status: int | None, text: str, *, write: bool = False) -> Exception:
        """Return the error that a status and a text stand for."""
        named = self.access.username is not None
        return translate_error(status, text, f"etcd at {self.access}", write=write, named=named)

    # -- credentials -------------------------------------------------------------------------------

    def _signed_in(self, deadline: float) -> str | None:
        """Return the token to use; there may be none."""
        if self.access.username is None:
            return None
        token = self._token
        if token is None:
            token = self._token = self._authenticate(deadline)
        return token

    def _forget(self, token: str | None) -> None:
        """Have a new token asked for, unless another thread has done so."""
        if self._token == token:
            self._token = None

    @staticmethod
    def _metadata(token: str | None) -> list[tuple[str, str]]:
        return [_LEADER, ("token", token)] if token else [_LEADER]

    def _authenticate(self, deadline: float) -> str:
        request = M["AuthenticateRequest"](
            name=self.access.username, password=self.access.password or ""
        )
        body = request.SerializeToString()
        (reply,) = self._exchange("Authenticate", [body], [], deadline, write=False)
        if reply.status and "authentication is not enabled" in reply.message:
            return ""  # nobody is asked for a password there
        if reply.status != 0 and not reply.refused:
            # Not in the server's words, nor with them as the cause: it was sent the password.
            meant = meaning(reply.status, reply.message)
            denied = meant in (Meaning.DENIED, Meaning.AUTHENTICATE) or reply.status == _INVALID
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
                place = hosts[member]
                # What strikes there must not be taken for the failure of one member of several.
                channel = interrupts.uninterrupted(
                    functools.partial(Channel, *place, self._tls, patience)
                )
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
        token = self._signed_in(deadline)
        metadata = self._metadata(token)
        member, channel = self.connect(deadline)
        body = M["WatchRequest"](create_request=request).SerializeToString()
        try:
            stream = channel.begin("/etcdserverpb.Watch/Watch", body, metadata, deadline, end=False)
        except (Broken, OSError) as error:
            channel.close()
            self._distrust(member)
            raise errors.Unavailable(f"{self._name(member)}: {error}") from error
        except BaseException:
            channel.close()
            raise
        return Stream(self, member, channel, stream, token)


class Stream:
    """A watch that is under way; used by one thread, closed by any."""

    def __init__(
        self, client: Client, member: int, channel: Channel, stream: int, token: str | None
    ) -> None:
        self._client = client
        self._member = member
        self._channel = channel
        self._stream = stream
        self._token = token

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
            self._fail(reply.status, reply.message)
        responses = [M["WatchResponse"].FromString(message) for message in reply.messages]
        shown = max((response.header.revision for response in responses), default=0)
        self._client.revision = max(self._client.revision, shown)
        for response in responses:
            if response.canceled and not response.compact_revision:
                self.close()
                self._fail(None, f"ended the watch: {response.cancel_reason}")
        return responses

    def _fail(self, status: int | None, text: str) -> NoReturn:
        """Raise what an end of the watch means."""
        said = self._client.meant(status, text)
        if isinstance(said, TokenOver):
            self._client._forget(self._token)
            raise errors.Unavailable("etcd wants a new token of who watches") from said
        raise said

    def close(self) -> None:
        """End it, from any thread."""
        self._channel.close()
