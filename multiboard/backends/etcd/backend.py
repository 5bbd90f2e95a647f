# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The board in etcd, 3.4 or newer: every verb one transaction, every lease a key.

The keys are described in :mod:`multiboard.backends.etcd.records`. This module imports the
primitives, the errors and its own siblings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from multiboard import errors, primitives
from multiboard.backends.etcd import creation
from multiboard.backends.etcd import settings as options
from multiboard.backends.etcd.adding import Additions
from multiboard.backends.etcd.board import Board
from multiboard.backends.etcd.directory import Directory
from multiboard.backends.etcd.expiry_timer import ExpiryTimer
from multiboard.backends.etcd.feed import Feed
from multiboard.backends.etcd.leases import Leases
from multiboard.backends.etcd.recent import Recent
from multiboard.backends.etcd.records import Seen
from multiboard.backends.etcd.session import Session
from multiboard.primitives import Changes, Lease, NewPosting, Page, Place, Posting, Shelf, boottime


class EtcdBackend(primitives.Backend):
    """The primitives over an etcd cluster. See :class:`multiboard.primitives.Backend`."""

    settings_class = options.EtcdSettings
    settings: options.EtcdSettings

    traits = primitives.Traits(
        durable=True,
        cross_process=True,
        cross_host=True,
        # etcd takes requests of 1.5 MiB by default.
        max_body=1_250_000,
        # The leader looks for leases that are over twice a second. A new leader begins the
        # time of every lease anew: then it is one session's time more.
        lease_slack=1.5,
        native_claim_next=True,
        fencing_survives_failover=True,
    )

    def __init__(self, settings: options.EtcdSettings) -> None:
        super().__init__(settings)
        self._session = Session(settings, self._start_over)
        self._start_over()

    @classmethod
    def from_url(cls, url: primitives.Url) -> Mapping[str, Any]:
        return options.from_url(url)

    def _start_over(self) -> None:
        """Begin without anything known of the postings, and with nothing that another may lock."""
        known: Recent[str, Seen] = Recent()
        self._board = board = Board(self._session)
        self._timer = ExpiryTimer(board)
        self._feed = Feed(board, self._timer)
        self._directory = Directory(board)
        self._additions = Additions(board, self._directory, known)
        self._leases = Leases(board, self._feed, self._timer, known)

    @property
    def incarnation(self) -> str:
        return self._session.incarnation

    # -- the board -------------------------------------------------------------------------------

    def open(self) -> None:
        self.settings.check_tls_files()
        self._session.open()
        self._start_over()

    def keepalive(self, within: float | None = None) -> float:
        return self._session.keepalive(within)

    def close(self) -> None:
        self._session.close()
        self._feed.close()
        self._timer.close()

    def boards(self) -> Sequence[str]:
        return creation.namespaces(self.settings, self.settings.connect_timeout)

    @property
    def position(self) -> int:
        return self._session.position

    def server_info(self) -> Mapping[str, str]:
        return self._session.server_info()

    # -- directory -------------------------------------------------------------------------------

    def add(
        self, postings: Sequence[NewPosting], shelf: Shelf = Shelf.LIVE
    ) -> Sequence[Posting | errors.MultiboardError]:
        entities = shelf is Shelf.ENTITIES
        return self._additions.enter(postings) if entities else self._additions.add(postings)

    def get(self, keys: Sequence[str]) -> Sequence[Posting | None]:
        return [
            self._board.posting(seen, body) if isinstance(seen, Seen) else None
            for seen, body in self._board.look(keys, bodies=True)
        ]

    def list(
        self, shelf: Shelf = Shelf.LIVE, *, after: Place | None = None, limit: int | None = None
    ) -> Page:
        return self._directory.page(shelf, after, limit)

    def count(self, shelf: Shelf = Shelf.LIVE) -> int:
        return self._directory.count(shelf)

    def restore(self, key: str) -> Posting:
        return self._directory.restore(key)

    def purge(self, keys: Sequence[str], shelf: Shelf = Shelf.TRASH) -> Sequence[bool]:
        return self._directory.purge(keys, shelf)

    # -- leases ----------------------------------------------------------------------------------

    def acquire(
        self, key: str, holder: str, claim_id: str, expires_in: float | None = None
    ) -> Lease:
        return self._leases.acquire(key, holder, claim_id, expires_in)

    def acquire_next(
        self, holder: str, claim_ids: Sequence[str], expires_in: float | None = None
    ) -> Sequence[tuple[Posting, Lease]]:
        return self._leases.acquire_next(holder, claim_ids, expires_in)

    def renew(self, lease: Lease, expires_in: float) -> Lease:
        return self._leases.renew(lease, expires_in)

    def release(self, lease: Lease, delay: float = 0.0) -> None:
        self._leases.release(lease, delay)

    def remove(
        self, leases: Sequence[Lease], to: Shelf | None = None
    ) -> Sequence[errors.MultiboardError | None]:
        return self._leases.remove(leases, to)

    # -- feed ------------------------------------------------------------------------------------

    def changes(self, cursor: str | None, timeout: float) -> Changes:
        give_up = boottime() + timeout
        self._feed.ensure(max(timeout, self._session.client.patience if cursor is None else 0.0))
        return self._feed.read(cursor, max(0.0, give_up - boottime()))
