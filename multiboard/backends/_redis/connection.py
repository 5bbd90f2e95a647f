# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Connections to one Redis server: made lazily, never shared, never retried.

It knows the client library, the scripts' files and how a failure is told: nothing of boards. It
imports the errors and ``redis``. The library's own client and pool are not used: they repeat
commands, and hide whether one was sent.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import inspect
import pathlib
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
from multiboard.backends._redis.wire import Wire

_SCRIPTS = pathlib.Path(__file__).with_name("lua")
#: The scripts that do without ``_reaping.lua``: most calls are theirs, and each makes anew what
#: functions stand before it.
_LEAN = ("acquire", "remove")

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
    native.TryAgainError,
    native.AskError,
    native.NoScriptError,
)
_REFUSED_TEXT = re.compile(
    r"\b(BUSY|LOADING|MISCONF|MASTERDOWN|READONLY|OOM|NOREPLICAS|CLUSTERDOWN|CROSSSLOT|TRYAGAIN"
    r"|MOVED|ASK|UNBLOCKED|UNKILLABLE)\b|max number of clients"
)


#: Seconds for which a connection that was just used is taken to be alive.
FRESH = 0.05


class WrongType(errors.BackendError):
    """A key of the board holds something else than the board put there; nothing changed."""


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
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'rediss' if self.tls else 'redis'}://{host}:{self.port}"

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


@dataclass(frozen=True)
class Script:
    """A step in the store."""

    name: str
    text: str
    sha: str
    #: It changes nothing: when its answer is lost, nothing is in doubt.
    read_only: bool


@functools.cache
def script(name: str, flags: bool) -> Script:
    """Return a script, with what stands before it; ``flags`` where the server knows them (7.0)."""
    own = (_SCRIPTS / f"{name}.lua").read_text("utf-8")
    found = re.search(r"^-- flags: (\S+)$", own, re.MULTILINE)
    read_only = found is not None and found.group(1) == "no-writes"
    parts = [] if name == "open" else [(_SCRIPTS / "_common.lua").read_text("utf-8")]
    plain = _SCRIPTS / f"{name}_plain.lua"
    if plain.exists():
        parts.append(plain.read_text("utf-8"))
    if name != "open" and not read_only:
        parts.append((_SCRIPTS / "_writing.lua").read_text("utf-8"))
        if name not in _LEAN:
            parts.append((_SCRIPTS / "_reaping.lua").read_text("utf-8"))
    text = "\n".join([*parts, own])
    if name != "open":  # which is for servers of unknown age
        if flags:
            text = f"#!lua flags={found.group(1)}\n{text}" if found else f"#!lua\n{text}"
        elif found and not read_only:
            # Servers before 7 judge by a script's first write whether it needs memory.
            text = f"redis.call('HDEL', KEYS[1], 'allow-oom')\n{text}"
    return Script(name, text, hashlib.sha1(text.encode()).hexdigest(), read_only)


class Call:
    """A script and the keys that it is called with, packed once: a call adds its arguments."""

    def __init__(self, what: Script, keys: Sequence[str]) -> None:
        self.script = what
        self._keys = keys
        self._count = 3 + len(keys)
        self._head = b"".join(_bulk(part) for part in ("EVALSHA", what.sha, len(keys), *keys))

    def packed(self, args: Sequence[Any]) -> bytes:
        """Return the command as it goes over the wire."""
        parts = [arg if type(arg) is bytes else str(arg).encode() for arg in args]
        tail = b"".join([b"$%d\r\n%b\r\n" % (len(part), part) for part in parts])
        return b"*%d\r\n%b%b" % (self._count + len(args), self._head, tail)

    def in_full(self, args: Sequence[Any]) -> bytes:
        """Return the command with the script's text, for a server that does not know it yet."""
        parts = ("EVAL", self.script.text, len(self._keys), *self._keys, *args)
        return b"*%d\r\n%b" % (len(parts), b"".join([_bulk(part) for part in parts]))


def _bulk(value: Any) -> bytes:
    data = value if type(value) is bytes else str(value).encode()
    return b"$%d\r\n%b\r\n" % (len(data), data)


class Connections:
    """The connections of one backend in one process. Thread-safe.

    A connection belongs to one call at a time. ``patience`` is how many seconds a call waits for
    its answer.
    """

    def __init__(self, address: Address, patience: float) -> None:
        self.address = address
        self.patience = patience
        self._lock = threading.Lock()
        #: Idle connections, the one that was used last on top, and when that was.
        self._idle: list[tuple[Wire, float]] = []
        self._waiting: set[Wire] = set()
        self.closed = False

    def close(self) -> None:
        """Drop what is idle, and wake who waits. A call that is under way ends as it will."""
        with self._lock:
            self.closed = True
            idle, self._idle = self._idle, []
            for wire in self._waiting:
                wire.interrupt()
        for wire, _ in idle:
            wire.drop()

    def run(
        self,
        call: Call,
        args: Sequence[Any],
        *,
        within: float | None = None,
        wakes: bool = False,
    ) -> Any:
        """Run a script; with ``wakes``, :meth:`close` cuts it short.

        Raises: ``Unavailable``, ``Indeterminate`` (unless it changes nothing), ``AccessDenied``,
        ``WrongType``, ``Closed``.
        """
        wire = self._take(self.patience if within is None else within, wakes)
        try:
            try:
                return self._exchange(wire, call.packed(args), call.script.read_only)
            except errors.Unavailable as error:
                if not isinstance(error.__cause__, native.NoScriptError):
                    raise
            return self._exchange(wire, call.in_full(args), call.script.read_only)
        finally:
            self._give_back(wire, wakes)

    def ask(self, *command: Any, block: float = 0.0) -> Any:
        """Run a command that changes nothing; it may block for ``block`` seconds in the server.

        Raises: ``Unavailable``, ``AccessDenied``, ``WrongType``, ``Closed``.
        """
        wire = self._take(self.patience + block, wakes=True)
        try:
            packed = b"*%d\r\n%b" % (len(command), b"".join([_bulk(part) for part in command]))
            return self._exchange(wire, packed, read_only=True)
        finally:
            self._give_back(wire, wakes=True)

    # -- one connection ----------------------------------------------------------------------

    def _take(self, within: float, wakes: bool) -> Wire:
        """Return a connection that is connected, and waits for answers so long."""
        now = time.monotonic()
        with self._lock:
            if self.closed:
                raise errors.Closed("the redis board was closed")
            wire, used_at = self._idle.pop() if self._idle else (None, now)
        # A look at the socket costs a tenth of a call: one that was just used is taken as it is.
        if wire is not None and now - used_at > FRESH and not wire.usable():
            wire.drop()
            wire = None
        if wire is None:
            wire = self._connect(within)
            within = max(within / 2, within - (time.monotonic() - now))
        wire.be_patient(within)
        if wakes:
            with self._lock:
                if not self.closed:
                    self._waiting.add(wire)
                    return wire
            wire.drop()
            raise errors.Closed("the redis board was closed")
        return wire

    def _give_back(self, wire: Wire, wakes: bool) -> None:
        """Keep a connection for the next call, unless it broke."""
        with self._lock:
            if wakes:
                self._waiting.discard(wire)
            keep = not self.closed and not wire.dropped
            if keep:
                self._idle.append((wire, time.monotonic()))
        if not keep:
            wire.drop()

    def _connect(self, within: float) -> Wire:
        connection = None
        try:
            connection = self.address.connection(within)
            return Wire(connection)
        except Exception as error:
            if connection is not None:
                with contextlib.suppress(Exception):
                    connection.disconnect()
            raise self._told(error, sent=False, read_only=True) from error

    def _exchange(self, wire: Wire, packed: bytes, read_only: bool) -> Any:
        try:
            return wire.ask(packed)
        except native.ResponseError as error:
            raise self._told(error, sent=True, read_only=read_only) from error
        except Exception as error:
            wire.drop()
            raise self._told(error, sent=True, read_only=read_only) from error
        except BaseException:
            wire.drop()  # an answer to come would be taken for the next call's
            raise

    def _told(self, error: Exception, *, sent: bool, read_only: bool) -> errors.BackendError:
        """Return what a native error means, with no password in its text."""
        text = str(error) or type(error).__name__
        if self.address.password:
            text = text.replace(self.address.password, "***")
        native_text, text = text, f"{self.address}: {text}"
        if "WRONGTYPE" in native_text:
            return WrongType(text)
        if isinstance(error, _DENIED) or _DENIED_TEXT.search(native_text):
            return errors.AccessDenied(text)
        # redis-py takes the code off the message of an error that it knows: hence both.
        if isinstance(error, _REFUSED) or _REFUSED_TEXT.search(native_text):
            return errors.Unavailable(text)
        return errors.Indeterminate(text) if sent and not read_only else errors.Unavailable(text)
