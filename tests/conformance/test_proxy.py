# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The proxy of the suite makes the faults that it is asked for, and only those."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import threading
from collections.abc import Iterator

import pytest
from multiboard_conformance.machinery.proxy import Mode, Proxy

from tests.waiting import eventually


class Echo(socketserver.ThreadingTCPServer):
    """A server that echoes every line, and records it."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), EchoLines)
        self.received: list[bytes] = []


class EchoLines(socketserver.StreamRequestHandler):
    """One connection."""

    server: Echo

    def handle(self) -> None:
        for line in self.rfile:
            self.server.received.append(line)
            with contextlib.suppress(OSError):
                self.wfile.write(line)


@pytest.fixture
def echo() -> Iterator[Echo]:
    with Echo() as server:
        serving = threading.Thread(target=server.serve_forever, daemon=True)
        serving.start()
        yield server
        server.shutdown()
        serving.join()


@pytest.fixture
def proxy(echo: Echo) -> Iterator[Proxy]:
    with Proxy(*echo.server_address) as proxy:  # type: ignore[misc]
        yield proxy


def connect(proxy: Proxy) -> socket.socket:
    """Return a connection that has been served once."""
    client = socket.create_connection(proxy.address, timeout=5.0)
    client.sendall(b"hello\n")
    assert client.recv(100) == b"hello\n"
    client.settimeout(0.2)
    return client


def receives_nothing(client: socket.socket) -> bool:
    with pytest.raises(TimeoutError):
        client.recv(100)
    return True


def test_lost_connection_is_silent_and_new_ones_are_served(echo: Echo, proxy: Proxy) -> None:
    with connect(proxy) as client:
        proxy.lose()
        client.sendall(b"lost\n")
        assert receives_nothing(client)
        with connect(proxy):
            assert echo.received == [b"hello\n", b"hello\n"]


def test_lost_request_is_delivered_late_and_answered_to_nobody(echo: Echo, proxy: Proxy) -> None:
    with connect(proxy) as client, connect(proxy):
        proxy.set(Mode.BLACK_HOLE)
        client.sendall(b"late\n")
        assert receives_nothing(client)
        proxy.lose()
        assert proxy.deliver() == 1
        eventually(lambda: b"late\n" in echo.received)
        assert receives_nothing(client)


def test_late_request_arrives_though_its_client_has_gone(echo: Echo, proxy: Proxy) -> None:
    with connect(proxy) as client:
        proxy.set(Mode.BLACK_HOLE)
        client.sendall(b"late\n")
        assert receives_nothing(client)
    proxy.lose()
    assert proxy.deliver() == 1
    eventually(lambda: b"late\n" in echo.received)


def test_replies_are_held_and_then_passed(echo: Echo, proxy: Proxy) -> None:
    with connect(proxy) as client:
        proxy.set(Mode.HOLD_REPLIES)
        client.sendall(b"asked\n")
        eventually(lambda: b"asked\n" in echo.received)
        assert receives_nothing(client)
        proxy.heal()
        client.settimeout(5.0)
        assert client.recv(100) == b"asked\n"


@pytest.mark.parametrize(
    ("mode", "arrives"), [(Mode.CUT_REQUEST, False), (Mode.SWALLOW_REPLY, True)]
)
def test_connection_is_cut_before_or_after_the_request(
    echo: Echo, proxy: Proxy, mode: Mode, arrives: bool
) -> None:
    with connect(proxy) as client:
        proxy.set(mode)
        client.sendall(b"struck\n")
        client.settimeout(5.0)
        with contextlib.suppress(ConnectionError):
            assert client.recv(100) == b""
        assert (proxy.struck, b"struck\n" in echo.received) == (1, arrives)
    with connect(proxy):
        pass


def test_connection_that_is_being_made_is_refused_too() -> None:
    with contextlib.ExitStack() as stack:
        full = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        stack.enter_context(socket.create_connection(full.getsockname()))  # the one that waits
        proxy = stack.enter_context(Proxy(*full.getsockname()))
        client = stack.enter_context(socket.create_connection(proxy.address, timeout=5.0))
        client.settimeout(0.2)
        assert receives_nothing(client)  # the proxy has it, and waits for the server
        proxy.set(Mode.REFUSE)
        stack.enter_context(full.accept()[0])
        client.settimeout(5.0)
        with contextlib.suppress(ConnectionError):
            assert client.recv(100) == b""
