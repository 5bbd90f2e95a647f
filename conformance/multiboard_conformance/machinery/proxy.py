# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""A TCP proxy between a backend and its server, in this process, for faults of the network.

It speaks no protocol: it passes bytes, or does with them what its mode says. Imports the suite's
own store only.
"""

from __future__ import annotations

import contextlib
import enum
import socket
import threading
import time
from types import TracebackType
from typing import Any

from multiboard_conformance.backend.fixtures import Store, address_settings


class Mode(enum.Enum):
    """What happens to bytes and connections from now on."""

    PASS = "pass"
    #: Every chunk is passed after :attr:`Proxy.delay` seconds.
    DELAY = "delay"
    #: The next request is not passed: its connection is cut instead.
    CUT_REQUEST = "cut request"
    #: The next request is passed; its reply is not, and its connection is cut.
    SWALLOW_REPLY = "swallow reply"
    #: Nothing is passed, nothing is closed; new connections are accepted and get no reply.
    BLACK_HOLE = "black hole"
    #: Requests are passed; replies are left where they are, so that the server can't send on.
    HOLD_REPLIES = "hold replies"
    #: Connections are cut, and nobody listens.
    REFUSE = "refuse"


class _Pair:
    """A connection: its two ends, and what became of it."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.ends = (client, server)
        #: Nothing is passed any more, and no end is closed.
        self.lost = False
        #: It was lost; what its client had sent is passed after all, and answered to nobody.
        self.late = False
        #: Bytes of a request wait here.
        self.holds = False


class Proxy:
    """A proxy on a free loopback port before one server."""

    def __init__(self, host: str, port: int) -> None:
        self._server = (host, port)
        self._listener: socket.socket | None = socket.create_server(("127.0.0.1", 0))
        self.address: tuple[str, int] = self._listener.getsockname()
        self.delay = 0.0
        self.mode = Mode.PASS
        #: New connections to the server have a receive buffer of a few kilobytes.
        self.narrow = False
        #: How often a fault that waits for a request or a reply has struck.
        self.struck = 0
        #: Bytes and chunks passed to the server, and bytes passed back.
        self.sent = self.requests = self.received = 0
        self._pairs: set[_Pair] = set()
        self._lock = threading.Lock()
        self._closed = False
        self._changed = threading.Condition()

    def __enter__(self) -> Proxy:
        assert self._listener is not None
        self._thread(self._accept, self._listener)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closed = True
        self._deafen()
        with self._changed:
            self.mode = Mode.PASS
            self._changed.notify_all()
        self.cut()

    def set(self, mode: Mode, delay: float = 0.0) -> None:
        """Behave like this from now on."""
        with self._changed:
            self.mode, self.delay = mode, delay
            self._changed.notify_all()
        if mode is Mode.REFUSE:
            self._deafen()
            self.cut()
        elif self._listener is None:
            self._listener = socket.create_server(self.address)
            self._thread(self._accept, self._listener)

    def _deafen(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)  # closing alone wakes no thread in accept
            listener.close()

    def heal(self) -> None:
        """Pass everything again."""
        self.set(Mode.PASS)

    def cut(self) -> None:
        """Cut all connections that there are; new ones are served."""
        with self._changed:
            pairs, self._pairs = self._pairs, set()
        for pair in pairs:
            _cut(*pair.ends)

    def lose(self) -> None:
        """Let all connections that there are die in silence: nothing is passed, nothing closed.

        It is what a firewall does that forgot them. New connections are served.
        """
        with self._changed:
            for pair in self._pairs:
                pair.lost = True
            self.mode = Mode.PASS
            self._changed.notify_all()

    def deliver(self) -> int:
        """Pass to the server what waits in lost connections; return in how many of them.

        Their clients, who gave it up long ago, get no reply.
        """
        with self._changed:
            late = [pair for pair in self._pairs if pair.lost and pair.holds]
            for pair in late:
                pair.late = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: not any(pair.holds for pair in late), 5.0)
        return len(late)

    # -- inside ------------------------------------------------------------------------------

    def _thread(self, target: Any, *args: Any) -> None:
        threading.Thread(target=target, args=args, name="conformance-proxy", daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            try:
                server = self._connect()
            except OSError:
                _cut(client)
                continue
            server.settimeout(None)
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            pair = _Pair(client, server)
            with self._changed:
                refused = self._listener is not listener
                if not refused:
                    self._pairs.add(pair)
            if refused:  # meanwhile: who cut the others did not see this one
                _cut(client, server)
                return
            self._thread(self._pump, pair, client, server, True)
            self._thread(self._pump, pair, server, client, False)

    def _connect(self) -> socket.socket:
        if not self.narrow:
            return socket.create_connection(self._server, timeout=5.0)
        family, kind, protocol, _, address = socket.getaddrinfo(
            *self._server, type=socket.SOCK_STREAM
        )[0]
        server = socket.socket(family, kind, protocol)
        try:
            # Before it connects: the window that is offered then is not made smaller later.
            server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
            server.settimeout(5.0)
            server.connect(address)
        except BaseException:
            server.close()
            raise
        return server

    def _pump(self, pair: _Pair, source: socket.socket, sink: socket.socket, request: bool) -> None:
        try:
            while True:
                data = source.recv(65536)
                self._wait(pair, bool(data), request)
                if not data or not self._may_pass(request):
                    break
                if request or not pair.late:
                    self._count(data, request)
                    sink.sendall(data)
                    self._passed(pair, request)
        except OSError:
            pass
        finally:
            _cut(source, sink)
            with self._changed:
                self._pairs.discard(pair)
            self._passed(pair, request)

    def _passed(self, pair: _Pair, request: bool) -> None:
        if request and pair.holds:
            with self._changed:
                pair.holds = False
                self._changed.notify_all()

    def _count(self, data: bytes, request: bool) -> None:
        with self._lock:
            if request:
                self.sent += len(data)
                self.requests += 1
            else:
                self.received += len(data)

    def _wait(self, pair: _Pair, data: bool, request: bool) -> None:
        """Hold bytes, or the news that an end was closed, while the connection is silent."""
        with self._changed:
            while self._is_silent(pair, request) and not self._closed:
                pair.holds = pair.holds or (data and request)
                self._changed.wait()

    def _is_silent(self, pair: _Pair, request: bool) -> bool:
        if pair.late:
            return False
        silent = pair.lost or self.mode is Mode.BLACK_HOLE
        return silent or (self.mode is Mode.HOLD_REPLIES and not request)

    def _may_pass(self, request: bool) -> bool:
        """Do what the mode asks; return False where the connection is to be cut."""
        with self._changed:
            mode, delay = self.mode, self.delay
            struck = (mode is Mode.CUT_REQUEST and request) or (
                mode is Mode.SWALLOW_REPLY and not request
            )
            if struck:
                self.struck += 1
                self.mode = Mode.PASS
                return False
        if mode is Mode.DELAY:
            time.sleep(delay)
        return not self._closed


def _cut(*ends: socket.socket) -> None:
    for end in ends:
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(OSError):
            end.close()


class ProxiedStore(Store):
    """The same store, reached through a proxy by the backends of this process."""

    def __init__(self, store: Store, proxy: Proxy) -> None:
        super().__init__(store.target)
        self._settings = {**store.settings(), **address_settings(store.load(), proxy.address)}
