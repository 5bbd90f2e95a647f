# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""One connection to one etcd member: gRPC over HTTP/2 on a socket of our own.

It has no thread and is used by one thread at a time. It separates what was sent from what was not,
and a forked child that leaves it alone does no harm: no gRPC library offers either. This module
imports ``h2``, the primitives and the standard library.
"""

from __future__ import annotations

import functools
import socket
import ssl
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import unquote

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings

from multiboard import primitives
from multiboard.primitives import interrupts

#: Bytes that a member may send before it receives an acknowledgement.
WINDOW = 64 * 1024 * 1024
_PIECE = 256 * 1024


class RequestRefused(Exception):
    """The member reported that it did not process the request."""


class ConnectionBroken(Exception):
    """The connection ended, or a reply did not come in time."""


@dataclass
class Reply:
    """What came back on one stream."""

    status: int | None = None
    message: str = ""
    messages: list[bytes] = field(default_factory=list)
    ended: bool = False
    #: The member did not process the request.
    refused: bool = False
    _buffer: bytearray = field(default_factory=bytearray)

    def feed(self, data: bytes) -> None:
        """Take in a part of the stream: messages follow their length."""
        self._buffer += data
        while len(self._buffer) >= 5:
            (size,) = struct.unpack_from(">I", self._buffer, 1)
            if len(self._buffer) < size + 5:
                return
            self.messages.append(bytes(self._buffer[5 : size + 5]))
            del self._buffer[: size + 5]

    def head(self, headers: Sequence[tuple[str, str]]) -> None:
        """Take in headers or trailers."""
        for name, value in headers:
            if name == "grpc-status":
                self.status = int(value) if value.isdigit() else 2
            elif name == "grpc-message":
                self.message = unquote(value)


class Connection:
    """A connection to one member."""

    def __init__(
        self, host: str, port: int, tls: ssl.SSLContext | None, timeout: float, authority: str = ""
    ) -> None:
        """Connect.

        Raises: ``OSError``.
        """
        give_up = time.monotonic() + timeout
        self._socket = socket.create_connection((host, port), timeout=timeout)
        try:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if tls is not None:
                self._socket.settimeout(max(0.001, give_up - time.monotonic()))
                self._socket = tls.wrap_socket(self._socket, server_hostname=host)
            self._socket.setblocking(False)
        except BaseException:
            self._socket.close()
            raise
        self._scheme = "http" if tls is None else "https"
        self._authority = authority or f"{host}:{port}"
        self._replies: dict[int, Reply] = {}
        self._gone = False
        #: The member was found to have the newest revision that any member has shown.
        self.verified = False
        #: Parts of a reply came, and the member has to receive an acknowledgement to send the
        #: others. All else that it is owed, a ping's reply for the most part, goes with the next
        #: request.
        self._unacknowledged = False
        self._pinged: float | None = None
        self._h2 = h2.connection.H2Connection(
            h2.config.H2Configuration(
                client_side=True,
                header_encoding="utf-8",
                # Both ends keep to the protocol, and checking costs more than sending.
                validate_outbound_headers=False,
                normalize_outbound_headers=False,
                validate_inbound_headers=False,
            )
        )
        self._h2.local_settings = h2.settings.Settings(
            client=True,
            initial_values={
                h2.settings.SettingCodes.ENABLE_PUSH: 0,
                h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: WINDOW,
                h2.settings.SettingCodes.MAX_HEADER_LIST_SIZE: 65536,
            },
        )
        self._h2.initiate_connection()
        self._h2.increment_flow_control_window(WINDOW - 65535)
        self._flush(give_up)

    def close(self) -> None:
        """Drop the connection; from another thread it wakes whoever waits in it."""
        self._gone = True
        for end in (functools.partial(self._socket.shutdown, socket.SHUT_RDWR), self._socket.close):
            try:
                end()
            except OSError as error:
                if interrupts.is_interrupt(error):
                    raise

    @property
    def usable(self) -> bool:
        """Whether a request may be sent: nothing came meanwhile that ends the connection."""
        try:
            while not self._gone and self._readable(0.0):
                self._read()
                self._flush(time.monotonic() + 1.0)
        except (ConnectionBroken, OSError, ValueError) as error:
            self._gone = True
            if interrupts.is_interrupt(error) or interrupts.behind(error, None):
                raise
        return not self._gone

    # -- requests --------------------------------------------------------------------------------

    def begin(
        self, path: str, body: bytes, metadata: Sequence[tuple[str, str]], deadline: float,
        *, end: bool = True,
    ) -> int:  # fmt: skip
        """Send a request; with ``end`` no other message follows on its stream.

        Raises: ``ConnectionBroken``.
        """
        stream = self._h2.get_next_available_stream_id()
        headers = [
            (":method", "POST"),
            (":scheme", self._scheme),
            (":path", path),
            (":authority", self._authority),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            *metadata,
        ]
        self._replies[stream] = Reply()
        try:
            self._h2.send_headers(stream, headers)
            data = memoryview(b"\0" + struct.pack(">I", len(body)) + body)
            while data:
                room = min(
                    self._h2.local_flow_control_window(stream), self._h2.max_outbound_frame_size
                )
                if room <= 0:
                    self._flush(deadline)
                    self._exchange(deadline)
                    if self._replies[stream].ended:
                        return stream  # refused before all of it was sent
                    continue
                part = data[:room]
                data = data[room:]
                self._h2.send_data(stream, part.tobytes(), end_stream=end and not data)
        except h2.exceptions.H2Error as error:
            raise ConnectionBroken(str(error)) from error
        self._flush(deadline)
        return stream

    def finish(self, streams: Sequence[int], deadline: float) -> list[Reply]:
        """Wait for the end of streams and return what came back.

        Raises: ``ConnectionBroken``.
        """
        for stream in streams:
            while not self._replies[stream].ended:
                self._exchange(deadline)
        return [self._replies.pop(stream) for stream in streams]

    def receive(self, stream: int, timeout: float) -> Reply:
        """Wait for something on a stream that goes on; return what came since the last call.

        Raises: ``ConnectionBroken``.
        """
        reply = self._replies[stream]
        give_up = time.monotonic() + timeout
        while not reply.messages and not reply.ended:
            if not self._readable(max(0.0, give_up - time.monotonic())):
                break
            self._read()
            self._flush(time.monotonic() + 1.0)
        received = Reply(reply.status, reply.message, reply.messages, reply.ended, reply.refused)
        reply.messages = []
        return received

    @property
    def silent(self) -> float:
        """The seconds since a ping that got no reply."""
        return 0.0 if self._pinged is None else time.monotonic() - self._pinged

    def ping(self, timeout: float) -> None:
        """Send a ping, unless one is in flight.

        Raises: ``ConnectionBroken``.
        """
        if self._pinged is not None:
            return
        self._pinged = time.monotonic()
        self._h2.ping(b"\0" * 8)
        self._flush(time.monotonic() + timeout)

    # -- bytes -----------------------------------------------------------------------------------

    def _readable(self, timeout: float) -> bool:
        if isinstance(self._socket, ssl.SSLSocket) and self._socket.pending():
            return True
        try:
            return bool(primitives.wait_for([self._socket], [], timeout)[0])
        except (OSError, ValueError) as error:  # closed by another thread
            if interrupts.is_interrupt(error):
                raise
            raise ConnectionBroken("the connection was closed") from error

    def _exchange(self, deadline: float) -> None:
        """Wait for something from the member, and take it in."""
        if self._unacknowledged:
            self._flush(deadline)
        left = deadline - time.monotonic()
        if left <= 0 or not self._readable(left):
            raise ConnectionBroken("the member did not answer in time")
        self._read()

    def _flush(self, deadline: float) -> None:
        self._unacknowledged = False
        data = memoryview(self._h2.data_to_send())
        while data:
            try:
                data = data[self._socket.send(data) :]
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                left = deadline - time.monotonic()
                if left <= 0 or not primitives.wait_for([], [self._socket], left)[1]:
                    self._gone = True
                    raise ConnectionBroken("the member took no data in time") from None
            except (OSError, ValueError) as error:
                self._gone = True
                if interrupts.is_interrupt(error):
                    raise
                raise ConnectionBroken(f"the connection broke: {error}") from error

    def _read(self) -> None:
        try:
            data = self._socket.recv(_PIECE)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return
        except (OSError, ValueError) as error:
            self._gone = True
            if interrupts.is_interrupt(error):
                raise
            raise ConnectionBroken(f"the connection broke: {error}") from error
        if not data:
            self._gone = True
            raise ConnectionBroken("the member closed the connection")
        try:
            for event in self._h2.receive_data(data):
                self._take_in(event)
        except h2.exceptions.H2Error as error:
            self._gone = True
            raise ConnectionBroken(f"the member does not speak HTTP/2: {error}") from error

    def _take_in(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.PingAckReceived):
            self._pinged = None
        elif isinstance(event, h2.events.ConnectionTerminated):
            self._gone = True
            last = event.last_stream_id or 0
            for stream, reply in self._replies.items():
                if stream > last and not reply.ended:
                    reply.ended = reply.refused = True
        reply = self._replies.get(getattr(event, "stream_id", None) or 0, Reply())
        if isinstance(event, h2.events.DataReceived):
            reply.feed(event.data or b"")
            self._unacknowledged = True
            self._h2.acknowledge_received_data(
                event.flow_controlled_length or 0, event.stream_id or 0
            )
        elif isinstance(event, (h2.events.ResponseReceived, h2.events.TrailersReceived)):
            reply.head([(str(name), str(value)) for name, value in event.headers or ()])
        elif isinstance(event, h2.events.StreamEnded):
            reply.ended = True
        elif isinstance(event, h2.events.StreamReset):
            reply.ended = True
            reply.refused = event.error_code == h2.errors.ErrorCodes.REFUSED_STREAM
