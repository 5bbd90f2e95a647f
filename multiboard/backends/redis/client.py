# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""A connection to a Redis server, with nothing between a call and its socket.

The library connects it and introduces us to the server; what it does besides for each command
costs as much as the call's own work. It knows no boards and no errors of ours.

A signal handler may raise between any two instructions. A connection that owes a reply then must
not serve another call, which would take that reply for its own: so it is counted what it owes.
"""

from __future__ import annotations

import socket
import struct
import sys
import time
from typing import Any

import hiredis
from redis import exceptions as native

from multiboard import primitives
from multiboard.primitives import interrupts

_RECEIVE = 65536
_NOTHING_YET = object()

#: Seconds for which a call looks for its reply before it sleeps until the kernel wakes it.
LOOK = 150e-6
#: A look in vain is followed by one call that does not look, the next by two, then by four, ...
REST = 1024


class Wire:
    """A connected socket, for one call at a time."""

    def __init__(self, connection: Any) -> None:
        """Take over a connection of the library, and connect it."""
        self._connection = connection
        connection.connect()
        self.sock: Any = connection._sock
        self._reader = hiredis.Reader(
            protocolError=native.InvalidResponse,
            replyError=connection._parser.parse_error,
            notEnoughData=_NOTHING_YET,
        )
        # Python asks the kernel whether a socket is ready before each use of one that has a
        # time-out. The kernel can keep the time itself, and each call to it less counts.
        self._by_kernel = type(self.sock) is socket.socket and sys.platform == "linux"
        self._patience = -1.0
        #: How many replies are to come; more than 0 between calls where one was interrupted.
        self.owed = 0
        #: How many calls are not to look, and how many that was after the last look in vain.
        self._resting = 0
        self._rest = 0

    def be_patient(self, seconds: float) -> None:
        """Wait for so long from now on when sending or receiving."""
        if seconds == self._patience:
            return
        if self._by_kernel:
            self.sock.settimeout(None)
            micros = max(1, round(seconds * 1e6))
            timeval = struct.pack("@ll", micros // 1_000_000, micros % 1_000_000)
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeval)
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeval)
        else:
            self.sock.settimeout(seconds)
        self._patience = seconds

    def ask(self, packed: bytes, soon: bool = True, replies: int = 1) -> Any:
        """Send commands and return the first of their replies, which is expected soon or not.

        Raises: ``redis.ResponseError`` for a reply that is an error; anything else that it
        raises, and whatever interrupts it, leaves a connection that must be dropped.
        """
        sock, reader = self.sock, self._reader
        self.owed += replies
        try:
            sock.sendall(packed)
            reply = reader.gets()
            while reply is _NOTHING_YET:
                data = self._look() if soon and self._by_kernel else None
                if data is None:
                    data = sock.recv(_RECEIVE)
                if not data:
                    raise native.ConnectionError("the server closed the connection")
                reader.feed(data)
                reply = reader.gets()
        except (BlockingIOError, TimeoutError) as error:
            if interrupts.is_interrupt(error):
                raise
            raise native.TimeoutError(f"no answer within {self._patience:g} s") from error
        self.owed -= 1
        if isinstance(reply, Exception):
            raise reply
        return reply

    def _look(self) -> bytes | None:
        """Return what arrives within moments; None where nothing does.

        To fall asleep and to be woken takes longer, and more of a processor, than to look a few
        times for the reply of a server that is near and idle. Where it is not, this is soon given
        up: ADR 0015.
        """
        if self._resting:
            self._resting -= 1
            return None
        give_up = time.perf_counter() + LOOK
        while time.perf_counter() < give_up:
            try:
                data: bytes = self.sock.recv(_RECEIVE, socket.MSG_DONTWAIT)
            except BlockingIOError:
                continue
            self._rest = 0
            return data
        self._resting = self._rest = min(REST, 2 * self._rest or 1)
        return None

    def usable(self) -> bool:
        """Return whether the connection is open, with nothing left to read in it."""
        sock = self.sock
        if sock is None:  # dropped
            return False
        try:
            return not primitives.wait_for([sock], [], 0.0)[0]
        except (OSError, ValueError) as error:  # closed meanwhile
            if interrupts.is_interrupt(error):
                raise
            return False

    def interrupt(self) -> None:
        """Wake whoever waits in :meth:`ask`, who sees the connection closed."""
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
    def dropped(self) -> bool:
        """Whether :meth:`drop` was called."""
        return self.sock is None

    def drop(self) -> None:
        """Close the connection."""
        self.sock = None
        try:
            self._connection.disconnect()
        except Exception as error:
            if interrupts.is_interrupt(error):
                raise
