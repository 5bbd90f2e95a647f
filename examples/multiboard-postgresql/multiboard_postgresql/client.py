# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The transport: connections with a time limit, and a pool of them.

psycopg waits for as long as it takes; a verb must not.
"""

from __future__ import annotations

import contextlib
import math
import select
import time
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import psycopg
from psycopg import pq
from psycopg.abc import PQGen
from psycopg.conninfo import make_conninfo

from multiboard_postgresql.errors import translate_connect_error, translate_error

T = TypeVar("T")

#: Connections that are kept when nobody uses them; more are opened when more threads come.
KEPT = 4


class Connection(psycopg.Connection[tuple[Any, ...]]):
    """A connection on which nothing waits beyond ``give_up``, by this machine's clock."""

    give_up = math.inf

    def wait(self, gen: PQGen[T], interval: float = 0.1, timeout: float | None = None) -> T:
        """Wait for the server as psycopg does, but not for ever."""
        more = {} if timeout is None else {"timeout": timeout}  # psycopg 3.2 has none
        return super().wait(self._until(gen), min(interval, 0.05), **more)

    def _until(self, gen: PQGen[T]) -> PQGen[T]:
        """Go through ``gen``, and stop it at an interval in which nothing came when time is up."""
        try:
            wants = next(gen)
            while True:
                ready = yield wants
                if not ready and time.monotonic() >= self.give_up:
                    raise TimeoutError("no reply in time")
                wants = gen.send(ready)
        except StopIteration as end:
            result: T = end.value
            return result


def connect(words: Mapping[str, str | int | None], seconds: float) -> Connection:
    """Connect within so many seconds; psycopg's own time limit is not shorter than two."""
    give_up = time.monotonic() + seconds
    made = pq.PGconn.connect_start(make_conninfo("", **words).encode())
    try:
        state: int = pq.PollingStatus.WRITING
        while state != pq.PollingStatus.OK:
            if made.status == pq.ConnStatus.BAD or state == pq.PollingStatus.FAILED:
                raise psycopg.OperationalError(" ".join(made.get_error_message().split()))
            left = max(0.0, give_up - time.monotonic())
            reads = [made.socket] if state == pq.PollingStatus.READING else []
            writes = [] if reads else [made.socket]
            if not any(select.select(reads, writes, [], left)):
                raise TimeoutError(f"no reply in {seconds} s")
            state = made.connect_poll()
        made.nonblocking = 1
        connection = Connection(made)
        connection.autocommit = True  # a verb is one statement, hence one transaction
    except BaseException:
        made.finish()
        raise
    return connection


class ConnectionPool:
    """The connections of one backend in one process."""

    def __init__(
        self,
        words: Mapping[str, str | int | None],
        connect_timeout: float,
        operation_timeout: float,
    ) -> None:
        self._words = words
        self._connect_timeout = connect_timeout
        self._operation_timeout = operation_timeout
        self._idle: list[Connection] = []
        self._closed = False

    def connect(self, at_most: float | None = None) -> Connection:
        """Return a connection of the caller's own.

        Raises: ``Unavailable``, ``AccessDenied``; nothing was sent yet.
        """
        try:
            return connect(self._words, min(self._connect_timeout, at_most or math.inf))
        except (psycopg.Error, OSError) as error:
            where = f"{self._words['host']}:{self._words['port']}"
            raise translate_connect_error(error, where) from error

    def call(
        self, verb: str, *arguments: Any, timeout: float | None = None
    ) -> list[tuple[Any, ...]]:
        """Call one of our functions; it is one statement, and one transaction.

        Raises: ``Unavailable`` where it surely had no effect, ``Indeterminate`` where it may have.
        """
        marks = ", ".join(["%s"] * len(arguments))
        statement = f"SELECT * FROM multiboard.{verb}({marks})"
        with self.connection(timeout) as connection:
            return connection.execute(statement, arguments, binary=True).fetchall()

    @contextlib.contextmanager
    def connection(self, timeout: float | None = None) -> Iterator[Connection]:
        """Check a connection out, with the time limit of one verb; translate what fails on it."""
        connection = self._checkout(timeout)
        connection.give_up = time.monotonic() + (timeout or self._operation_timeout)
        try:
            yield connection
        except (psycopg.Error, TimeoutError, OSError) as error:
            lost = not isinstance(error, psycopg.Error) or connection.closed
            connection.close()
            raise translate_error(error, reply_lost=lost) from error
        except (
            BaseException
        ):  # a signal between request and reply: the reply would be taken for the next one's
            connection.close()
            raise
        self._checkin(connection)

    def _checkin(self, connection: Connection) -> None:
        self._idle.append(connection)
        if self._closed or len(self._idle) > KEPT:
            self._drop(KEPT if not self._closed else 0)

    def _checkout(self, at_most: float | None) -> Connection:
        while self._idle:
            with contextlib.suppress(IndexError):  # another thread was quicker
                connection = self._idle.pop()
                # No request is in flight on it: if there is something to read, the server has
                # closed it. Found here, the request is surely not applied.
                if not connection.closed and not select.select([connection], [], [], 0)[0]:
                    return connection
                connection.close()
        return self.connect(at_most)

    def _drop(self, keep: int) -> None:
        with contextlib.suppress(IndexError):
            while len(self._idle) > keep:
                self._idle.pop(0).close()

    def close(self) -> None:
        """Close what is idle now, and what is in use as soon as it comes back."""
        self._closed = True
        self._drop(0)
