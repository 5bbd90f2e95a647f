# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The ear: one connection that LISTENs, for all waiting readers of one backend in one process.

A notification says "look" and names the board. The story is in the table of events, so that a
reader who was deaf for a while misses nothing. The thread is started by the first reader that
has to wait, and ends with the backend or with its connection; it never connects again by itself.
"""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time
from collections.abc import Callable

import psycopg
from multiboard import errors

from multiboard_postgresql.wire import Connection


class Ear:
    """What counts the notifications of one board."""

    def __init__(self, dial: Callable[[], Connection], namespace: str, patience: float) -> None:
        self._dial = dial
        self._namespace = namespace
        #: Seconds of silence after which the server is asked whether it is still there. A line that
        #: was lost without a word looks exactly like a board on which nothing happens.
        self._patience = patience
        self._changed = threading.Condition()
        self._connection: Connection | None = None
        self._bell: socket.socket | None = None
        self._closed = False
        #: Rises with every reason to look at the board.
        self.heard = 0

    def listen(self) -> bool:
        """See to it that somebody listens. True where that began just now: look once more."""
        if self._connection is not None:
            return False
        connection = self._dial()
        try:
            connection.give_up = time.monotonic() + self._patience
            connection.execute("LISTEN multiboard")
        except (psycopg.Error, OSError) as error:
            connection.close()
            raise errors.Unavailable(f"PostgreSQL: can't listen: {error}") from error
        with self._changed:
            if self._closed or self._connection is not None:  # another thread was quicker
                connection.close()
                return True
            self._connection = connection
            self._bell, bell = socket.socketpair()
            threading.Thread(
                target=self._run, args=(connection, bell), name="multiboard-ear", daemon=True
            ).start()
            return True

    def wait(self, seen: int, seconds: float) -> None:
        """Wait until there is a reason to look that was not ``seen``, or for so many seconds.

        Raises: ``Closed``, ``Unavailable`` (nobody listens any more).
        """
        with self._changed:
            self._changed.wait_for(lambda: self._stop_waiting(seen), seconds)
            if self._closed:
                raise errors.Closed("the backend was closed")
            if self._connection is None:
                raise errors.Unavailable("PostgreSQL: the connection that listens was lost")

    def _stop_waiting(self, seen: int) -> bool:
        return self._closed or self._connection is None or self.heard != seen

    def close(self) -> None:
        """Wake all that wait, and end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            if self._bell is not None:
                self._bell.close()

    def _run(self, connection: Connection, bell: socket.socket) -> None:
        try:
            with contextlib.suppress(psycopg.Error, OSError):
                self._hear(connection, bell)
        finally:  # whatever ended it, those who wait must know that nobody listens now
            connection.close()
            bell.close()
            with self._changed:
                self._connection = None
                self._changed.notify_all()

    def _hear(self, connection: Connection, bell: socket.socket) -> None:
        while True:
            sources: list[Connection | socket.socket] = [connection, bell]
            ready, _, _ = select.select(sources, [], [], self._patience)
            if bell in ready:
                return
            connection.give_up = time.monotonic() + self._patience
            if connection in ready:
                if not self._concerned(connection):
                    continue
            else:
                connection.execute("SELECT 1")  # and look, to be sure
            with self._changed:
                self.heard += 1
                self._changed.notify_all()

    def _concerned(self, connection: Connection) -> bool:
        # All are read, also behind the first one that is ours: one look answers any number.
        names = {notification.payload for notification in connection.notifies(timeout=0)}
        return self._namespace in names
