# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The way to the server: connections with a time limit, a pool of them, and what errors mean.

psycopg waits for as long as it takes; a verb must not. It is the only library used here.
"""

from __future__ import annotations

import contextlib
import math
import select
import time
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import psycopg
from multiboard import errors
from psycopg import pq
from psycopg.abc import PQGen
from psycopg.conninfo import make_conninfo

T = TypeVar("T")

#: Connections that are kept when nobody uses them; more are opened when more threads come.
KEPT = 4

#: What our functions raise (see ``verbs.sql``), and what the server says when they are gone.
SESSION_LOST = "MB002"
LATE = "MB003"
BOARD_LOST = {"MB001", "3F000", "42P01", "42883", "42704"}
#: Classes of SQLSTATE after which the same statement may be tried again: connection, rollback,
#: resources, operator intervention, system error, lock not available.
MAY_PASS = ("08", "40", "53", "57", "58", "55P03")
NO_RIGHT = ("28", "42501")


class Connection(psycopg.Connection[tuple[Any, ...]]):
    """A connection on which nothing waits beyond ``give_up``, by this machine's clock."""

    give_up = math.inf

    def wait(self, gen: PQGen[T], interval: float = 0.1, timeout: float | None = None) -> T:
        """Wait for the server as psycopg does, but not for ever."""
        more = {} if timeout is None else {"timeout": timeout}  # psycopg 3.2 has none
        return super().wait(self._until(gen), min(interval, 0.05), **more)

    def _until(self, gen: PQGen[T]) -> PQGen[T]:
        """Go through ``gen``, which is told of every interval in which nothing came."""
        try:
            wants = next(gen)
            while True:
                ready = yield wants
                if not ready and time.monotonic() >= self.give_up:
                    raise TimeoutError("no answer in time")
                wants = gen.send(ready)
        except StopIteration as end:
            answer: T = end.value
            return answer


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
                raise TimeoutError(f"no answer in {seconds} s")
            state = made.connect_poll()
        made.nonblocking = 1
        connection = Connection(made)
        connection.autocommit = True  # a verb is one statement, hence one transaction
    except BaseException:
        made.finish()
        raise
    return connection


def _refused(where: str, error: Exception) -> errors.BackendError:
    """Return what a failed attempt to connect means: libpq gives words here, and no SQLSTATE."""
    denials = ("authentication failed", "pg_hba.conf", "permission denied", "no password")
    denied = any(words in str(error) for words in denials)
    kind = errors.AccessDenied if denied else errors.Unavailable
    return kind(f"PostgreSQL at {where}: {error}")


class Pool:
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

    def dial(self, at_most: float | None = None) -> Connection:
        """Return a connection of the caller's own.

        Raises: ``Unavailable``, ``AccessDenied``; nothing was asked yet.
        """
        try:
            return connect(self._words, min(self._connect_timeout, at_most or math.inf))
        except (psycopg.Error, OSError) as error:
            where = f"{self._words['host']}:{self._words['port']}"
            raise _refused(where, error) from error

    def ask(
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
        """Lend a connection, with the time limit of one verb; translate what goes wrong on it."""
        connection = self._take(timeout)
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

    def _take(self, at_most: float | None) -> Connection:
        while self._idle:
            with contextlib.suppress(IndexError):  # another thread was quicker
                connection = self._idle.pop()
                # Nobody asked it anything: if there is something to read, it is the good-bye of a
                # server that went away. Found here, it is surely not applied.
                if not connection.closed and not select.select([connection], [], [], 0)[0]:
                    return connection
                connection.close()
        return self.dial(at_most)

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
    if state == LATE or state.startswith(
        MAY_PASS
    ):  # the server answered: the statement was rolled back
        return errors.Unavailable(f"PostgreSQL: {said}")
    detail = f" ({error.diag.message_detail})" if error.diag.message_detail else ""
    return errors.BackendError(f"PostgreSQL: {said}{detail}")


def reading(error: errors.Indeterminate) -> errors.Unavailable:
    """Return the error of a verb that changes nothing: it was surely not applied."""
    return errors.Unavailable(str(error))
