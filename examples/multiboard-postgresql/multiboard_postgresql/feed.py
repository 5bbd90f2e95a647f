# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The change feed: a table of events, read when a notification gives a reason to."""

from __future__ import annotations

import time

from multiboard.primitives import Change, ChangeKind, Changes

from multiboard_postgresql.session import Board

KINDS = {kind.value for kind in ChangeKind}


def changes(board: Board, cursor: str | None, timeout: float) -> Changes:
    """Return what is new behind the cursor, as soon as there is something."""
    give_up = time.monotonic() + timeout
    since = _position(cursor, board.incarnation)
    listener = board.state().listener
    while True:
        seen = listener.received
        ((is_reset, upto, events, rest),) = board.read("changes", since)
        left = give_up - time.monotonic()
        if is_reset or events or left <= 0:
            found = [
                Change(ChangeKind(kind), key, token)
                for kind, key, token in events or ()
                if kind in KINDS
            ]
            return Changes(found, f"{board.incarnation}:{upto}", is_reset)
        if rest is not None and rest <= 0:
            board.read("enter")  # a lease has ended: this publishes it, and the next read finds it
        elif not listener.listen():  # else it began to listen now, after the read
            listener.wait(seen, left if rest is None else min(left, rest + 0.001))


def _position(cursor: str | None, incarnation: str) -> int | None:
    """Return the event behind which a cursor stands; None if it is none of this board."""
    board, _, number = (cursor or "").rpartition(":")
    is_known = board == incarnation and number.isascii() and number.isdigit()
    return int(number) if is_known else None
