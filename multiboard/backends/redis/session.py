# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""One board in a Redis server: it is opened, and its scripts are run, by a session or without one.

Each process has connections and a session of its own, a forked child too. The failures that concern
the whole board are raised here. It imports the errors, the scripts and the pool.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from multiboard import errors
from multiboard.backends.redis.errors import MovedError, WrongTypeError
from multiboard.backends.redis.pool import ConnectionPool
from multiboard.backends.redis.position import HighWaterMark
from multiboard.backends.redis.records import FORMAT, KEYS, keys_of
from multiboard.backends.redis.script_loader import FAST, UNAWAITED, ScriptCall, ScriptCalls
from multiboard.backends.redis.topology import ServerLocator

#: Seconds for which :meth:`RedisBackend.close` tries to end the session at once.
CLOSE_TIMEOUT = 0.25


@dataclass
class _Session:
    """A session of this process. The client chooses its number, so that a repeat finds it."""

    number: str
    #: A reply showed that the store has it: from then on, its absence means that it ended.
    begun: bool = False


class _ProcessState:
    """What a backend has in one process; a forked child gets its own."""

    def __init__(self, pool: ConnectionPool) -> None:
        self.pool = pool
        self.lock = threading.Lock()
        self.session: _Session | None = None
        self._name = f"w{secrets.token_hex(8)[1:]}"
        self._losses = 0
        #: A part of every request: the name of the process, and how many replies it lost.
        self.tag = f"{self._name}{0:09}"
        #: The last tag that the store noted: what was sent with an earlier one is late.
        self.noted = self.tag

    def lost_reply(self, tag: str) -> None:
        """Make void what was sent with this tag, once the store has noted the next one."""
        with self.lock:
            if tag == self.tag:
                self._losses += 1
                self.tag = f"{self._name}{self._losses:09}"

    def ensure_session(self) -> _Session:
        """Return the session; a new one, which the store has to begin, where there is none."""
        with self.lock:
            if self.session is None:
                # 52 bits: it also serves as the score in a sorted set, which is a double.
                self.session = _Session(str(secrets.randbelow((1 << 52) - 1) + 1))
            return self.session

    def drop_session(self, session: _Session) -> None:
        """Forget a session that has ended."""
        with self.lock:
            if self.session is session:
                self.session = None


class Board:
    """The scripts of one board. Thread-safe and fork-safe."""

    def __init__(
        self,
        make_locator: Callable[[], ServerLocator],
        keys: Mapping[str, str],
        namespace: str,
        call_timeout: float,
        replicas: int = 0,
    ) -> None:
        """Work on the board of these keys, on the server that a process's locator finds.

        A change is acknowledged when so many ``replicas`` have it too.
        """
        self.address = str(make_locator())
        self.keys = keys
        self.replicas = replicas
        self._make_locator = make_locator
        self._namespace = namespace
        self._call_timeout = call_timeout
        #: By process id. An entry that a forked child inherited is kept and never touched:
        #: dropping it would close the parent's connections.
        self._processes: dict[int, _ProcessState] = {}
        self._incarnation: str | None = None
        #: How far the board had come; a forked child goes on from it.
        self.mark = HighWaterMark()
        #: Why the board is lost, for good.
        self._lost: str | None = None
        self._calls = ScriptCalls(keys, replicas)
        #: Known once it was opened; empty and False where the server hides them.
        self.version = ""
        self.appends = False

    @property
    def incarnation(self) -> str:
        if self._incarnation is None:
            raise errors.Closed("the redis board is not open")
        return self._incarnation

    def open(self, within: float, create: bool = True) -> None:
        """Find the board or, with ``create``, make it: connecting, and one call."""
        if self._incarnation is not None:
            return
        self.mark, self._lost = HighWaterMark(), None
        self._calls = ScriptCalls(self.keys, self.replicas)  # they hold the incarnation
        pool = self._make_pool()
        try:
            made = uuid.uuid4().hex if create else ""
            reply = self._run_checked(pool, "open", (made, FORMAT), within=within)
            self._check_opened(reply)
            if self.replicas:  # a right that is missing must not show behind the first change
                pool.query("WAIT", 0, 1)
        except MovedError as error:
            pool.close()
            raise errors.Unsupported(str(error)) from error.__cause__
        except errors.Indeterminate as error:  # the board was made, or not: a repeat finds it
            pool.close()
            raise errors.Unavailable(str(error)) from error.__cause__
        except BaseException:
            pool.close()
            raise
        self.version = reply[2].decode()
        self.appends = reply[3] == b"1"
        self._processes[os.getpid()] = _ProcessState(pool)
        self._incarnation = reply[1].decode()

    def _check_opened(self, reply: Sequence[bytes]) -> None:
        status, found = reply[0], reply[1].decode()
        if status == b"OLD":
            raise errors.Unsupported(
                f"{self.address}: Redis 6.2 or newer is needed, the server is {found}"
            )
        if status == b"NONE":
            raise errors.BoardNotFound(self._namespace, self.address)
        if status == b"FORMAT":
            raise errors.Unsupported(
                f"{self.address}: the board {self._namespace!r} has format {found!r}, this version"
                f" of multiboard needs {FORMAT!r}"
            )

    def namespaces(self, prefix: str, within: float) -> list[str]:
        """Return the names of the boards under a prefix, on any server that the locator finds.

        Raises: ``Unavailable``, ``AccessDenied``.
        """
        give_up = time.monotonic() + within
        meta = re.compile(keys_of(re.escape(prefix), "(.*)")["meta"].replace("{", r"\{"), re.DOTALL)
        pattern = keys_of(re.sub(r"([*?\[\]^\\])", r"\\\1", prefix), "*")["meta"]
        names: set[str] = set()
        locator = self._make_locator()
        try:
            for connection in locator.connect_all(within):
                for key in connection.scan(pattern, give_up):
                    found = meta.fullmatch(key.decode("utf-8", "replace"))
                    names.update(found.groups() if found is not None else ())
        finally:
            locator.close()
        return sorted(names)

    def close(self) -> None:
        """End this process's session, as far as that is quick, and drop its connections."""
        process = self._processes.pop(os.getpid(), None)
        incarnation, self._incarnation = self._incarnation, None
        if process is None:
            return
        if process.session is not None:
            args = (f"{process.tag}{incarnation}", process.session.number)
            with contextlib.suppress(errors.MultiboardError):  # then it ends by its time-out
                self._run_checked(process.pool, "close", args, within=CLOSE_TIMEOUT)
        process.pool.close()

    def run(
        self,
        name: str,
        *args: Any,
        wakes: bool = False,
        fast: bool = False,
        within: float | None = None,
    ) -> Any:
        """Run a script on the board that was opened; return its whole reply.

        With ``fast``, it is most likely the frequent case, for which there is a cheaper script.
        ``within`` so many seconds, where that is shorter than the time-out of a call.

        Raises: what :meth:`ConnectionPool.run` raises, ``BoardLost``.
        """
        incarnation, process = self.incarnation, self._process()
        # A fast script does not note that a reply was lost.
        if fast and process.tag == process.noted:
            reply = self.run(name + FAST, *args, wakes=wakes)
            if reply[0] != b"OTHER":
                return reply
        if self._lost is not None:
            raise errors.BoardLost(self._lost)
        reply = self._run_tagged(process, name, incarnation, args, within, wakes)
        if reply[0] == b"LOST":
            raise errors.BoardLost(
                f"{self.address}: the board {self._namespace!r} that was opened is gone: the store"
                " came back empty, or was emptied"
            )
        if reply[0] == b"BACK":
            # For good: the store goes on, and may soon have come as far by other changes.
            self._lost = (
                f"{self.address}: the board {self._namespace!r} was put back to an earlier state,"
                " or the server lost its last changes"
            )
            raise errors.BoardLost(self._lost)
        return reply

    def _run_tagged(
        self,
        process: _ProcessState,
        name: str,
        incarnation: str,
        args: Sequence[Any],
        within: float | None,
        wakes: bool,
    ) -> Any:
        """Run a script under the tag of a process; run it again where the tag was an old one."""
        if within is not None:
            within = min(within, process.pool.call_timeout)
        while True:
            tag = process.tag
            try:
                tagged = (tag + incarnation, *args)
                reply = self._run_checked(process.pool, name, tagged, within=within, wakes=wakes)
            except errors.MultiboardError as error:
                if isinstance(error, errors.Indeterminate) and name not in UNAWAITED:
                    process.lost_reply(tag)
                if isinstance(error, errors.BackendError) and wakes and process.pool.closed:
                    raise errors.Closed("the redis board was closed") from error
                raise
            except BaseException:  # the thread that waited for the reply was interrupted
                process.lost_reply(tag)
                raise
            if reply[0] != b"LATE":
                if not name.endswith(FAST) and not self._call(name).script.read_only:
                    process.noted = tag
                return reply
            if tag == process.tag:
                raise errors.Unavailable(
                    f"{self.address}: took a request for one that was given up before"
                )

    def run_in_session(
        self,
        name: str,
        timeout: int,
        args: Sequence[Any],
        fast: bool = False,
        within: float | None = None,
    ) -> tuple[Any, str]:
        """Run a script under the session, begun where there is none; return its number too.

        Raises: ``SessionLost``, and what :meth:`run` raises.
        """
        process = self._process()
        session = process.ensure_session()
        fast = fast and session.begun
        begin = int(not session.begun)
        reply = self.run(name, session.number, begin, timeout, *args, fast=fast, within=within)
        if reply[0] == b"SESSION":
            process.drop_session(session)
            raise errors.SessionLost("the session ended: it was not renewed in time")
        session.begun = True
        return reply, session.number

    def query(self, *command: Any, block: float = 0.0) -> Any:
        """Run a command that changes nothing; it may block for ``block`` seconds in the server."""
        pool = self._process().pool
        try:
            return pool.query(*command, block=block)
        except WrongTypeError as error:
            raise self._name_wrong_key(pool, error) from error.__cause__
        except errors.BackendError as error:
            if pool.closed:
                raise errors.Closed("the redis board was closed") from error
            raise

    def _process(self) -> _ProcessState:
        process = self._processes.get(os.getpid())
        if process is not None:
            return process
        if self._incarnation is None:
            raise errors.Closed("the redis board is not open")
        # In a forked child: the board is the same, connections and session are its own.
        mine = _ProcessState(self._make_pool())
        return self._processes.setdefault(os.getpid(), mine)

    @property
    def server(self) -> str:
        """The server that was found last, for people to read."""
        process = self._processes.get(os.getpid())
        found = None if process is None else process.pool.locator.server
        return self.address if found is None else str(found)

    def _make_pool(self) -> ConnectionPool:
        return ConnectionPool(self._make_locator(), self._call_timeout, self.mark, self.replicas)

    def _run_checked(
        self,
        pool: ConnectionPool,
        name: str,
        args: Sequence[Any],
        *,
        within: float | None = None,
        wakes: bool = False,
    ) -> Any:
        call = self._call(name)
        try:
            reply = pool.run(call, args, within=within, wakes=wakes)
        except WrongTypeError as error:
            raise self._name_wrong_key(pool, error) from error.__cause__
        if reply[0] == b"DENIED":
            command = reply[1].decode()
            raise errors.AccessDenied(
                f"{self.address}: the user has no right to {command} on the board's keys (ACL"
                f" SETUSER ... +{command.lower()}); nothing was changed"
            )
        return reply

    def _call(self, name: str) -> ScriptCall:
        return self._calls.get(name, self.version, self._incarnation)

    def _name_wrong_key(self, pool: ConnectionPool, error: WrongTypeError) -> errors.BackendError:
        """Return the error that names the key in the way, where the account may find it out."""
        with contextlib.suppress(errors.MultiboardError):
            for name, key in self.keys.items():
                found = pool.query("TYPE", key).decode()
                if found not in (KEYS[name], "none"):
                    return WrongTypeError(
                        f"{self.address}: the key {key!r} holds a {found}, not the board's"
                        f" {KEYS[name]}; nothing was changed"
                    )
        return error
