# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""A Redis server: its address, a line to it, what its refusals mean; and who knows where it is.

It imports the errors and ``redis``, and knows no scripts.
"""

from __future__ import annotations

import abc
import contextlib
import dataclasses
import inspect
import re
import threading
import time
from collections.abc import Sequence
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

from multiboard import errors
from multiboard.backends._redis.wire import _NOTHING_YET, Wire

#: Telling the server the library's name and version would cost two round trips a connection.
_NAMELESS: dict[str, Any] = (
    {"driver_info": None}  # redis-py 7.1
    if "driver_info" in inspect.signature(AbstractConnection.__init__).parameters
    else {"lib_name": None, "lib_version": None}
)

_DENIED = (native.AuthenticationError, native.AuthorizationError, native.NoPermissionError)
_DENIED_TEXT = re.compile(
    r"\b(NOPERM|NOAUTH|WRONGPASS|DENIED)\b|unauthenticated"
    r"|can't run this command|can't access at least one"
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
#: Seconds after which a call asks somebody whether its connection leads to the master still, ...
CHECKED_FOR = 1.0
#: ... and how many it has for that: those who are away must not take the board with them.
CHECKED_WITHIN = 0.25
#: How a server ends a handshake that was well but for the client's certificate.
_CUT_OFF_TEXT = re.compile(r"EOF occurred|alert|reset by peer|Connection closed")
#: The server is not, or not any more, the one that takes the board's writes.
_DEPOSED_TEXT = re.compile(r"\b(READONLY|MASTERDOWN|CLUSTERDOWN|UNBLOCKED)\b")


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
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

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
    """Return what a native error means, with no password in its text."""
    text = str(error) or type(error).__name__
    if address.password:
        text = text.replace(address.password, "***")
    native_text, text = text, f"{address}: {text}"
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


class Line(Wire):
    """A wire that knows which server is at its other end."""

    def __init__(self, address: Address, within: float) -> None:
        """Connect to a server within so many seconds.

        Raises: ``Unavailable``, ``AccessDenied``.
        """
        connection = None
        try:
            connection = address.connection(within)
            super().__init__(connection)
        except Exception as error:
            if connection is not None:
                with contextlib.suppress(Exception):
                    connection.disconnect()
            failure = told(address, error, sent=False, read_only=True)
            if address.tls and _CUT_OFF_TEXT.search(str(error)):
                failure = errors.Unavailable(
                    f"{failure} Maybe the server wants a client's certificate that it trusts"
                    " (tls_cert, tls_key)."
                )
            raise failure from error
        self.address = address

    def another(self) -> Any:
        """Return the reply to the next one of several commands that were sent at once.

        Raises: as :meth:`ask`.
        """
        reply = self._reader.gets()  # it may have come with the one before
        if reply is _NOTHING_YET:
            return self.ask(b"", soon=False)
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
            raise told(self.address, error, sent=True, read_only=True) from error


class Finder(abc.ABC):
    """Where the server of a board is, now. Thread-safe; of one process."""

    #: The server that was found last.
    server: Address | None = None

    @abc.abstractmethod
    def connect(self, within: float) -> Line:
        """Return a new connection to the server that has the board, within so many seconds.

        Raises: ``Unavailable``, ``AccessDenied``.
        """

    def serves(self, line: Line, now: float) -> bool:
        """Whether a connection, idle till now or slow to answer, leads to the right server."""
        return True

    def failed(self, line: Line) -> None:  # noqa: B027 - for those to whom it matters
        """Hear that a connection broke, or that its server said that it is not the right one."""

    def follow(self, error: Elsewhere) -> bool:
        """Hear where the board is; return whether to go there."""
        return False

    def close(self) -> None:  # noqa: B027 - for those who hold something
        """Drop what was needed for finding."""


class Server(Finder):
    """One server, which is where it is."""

    def __init__(self, address: Address) -> None:
        self.server: Address = address

    def __str__(self) -> str:
        return str(self.server)

    def connect(self, within: float) -> Line:
        return Line(self.server, within)


class Doubting(Finder):
    """Asks a witness, once a second, whether the server is the one still.

    A master that was frozen or cut off while another one took its place believes in itself until
    it hears of it.
    """

    def __init__(self) -> None:
        self.server = None
        self._lock = threading.Lock()
        self._check_at = 0.0
        self._checking = threading.Lock()
        self._told_by: Line | None = None
        self._closed = False

    @abc.abstractmethod
    def _witness(self) -> Address | None:
        """Return whom to ask, who is not the server itself; None where there is nobody."""

    @abc.abstractmethod
    def _hear(self, line: Line, within: float) -> None:
        """Ask a witness, and believe it or not.

        Raises: ``Unavailable``, ``AccessDenied``.
        """

    @abc.abstractmethod
    def _pass_over(self, witness: Address) -> None:
        """Have somebody else asked next time."""

    def serves(self, line: Line, now: float) -> bool:
        if now >= self._check_at and self._checking.acquire(blocking=False):
            try:
                self._check()
            finally:
                self._checking.release()
                if self._closed:
                    self.close()
        return line.address == self.server

    def failed(self, line: Line) -> None:
        with self._lock:
            if self.server == line.address:
                self.server = None  # other idle connections to it are dropped

    def close(self) -> None:
        self._closed = True
        if not self._checking.acquire(blocking=False):
            return  # whoever asks just now does it
        try:
            if self._told_by is not None:
                self._told_by.drop()
                self._told_by = None
        finally:
            self._checking.release()

    def _check(self) -> None:
        self._check_at = time.monotonic() + CHECKED_FOR
        witness = self._witness()
        if witness is None:
            return
        line = self._told_by
        try:
            if line is None or line.address != witness or not line.usable():
                if line is not None:
                    line.drop()
                line = self._told_by = Line(witness, CHECKED_WITHIN)
            self._hear(line, CHECKED_WITHIN)
        except errors.BackendError:
            if line is not None:
                line.drop()
            self._told_by = None
            self._pass_over(witness)


def packed(command: Sequence[Any]) -> bytes:
    """Return a command as it goes over the wire."""
    return b"*%d\r\n%b" % (len(command), b"".join([bulk(part) for part in command]))


def bulk(value: Any) -> bytes:
    data = value if type(value) is bytes else str(value).encode()
    return b"$%d\r\n%b\r\n" % (len(data), data)
