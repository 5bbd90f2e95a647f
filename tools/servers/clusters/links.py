# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The links between the members of a cluster, for a network that parts.

A forwarder stands before each member's port for its peers. Of a connection it asks the system which
process made it, so that all links of one member can be cut, those that it makes and those that it
gets. Imports the standard library and the servers only.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Sequence

from servers.ports import HOST, connects
from servers.process import Server


class _Link:
    """A connection from one member to another."""

    def __init__(self, source: Server | None, target: Server, near: socket.socket) -> None:
        #: None where whoever made it is gone already.
        self.source = source
        self.target = target
        self.ends = [near]
        #: What is sent arrives nowhere, and nobody is reply.
        self.cut = False

    def close(self) -> None:
        for end in self.ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


class Links:
    """The links between members that listen for each other on ``ports``, in the same order.

    They reach each other through :attr:`ports`.
    """

    def __init__(
        self, members: Sequence[Server], listening: Sequence[int], ports: Sequence[int]
    ) -> None:
        self.ports = list(ports)
        self._members = list(members)
        self._listening = list(listening)
        self._listeners: list[socket.socket] = []
        self._lock = threading.Lock()
        self._links: set[_Link] = set()
        self._parted: Server | None = None

    def start(self) -> None:
        """Let connections through from now on; a repeat does nothing."""
        if self._listeners:
            return
        for place, port in enumerate(self.ports):
            listener = socket.create_server((HOST, port))
            self._listeners.append(listener)
            threading.Thread(target=self._accept, args=(listener, place), daemon=True).start()

    def part(self, member: Server) -> None:
        """Cut a member off from all others, in silence, until :meth:`join`."""
        with self._lock:
            self._parted = member
            for link in self._links:
                link.cut = link.cut or self._is_cut(link)

    def join(self) -> None:
        """Let all reach each other again, by new connections where bytes were lost."""
        with self._lock:
            self._parted = None
            for link in self._links:
                if link.cut:
                    link.close()

    def close(self) -> None:
        """Close all, and let nothing through any more."""
        listeners, self._listeners = self._listeners, []
        for listener in listeners:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        with self._lock:
            for link in self._links:
                link.close()

    def _is_cut(self, link: _Link) -> bool:
        return self._parted is not None and self._parted in (link.source, link.target)

    def _accept(self, listener: socket.socket, place: int) -> None:
        while True:
            try:
                near, (_, port) = listener.accept()
            except OSError:
                return  # it was closed
            source = next((m for m in self._members if connects(m.pid, port)), None)
            link = _Link(source, self._members[place], near)
            with self._lock:
                link.cut = self._is_cut(link)
                self._links.add(link)
            threading.Thread(target=self._carry, args=(link, place), daemon=True).start()

    def _carry(self, link: _Link, place: int) -> None:
        """Carry what a connection sends, and in a second thread what it is sent."""
        (near,) = link.ends
        try:
            with contextlib.suppress(OSError):
                far = socket.create_connection((HOST, self._listening[place]))
                for end in (near, far):
                    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                link.ends.append(far)
                back = threading.Thread(target=_pump, args=(link, far, near), daemon=True)
                back.start()
                _pump(link, near, far)
                back.join()
        finally:
            link.close()
            with self._lock:
                self._links.discard(link)


def _pump(link: _Link, source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            if not link.cut:
                sink.sendall(data)
    if not link.cut:
        link.close()
