# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""kazoo, fitted to our needs: the only module that touches what is private to kazoo.

Every private attribute that is read, called, set or overridden here is named in :data:`PRIVATE`; a
test asserts that each exists in the kazoo that is installed, and that no other module of this
folder touches one. setup.cfg caps kazoo's major version for the same reason. Why they are touched:

- Requests are queued directly, so that many of them are in flight at once.
- The unsent requests are failed apart from the sent ones: surely not applied, and indeterminate.
- The reply to the handshake is read (the granted time-out), and watch events as they arrive.
- A server that does not reply is left, also by a client that goes on sending requests.
- A session that has ended is not replaced by another one.
- No threads but the connection's own, no epoll for each wait, no requests in the log.
- What a signal handler raises in a caller breaks nothing: no condition variable of ``threading``,
  no bare ``except``.

It imports kazoo, the primitives and its own siblings; events are reported to the ``owner`` of a
client.
"""

from __future__ import annotations

import contextlib
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
from multiboard.backends.zookeeper.errors import NotSent
from multiboard.primitives import FailureLog, interrupts

LOG = logging.getLogger(__name__)

#: What is private to kazoo and touched here, by the class that has it.
PRIVATE = {
    KazooClient: (
        "_call",
        "_child_watchers",
        "_conn_retry",
        "_connection",
        "_notify_pending",
        "_pending",
        "_queue",
        "_session_callback",
        "_session_id",
        "_state",
        "_stopped",
    ),
    ConnectionHandler: (
        "_authenticate_with_sasl",
        "_invoke",
        "_read",
        "_read_response",
        "_read_watch_event",
        "_send_request",
        "_socket",
        "_socket_error_handling",
        "_write_sock",
    ),
}


_OVER = (KeeperState.AUTH_FAILED, KeeperState.CLOSED, KeeperState.EXPIRED_SESSION)


#: Seconds within which a thread that was begun runs, on the busiest machine.
BEGUN_WITHIN = 30.0

#: By kazoo's message. A connection that fails is made anew again and again.
_failures: dict[str, FailureLog] = {}


class QuietLogger:
    """A logger that leaves out what kazoo logs of requests: they hold bodies and passwords."""

    def log(self, *_args: Any, **_kwargs: Any) -> None:
        """Drop it."""

    debug = log

    def info(self, message: str, *args: Any, **_kwargs: Any) -> None:
        """Pass on what is about connections, at a level where it does not disturb."""
        LOG.debug(message, *args)

    warn = warning = error = info

    def exception(self, message: str, *_args: Any, **_kwargs: Any) -> None:
        """Pass on the message without its arguments: kazoo puts the request there."""
        error = sys.exc_info()[1]
        if error is not None:
            _failures.setdefault(message, FailureLog(LOG, message)).failed(error, trace=True)


class _Routine(threading.Thread):
    """A thread that may be joined before it runs: whoever begins it does not wait for that."""

    def join(self, timeout: float | None = None) -> None:
        """Wait until it has ended, first of all until it runs."""
        give_up = time.monotonic() + (BEGUN_WITHIN if timeout is None else timeout)
        while self.ident is None and time.monotonic() < give_up:
            time.sleep(0.001)
        with contextlib.suppress(RuntimeError):  # it never ran
            super().join(timeout)


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
        thread = _Routine(target=func, args=args, kwargs=kwargs, daemon=True)
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
    """kazoo's connection: it reports the handshake, silence and the watch events."""

    #: When the first request was sent after which nothing was received; None where no reply is due.
    _due_since: float | None = None

    def _send_request(self, read_timeout: float, connect_timeout: float) -> None:
        # kazoo takes a request for a ping, and does not wait for a reply to it: a client that goes
        # on sending would stay with a server that has fallen silent, for as long as TCP does.
        now = time.monotonic()
        if not self.client._queue:
            pass  # a nudge, and nothing to send
        elif self._due_since is None:
            self._due_since = now
        elif now - self._due_since > read_timeout:
            raise kz.ConnectionDropped(f"no reply in {read_timeout:g} s")
        super()._send_request(read_timeout, connect_timeout)

    def _invoke(self, timeout: float, request: Any, xid: Any = None) -> Any:
        if not isinstance(request, wire.Connect):
            return super()._invoke(timeout, request, xid)
        owner = self.client.owner
        self._due_since = None
        try:
            reply = super()._invoke(min(timeout, owner.dial_timeout), request, xid)
        except kz.ConnectionDropped:
            owner.refusals += 1
            raise
        if reply[0].time_out > 0:
            owner.granted = reply[0].time_out / 1000.0
        return reply

    def _authenticate_with_sasl(self, host: str, timeout: float) -> None:
        try:
            super()._authenticate_with_sasl(host, timeout)
        except kz.AuthFailedError as error:
            if isinstance(error.__cause__, kz.ConnectionDropped):
                raise error.__cause__ from None  # it died meanwhile: a refusal is a reply
            self.client.owner.denied = True  # before what waits in the queue is failed
            raise

    def _read(self, length: int, timeout: float) -> bytes:
        self._due_since = None
        # Most of the time all of it has arrived: kazoo polls the socket before each read.
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
        self.client.owner.on_event(event.type, event.path)
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


class PipelinedClient(KazooClient):  # type: ignore[misc]
    """kazoo's client with requests in a pipeline; it has one session and never another one."""

    def __init__(self, owner: Any, **kwargs: Any) -> None:
        self.owner = owner
        super().__init__(**kwargs)
        self._connection = _Connection(
            self,
            self._conn_retry.copy(),
            logger=self.logger,
            sasl_options=kwargs.get("sasl_options"),
        )

    def submit(self, request: Any, result: Any) -> None:
        """Queue a request and wake the connection's thread.

        kazoo's own way takes whatever is raised meanwhile for a closed connection, though the
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

    @property
    def session_id(self) -> str:
        """The number of the session, as leases name it."""
        return format(self._session_id & (2**64 - 1), "x")

    def stay_ended(self) -> None:
        """Keep kazoo from beginning another session by itself."""
        self._stopped.set()

    def begin_close(self) -> None:
        """Have the connection's thread end the session, behind what waits in the queue."""
        self.stay_ended()
        self._queue.append((wire.CloseInstance, None))
        with contextlib.suppress(OSError, AttributeError):  # its thread may have ended by itself
            self._connection._write_sock.send(b"\0")

    def wait_closed(self, timeout: float | None) -> bool:
        """Wait until the connection's thread has ended; return whether it has."""
        return bool(self._connection.connection_stopped.wait(timeout))

    def free(self) -> None:
        """Free the sockets and the thread; it waits until the connection has ended."""
        connection = self._connection
        connection.connection_stopped.wait()
        connection.stop(0)
        connection.close()

    def _session_callback(self, state: Any) -> None:
        before = self._state
        super()._session_callback(state)
        if state != before:
            self.owner.state_changed(state)

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
