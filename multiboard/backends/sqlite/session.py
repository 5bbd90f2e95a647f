# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""A backend's way to its board, for :mod:`multiboard.backends.sqlite`: opening it, and the session.

It imports the primitives, the errors and its sibling modules. What a fork does to the connections
stands in :mod:`.client`, what it does to the session's lock in :mod:`.liveness`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from multiboard import errors
from multiboard.backends.sqlite import client, expiry, places, schema, transactions
from multiboard.backends.sqlite.liveness import SessionLocks
from multiboard.backends.sqlite.settings import SQLiteSettings
from multiboard.backends.sqlite.state import OpenBoard
from multiboard.backends.sqlite.transactions import Snapshot, Transaction
from multiboard.primitives import SpentClaims

T = TypeVar("T")


class Board:
    """The board of one backend, open or closed."""

    def __init__(self, settings: SQLiteSettings) -> None:
        self._settings = settings
        self._spent = SpentClaims()
        #: None while it is closed.
        self.current: OpenBoard | None = None

    def open(self) -> None:
        if self.current is not None:
            return
        client.check_process()
        settings = self._settings
        path = places.locate(settings.path, settings.create)
        row, identity = schema.open_board(
            path, settings.namespace, settings.connect_timeout, settings.create
        )
        self.current = OpenBoard(
            settings,
            path,
            identity,
            row.id,
            row.incarnation,
            SessionLocks(f"{path}-sessions", path),
            client.shared_file(identity),
            self._spent,
            client.Connection(path, identity, settings.synchronous, settings.busy_timeout),
            row.position,
        )

    def namespaces(self) -> Sequence[str]:
        """Return the names of the boards in the file."""
        client.check_process()
        return schema.boards(places.locate(self._settings.path, create=False))

    def opened(self) -> OpenBoard:
        """Return the board, whose file is there.

        Raises: ``Closed``, ``BoardLost``, ``Unavailable``.
        """
        board = self.current
        if board is None:
            raise errors.Closed("the SQLite board is not open")
        client.check_process()
        if client.identify(board.path) != board.identity:
            raise errors.BoardLost(f"{board.path} was deleted or replaced")
        return board

    def write(self, verb: Callable[[Transaction], T], within: float | None = None) -> T:
        """Do something in a writing transaction, which begins with the end of what is over."""

        def reaped(tx: Transaction) -> T:
            expiry.reap(tx)
            return verb(tx)

        return transactions.write(self.opened(), reaped, within=within)

    def read(self, query: Callable[[Snapshot], T]) -> T:
        """Return what ``query`` finds in one instant of the board."""
        return transactions.read(self.opened(), query)

    def close(self) -> None:
        board, self.current = self.current, None
        if board is None:
            return
        board.shared.notify()
        if not client.forked_with_hooks():
            client.never_collect(board)
            return
        ended = session_id = board.session or ""
        if ended and board.locks.owns(ended):
            try:
                transactions.write(
                    board, lambda tx: expiry.end_session(tx, session_id), busy_timeout=0.1
                )
            except errors.MultiboardError:
                ended = ""  # the row stays, and every other process sees that its lock is gone
        board.connection.close()  # from here on no verb in flight can begin a session
        session, board.session = board.session, None
        if session is not None and board.locks.owns(session):
            board.locks.end(session, forget=session == ended)
        while board.idle:
            board.idle.pop().close()


def ensure_session(tx: Transaction) -> str:
    """Return this backend's session, renewed, beginning one where there is none.

    Raises: ``SessionLost`` (it had ended).
    """
    board = tx.board
    ends_at = tx.now + board.settings.session_timeout
    own = board.session
    if own is not None and not board.locks.owns(own):  # it is the parent process's
        own = board.session = None
    if own is None:
        own = tx.began = board.session = board.locks.begin()
        tx.execute("INSERT INTO multiboard_sessions VALUES (?, ?, ?)", (own, board.id, ends_at))
        _delete_stale_locks(tx)
        return own
    renewed = tx.execute("UPDATE multiboard_sessions SET ends_at = ? WHERE id = ?", (ends_at, own))
    if renewed.rowcount != 1:
        board.session = None
        board.locks.end(own)
        raise errors.SessionLost("the session ended: it was not renewed in time")
    return own


def _delete_stale_locks(tx: Transaction) -> None:
    for session in tx.board.locks.stale():
        found = tx.execute("SELECT 1 FROM multiboard_sessions WHERE id = ?", (session,))
        if found.fetchone() is None:
            tx.board.locks.forget(session)
