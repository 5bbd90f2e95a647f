# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""kazoo, fitted to our needs: the only place that changes what is inside it.

- Requests are queued directly, and ``addWatch`` and ``multiRead`` are added, which kazoo 2.x lacks.
- The unsent requests are failed apart from the sent ones: surely not applied, and unknown.
- The answer to the handshake is read (the granted time-out), and watch events as they arrive.
- A server that answers nothing is left, also by a client that goes on asking.
- No threads but the connection's own, no epoll for each wait, no requests in the log.
- What a signal handler raises in a caller breaks nothing: no condition variable of ``threading``,
  no bare ``except``.

It imports kazoo, the primitives and the interrupts; what it tells, it tells the ``link`` of a
client.
"""

from __future__ import annotations

import collections
import logging
import ssl
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any

from kazoo import exceptions as kz
from kazoo.client import KazooClient
from kazoo.handlers.threading import KazooTimeoutError, SequentialThreadingHandler
from kazoo.handlers.utils import AsyncResult
from kazoo.protocol import serialization as wire
from kazoo.protocol.connection import ConnectionHandler
from kazoo.protocol.states import KeeperState

from multiboard import primitives
from multiboard.primitives import FailureLog, interrupts

LOG = logging.getLogger(__name__)


class NotSent(kz.ConnectionLoss):  # type: ignore[misc]
    """The connection was lost while the request was still waiting to be sent."""


class AddWatch(collections.namedtuple("AddWatch", "path mode")):
    """The request ``addWatch`` of ZooKeeper 3.6; mode 1 is persistent and recursive."""

    type = 106

    def serialize(self) -> bytes:
        """Return the request's body."""
        packed: bytes = wire.write_string(self.path) + wire.int_struct.pack(self.mode)
        return packed

    @classmethod
    def deserialize(cls, _bytes: bytes, _offset: int) -> bool:
        """Return True: the answer has no content."""
        return True


class MultiRead(collections.namedtuple("MultiRead", "paths")):
    """The request ``multiRead`` of ZooKeeper 3.6, for the data of many nodes in one packet.

    The answer has, for each path, the data and the stat, or why it could not be read.
    """

    type = 22

    def serialize(self) -> bytes:
        """Return the request's body."""
        packed = bytearray()
        for path in self.paths:
            packed += _READ_HEAD + wire.write_string(path) + b"\0"
        packed += wire.multiheader_struct.pack(-1, True, -1)
        return bytes(packed)

    @classmethod
    def deserialize(cls, packed: bytes, offset: int) -> list[Any]:
        """Return the answers in the order of the paths."""
        answers: list[Any] = []
        while True:
            kind, done, _ = wire.multiheader_struct.unpack_from(packed, offset)
            offset += wire.multiheader_struct.size
            if done:
                return answers
            number = wire.int_struct.unpack_from(packed, offset)[0]
            offset += wire.int_struct.size
            if kind == -1:
                answers.append(kz.EXCEPTIONS.get(number, kz.SystemZookeeperError)())
                continue
            # The number is the length of the data, -1 for a node that was made without any.
            end = offset + max(number, 0)
            stat = wire.ZnodeStat._make(wire.stat_struct.unpack_from(packed, end))
            answers.append((bytes(packed[offset:end]), stat))
            offset = end + wire.stat_struct.size


_OVER = (KeeperState.AUTH_FAILED, KeeperState.CLOSED, KeeperState.EXPIRED_SESSION)
_READ_HEAD = wire.multiheader_struct.pack(wire.GetData.type, False, -1)


#: By kazoo's message. A connection that fails is made anew again and again.
_failures: dict[str, FailureLog] = {}


class Quiet:
    """A logger that leaves out what kazoo says of requests: they hold bodies and passwords."""

    def log(self, *_args: Any, **_kwargs: Any) -> None:
        """Drop it."""

    debug = log

    def info(self, message: str, *args: Any, **_kwargs: Any) -> None:
        """Pass on what tells of connections, at a level where it does not disturb."""
        LOG.debug(message, *args)

    warn = warning = error = info

    def exception(self, message: str, *_args: Any, **_kwargs: Any) -> None:
        """Pass on the message without its arguments: kazoo puts the request there."""
        error = sys.exc_info()[1]
        if error is not None:
            _failures.setdefault(message, FailureLog(LOG, message)).failed(error, trace=True)


class Handler(SequentialThreadingHandler):  # type: ignore[misc]
    """Runs callbacks at once, on the connection's thread, and so needs no threads of its own."""

    def __init__(self, dial_timeout: float) -> None:
        super().__init__()
        self.dial_timeout = dial_timeout
        self.failure: BaseException | None = None

    def start(self) -> None:
        """Start nothing."""

    def stop(self) -> None:
        """Stop nothing."""

    def async_result(self) -> Any:
        """Return a result to wait for; kazoo's thread sets it, and must never find it locked."""
        return AsyncResult(self, interrupts.Condition, KazooTimeoutError)

    def event_object(self) -> Any:
        return interrupts.Event()

    def spawn(self, func: Any, *args: Any, **kwargs: Any) -> threading.Thread:
        """Start a thread."""
        thread = threading.Thread(target=func, args=args, kwargs=kwargs, daemon=True)
        interrupts.begin(thread)
        return thread

    def dispatch_callback(self, callback: Any) -> None:
        """Run a watch's callback; ours never block."""
        callback.func(*callback.args)

    def create_connection(self, *args: Any, **kwargs: Any) -> Any:
        """Dial, for a shorter time than kazoo's whole session time-out."""
        kwargs["timeout"] = min(kwargs.get("timeout") or self.dial_timeout, self.dial_timeout)
        try:
            return super().create_connection(*args, **kwargs)
        except Exception as error:
            self.failure = error
            raise

    def select(
        self, readers: Sequence[Any], writers: Sequence[Any], _errors: Any, timeout: Any = None
    ) -> tuple[list[Any], list[Any], list[Any]]:
        """Wait without the epoll that kazoo makes and closes for each wait."""
        return (*primitives.wait_for(readers, writers, timeout), [])


class _Connection(ConnectionHandler):  # type: ignore[misc]
    """kazoo's connection, with an ear at the handshake, at silence and at the watch events."""

    #: When the first request was sent after which nothing was heard; None where nothing is owed.
    _owed_since: float | None = None

    def _send_request(self, read_timeout: float, connect_timeout: float) -> None:
        # kazoo takes a request for a ping, and waits for no answer to it: whoever goes on asking
        # would stay with a server that has fallen silent, for as long as TCP does.
        now = time.monotonic()
        if not self.client._queue:
            pass  # a nudge, and nothing to send
        elif self._owed_since is None:
            self._owed_since = now
        elif now - self._owed_since > read_timeout:
            raise kz.ConnectionDropped(f"no answer in {read_timeout:g} s")
        super()._send_request(read_timeout, connect_timeout)

    def _invoke(self, timeout: float, request: Any, xid: Any = None) -> Any:
        if not isinstance(request, wire.Connect):
            return super()._invoke(timeout, request, xid)
        link = self.client.link
        self._owed_since = None
        try:
            answer = super()._invoke(min(timeout, link.dial_timeout), request, xid)
        except kz.ConnectionDropped:
            link.refusals += 1
            raise
        if answer[0].time_out > 0:
            link.granted = answer[0].time_out / 1000.0
        return answer

    def _authenticate_with_sasl(self, host: str, timeout: float) -> None:
        try:
            super()._authenticate_with_sasl(host, timeout)
        except kz.AuthFailedError as error:
            if isinstance(error.__cause__, kz.ConnectionDropped):
                raise error.__cause__ from None  # it died meanwhile: a refusal is an answer
            self.client.link.denied = True  # before what waits in the queue is failed
            raise

    def _read(self, length: int, timeout: float) -> bytes:
        self._owed_since = None
        # Most of the time it is all there already: kazoo asks the kernel before each read.
        if isinstance(self._socket, ssl.SSLSocket):
            read: bytes = super()._read(length, timeout)
            return read
        parts = []
        while length > 0:
            with self._socket_error_handling():
                try:
                    part = self._socket.recv(length)
                except BlockingIOError:
                    if not self.handler.select([self._socket], [], [], timeout)[0]:
                        raise self.handler.timeout_exception("time-out during read") from None
                    continue
            if not part:
                raise kz.ConnectionDropped("the server closed the connection")
            parts.append(part)
            length -= len(part)
        return b"".join(parts)

    def _read_watch_event(self, buffer: bytes, offset: int) -> None:
        event, _ = wire.Watch.deserialize(buffer, offset)
        self.client.link.on_event(event.type, event.path)
        if self.client._child_watchers:
            super()._read_watch_event(buffer, offset)

    def _read_response(self, header: Any, buffer: bytes, offset: int) -> Any:
        request, result, _ = self.client._pending[0]
        if result is not None and request.type == wire.Transaction.type:
            result.zxid = header.zxid
        # An error code that kazoo does not know would end its thread, and the session with it.
        if header.err and header.err not in kz.EXCEPTIONS:
            header = header._replace(err=kz.SystemZookeeperError.code)
        return super()._read_response(header, buffer, offset)


class Client(KazooClient):  # type: ignore[misc]
    def __init__(self, link: Any, **kwargs: Any) -> None:
        self.link = link
        super().__init__(**kwargs)
        self._connection = _Connection(
            self,
            self._conn_retry.copy(),
            logger=self.logger,
            sasl_options=kwargs.get("sasl_options"),
        )

    def submit(self, request: Any, result: Any) -> None:
        """Queue a request and wake the connection's thread.

        kazoo's own way takes whatever strikes meanwhile for a closed connection, though the
        request is in the queue and is going to be sent.
        """
        if self._state in _OVER:
            self._call(request, result)
            return
        try:
            self._queue.append((request, result))
            self._connection._write_sock.send(b"\0")
        except (OSError, AttributeError) as error:
            if interrupts.is_interrupt(error):
                self.nudge()
                raise
            result.set_exception(kz.ConnectionClosedError("the connection has been closed"))
        except BaseException:
            self.nudge()
            raise

    def nudge(self) -> None:
        """Have the connection's thread look at the queue.

        It takes one request for each byte: where one is missing, the last request stays behind
        until another one is made. One too many costs nothing.
        """
        try:
            self._connection._write_sock.send(b"\0")
        except (OSError, AttributeError) as error:  # closed: what is in the queue is failed
            if interrupts.is_interrupt(error):
                raise

    def _session_callback(self, state: Any) -> None:
        before = self._state
        super()._session_callback(state)
        if state != before:
            self.link.state_changed(state)

    def _notify_pending(self, state: Any) -> None:
        # What still waits in the queue was not sent as a whole: the server can't have applied it.
        while True:
            try:
                _, result = self._queue.popleft()
            except IndexError:
                break
            if result is not None:
                result.set_exception(NotSent())
        super()._notify_pending(state)
