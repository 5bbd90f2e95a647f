# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Connections to the Redis server of a board: made lazily, never shared, never retried.

It knows the scripts' files and how a call fails: nothing of boards, and of how a server is found
only whom to ask. It imports the errors and ``redis``.
The library's own clients and pools are not used: they repeat commands, and hide whether one was
sent.
"""

from __future__ import annotations

import functools
import hashlib
import pathlib
import re
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from redis import exceptions as native

from multiboard import errors
from multiboard.backends.redis import rights
from multiboard.backends.redis.marks import Mark
from multiboard.backends.redis.server import (
    Deposed,
    Elsewhere,
    Line,
    bulk,
    packed,
    told,
)
from multiboard.backends.redis.topology import CHECKED_FOR, Finder
from multiboard.primitives import interrupts

_SCRIPTS = pathlib.Path(__file__).with_name("scripts")
#: The scripts that do without ``_reaping.lua``: claims with an expiry and batches of removals are
#: theirs, and each call makes anew what functions stand before it.
_LEAN = ("acquire", "remove")
#: How the name ends of a script for the plain case of another, which it leaves all others to.
PLAIN = "_plain"

#: Seconds for which a change may be repeated, as the primitives promise.
REPEATED_WITHIN = 60.0
#: How often in a row a node of a Redis Cluster may name another one.
REDIRECTIONS = 3

#: Seconds for which a connection that was just used is taken to be alive.
FRESH = 0.05


@dataclass(frozen=True)
class Script:
    """A step in the store."""

    name: str
    text: str
    sha: str
    #: It changes nothing: when its answer is lost, nothing is in doubt.
    read_only: bool
    #: What it calls its keys, in their order.
    keys: tuple[str, ...]


@functools.cache
def script(name: str, flags: bool) -> Script:
    """Return a script, with what stands before it; ``flags`` where the server knows them (7.0)."""
    own = (_SCRIPTS / f"{name}.lua").read_text("utf-8")
    found = re.search(r"^-- flags: (\S+)$", own, re.MULTILINE)
    read_only = found is not None and found.group(1) == "no-writes"
    parts = [_SCRIPTS / f"{part}.lua" for part in _parts(name, read_only)]
    texts = [part.read_text("utf-8") for part in parts]
    keys = tuple(" ".join(re.findall(r"^-- keys: (.+)$", "".join(texts), re.MULTILINE)).split())
    names = ", ".join(key.upper().replace(":", "_") for key in keys)
    if name == "open":  # which is for servers of unknown age, and checks for all scripts
        commands = _commands()
        at_first = [name for name in commands if name not in ("HSET", "HSETNX")]
        texts[:0] = [rights.check(commands), rights.check_writes(at_first)]
    else:
        commands = rights.called("".join(texts))
        # The first part finds out whether this is the board that was opened.
        texts[:1] = [rights.check(commands), texts[0], rights.check_writes(commands)]
    text = "\n".join([f"local {names} = unpack(KEYS)", *texts])
    if name != "open":
        if flags:
            text = f"#!lua flags={found.group(1)}\n{text}" if found else f"#!lua\n{text}"
        elif found and not read_only:
            # Servers before 7 judge by a script's first write whether it needs memory.
            text = f"redis.pcall('HDEL', KEYS[1], 'allow-oom')\n{text}"
    return Script(name, text, hashlib.sha1(text.encode()).hexdigest(), read_only, keys)


def _commands() -> tuple[str, ...]:
    """Return every command that a board's account needs."""
    texts = [path.read_text("utf-8") for path in sorted(_SCRIPTS.glob("*.lua"))]
    return tuple(dict.fromkeys((*rights.called("".join(texts)), *rights.BESIDES)))


def _parts(name: str, read_only: bool) -> Iterator[str]:
    """Return what a script is put together from."""
    if name != "open":
        yield "_clock"
        if not name.endswith(PLAIN):
            yield "_common"
            if not read_only:
                yield "_writing"
                if name not in _LEAN:
                    yield "_reaping"
    yield name


class Call:
    """A script and the keys that it is called with, packed once: a call adds its arguments."""

    def __init__(self, what: Script, keys: Sequence[str], touch: bytes | None = None) -> None:
        """With ``touch``, a command that writes, replicas must have what the script changed."""
        self.script = what
        self.touch = touch
        self._keys = keys
        self._count = 3 + len(keys)
        self._head = b"".join(bulk(part) for part in ("EVALSHA", what.sha, len(keys), *keys))

    def packed(self, args: Sequence[Any]) -> bytes:
        """Return the command as it goes over the wire."""
        # Not by hiredis' pack_command, which can crash the process where a signal handler raises.
        tail = b"".join([bulk(part) for part in args])
        return b"*%d\r\n%b%b" % (self._count + len(args), self._head, tail)

    def in_full(self, args: Sequence[Any]) -> bytes:
        """Return the command with the script's text, for a server that does not know it yet."""
        return packed(("EVAL", self.script.text, len(self._keys), *self._keys, *args))


class Connections:
    """The connections of one backend in one process. Thread-safe.

    A connection belongs to one call at a time. ``patience`` is how many seconds a call waits for
    its answer.
    """

    def __init__(self, finder: Finder, patience: float, mark: Mark, replicas: int = 0) -> None:
        """With ``replicas``, that many must have what a call changed that says so."""
        self.finder = finder
        self._mark = mark
        self.patience = patience
        self._replicas = replicas
        # In milliseconds, and never 0, which is for ever. The socket waits twice as long.
        self._wait = max(1, int(patience * 500))
        #: Until when something is written behind each change, since one is in doubt.
        self._touch_until = 0.0
        self._lock = threading.Lock()
        #: Idle connections, the one that was used last on top, and when that was.
        self._idle: list[tuple[Line, float]] = []
        #: Those that :meth:`close` cuts short; weakly, since whoever used one may be interrupted.
        self._waiting: weakref.WeakSet[Line] = weakref.WeakSet()
        self.closed = False

    def close(self) -> None:
        """Drop what is idle, and wake who waits. A call that is under way ends as it will."""
        with self._lock:
            self.closed = True
            idle, self._idle = self._idle, []
            for line in list(self._waiting):
                line.interrupt()
        for line, _ in idle:
            line.drop()
        self.finder.close()

    def run(
        self,
        call: Call,
        args: Sequence[Any],
        *,
        within: float | None = None,
        wakes: bool = False,
    ) -> Any:
        """Run a script; with ``wakes``, :meth:`close` cuts it short.

        The first argument is the board's incarnation; what is known of how far the board has come
        is added to it, and taken from the reply. The one that opens stands apart.

        Raises: ``Unavailable``, ``Indeterminate`` (unless it changes nothing), ``AccessDenied``,
        ``WrongType``, ``Closed``.
        """
        redirections = 0
        give_up = None if within is None else time.monotonic() + within
        while True:
            left = self.patience if give_up is None else give_up - time.monotonic()
            line = self._take(max(0.001, left), wakes)
            try:
                return self._ran(line, call, args)
            except Elsewhere as error:  # which has not run it
                redirections += 1
                if redirections > REDIRECTIONS or not self.finder.follow(error):
                    raise
            finally:
                self._give_back(line, wakes)

    def ask(self, *command: Any, block: float = 0.0) -> Any:
        """Run a command that changes nothing; it may block for ``block`` seconds in the server.

        Raises: ``Unavailable``, ``AccessDenied``, ``WrongType``, ``Closed``.
        """
        line = self._take(self.patience + block, wakes=True)
        try:
            return self._exchange(line, packed(command), soon=not block)
        except Elsewhere as error:
            self.finder.follow(error)  # when it is asked again
            raise
        finally:
            self._give_back(line, wakes=True)

    # -- one connection ----------------------------------------------------------------------

    def _take(self, within: float, wakes: bool) -> Line:
        """Return a connection that is connected, and waits for answers so long."""
        now = time.monotonic()
        with self._lock:
            if self.closed:
                raise errors.Closed("the redis board was closed")
            line, used_at = self._idle.pop() if self._idle else (None, now)
        # A look at the socket costs a tenth of a call: one that was just used is taken as it is.
        while line is not None and not (
            self.finder.serves(line, now) and (now - used_at <= FRESH or line.usable())
        ):
            line.drop()
            with self._lock:
                line, used_at = self._idle.pop() if self._idle else (None, now)
        if line is None:
            line = self.finder.connect(within)
            within = max(within / 2, within - (time.monotonic() - now))
            self._leave(line)
        line.be_patient(within)
        if wakes:
            with self._lock:
                if not self.closed:
                    self._waiting.add(line)
                    return line
            line.drop()
            raise errors.Closed("the redis board was closed")
        return line

    def _leave(self, found: Line) -> None:
        """Wake the readers that wait in another server than the one that was just found."""
        with self._lock:
            for line in list(self._waiting):
                if line.address != found.address:
                    line.interrupt()

    def _give_back(self, line: Line, wakes: bool) -> None:
        """Keep a connection for the next call, unless it broke or has a reply to come."""
        with self._lock:
            if wakes:
                self._waiting.discard(line)
            keep = not self.closed and not line.dropped and not line.owed
            if keep:
                self._idle.append((line, time.monotonic()))
        if not keep:
            line.drop()

    def _ran(self, line: Line, call: Call, args: Sequence[Any]) -> Any:
        """Run a script on a connection, which is told the script's text if need be."""
        exchange = self._exchange if call.touch is None else self._settle
        if call.script.name != "open":
            args = (f"{args[0]} {self._mark.of(line.address)}", *args[1:])
        try:
            reply = exchange(line, call.packed(args), call)
        except errors.Unavailable as error:
            if not isinstance(error.__cause__, native.NoScriptError):
                raise
            reply = exchange(line, call.in_full(args), call)
        self._mark.note(line.address, reply.pop(0))
        return reply

    def _settle(self, line: Line, command: bytes, call: Call) -> Any:
        """Run a script, and return its reply when replicas have what it changed.

        A repeat finds the change made and makes none, maybe on another connection, and WAIT
        waits for what its own connection wrote. So while there may be a repeat, something is
        written behind every change. When the repeat is done can't be told: a command that is
        still on its way may overtake others.
        """
        touch = (call.touch or b"") if time.monotonic() < self._touch_until else b""
        wait = packed(("WAIT", self._replicas, self._wait))
        try:
            replies = 3 if touch else 2
            reply = self._exchange(line, b"%b%b%b" % (command, touch, wait), call, True, replies)
        except errors.Indeterminate:
            line.drop()
            self._doubt()
            raise
        except errors.BackendError:
            self._rest(line, 2 if touch else 1)
            raise
        *_, have = self._rest(line, 2 if touch else 1)
        if reply[1] != b"OK":
            return reply  # and nothing was changed
        if isinstance(have, int) and have >= self._replicas:
            return reply
        self._doubt()
        if isinstance(have, int):
            seconds = self._wait / 1000
            why = f"{have} of {self._replicas} replicas have the change after {seconds:g} s"
            raise errors.Indeterminate(f"{line.address}: {why}")
        why = str(told(line.address, have, sent=True, read_only=False))
        raise errors.Indeterminate(
            f"{why}; whether replicas have the change is not known"
        ) from have

    def _doubt(self) -> None:
        self._touch_until = time.monotonic() + REPEATED_WITHIN

    def _rest(self, line: Line, count: int) -> list[Any]:
        """Return so many further replies, or errors in their place; an end of the line is last."""
        replies: list[Any] = []
        for _ in range(0 if line.dropped else count):
            try:
                replies.append(line.another())
            except native.ResponseError as error:
                replies.append(error)
            except Exception as error:
                line.drop()
                if interrupts.is_interrupt(error):
                    raise
                self.finder.failed(line)
                return [*replies, error]
            except BaseException:
                line.drop()
                raise
        return replies

    def _exchange(
        self,
        line: Line,
        command: bytes,
        call: Call | None = None,
        soon: bool = True,
        replies: int = 1,
    ) -> Any:
        """Return the first reply to a command, which changes nothing where it is no call."""
        read_only = call is None or call.script.read_only
        begun = time.monotonic()
        try:
            reply = line.ask(command, soon, replies)
        except native.ResponseError as error:
            failure = told(line.address, error, sent=True, read_only=read_only)
            if isinstance(failure, Deposed):
                line.drop()
                self.finder.failed(line)
            raise failure from error
        except Exception as error:
            line.drop()
            if interrupts.is_interrupt(error):
                raise
            self.finder.failed(line)
            raise told(line.address, error, sent=True, read_only=read_only) from error
        except BaseException:
            line.drop()  # an answer to come would be taken for the next call's
            raise
        now = time.monotonic()
        slow = now - begun > CHECKED_FOR
        if slow and soon and read_only and not self.finder.serves(line, now):
            # It may have been asleep for so long that another one took its place: an old truth.
            line.drop()
            raise errors.Unavailable(f"{line.address}: was replaced while it answered")
        return reply
