# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The commands that a board's account needs, and how a script checks them before its first write.

Redis takes nothing back: a command that the account lacks fails a script in the middle, and what
was written before it stays. So every script begins with a check of each command that it may call.
On a server of 7.0 or newer ``redis.acl_check_cmd`` checks it; on an older one each command is run
in a form that changes nothing. The check is Lua that stands before a script's own; this module
imports nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

#: Each command with arguments that change nothing, on a hash that has the field 'incarnation' with
#: the value of ARGV[1]: those for other types fail there, but not for want of a right. HSET is the
#: first of those that write, since a server that is out of memory refuses a script at the first.
HARMLESS = {
    "TIME": "",
    "HGET": "META, ''",
    "HMGET": "META, ''",
    "HLEN": "META",
    "HSTRLEN": "META, ''",
    "HKEYS": "META",
    "HRANDFIELD": "META",
    "XLEN": "META",
    "XRANGE": "META, '-', '+'",
    "XREVRANGE": "META, '+', '-'",
    "XREAD": "'STREAMS', META, '0'",
    "XINFO": "'STREAM', META",
    "ZCARD": "META",
    "ZSCORE": "META, ''",
    "ZMSCORE": "META, ''",
    "ZRANGE": "META, '0', '1'",
    "ZRANGEBYSCORE": "META, '0', '1'",
    "ZCOUNT": "META, '0', '1'",
    "HSET": "META, 'incarnation', opened",
    "HSETNX": "META, 'incarnation', opened",
    "HDEL": "META, ''",
    "DEL": "META .. ':' .. ARGV[1]",  # a key of a name that no other program can have chosen
    "ZADD": "META, 'XX', '1', ''",
    "ZREM": "META, ''",
    "XADD": "META, 'NOMKSTREAM', '*', '', ''",
}
WRITING = ("HSET", "HSETNX", "HDEL", "DEL", "ZADD", "ZREM", "XADD")
#: Needed besides, to run scripts and to wait for a change; and not needed, where INFO is refused.
BESIDES = ("EVAL", "EVALSHA", "XREAD", "XRANGE")
OPTIONAL = ("INFO",)

_CALLED = re.compile(r"\bp?call\('([A-Z]+)'")
#: The error of a command that the account may not run is "can't run this command", or since 7.2 "no
#: permissions to run the 'x' command"; the error of a key has another text.
_TRY = """\
  for _, try in ipairs({%s}) do
    local reply = redis.pcall(unpack(try))
    local failure = type(reply) == 'table' and reply.err or ''
    if string.find(failure, ' run th[ie]s? ') then return {0, 'DENIED', try[1]} end
    if failure ~= '' and try[1] == 'HSET' then return reply end -- no memory, a replica, ...
  end
"""


def called(text: str) -> tuple[str, ...]:
    """Return the commands that a script calls and can't do without, each once."""
    return tuple(sorted(set(_CALLED.findall(text)) - set(OPTIONAL)))


def check(commands: Iterable[str]) -> str:
    """Return Lua that replies ``{0, 'DENIED', command}`` where one of the commands is denied.

    It reads only, and so stands before all else; without ``acl_check_cmd`` it checks the reading
    ones, and :func:`check_writes` the others.
    """
    named = list(commands)
    # What would be written does not matter, and the board's incarnation is not known yet.
    questions = {name: _words(name).replace("opened", "''") for name in named}
    asked = [
        f"  if not may({words}) then return {{0, 'DENIED', '{name}'}} end\n"
        for name, words in questions.items()
    ]
    tried = _tries(name for name in named if name in HARMLESS and name not in WRITING)
    return f"local may = redis.acl_check_cmd\nif may then\n{''.join(asked)}else\n{tried}end\n"


def check_writes(commands: Iterable[str]) -> str:
    """Return Lua that does the same for the writing ones, where there is no ``acl_check_cmd``."""
    named = set(commands)
    writes = [name for name in WRITING if name in named]
    return f"if not may then\n{_tries(writes)}end\n" if writes else ""


def _tries(names: Iterable[str]) -> str:
    return _TRY % ", ".join(f"{{{_words(name)}}}" for name in names)


def _words(name: str) -> str:
    # EVAL is asked for, and never tried.
    arguments = HARMLESS.get(name, "'', '0'")
    return f"'{name}', {arguments}" if arguments else f"'{name}'"
