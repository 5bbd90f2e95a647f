# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The feed of a board: reads a page of its stream, or waits in the server for the next change.

It imports the primitives, the errors, the records and the session.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from multiboard import errors
from multiboard.backends.redis import records
from multiboard.backends.redis.session import Board
from multiboard.primitives import Changes, boottime

#: Seconds after which a reader that is kept busy ends what is over, too.
REAP_PAUSE = 0.1
#: Seconds for which a reader blocks in the server before it checks that its history is whole.
LONGEST_BLOCK = 3.0


class Feed:
    """The changes of one board. Thread-safe."""

    def __init__(self, board: Board) -> None:
        self._board = board
        #: By boottime: when a reader last ended what was over.
        self._reaped_at = 0.0

    def changes(self, cursor: str | None, timeout: float) -> Changes:
        """Return what followed the cursor, as :meth:`multiboard.primitives.Backend.changes`."""
        give_up = boottime() + timeout
        incarnation, _, seen = (cursor or "").rpartition(":")
        if incarnation != self._board.incarnation or not re.fullmatch(
            "[0-9]+-[0-9]+", seen, re.ASCII
        ):
            seen = ""
        feed = self._board.keys["feed"]
        while True:
            entries: Sequence[Any] = ()
            wait = 0
            if seen and boottime() < self._reaped_at + REAP_PAUSE:
                # The script costs the server several times as much for each change.
                found = self._board.query("XRANGE", feed, seen, "+", "COUNT", records.PAGE + 1)
                entries = _following(found, seen)
            if not entries:
                try:
                    reply = self._board.run("changes", seen, records.PAGE, wakes=True)
                except errors.Indeterminate as error:
                    # It ended what was over, or did not: that makes no difference to a reader.
                    raise errors.Unavailable(str(error)) from error.__cause__
                if reply[1] == b"RESET":
                    return Changes((), f"{self._board.incarnation}:{reply[2].decode()}", reset=True)
                self._reaped_at = boottime()
                _, _, entries, wait = reply
            changes = (records.change(fields) for _, fields in entries)
            events = tuple(change for change in changes if change is not None)
            seen = entries[-1][0].decode() if entries else seen
            left = give_up - boottime()
            if events or left <= 0:
                return Changes(events, f"{self._board.incarnation}:{seen}")
            nearest = LONGEST_BLOCK if wait < 0 else wait / 1e6
            block = int(min(left, nearest, LONGEST_BLOCK) * 1000) + 1
            if wait != 0 and not entries:
                # What it returns is read again by the script, which sees holes in it.
                command = ("XREAD", "COUNT", 1, "BLOCK", block, "STREAMS", feed, seen)
                self._board.query(*command, block=block / 1000)


def _following(entries: Sequence[Any], seen: str) -> Sequence[Any]:
    """Return the entries of the feed behind the first, which is the one last seen.

    None are returned where it is not, or where one is missing: ids are gap-free in their first
    part, and what that means is decided by the script ``changes``.
    """
    if not entries or entries[0][0] != seen.encode():
        return ()
    first = int(seen.partition("-")[0])
    numbers = [int(name.partition(b"-")[0]) for name, _ in entries]
    return entries[1:] if numbers == list(range(first, first + len(entries))) else ()
