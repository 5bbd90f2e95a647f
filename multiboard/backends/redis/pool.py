# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The connections to the Redis server of a board: made lazily, never shared, never retried.

It imports the errors, the connection and the scripts, and has nothing of boards and of how a server
is located. The library's own clients and pools are not used: they repeat commands, and hide
whether one was sent.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Sequence
from typing import Any

from redis import exceptions as native

from multiboard import errors
from multiboard.backends.redis.client import Connection, packed
from multiboard.backends.redis.errors import MovedError, NotMasterError, translate_error
from multiboard.backends.redis.position import HighWaterMark
from multiboard.backends.redis.script_loader import ScriptCall
from multiboard.backends.redis.topology import CHECKED_FOR, ServerLocator
from multiboard.primitives import interrupts

#: Seconds for which a change may be repeated, as the primitives promise.
REPEATED_WITHIN = 60.0
#: How often in a row a node of a Redis Cluster may name another one.
REDIRECTIONS = 3

#: Seconds for which a connection that was just used is taken to be alive.
FRESH = 0.05


class ConnectionPool:
    """The connections of one backend in one process. Thread-safe.

    A connection belongs to one call at a time. ``call_timeout`` is how many seconds a call waits
    for its reply.
    """

    def __init__(
        self, locator: ServerLocator, call_timeout: float, mark: HighWaterMark, replicas: int = 0
    ) -> None:
        """With ``replicas``, that many must have the change of a call with a ``touch``."""
        self.locator = locator
        self._mark = mark
        self.call_timeout = call_timeout
        self._replicas = replicas
        # In milliseconds, and never 0, which is for ever. The socket waits twice as long.
        self._wait = max(1, int(call_timeout * 500))
        #: Until when something is written behind each change, since one is indeterminate.
        self._touch_until = 0.0
        self._lock = threading.Lock()
        #: Idle connections, the one that was used last on top, and when that was.
        self._idle: list[tuple[Connection, float]] = []
        #: Those that :meth:`close` cuts short; weakly, since their thread may be interrupted.
        self._waiting: weakref.WeakSet[Connection] = weakref.WeakSet()
        self.closed = False

    def close(self) -> None:
        """Close idle connections, and wake the readers. A call in flight goes on."""
        with self._lock:
            self.closed = True
            idle, self._idle = self._idle, []
            for connection in list(self._waiting):
                connection.interrupt()
        for connection, _ in idle:
            connection.close()
        self.locator.close()

    def run(
        self,
        call: ScriptCall,
        args: Sequence[Any],
        *,
        within: float | None = None,
        wakes: bool = False,
    ) -> Any:
        """Run a script; with ``wakes``, :meth:`close` cuts it short.

        The first argument is the caller's tag with the board's incarnation; the high-water mark is
        added to it, and noted from the reply. The script that opens the board has neither.

        Raises: ``Unavailable``, ``Indeterminate`` (unless it changes nothing), ``AccessDenied``,
        ``WrongTypeError``, ``Closed``.
        """
        redirections = 0
        give_up = None if within is None else time.monotonic() + within
        while True:
            left = self.call_timeout if give_up is None else give_up - time.monotonic()
            connection = self.checkout(max(0.001, left), wakes)
            try:
                return self._run_on(connection, call, args)
            except MovedError as error:  # which has not run it
                redirections += 1
                if redirections > REDIRECTIONS or not self.locator.follow(error):
                    raise
            finally:
                self.checkin(connection, wakes)

    def query(self, *command: Any, block: float = 0.0) -> Any:
        """Run a command that changes nothing; it may block for ``block`` seconds in the server.

        Raises: ``Unavailable``, ``AccessDenied``, ``WrongTypeError``, ``Closed``.
        """
        connection = self.checkout(self.call_timeout + block, wakes=True)
        try:
            return self._exchange(connection, packed(command), blocks=bool(block))
        except MovedError as error:
            self.locator.follow(error)  # for the next call
            raise
        finally:
            self.checkin(connection, wakes=True)

    # -- one connection ----------------------------------------------------------------------

    def checkout(self, within: float, wakes: bool) -> Connection:
        """Return a connection that is connected, and waits for replies so long."""
        now = time.monotonic()
        with self._lock:
            if self.closed:
                raise errors.Closed("the redis board was closed")
            connection, used_at = self._idle.pop() if self._idle else (None, now)
        # To check the socket costs a tenth of a call: one that was just used is taken as it is.
        while connection is not None and not (
            self.locator.is_current(connection, now)
            and (now - used_at <= FRESH or connection.usable())
        ):
            connection.close()
            with self._lock:
                connection, used_at = self._idle.pop() if self._idle else (None, now)
        if connection is None:
            connection = self.locator.connect(within)
            within = max(within / 2, within - (time.monotonic() - now))
            self._wake_others(connection)
        connection.set_timeout(within)
        if wakes:
            with self._lock:
                if not self.closed:
                    self._waiting.add(connection)
                    return connection
            connection.close()
            raise errors.Closed("the redis board was closed")
        return connection

    def _wake_others(self, found: Connection) -> None:
        """Wake the readers that wait in another server than the one that was just found."""
        with self._lock:
            for connection in list(self._waiting):
                if connection.address != found.address:
                    connection.interrupt()

    def checkin(self, connection: Connection, wakes: bool) -> None:
        """Keep a connection for the next call, unless it broke or has a reply to come."""
        with self._lock:
            if wakes:
                self._waiting.discard(connection)
            keep = not self.closed and not connection.closed and not connection.owed
            if keep:
                self._idle.append((connection, time.monotonic()))
        if not keep:
            connection.close()

    def _run_on(self, connection: Connection, call: ScriptCall, args: Sequence[Any]) -> Any:
        """Run a script on a connection, in full where the server has not cached it."""
        exchange = self._exchange if call.touch is None else self._run_replicated
        if call.script.name != "open":
            args = (f"{args[0]} {self._mark.of(connection.address)}", *args[1:])
        try:
            reply = exchange(connection, call.packed(args), call)
        except errors.Unavailable as error:
            if not isinstance(error.__cause__, native.NoScriptError):
                raise
            reply = exchange(connection, call.in_full(args), call)
        self._mark.note(connection.address, reply.pop(0))
        return reply

    def _run_replicated(self, connection: Connection, command: bytes, call: ScriptCall) -> Any:
        """Run a script, and return its reply when replicas have what it changed.

        A repeat finds the change made and makes none, maybe on another connection, and WAIT
        waits for what its own connection wrote. So while there may be a repeat, something is
        written behind every change. When the repeat is done is unknown: a command that is
        in flight may overtake others.
        """
        touch = (call.touch or b"") if time.monotonic() < self._touch_until else b""
        wait = packed(("WAIT", self._replicas, self._wait))
        try:
            commands = b"%b%b%b" % (command, touch, wait)
            reply = self._exchange(connection, commands, call, replies=3 if touch else 2)
        except errors.Indeterminate:
            connection.close()
            self._expect_repeats()
            raise
        except errors.BackendError:
            self._remaining_replies(connection, 2 if touch else 1)
            raise
        *_, have = self._remaining_replies(connection, 2 if touch else 1)
        if reply[1] != b"OK":
            return reply  # and nothing was changed
        if isinstance(have, int) and have >= self._replicas:
            return reply
        self._expect_repeats()
        if isinstance(have, int):
            seconds = self._wait / 1000
            why = f"{have} of {self._replicas} replicas have the change after {seconds:g} s"
            raise errors.Indeterminate(f"{connection.address}: {why}")
        why = str(translate_error(connection.address, have, sent=True, read_only=False))
        raise errors.Indeterminate(
            f"{why}; whether replicas have the change is not known"
        ) from have

    def _expect_repeats(self) -> None:
        self._touch_until = time.monotonic() + REPEATED_WITHIN

    def _remaining_replies(self, connection: Connection, count: int) -> list[Any]:
        """Return so many further replies, or errors in their place; after a broken end, no more."""
        replies: list[Any] = []
        for _ in range(0 if connection.closed else count):
            try:
                replies.append(connection.next_reply())
            except native.ResponseError as error:
                replies.append(error)
            except Exception as error:
                connection.close()
                if interrupts.is_interrupt(error):
                    raise
                self.locator.on_failure(connection)
                return [*replies, error]
            except BaseException:
                connection.close()
                raise
        return replies

    def _exchange(
        self,
        connection: Connection,
        command: bytes,
        call: ScriptCall | None = None,
        *,
        blocks: bool = False,
        replies: int = 1,
    ) -> Any:
        """Return the first reply to a command, which changes nothing where it is no call.

        ``blocks``: the command may wait in the server.
        """
        address, read_only = connection.address, call is None or call.script.read_only
        begun = time.monotonic()
        try:
            reply = connection.call(command, replies)
        except native.ResponseError as error:
            failure = translate_error(address, error, sent=True, read_only=read_only)
            if isinstance(failure, NotMasterError):
                connection.close()
                self.locator.on_failure(connection)
            raise failure from error
        except Exception as error:
            connection.close()
            if interrupts.is_interrupt(error):
                raise
            self.locator.on_failure(connection)
            raise translate_error(address, error, sent=True, read_only=read_only) from error
        except BaseException:
            connection.close()  # a reply to come would be taken for the next call's
            raise
        now = time.monotonic()
        slow = now - begun > CHECKED_FOR
        if slow and not blocks and read_only and not self.locator.is_current(connection, now):
            # It may have been frozen during a failover: what it replied may be out of date.
            connection.close()
            raise errors.Unavailable(f"{address}: was replaced before it replied")
        return reply
