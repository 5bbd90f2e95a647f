# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""One board in a Redis server, as scripts that can be called.

It opens the board, keeps what each process has of it (connections and a session), and tells the
failures that concern the whole board. It imports the errors and the connections.
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
from multiboard.backends.redis.marks import Mark
from multiboard.backends.redis.pool import PLAIN, Call, Connections, Script, script
from multiboard.backends.redis.server import Elsewhere, WrongType
from multiboard.backends.redis.topology import Finder

#: Of the keys and values in the store. Another version must refuse the board, not misread it.
FORMAT = "1"
#: The keys of a board, with the type of each.
KEYS = {
    "meta": "hash",
    "feed": "stream",
    "gone": "zset",
    "consumed": "hash",
    "sessions": "zset",
    "present": "zset",
    "timed": "zset",
    "index": "zset",
    "delayed": "zset",
    "claims": "hash",
    "live": "zset",
    "live:state": "hash",
    "live:body": "hash",
    "trash": "zset",
    "trash:state": "hash",
    "trash:body": "hash",
    "entities": "zset",
    "entities:state": "hash",
    "entities:body": "hash",
}


def keys_of(prefix: str, namespace: str) -> Mapping[str, str]:
    """Return the keys of a board; they have one hash tag, and so one node of a cluster."""
    return {name: f"{prefix}:{{{namespace}}}:{name}" for name in KEYS}


#: The scripts that write and whose changes need not be waited for: those that open and close, and
#: the one that ends what is over, which whoever takes over does again.
UNAWAITED = {"open", "close", "changes"}
#: Seconds for which :meth:`RedisBackend.close` tries to end the session at once.
FAREWELL = 0.25


@dataclass
class _Session:
    """A session as this process knows it. The client names it, so that a repeat finds it."""

    number: str
    #: An answer showed that the store knows it: from then on, not being there means it ended.
    begun: bool = False


class _Process:
    """What a backend has in one process; a forked child gets its own."""

    def __init__(self, connections: Connections) -> None:
        self.connections = connections
        self.lock = threading.Lock()
        self.session: _Session | None = None
        self._name = f"w{secrets.token_hex(8)[1:]}"
        self._losses = 0
        #: What every request says of the process: its name, and how many answers it lost.
        self.mark = f"{self._name}{0:09}"
        #: The mark that the store is known to have, so that what was sent before is late.
        self.noted = self.mark

    def lost_answer(self, mark: str) -> None:
        """Let what was sent with this mark be void once the store has the next one."""
        with self.lock:
            if mark == self.mark:
                self._losses += 1
                self.mark = f"{self._name}{self._losses:09}"

    def attend(self) -> _Session:
        with self.lock:
            if self.session is None:
                # 52 bits: it also serves as the score in a sorted set, which is a double.
                self.session = _Session(str(secrets.randbelow((1 << 52) - 1) + 1))
            return self.session

    def lose(self, session: _Session) -> None:
        with self.lock:
            if self.session is session:
                self.session = None


class Board:
    """The scripts of one board. Thread-safe and fork-safe."""

    def __init__(
        self,
        find: Callable[[], Finder],
        keys: Mapping[str, str],
        namespace: str,
        patience: float,
        replicas: int = 0,
    ) -> None:
        """Work on the board of these keys, on the server that a process's finder finds.

        What changes it is done when so many ``replicas`` have it too.
        """
        self.address = str(find())
        self.keys = keys
        self.replicas = replicas
        self._find = find
        self._namespace = namespace
        self._patience = patience
        #: By process id. An entry that a forked child inherited is kept and never touched:
        #: dropping it would close the parent's connections.
        self._processes: dict[int, _Process] = {}
        self._incarnation: str | None = None
        #: How far the board had come; a forked child goes on from it. And why it is lost, for good.
        self.mark = Mark()
        self._lost: str | None = None
        self._calls: dict[tuple[str, str], Call] = {}
        #: Known once it was opened; empty and False where the server does not tell.
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
        self.mark, self._lost = Mark(), None
        connections = self._connections()
        try:
            made = uuid.uuid4().hex if create else ""
            reply = self._checked(connections, "open", (made, FORMAT), within=within)
            self._judge(reply)
            if self.replicas:  # a right that is missing must not show behind the first change
                connections.ask("WAIT", 0, 1)
        except Elsewhere as error:
            connections.close()
            raise errors.Unsupported(str(error)) from error.__cause__
        except errors.Indeterminate as error:  # a board was made, or not: it is found again
            connections.close()
            raise errors.Unavailable(str(error)) from error.__cause__
        except BaseException:
            connections.close()
            raise
        self.version = reply[2].decode()
        self.appends = reply[3] == b"1"
        self._processes[os.getpid()] = _Process(connections)
        self._incarnation = reply[1].decode()

    def _judge(self, reply: Sequence[bytes]) -> None:
        status, told = reply[0], reply[1].decode()
        if status == b"OLD":
            raise errors.Unsupported(
                f"{self.address}: Redis 6.2 or newer is needed, the server is {told}"
            )
        if status == b"NONE":
            raise errors.BoardNotFound(self._namespace, self.address)
        if status == b"FORMAT":
            raise errors.Unsupported(
                f"{self.address}: the board {self._namespace!r} has format {told!r}, this version"
                f" of multiboard needs {FORMAT!r}"
            )

    def namespaces(self, prefix: str, within: float) -> list[str]:
        """Return the names of the boards under a prefix, on any server that the finder knows.

        Raises: ``Unavailable``, ``AccessDenied``.
        """
        give_up = time.monotonic() + within
        meta = re.compile(keys_of(re.escape(prefix), "(.*)")["meta"].replace("{", r"\{"), re.DOTALL)
        pattern = keys_of(re.sub(r"([*?\[\]^\\])", r"\\\1", prefix), "*")["meta"]
        names: set[str] = set()
        finder = self._find()
        try:
            for line in finder.connect_all(within):
                for key in line.scan(pattern, give_up):
                    found = meta.fullmatch(key.decode("utf-8", "replace"))
                    names.update(found.groups() if found is not None else ())
        finally:
            finder.close()
        return sorted(names)

    def close(self) -> None:
        """End this process's session, as far as that is quick, and drop its connections."""
        process = self._processes.pop(os.getpid(), None)
        incarnation, self._incarnation = self._incarnation, None
        if process is None:
            return
        if process.session is not None:
            args = (f"{process.mark}{incarnation}", process.session.number)
            with contextlib.suppress(errors.MultiboardError):  # then it ends by its time-out
                self._checked(process.connections, "close", args, within=FAREWELL)
        process.connections.close()

    def run(
        self,
        name: str,
        *args: Any,
        wakes: bool = False,
        plain: bool = False,
        within: float | None = None,
    ) -> Any:
        """Run a script on the board that was opened; return its whole reply.

        With ``plain``, it is most likely the plain case, for which there is a cheaper script.
        ``within`` so many seconds, where that is sooner than a call is given up anyway.

        Raises: what :meth:`Connections.run` raises, ``BoardLost``.
        """
        incarnation, process = self.incarnation, self._process()
        # A plain script does not note that an answer was lost.
        if plain and process.mark == process.noted:
            reply = self.run(name + PLAIN, *args, wakes=wakes)
            if reply[0] != b"OTHER":
                return reply
        if self._lost is not None:
            raise errors.BoardLost(self._lost)
        reply = self._sent(process, name, incarnation, args, within, wakes)
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

    def _sent(
        self,
        process: _Process,
        name: str,
        incarnation: str,
        args: Sequence[Any],
        within: float | None,
        wakes: bool,
    ) -> Any:
        """Run a script under the mark of a process; ask again where that was an old one."""
        patience = process.connections.patience
        within = None if within is None else min(within, patience)
        while True:
            mark = process.mark
            try:
                marked = (mark + incarnation, *args)
                reply = self._checked(process.connections, name, marked, within=within, wakes=wakes)
            except errors.MultiboardError as error:
                if isinstance(error, errors.Indeterminate) and name not in UNAWAITED:
                    process.lost_answer(mark)
                if isinstance(error, errors.BackendError) and wakes and process.connections.closed:
                    raise errors.Closed("the redis board was closed") from error
                raise
            except BaseException:  # whoever waited for the answer was interrupted
                process.lost_answer(mark)
                raise
            if reply[0] != b"LATE":
                if not name.endswith(PLAIN) and not self._call(name).script.read_only:
                    process.noted = mark
                return reply
            if mark == process.mark:
                raise errors.Unavailable(f"{self.address}: took a request for one given up before")

    def attended(
        self,
        name: str,
        timeout: int,
        args: Sequence[Any],
        plain: bool = False,
        within: float | None = None,
    ) -> tuple[Any, str]:
        """Run a script under the session, begun where there is none; return its number too.

        Raises: ``SessionLost``, and what :meth:`run` raises.
        """
        process = self._process()
        session = process.attend()
        plain = plain and session.begun
        begin = int(not session.begun)
        reply = self.run(name, session.number, begin, timeout, *args, plain=plain, within=within)
        if reply[0] == b"SESSION":
            process.lose(session)
            raise errors.SessionLost("the session ended: it was not renewed in time")
        session.begun = True
        return reply, session.number

    def ask(self, *command: Any, block: float = 0.0) -> Any:
        """Run a command that changes nothing; it may block for ``block`` seconds in the server."""
        connections = self._process().connections
        try:
            return connections.ask(*command, block=block)
        except WrongType as error:
            raise self._named(connections, error) from error.__cause__
        except errors.BackendError as error:
            if connections.closed:
                raise errors.Closed("the redis board was closed") from error
            raise

    def _process(self) -> _Process:
        process = self._processes.get(os.getpid())
        if process is not None:
            return process
        if self._incarnation is None:
            raise errors.Closed("the redis board is not open")
        # In a forked child: the board is the same, connections and session are its own.
        mine = _Process(self._connections())
        return self._processes.setdefault(os.getpid(), mine)

    @property
    def server(self) -> str:
        """The server that was found last, for people to read."""
        process = self._processes.get(os.getpid())
        found = None if process is None else process.connections.finder.server
        return self.address if found is None else str(found)

    def _connections(self) -> Connections:
        return Connections(self._find(), self._patience, self.mark, self.replicas)

    def _checked(
        self,
        connections: Connections,
        name: str,
        args: Sequence[Any],
        *,
        within: float | None = None,
        wakes: bool = False,
    ) -> Any:
        call = self._call(name)
        try:
            reply = connections.run(call, args, within=within, wakes=wakes)
        except WrongType as error:
            raise self._named(connections, error) from error.__cause__
        if reply[0] == b"DENIED":
            command = reply[1].decode()
            raise errors.AccessDenied(
                f"{self.address}: the user has no right to {command} on the board's keys (ACL"
                f" SETUSER ... +{command.lower()}); nothing was changed"
            )
        return reply

    def _call(self, name: str) -> Call:
        return self._calls.get((name, self.version)) or self._made(name)

    def _made(self, name: str) -> Call:
        # A server reads flags in a script's first line from 7.0; one that hides its version is
        # older, since from then on scripts know it.
        flags = int(self.version.partition(".")[0] or 0) >= 7
        what, touch = script(name, flags), None
        if self.replicas and not what.read_only and name not in UNAWAITED:
            # What is known of how far the board has come is added where it is sent.
            mark = f"{'-':16}{0:09}{self.incarnation} 0"
            touch = self._call_of(script("touch", flags)).in_full((mark,))
        call = self._calls[name, self.version] = self._call_of(what, touch)
        return call

    def _call_of(self, what: Script, touch: bytes | None = None) -> Call:
        return Call(what, [self.keys[name] for name in what.keys], touch)

    def _named(self, connections: Connections, error: WrongType) -> errors.BackendError:
        """Return the error that names the key in the way, where the server lets one look."""
        with contextlib.suppress(errors.MultiboardError):
            for name, key in self.keys.items():
                found = connections.ask("TYPE", key).decode()
                if found not in (KEYS[name], "none"):
                    return WrongType(
                        f"{self.address}: the key {key!r} holds a {found}, not the board's"
                        f" {KEYS[name]}; nothing was changed"
                    )
        return error
