# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""How a wire waits for a reply: it looks for a moment, and sleeps where that was in vain."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from multiboard.backends.redis import client
from multiboard.backends.redis.server import Address, Line

PING = b"*1\r\n$4\r\nPING\r\n"


class Peer:
    """A server that answers when it is told to."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            address = Address(
                host="127.0.0.1", port=listener.getsockname()[1], socket=None, db=0,
                username=None, password=None, tls=False,
                tls_ca=None, tls_cert=None, tls_key=None, tls_verify=True,
            )  # fmt: skip
            self.line = Line(address, 5.0)
            self.sock, _ = listener.accept()
        self.line.be_patient(5.0)

    def answer(self, *parts: bytes, pause: float = 0.0) -> threading.Thread:
        """Answer the next command, in parts, each after a pause."""

        def late() -> None:
            self.sock.recv(4096)
            for part in parts:
                time.sleep(pause)
                self.sock.sendall(part)

        thread = threading.Thread(target=late)
        thread.start()
        return thread

    def ask_slow(self) -> None:
        """Ask a question whose answer takes longer than anybody looks for it."""
        thread = self.answer(b"+PONG\r\n", pause=20 * client.LOOK)
        assert self.line.ask(PING) == b"PONG"
        thread.join()

    def ask_quick(self) -> None:
        """Ask a question whose answer is there before it is looked for."""
        self.sock.sendall(b"+PONG\r\n")
        assert self.line.ask(PING) == b"PONG"
        self.sock.recv(4096)


@pytest.fixture
def peer() -> Iterator[Peer]:
    peer = Peer()
    yield peer
    peer.line.drop()
    peer.sock.close()


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """When somebody began to look."""
    when: list[float] = []
    clock = time.perf_counter

    class Clock:
        @staticmethod
        def perf_counter() -> float:
            # It is asked to begin, and at least once more.
            when.append(clock())
            return when[-1]

    monkeypatch.setattr(client, "time", Clock)
    return when


@pytest.mark.parametrize("pause", [0.0, client.LOOK / 2, 3 * client.LOOK])
@pytest.mark.parametrize("parts", [[b"$4\r\nPONG\r\n"], [b"$4\r\n", b"PO", b"NG\r\n"]])
def test_a_reply_is_the_same_whenever_it_comes(
    peer: Peer, parts: list[bytes], pause: float
) -> None:
    for _ in range(5):
        thread = peer.answer(*parts, pause=pause)
        assert peer.line.ask(PING) == b"PONG"
        thread.join()


def test_after_looks_in_vain_it_sleeps_more_and_more_often(peer: Peer, looks: list[float]) -> None:
    looked = 0
    for _ in range(63):
        before = len(looks)
        peer.ask_slow()
        looked += len(looks) > before
    # The first, then one after 1 that slept, after 2, after 4, 8 and 16.
    assert looked == 6
    # And as soon as a look finds something, each call looks.
    while peer.line._resting != 0:
        peer.ask_quick()
    for _ in range(5):
        before = len(looks)
        peer.ask_quick()
        assert len(looks) > before


def test_who_waits_for_long_does_not_look(peer: Peer, looks: list[float]) -> None:
    peer.sock.sendall(b"+PONG\r\n")
    assert peer.line.ask(PING, soon=False) == b"PONG"
    assert looks == []


def test_a_connection_that_is_cut_while_it_is_looked_at_is_an_error(peer: Peer) -> None:
    peer.sock.close()
    with pytest.raises(Exception, match=r"closed|reset|[Bb]roken"):
        peer.line.ask(PING)


def test_no_answer_is_a_time_out_although_it_looked(peer: Peer) -> None:
    peer.line.be_patient(0.05)
    with pytest.raises(Exception, match=r"no answer within 0\.05 s"):
        peer.line.ask(PING)
