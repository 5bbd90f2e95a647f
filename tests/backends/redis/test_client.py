# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""A connection: how it waits for a reply, and the one private attribute of the library it uses."""

from __future__ import annotations

import ast
import configparser
import pathlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest
import redis

from multiboard.backends.redis import client
from multiboard.backends.redis.address import Address
from multiboard.backends.redis.client import Connection

PING = b"*1\r\n$4\r\nPING\r\n"


class Peer:
    """A server that replies when a test wants it to."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            address = Address(
                host="127.0.0.1", port=listener.getsockname()[1], socket=None, db=0,
                username=None, password=None, tls=False,
                tls_ca=None, tls_cert=None, tls_key=None, tls_verify=True,
            )  # fmt: skip
            self.connection = Connection(address, 5.0)
            self.sock, _ = listener.accept()
        self.connection.set_timeout(5.0)

    def reply(self, *parts: bytes, pause: float = 0.0) -> threading.Thread:
        """Reply to the next command, in parts, each after a pause."""

        def late() -> None:
            self.sock.recv(4096)
            for part in parts:
                time.sleep(pause)
                self.sock.sendall(part)

        thread = threading.Thread(target=late)
        thread.start()
        return thread


@pytest.fixture
def peer() -> Iterator[Peer]:
    peer = Peer()
    yield peer
    peer.connection.close()
    peer.sock.close()


@pytest.mark.parametrize("pause", [0.0, 75e-6, 450e-6])
@pytest.mark.parametrize("parts", [[b"$4\r\nPONG\r\n"], [b"$4\r\n", b"PO", b"NG\r\n"]])
def test_a_reply_is_the_same_whenever_it_comes(
    peer: Peer, parts: list[bytes], pause: float
) -> None:
    for _ in range(5):
        thread = peer.reply(*parts, pause=pause)
        assert peer.connection.call(PING) == b"PONG"
        thread.join()
    assert peer.connection.owed == 0


def test_a_connection_that_is_cut_while_a_reply_is_awaited_is_an_error(peer: Peer) -> None:
    peer.sock.close()
    with pytest.raises(Exception, match=r"closed|reset|[Bb]roken"):
        peer.connection.call(PING)


def test_no_reply_is_a_time_out(peer: Peer) -> None:
    peer.connection.set_timeout(0.05)
    with pytest.raises(Exception, match=r"no reply within 0\.05 s"):
        peer.connection.call(PING)
    assert peer.connection.owed == 1


# -- the library ----------------------------------------------------------------------------------


def _private_attributes() -> set[tuple[str, str]]:
    """Return each private attribute of another object that the store's source uses, by file."""
    found = set()
    for path in pathlib.Path(client.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Attribute) and node.attr.startswith("_"):
                owner = node.value.id if isinstance(node.value, ast.Name) else ""
                if owner != "self" and not node.attr.startswith("__"):
                    found.add((path.name, node.attr))
    return found


def test_the_private_attribute_of_the_library_exists_and_is_the_only_one(peer: Peer) -> None:
    assert _private_attributes() == {("client.py", "_sock")}
    assert client.__doc__ is not None
    assert "redis.connection.AbstractConnection._sock" in client.__doc__
    assert isinstance(peer.connection._connection._sock, socket.socket)


def test_the_major_version_of_the_library_is_capped() -> None:
    root = pathlib.Path(__file__).resolve().parents[3]
    declared = configparser.ConfigParser()
    declared.read(root / "setup.cfg")
    wanted = declared["options.extras_require"]["redis"].split()
    assert wanted[0] == "redis>=5.0,<9"
    assert int(redis.__version__.partition(".")[0]) < 9
