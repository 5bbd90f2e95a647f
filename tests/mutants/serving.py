# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""A server for boards in memory.

``python -m tests.mutants.serving`` prints its port and serves until killed.

Lines of JSON come in, one request each, and are answered in their order. It keeps a memory backend
for every client that gave its name; the sessions of clients that fall silent end by themselves.
What a mutant of the server does wrong is asked for by its client, request by request.
"""

from __future__ import annotations

import contextlib
import copy
import socketserver
import threading
from collections import defaultdict
from typing import Any

from multiboard_conformance.machinery import serialization
from multiboard_conformance.machinery.recording import apply

from multiboard import errors
from multiboard.backends import memory
from multiboard.config import loading

HOST = "127.0.0.1"
PUT_BACK = "the board was put back to an earlier state"


class Boards:
    """The boards of one server, and who works on them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._clients: dict[tuple[str, str], Any] = {}
        #: How many replies each client lost, by its latest request.
        self.losses: defaultdict[str, int] = defaultdict(int)
        #: Held by clients of a mutant, from one request to a later one.
        self.held: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._kept: dict[str, dict[str, Any]] = {}

    def client(self, who: str, namespace: str, session_timeout: float, create: bool = True) -> Any:
        """Return the backend of a client, on the board as it is now for who is new."""
        with self._lock:
            found = self._clients.get((who, namespace))
            if found is None:
                found = loading.load(
                    "memory", namespace=namespace, session_timeout=session_timeout, create=create
                )
                found.open()
                self._clients[who, namespace] = found
            return found

    def wipe(self, namespace: str) -> None:
        """Lose a board; the next one to open makes another."""
        with memory.state.boards_lock:
            memory.state.boards.pop(("default", namespace), None)

    def board(self, namespace: str) -> Any:
        """Return the board of a name."""
        with memory.state.boards_lock:
            return memory.state.boards["default", namespace]

    def back_up(self, namespace: str) -> None:
        """Keep a board as it is now."""
        board = self.board(namespace)
        with board.changed:
            self._kept[namespace] = self._copied(board)

    def put_back(self, namespace: str) -> None:
        """Let a board be as it was when it was kept."""
        board = self.board(namespace)
        with board.changed:
            vars(board).update(self._kept.pop(namespace))
            board.changed.notify_all()

    @staticmethod
    def _copied(board: Any) -> dict[str, Any]:
        return {n: copy.deepcopy(v) for n, v in vars(board).items() if n != "changed"}

    def is_there(self, client: Any) -> bool:
        """Tell whether a client's board is still the one of that name."""
        now = memory.state.boards.get((client.settings.name, client.settings.namespace))
        return client._board is None or now is client._board


class Conversation(socketserver.StreamRequestHandler):
    """One connection."""

    server: Server

    def handle(self) -> None:
        with contextlib.suppress(OSError):  # clients are killed, and connections cut
            for line in self.rfile:
                self._handle(serialization.loads(line))

    def _handle(self, request: dict[str, Any]) -> None:
        if request.get("answers_under_lock"):
            with self.server.boards.held[request["namespace"]]:
                self._send(self._serve(request))
        else:
            self._send(self._serve(request))

    def _send(self, reply: dict[str, Any]) -> None:
        self.wfile.write(serialization.dumps(reply).encode() + b"\n")

    def _serve(self, request: dict[str, Any]) -> dict[str, Any]:
        try:
            answer = self._obey(request)
            return {"answer": answer, "position": self._position(request)}
        except errors.MultiboardError as error:
            return {"raised": error}

    def _position(self, request: dict[str, Any]) -> int:
        with contextlib.suppress(KeyError):
            return int(self.server.boards.board(request["namespace"]).position)
        return 0

    def _obey(self, request: dict[str, Any]) -> Any:
        boards, namespace, verb = self.server.boards, request["namespace"], request["verb"]
        if verb == "wipe":
            return boards.wipe(namespace)
        if verb == "back_up":
            return boards.back_up(namespace)
        if verb == "put_back":
            return boards.put_back(namespace)
        if verb == "lock":
            return boards.held[namespace].acquire(timeout=6.0)
        if verb == "unlock":
            if boards.held[namespace].locked():
                boards.held[namespace].release()
            return None
        if verb == "boards":
            return loading.load("memory").boards()
        create = request["args"].get("create", True)
        client = boards.client(request["who"], namespace, request["session_timeout"], create)
        if verb == "open":
            client.open()
            return client.incarnation
        if not boards.is_there(client):
            if not request.get("any_board"):
                raise errors.BoardLost("the board was made anew")
            client.open()
        elif self._position(request) < request["known"] and not request.get("any_board"):
            raise errors.BoardLost(PUT_BACK)
        if request.get("forgets"):
            client._opened().consumed.clear()
        boards.losses[request["who"]] = max(boards.losses[request["who"]], request["losses"])
        if request["losses"] < boards.losses[request["who"]]:
            raise errors.Unavailable("the client gave this request up, and asked again since")
        return apply(client, verb, request["args"])


class Server(socketserver.ThreadingTCPServer):
    """The server."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, port: int = 0) -> None:
        super().__init__((HOST, port), Conversation)
        self.boards = Boards()


if __name__ == "__main__":
    with Server() as server:
        print(server.server_address[1], flush=True)
        server.serve_forever()
