# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""A Redis server: its address, a line to it, what its refusals mean.

It imports the primitives, the errors and ``redis``, and knows no scripts.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from redis import exceptions as native
from redis.backoff import NoBackoff
from redis.connection import (
    AbstractConnection,
    Connection,
    SSLConnection,
    UnixDomainSocketConnection,
)
from redis.retry import Retry

from multiboard import errors, primitives
from multiboard.backends.redis.client import _NOTHING_YET, Wire
from multiboard.primitives import interrupts

#: Telling the server the library's name and version would cost two round trips a connection.
_NAMELESS: dict[str, Any] = (
    {"driver_info": None}  # redis-py 7.1
    if "driver_info" in inspect.signature(AbstractConnection.__init__).parameters
    else {"lib_name": None, "lib_version": None}
)

_DENIED = (native.AuthenticationError, native.AuthorizationError, native.NoPermissionError)
_DENIED_TEXT = re.compile(
    r"\b(NOPERM|NOAUTH|WRONGPASS|DENIED)\b|unauthenticated"
    r"|can't run this command|can't access at least one|ACL failure in script"
)
#: The server refused before it ran anything. Scripts tell the code in the midst of their message.
_REFUSED = (
    native.BusyLoadingError,
    native.ClusterError,
    native.OutOfMemoryError,
    native.ReadOnlyError,
    native.NoScriptError,
)
_REFUSED_TEXT = re.compile(
    r"\b(BUSY|LOADING|MISCONF|MASTERDOWN|READONLY|OOM|NOREPLICAS|CLUSTERDOWN|CROSSSLOT|TRYAGAIN"
    r"|MOVED|ASK|UNBLOCKED|UNKILLABLE)\b|max number of clients"
)
#: How a server ends a handshake that was well but for the client's certificate.
_CUT_OFF_TEXT = re.compile(r"EOF occurred|alert|reset by peer|Connection closed")
#: The server is not, or not any more, the one that takes the board's writes.
_DEPOSED_TEXT = re.compile(r"\b(READONLY|MASTERDOWN|CLUSTERDOWN|UNBLOCKED)\b")


#: What a server may answer to a handshake, in our words. Its own may repeat what it was sent:
#: "unknown command 'AUTH', with args beginning with: ..." does.
_ANSWERS = (
    (r"(?i)WRONGPASS|invalid (username|password)", "it refused the user or the password"),
    (r"(?i)NOAUTH|authentication required|unauthenticated", "it asks for a password"),
    (r"(?i)password (is set|configured)", "it was given a password, and has none for that user"),
    (r"(?i)wrong number of arguments", "it knows passwords, and no users (Redis 6.0 does)"),
    (r"(?i)unknown command", "it does not know a command of the handshake"),
    (r"(?i)NOPERM|no permissions?\b", "the user has not the right to connect and to select a db"),
    (r"(?i)protected mode", "it is in protected mode, and serves its own machine only"),
    (r"(?i)max number of clients", "max number of clients reached"),
    (r"(?i)DB index", "it has no database of that number"),
    (r"(?i)LOADING", "it is loading its data"),
)


class WrongType(errors.BackendError):
    """A key of the board holds something else than the board put there; nothing changed."""


class Deposed(errors.Unavailable):
    """The server refused: it is not the one that takes the board's writes; nothing changed."""


class Elsewhere(errors.Unavailable):
    """The server named another one, which has the board; nothing changed."""

    def __init__(self, text: str, host: str, port: int) -> None:
        super().__init__(text)
        self.host = host
        self.port = port


@dataclass(frozen=True, kw_only=True)
class Address:
    """Where the server is, and how to introduce oneself to it."""

    host: str
    port: int
    socket: str | None
    db: int
    username: str | None
    password: str | None = dataclasses.field(repr=False)
    tls: bool
    tls_ca: str | None
    tls_cert: str | None
    tls_key: str | None
    tls_verify: bool

    def __str__(self) -> str:
        if self.socket is not None:
            return f"unix://{self.socket}"
        return f"{'rediss' if self.tls else 'redis'}://{self.place}"

    @property
    def place(self) -> str:
        """The host and the port."""
        return primitives.format_address(self.host, self.port)

    def connection(self, within: float) -> Any:
        """Return a connection, not connected yet, that gives up after ``within`` seconds."""
        common: dict[str, Any] = {
            "db": self.db,
            "username": self.username,
            "password": self.password,
            "socket_timeout": within,
            "socket_connect_timeout": within,
            "retry": Retry(NoBackoff(), 0),
            "protocol": 2,  # also rules out pushed maintenance notifications
            "decode_responses": False,
            **_NAMELESS,
        }
        make: Any  # the library is typed in parts
        if self.socket is not None:
            make = UnixDomainSocketConnection
            return make(path=self.socket, **common)
        common.update(host=self.host, port=self.port)
        if not self.tls:
            make = Connection
            return make(**common)
        make = SSLConnection
        return make(
            ssl_ca_certs=self.tls_ca,
            ssl_certfile=self.tls_cert,
            ssl_keyfile=self.tls_key,
            ssl_cert_reqs="required" if self.tls_verify else "none",
            ssl_check_hostname=self.tls_verify,  # redis-py 5 does not, left to itself
            **common,
        )


def told(address: Address, error: Exception, *, sent: bool, read_only: bool) -> errors.BackendError:
    """Return what a native error means that was raised behind the handshake.

    Nothing is masked in its text: no password is sent there, and a gap would show what was.
    """
    native_text = str(error) or type(error).__name__
    text = f"{address}: {native_text}"
    if isinstance(error, native.MovedError):
        host, port = error.host or address.host, int(error.port)
        text = f"{address}: the board is on {host}:{port}, another node of a Redis Cluster: a URL"
        return Elsewhere(f"{text} redis+cluster://... finds it there", host, port)
    if isinstance(error, (native.AskError, native.TryAgainError)):
        return errors.Unavailable(
            f"{address}: the board is on its way to another node of the Redis Cluster"
        )
    if "WRONGTYPE" in native_text:
        return WrongType(text)
    if isinstance(error, _DENIED) or _DENIED_TEXT.search(native_text):
        return errors.AccessDenied(text)
    # redis-py takes the code off the message of an error that it knows: hence both.
    deposed = isinstance(error, (native.ReadOnlyError, native.MasterDownError))
    if deposed or isinstance(error, native.ClusterDownError) or _DEPOSED_TEXT.search(native_text):
        return Deposed(text)
    if isinstance(error, _REFUSED) or _REFUSED_TEXT.search(native_text):
        return errors.Unavailable(text)
    return errors.Indeterminate(text) if sent and not read_only else errors.Unavailable(text)


def _handshake_failed(
    address: Address, error: Exception
) -> tuple[errors.BackendError, BaseException]:
    """Return what an error of connecting means, and a cause that repeats nothing that was sent."""
    if isinstance(error, OSError) or type(error) in (native.ConnectionError, native.TimeoutError):
        return told(address, error, sent=False, read_only=True), error  # no reply is in these
    name, text = type(error).__name__, str(error)
    words = next((words for pattern, words in _ANSWERS if re.search(pattern, text)), None)
    words = words or f"the handshake failed ({name})"
    meant = told(address, error, sent=False, read_only=True)
    kind = next(
        kind
        for kind in (errors.AccessDenied, Deposed, errors.Unavailable)
        if isinstance(meant, kind) or kind is errors.Unavailable
    )
    denied = isinstance(error, _DENIED)
    cause = native.AuthenticationError(words) if denied else native.ConnectionError(words)
    return kind(f"{address}: {words}"), cause


class Line(Wire):
    """A wire that knows which server is at its other end."""

    def __init__(self, address: Address, within: float) -> None:
        """Connect to a server within so many seconds.

        Raises: ``Unavailable``, ``AccessDenied``.
        """
        connection, failed = None, None
        try:
            connection = address.connection(within)
            # What strikes there the library takes for the failure of one address of several.
            interrupts.uninterrupted(functools.partial(super().__init__, connection))
        except Exception as error:
            if connection is not None:
                with contextlib.suppress(Exception):
                    connection.disconnect()
            if interrupts.is_interrupt(error) or interrupts.behind(error, None):
                raise
            failed = error
        if failed is not None:  # out of the handler: the error's context would be the native one
            failure, cause = _handshake_failed(address, failed)
            if address.tls and _CUT_OFF_TEXT.search(str(cause)):
                failure = errors.Unavailable(
                    f"{failure} Maybe the server wants a client's certificate that it trusts"
                    " (tls_cert, tls_key)."
                )
            raise failure from cause
        self.address = address

    def another(self) -> Any:
        """Return the reply to the next one of several commands that were sent at once.

        Raises: as :meth:`ask`.
        """
        reply = self._reader.gets()  # it may have come with the one before
        if reply is _NOTHING_YET:
            return self.ask(b"", soon=False, replies=0)
        self.owed -= 1
        if isinstance(reply, Exception):
            raise reply
        return reply

    def question(self, *command: Any, within: float) -> Any:
        """Return the reply to a command that changes nothing; the line is dropped where it fails.

        Raises: ``Unavailable``, ``AccessDenied``.
        """
        try:
            self.be_patient(within)
            return self.ask(packed(command))
        except Exception as error:
            self.drop()
            if interrupts.is_interrupt(error):
                raise
            raise told(self.address, error, sent=True, read_only=True) from error
        except BaseException:
            self.drop()
            raise

    def scan(self, pattern: str, give_up: float) -> Iterator[bytes]:
        """Yield the names of the keys like ``pattern``, each at least once, until ``give_up``.

        Raises: ``Unavailable``, ``AccessDenied``.
        """
        cursor = b"0"
        while True:
            left = give_up - time.monotonic()
            if left <= 0:
                raise errors.Unavailable(f"{self.address}: holds too many keys to look at them all")
            words = ("SCAN", cursor, "MATCH", pattern, "COUNT", 1000)
            cursor, found = self.question(*words, within=left)
            yield from found
            if cursor == b"0":
                return


def packed(command: Sequence[Any]) -> bytes:
    """Return a command as it goes over the wire."""
    return b"*%d\r\n%b" % (len(command), b"".join([bulk(part) for part in command]))


def bulk(value: Any) -> bytes:
    data = value if type(value) is bytes else str(value).encode()
    return b"$%d\r\n%b\r\n" % (len(data), data)
