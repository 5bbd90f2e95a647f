# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""One connection that LISTENs, for all waiting readers of one backend in one process.

A notification names the board, and is no more than a reason to read. The events are in a
table, so that a reader who received no notification for a while misses nothing. The thread is
started by the first reader that has to wait, and ends with the backend or with its connection; it
never connects again by itself.
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

from multiboard_postgresql.client import Connection


class Listener:
    """Counts the notifications of one board, and wakes the readers that wait for one."""

    def __init__(self, connect: Callable[[], Connection], namespace: str, timeout: float) -> None:
        self._connect = connect
        self._namespace = namespace
        #: Seconds of silence after which the server is probed. A connection that was lost without a
        #: reset looks exactly like a board on which nothing happens.
        self._timeout = timeout
        self._changed = threading.Condition()
        self._connection: Connection | None = None
        #: Closed to wake the thread: it waits for the other end of the pair, too.
        self._wakeup: socket.socket | None = None
        self._closed = False
        #: Rises with every reason to read the feed.
        self.received = 0

    def listen(self) -> bool:
        """Listen, unless that has begun. True where it begins now: then read the feed once more."""
        if self._connection is not None:
            return False
        connection = self._connect()
        try:
            connection.give_up = time.monotonic() + self._timeout
            connection.execute("LISTEN multiboard")
        except (psycopg.Error, OSError) as error:
            connection.close()
            raise errors.Unavailable(f"PostgreSQL: can't listen: {error}") from error
        with self._changed:
            if self._closed or self._connection is not None:  # another thread was quicker
                connection.close()
                return True
            self._connection = connection
            self._wakeup, wakeup = socket.socketpair()
            threading.Thread(
                target=self._run, args=(connection, wakeup), name="multiboard-listener", daemon=True
            ).start()
            return True

    def wait(self, seen: int, seconds: float) -> None:
        """Wait until there is a reason to read that was not ``seen``, or for so many seconds.

        Raises: ``Closed``, ``Unavailable`` (the connection that listens was lost).
        """
        with self._changed:
            self._changed.wait_for(lambda: self._stop_waiting(seen), seconds)
            if self._closed:
                raise errors.Closed("the backend was closed")
            if self._connection is None:
                raise errors.Unavailable("PostgreSQL: the connection that listens was lost")

    def _stop_waiting(self, seen: int) -> bool:
        return self._closed or self._connection is None or self.received != seen

    def close(self) -> None:
        """Wake all that wait, and end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            if self._wakeup is not None:
                self._wakeup.close()

    def _run(self, connection: Connection, wakeup: socket.socket) -> None:
        try:
            with contextlib.suppress(psycopg.Error, OSError):
                self._receive(connection, wakeup)
        finally:  # whatever ended it, the readers that wait must fail now
            connection.close()
            wakeup.close()
            with self._changed:
                self._connection = None
                self._changed.notify_all()

    def _receive(self, connection: Connection, wakeup: socket.socket) -> None:
        while True:
            sources: list[Connection | socket.socket] = [connection, wakeup]
            ready, _, _ = select.select(sources, [], [], self._timeout)
            if wakeup in ready:
                return
            connection.give_up = time.monotonic() + self._timeout
            if connection in ready:
                if not self._is_ours(connection):
                    continue
            else:
                connection.execute("SELECT 1")  # and read, to be sure
            with self._changed:
                self.received += 1
                self._changed.notify_all()

    def _is_ours(self, connection: Connection) -> bool:
        # All are read, also behind the first that is ours: one read of the feed serves them all.
        names = {notification.payload for notification in connection.notifies(timeout=0)}
        return self._namespace in names
