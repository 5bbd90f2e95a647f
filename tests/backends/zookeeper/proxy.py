# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""A proxy before a ZooKeeper that loses the request or the reply of one transaction."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading

MULTI = 14


class Proxy:
    """Passes everything on, until it has to lose the next transaction and cut the connection."""

    def __init__(self, host: str, port: int) -> None:
        self._server = (host, port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._losing = ""
        self.lost = False

    def __enter__(self) -> Proxy:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def lose(self, what: str) -> None:
        """Lose the ``request`` or the ``reply`` of the next transaction."""
        self._losing, self.lost = what, False

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._server)
                swallow: set[int] = set()
                for source, target, outward in ((client, server, True), (server, client, False)):
                    threading.Thread(
                        target=self._pump, args=(source, target, outward, swallow), daemon=True
                    ).start()

    def _pump(
        self, source: socket.socket, target: socket.socket, outward: bool, swallow: set[int]
    ) -> None:
        first = True
        with contextlib.suppress(OSError):
            while frame := self._frame(source):
                if not first and self._is_lost(frame, outward, swallow):
                    self.lost = True
                    break
                first = False
                target.sendall(struct.pack(">i", len(frame)) + frame)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _is_lost(self, frame: bytes, outward: bool, swallow: set[int]) -> bool:
        number = struct.unpack_from(">i", frame)[0]
        if not outward:
            return number in swallow
        if not self._losing or struct.unpack_from(">ii", frame)[1] != MULTI:
            return False
        losing, self._losing = self._losing, ""
        if losing == "reply":
            swallow.add(number)
        return losing == "request"

    @staticmethod
    def _frame(source: socket.socket) -> bytes:
        def read(count: int) -> bytes:
            parts = b""
            while len(parts) < count:
                part = source.recv(count - len(parts))
                if not part:
                    raise ConnectionError
                parts += part
            return parts

        return read(struct.unpack(">i", read(4))[0])
