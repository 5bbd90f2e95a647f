# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The scripts of a board: how each is put together from the files of ``scripts/``, and called.

``scripts/acquire.lua`` is a claim, ``scripts/remove.lua`` a removal; the head of each describes its
arguments and replies. Before a script's own file stand the parts that it needs (``_clock.lua``,
``_common.lua``, ``_writing.lua``, ``_reaping.lua``) and the check of the rights (``rights.py``).
It has nothing of servers and connections.
"""

from __future__ import annotations

import functools
import hashlib
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from multiboard.backends.redis import rights
from multiboard.backends.redis.client import bulk, packed

_SCRIPTS = pathlib.Path(__file__).with_name("scripts")
#: The scripts that do without ``_reaping.lua``: claims with an expiry and batches of removals are
#: theirs, and each call makes anew what functions stand before it.
_LEAN = ("acquire", "remove")
#: The suffix of a script for the most frequent case of another one, which serves all cases.
FAST = "_fast"
#: The scripts that write and whose changes need not be waited for: those that open and close, and
#: the one that ends what is over, which the next reader does again.
UNAWAITED = {"open", "close", "changes"}


@dataclass(frozen=True)
class Script:
    """A step in the store."""

    name: str
    text: str
    sha: str
    #: It changes nothing: when its reply is lost, nothing is indeterminate.
    read_only: bool
    #: What it calls its keys, in their order.
    keys: tuple[str, ...]


@functools.cache
def load_script(name: str, flags: bool) -> Script:
    """Return a script, with what stands before it; ``flags`` where the server reads them (7.0)."""
    own = (_SCRIPTS / f"{name}.lua").read_text("utf-8")
    found = re.search(r"^-- flags: (\S+)$", own, re.MULTILINE)
    read_only = found is not None and found.group(1) == "no-writes"
    parts = [_SCRIPTS / f"{part}.lua" for part in _parts(name, read_only)]
    texts = [part.read_text("utf-8") for part in parts]
    keys = tuple(" ".join(re.findall(r"^-- keys: (.+)$", "".join(texts), re.MULTILINE)).split())
    names = ", ".join(key.upper().replace(":", "_") for key in keys)
    if name == "open":  # for servers of unknown age; it checks the rights for all scripts
        commands = _commands()
        at_first = [name for name in commands if name not in ("HSET", "HSETNX")]
        texts[:0] = [rights.check(commands), rights.check_writes(at_first)]
    else:
        commands = rights.called("".join(texts))
        # The first part checks that this is the board that was opened.
        texts[:1] = [rights.check(commands), texts[0], rights.check_writes(commands)]
    text = "\n".join([f"local {names} = unpack(KEYS)", *texts])
    if name != "open":
        if flags:
            text = f"#!lua flags={found.group(1)}\n{text}" if found else f"#!lua\n{text}"
        elif found and not read_only:
            # Servers before 7 decide by a script's first write whether it needs memory.
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
        if not name.endswith(FAST):
            yield "_common"
            if not read_only:
                yield "_writing"
                if name not in _LEAN:
                    yield "_reaping"
    yield name


class ScriptCall:
    """A script and the keys that it is called with, packed once: a call adds its arguments."""

    def __init__(self, what: Script, keys: Sequence[str], touch: bytes | None = None) -> None:
        """With ``touch``, a command that writes, replicas must have what the script changed."""
        self.script = what
        self.touch = touch
        self._keys = keys
        self._count = 3 + len(keys)
        self._head = b"".join(bulk(part) for part in ("EVALSHA", what.sha, len(keys), *keys))

    def packed(self, args: Sequence[Any]) -> bytes:
        """Return the command as its bytes in the protocol."""
        # Not by hiredis' pack_command, which can crash the process where a signal handler raises.
        tail = b"".join([bulk(part) for part in args])
        return b"*%d\r\n%b%b" % (self._count + len(args), self._head, tail)

    def in_full(self, args: Sequence[Any]) -> bytes:
        """Return the command with the script's text, for a server that has not cached it yet."""
        return packed(("EVAL", self.script.text, len(self._keys), *self._keys, *args))


class ScriptCalls:
    """The calls of the scripts on one board, each made once for each version of a server."""

    def __init__(self, keys: Mapping[str, str], replicas: int) -> None:
        """With ``replicas``, that many must have what a call changes."""
        self._keys = keys
        self._replicas = replicas
        self._made: dict[tuple[str, str], ScriptCall] = {}

    def get(self, name: str, version: str, incarnation: str | None) -> ScriptCall:
        """Return the call of a script, for a server of this version ('' where that is hidden)."""
        return self._made.get((name, version)) or self._make(name, version, incarnation)

    def _make(self, name: str, version: str, incarnation: str | None) -> ScriptCall:
        # A server reads flags in a script's first line from 7.0; one that hides its version is
        # older, since from then on the version is known in scripts.
        flags = int(version.partition(".")[0] or 0) >= 7
        what, touch = load_script(name, flags), None
        if self._replicas and not what.read_only and name not in UNAWAITED:
            # The high-water mark is added where it is sent.
            tag = f"{'-':16}{0:09}{incarnation} 0"
            touch = self._call_of(load_script("touch", flags)).in_full((tag,))
        call = self._made[name, version] = self._call_of(what, touch)
        return call

    def _call_of(self, what: Script, touch: bytes | None = None) -> ScriptCall:
        return ScriptCall(what, [self._keys[name] for name in what.keys], touch)
