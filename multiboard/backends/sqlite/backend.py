# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The board in an SQLite file: the embedded backend, for the processes of one machine.

Each verb that writes is one ``BEGIN IMMEDIATE`` transaction; a read is one snapshot, and leaves out
what is over without writing. A backend has one connection, guarded by a lock: two writers of one
process could only wait for each other anyway, and a read lasts microseconds. Each reader that
waits in ``changes`` has a connection more.

It imports the primitives, the errors, its sibling modules and the standard library's ``sqlite3``.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence

from multiboard import errors, primitives
from multiboard.backends.sqlite import directory, feed, leases, session
from multiboard.backends.sqlite.settings import SQLiteSettings, from_url
from multiboard.primitives import Lease, NewPosting, Page, Place, Posting, Shelf


class SQLiteBackend(primitives.Backend):
    """The primitives over an SQLite file. See :class:`multiboard.primitives.Backend`."""

    settings_class = SQLiteSettings
    settings: SQLiteSettings
    traits = primitives.Traits(
        durable=True,
        fencing_survives_failover=True,
        cross_process=True,
        cross_host=False,
        max_body=16 * 1024 * 1024,
        linearizable_feed=True,
        native_claim_next=True,
        lease_slack=0.2,
    )
    from_url = staticmethod(from_url)

    def __init__(self, settings: SQLiteSettings) -> None:
        super().__init__(settings)
        self._board = session.Board(settings)

    @property
    def incarnation(self) -> str:
        return self._board.opened().incarnation

    @property
    def position(self) -> int:
        current = self._board.current
        return 0 if current is None else current.position

    def open(self) -> None:
        self._board.open()

    def boards(self) -> Sequence[str]:
        return self._board.namespaces()

    def close(self) -> None:
        self._board.close()

    def server_info(self) -> Mapping[str, str]:
        facts = {"store": "sqlite", "version": sqlite3.sqlite_version}
        if self._board.current is not None:
            facts["path"] = self._board.current.path
        if self.settings.synchronous != "FULL":
            facts["warning_synchronous"] = (
                "synchronous is NORMAL: a power failure may undo the last acknowledged changes"
            )
        return facts

    # -- directory ---------------------------------------------------------------------------

    def add(
        self, postings: Sequence[NewPosting], shelf: Shelf = Shelf.LIVE
    ) -> Sequence[Posting | errors.MultiboardError]:
        return self._board.write(lambda tx: directory.add(tx, postings, shelf))

    def get(self, keys: Sequence[str]) -> Sequence[Posting | None]:
        return self._board.read(lambda snapshot: directory.get(snapshot, keys))

    def list(
        self, shelf: Shelf = Shelf.LIVE, *, after: Place | None = None, limit: int | None = None
    ) -> Page:
        return self._board.read(lambda snapshot: directory.page(snapshot, shelf, after, limit))

    def count(self, shelf: Shelf = Shelf.LIVE) -> int:
        return self._board.read(lambda snapshot: directory.count(snapshot, shelf))

    def remove(
        self, leases: Sequence[Lease], to: Shelf | None = None
    ) -> Sequence[errors.MultiboardError | None]:
        return self._board.write(lambda tx: directory.remove(tx, leases, to))

    def restore(self, key: str) -> Posting:
        return self._board.write(lambda tx: directory.restore(tx, key))

    def purge(self, keys: Sequence[str], shelf: Shelf = Shelf.TRASH) -> Sequence[bool]:
        return self._board.write(lambda tx: directory.purge(tx, keys, shelf))

    # -- lock --------------------------------------------------------------------------------

    def acquire(
        self, key: str, holder: str, claim_id: str, expires_in: float | None = None
    ) -> Lease:
        return self._board.write(lambda tx: leases.acquire(tx, key, holder, claim_id, expires_in))

    def acquire_next(
        self, holder: str, claim_ids: Sequence[str], expires_in: float | None = None
    ) -> Sequence[tuple[Posting, Lease]]:
        return self._board.write(lambda tx: leases.acquire_next(tx, holder, claim_ids, expires_in))

    def renew(self, lease: Lease, expires_in: float) -> Lease:
        return self._board.write(lambda tx: leases.renew(tx, lease, expires_in))

    def release(self, lease: Lease, delay: float = 0.0) -> None:
        self._board.write(lambda tx: leases.release(tx, lease, float(delay)))

    def keepalive(self, within: float | None = None) -> float:
        self._board.write(session.ensure_session, within)
        return self.settings.session_timeout

    # -- feed --------------------------------------------------------------------------------

    def changes(self, cursor: str | None, timeout: float) -> primitives.Changes:
        return feed.changes(self._board, cursor, timeout)
