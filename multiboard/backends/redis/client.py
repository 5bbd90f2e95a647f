# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""A connection to a Redis server, with nothing between a call and its socket.

``redis`` connects it and does the handshake; what it does besides for each command is not needed
here, and it has no way to set the time-out of one call, nor to wake a thread that waits for a
reply. So this module, and no other, uses an attribute of ``redis`` that is private:

``redis.connection.AbstractConnection._sock``
    the connected socket. A test asserts that it exists, and ``setup.cfg`` caps the library's major
    version. See ADR 0028.

A signal handler may raise between any two instructions. A connection that owes a reply then must
not serve another call, which would take that reply for its own: so the connection counts what it
owes.

It imports the primitives, the errors, ``redis`` and ``hiredis``, and has nothing of scripts and
boards.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import socket
import struct
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import hiredis
from redis import connection as native_connection
from redis import exceptions as native
from redis.backoff import NoBackoff
from redis.retry import Retry

from multiboard import errors, primitives
from multiboard.backends.redis.address import Address
from multiboard.backends.redis.errors import translate_error, translate_handshake_error
from multiboard.primitives import interrupts

_RECEIVE = 65536
_NOTHING_YET = object()
#: Turns a reply that is an error into the library's exception for it.
_PARSER: Any = native_connection.DefaultParser(socket_read_size=_RECEIVE)

#: The name and the version of the library are not sent: that takes two round trips a connection.
_NAMELESS: dict[str, Any] = (
    {"driver_info": None}  # redis-py 7.1
    if "driver_info" in inspect.signature(native_connection.AbstractConnection.__init__).parameters
    else {"lib_name": None, "lib_version": None}
)


def _native_connection(address: Address, within: float) -> Any:
    """Return the library's connection, not connected yet, that gives up after so many seconds."""
    common: dict[str, Any] = {
        "db": address.db,
        "username": address.username,
        "password": address.password,
        "socket_timeout": within,
        "socket_connect_timeout": within,
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,  # also rules out pushed maintenance notifications
        "decode_responses": False,
        **_NAMELESS,
    }
    make: Any  # the library is typed in parts
    if address.socket is not None:
        make = native_connection.UnixDomainSocketConnection
        return make(path=address.socket, **common)
    common.update(host=address.host, port=address.port)
    if not address.tls:
        make = native_connection.Connection
        return make(**common)
    make = native_connection.SSLConnection
    return make(
        ssl_ca_certs=address.tls_ca,
        ssl_certfile=address.tls_cert,
        ssl_keyfile=address.tls_key,
        ssl_cert_reqs="required" if address.tls_verify else "none",
        ssl_check_hostname=address.tls_verify,  # redis-py 5 does not, left to itself
        **common,
    )


class Connection:
    """A connected socket to one server, for one call at a time."""

    def __init__(self, address: Address, within: float) -> None:
        """Connect to a server within so many seconds.

        Raises: ``Unavailable``, ``AccessDenied``.
        """
        self.address = address
        self._timeout = -1.0
        #: How many replies are to come; more than 0 between calls where one was interrupted.
        self.owed = 0
        connection, failed = None, None
        try:
            connection = _native_connection(address, within)
            # The library takes an interrupt there for the failure of one address of several.
            interrupts.uninterrupted(functools.partial(self._connect, connection))
        except Exception as error:
            if connection is not None:
                with contextlib.suppress(Exception):
                    connection.disconnect()
            if interrupts.is_interrupt(error) or interrupts.behind(error, None):
                raise
            failed = error
        if failed is not None:  # out of the handler: the error's context would be the native one
            failure, cause = translate_handshake_error(address, failed)
            raise failure from cause

    def _connect(self, connection: Any) -> None:
        """Connect, by the library, and take over its socket."""
        self._connection = connection
        connection.connect()
        self.sock: Any = connection._sock
        self._reader = hiredis.Reader(
            protocolError=native.InvalidResponse,
            replyError=_PARSER.parse_error,
            notEnoughData=_NOTHING_YET,
        )
        # Python asks the kernel whether a socket is ready before each use of one that has a
        # time-out. The kernel can keep the time itself, and each call to it less counts.
        self._by_kernel = type(self.sock) is socket.socket and sys.platform == "linux"

    def set_timeout(self, seconds: float) -> None:
        """Wait for so long from now on when sending or receiving."""
        if seconds == self._timeout:
            return
        if self._by_kernel:
            self.sock.settimeout(None)
            micros = max(1, round(seconds * 1e6))
            timeval = struct.pack("@ll", micros // 1_000_000, micros % 1_000_000)
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeval)
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeval)
        else:
            self.sock.settimeout(seconds)
        self._timeout = seconds

    def call(self, commands: bytes, replies: int = 1) -> Any:
        """Send packed commands and return the first of their ``replies``.

        Raises: ``redis.ResponseError`` for a reply that is an error; anything else that it
        raises, and whatever interrupts it, leaves a connection that must be closed.
        """
        sock, reader = self.sock, self._reader
        self.owed += replies
        try:
            sock.sendall(commands)
            reply = reader.gets()
            while reply is _NOTHING_YET:
                data = sock.recv(_RECEIVE)
                if not data:
                    raise native.ConnectionError("the server closed the connection")
                reader.feed(data)
                reply = reader.gets()
        except (BlockingIOError, TimeoutError) as error:
            if interrupts.is_interrupt(error):
                raise
            raise native.TimeoutError(f"no reply within {self._timeout:g} s") from error
        self.owed -= 1
        if isinstance(reply, Exception):
            raise reply
        return reply

    def next_reply(self) -> Any:
        """Return the reply to the next one of several commands that were sent at once.

        Raises: as :meth:`call`.
        """
        reply = self._reader.gets()  # it may have come with the one before
        if reply is _NOTHING_YET:
            return self.call(b"", replies=0)
        self.owed -= 1
        if isinstance(reply, Exception):
            raise reply
        return reply

    def query(self, *command: Any, within: float) -> Any:
        """Return the reply to a command that changes nothing; the connection is closed on failure.

        Raises: ``Unavailable``, ``AccessDenied``.
        """
        try:
            self.set_timeout(within)
            return self.call(packed(command))
        except Exception as error:
            self.close()
            if interrupts.is_interrupt(error):
                raise
            raise translate_error(self.address, error, sent=True, read_only=True) from error
        except BaseException:
            self.close()
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
            cursor, found = self.query(*words, within=left)
            yield from found
            if cursor == b"0":
                return

    def usable(self) -> bool:
        """Return whether the connection is open, with nothing left to read in it."""
        sock = self.sock
        if sock is None:  # closed
            return False
        try:
            return not primitives.wait_for([sock], [], 0.0)[0]
        except (OSError, ValueError) as error:  # closed meanwhile
            if interrupts.is_interrupt(error):
                raise
            return False

    def interrupt(self) -> None:
        """Wake the thread that waits in :meth:`call`, which finds the connection closed."""
        # Only the system call: the reader owns the connection and all that is above it.
        try:
            if hasattr(socket.socket, "shutdown"):
                socket.socket.shutdown(self.sock, socket.SHUT_RDWR)
            else:  # eventlet's sockets have one inside them, or are that one
                native = getattr(self.sock, "fd", self.sock)
                socket.SocketType.shutdown(native, socket.SHUT_RDWR)
        except (OSError, TypeError) as error:
            if interrupts.is_interrupt(error):
                raise

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` was called."""
        return self.sock is None

    def close(self) -> None:
        """Close the connection."""
        self.sock = None
        try:
            self._connection.disconnect()
        except Exception as error:
            if interrupts.is_interrupt(error):
                raise


def packed(command: Sequence[Any]) -> bytes:
    """Return a command as its bytes in the protocol."""
    return b"*%d\r\n%b" % (len(command), b"".join([bulk(part) for part in command]))


def bulk(value: Any) -> bytes:
    """Return one word of a command as its bytes in the protocol."""
    data = value if type(value) is bytes else str(value).encode()
    return b"$%d\r\n%b\r\n" % (len(data), data)
