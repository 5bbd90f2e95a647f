# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The way to the server: connections with a time limit, a pool of them, and what errors mean.

psycopg waits for as long as it takes; a verb must not. It is the only library used here.
"""

from __future__ import annotations

import contextlib
import select
import time
from collections.abc import Iterator, Mapping
from typing import Any

import psycopg
from psycopg import pq
from psycopg.conninfo import make_conninfo

from multiboard import errors

#: Connections that are kept when nobody uses them; more are opened when more threads come.
KEPT = 4

#: What our functions raise (see ``verbs.sql``), and what the server says when they are gone.
SESSION_LOST = "MB002"
BOARD_LOST = {"MB001", "3F000", "42P01", "42883", "42704"}
#: Classes of SQLSTATE after which the same statement may be tried again: connection, rollback,
#: resources, operator intervention, system error, lock not available.
MAY_PASS = ("08", "40", "53", "57", "58", "55P03")
NO_RIGHT = ("28", "42501")


class Connection(psycopg.Connection[tuple[Any, ...]]):
    """A connection on which nothing waits beyond ``give_up``, by this machine's clock."""

    give_up = float("inf")

    def wait(self, gen: Any, interval: float = 0.1, **more: Any) -> Any:
        """Wait for the server as psycopg does, but not for ever."""
        return super().wait(self._until(gen), min(interval, 0.05), **more)

    def _until(self, gen: Any) -> Any:
        wants = next_of(gen, None)
        while not isinstance(wants, StopIteration):
            ready = yield wants
            if not ready and time.monotonic() >= self.give_up:
                raise TimeoutError("no answer in time")
            wants = next_of(gen, ready)
        return wants.value


def next_of(gen: Any, value: Any) -> Any:
    """Advance a generator; its end is an answer too."""
    try:
        return gen.send(value)
    except StopIteration as end:
        return end


def connect(words: Mapping[str, str | int | None], seconds: float) -> Connection:
    """Connect within so many seconds; psycopg's own time limit is not shorter than two."""
    where = f"{words['host']}:{words['port']}"
    give_up = time.monotonic() + seconds
    made = pq.PGconn.connect_start(make_conninfo("", **words).encode())
    try:
        state = pq.PollingStatus.WRITING
        while state != pq.PollingStatus.OK:
            if made.status == pq.ConnStatus.BAD or state == pq.PollingStatus.FAILED:
                raise _refused(where, made)
            left = give_up - time.monotonic()
            reads = [made.socket] if state == pq.PollingStatus.READING else []
            writes = [] if reads else [made.socket]
            if left <= 0 or not any(select.select(reads, writes, [], left)):
                raise errors.Unavailable(f"PostgreSQL at {where}: no answer in {seconds} s")
            state = made.connect_poll()
    except BaseException:
        made.finish()
        raise
    made.nonblocking = 1
    connection = Connection(made)
    connection.autocommit = True  # a verb is one statement, hence one transaction
    return connection


def _refused(where: str, made: pq.abc.PGconn) -> errors.BackendError:
    """Return what a failed attempt means. libpq gives no SQLSTATE here, only words."""
    said = made.get_error_message().strip()
    words = ("authentication failed", "pg_hba.conf", "permission denied", "no password")
    denied = made.needs_password or any(word in said for word in words)
    kind = errors.AccessDenied if denied else errors.Unavailable
    return kind(f"PostgreSQL at {where}: {said}")


class Pool:
    """The connections of one backend in one process."""

    def __init__(
        self, words: Mapping[str, str | int | None], connect_timeout: float, operation_timeout: float
    ) -> None:
        self._words = words
        self._connect_timeout = connect_timeout
        self._operation_timeout = operation_timeout
        self._idle: list[Connection] = []
        self._closed = False

    def dial(self) -> Connection:
        """Return a connection of the caller's own."""
        return connect(self._words, self._connect_timeout)

    def ask(self, verb: str, *arguments: Any, timeout: float | None = None) -> list[tuple[Any, ...]]:
        """Call one of our functions; it is one statement, and one transaction.

        Raises: ``Unavailable`` where it surely had no effect, ``Indeterminate`` where it may have.
        """
        marks = ", ".join(["%s"] * len(arguments))
        statement = f"SELECT * FROM multiboard.{verb}({marks})"
        with self.connection(timeout) as connection:
            return connection.execute(statement, arguments, binary=True).fetchall()

    @contextlib.contextmanager
    def connection(self, timeout: float | None = None) -> Iterator[Connection]:
        """Lend a connection, with the time limit of one verb; translate what goes wrong on it."""
        connection = self._take()
        connection.give_up = time.monotonic() + (timeout or self._operation_timeout)
        try:
            yield connection
        except (psycopg.Error, TimeoutError, OSError) as error:
            lost = not isinstance(error, psycopg.Error) or connection.closed
            connection.close()
            raise _translated(error, lost) from error
        except BaseException:  # a signal between question and answer: the answer is not ours
            connection.close()
            raise
        self._idle.append(connection)
        if self._closed or len(self._idle) > KEPT:
            self._drop(KEPT if not self._closed else 0)

    def _take(self) -> Connection:
        while self._idle:
            with contextlib.suppress(IndexError):  # another thread was quicker
                connection = self._idle.pop()
                # Nobody asked it anything: if there is something to read, it is the good-bye of a
                # server that went away. Found here, it is surely not applied.
                if not connection.closed and not select.select([connection], [], [], 0)[0]:
                    return connection
                connection.close()
        return self.dial()

    def _drop(self, keep: int) -> None:
        with contextlib.suppress(IndexError):
            while len(self._idle) > keep:
                self._idle.pop(0).close()

    def close(self) -> None:
        """Close what is idle now, and what is in use as soon as it comes back."""
        self._closed = True
        self._drop(0)


def _translated(error: BaseException, lost: bool) -> errors.MultiboardError:
    """Say in multiboard's words what an error means that came after the question was sent."""
    if lost:  # the server may have committed before the line broke
        return errors.Indeterminate(f"PostgreSQL: the answer was lost: {error}")
    assert isinstance(error, psycopg.Error)
    state = error.sqlstate or ""
    said = error.diag.message_primary or str(error)
    if state == SESSION_LOST:
        return errors.SessionLost(said)
    if state in BOARD_LOST:
        return errors.BoardLost(f"PostgreSQL: {said}")
    if state.startswith(NO_RIGHT):
        return errors.AccessDenied(f"PostgreSQL: {said}")
    if state.startswith(MAY_PASS):  # the server answered: the statement was rolled back
        return errors.Unavailable(f"PostgreSQL: {said}")
    detail = f" ({error.diag.message_detail})" if error.diag.message_detail else ""
    return errors.BackendError(f"PostgreSQL: {said}{detail}")


def reading(error: errors.Indeterminate) -> errors.Unavailable:
    """Return the error of a verb that changes nothing: it was surely not applied."""
    return errors.Unavailable(str(error))
