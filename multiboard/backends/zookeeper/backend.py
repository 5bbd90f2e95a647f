# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The board in ZooKeeper: every verb one transaction, every lease a node.

The nodes are described in :mod:`multiboard.backends.zookeeper.records`, the fence in
:mod:`multiboard.backends.zookeeper.leases`. This module imports the primitives, the errors and its
own siblings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from multiboard import errors, primitives
from multiboard.backends.zookeeper import records
from multiboard.backends.zookeeper.board import Board
from multiboard.backends.zookeeper.cache import Cache
from multiboard.backends.zookeeper.claim_next import NextClaims
from multiboard.backends.zookeeper.directory import MAX_BODY, Directory
from multiboard.backends.zookeeper.feed import Feed
from multiboard.backends.zookeeper.lease_endings import RELEASE, REMOVE, TRASH, LeaseEndings
from multiboard.backends.zookeeper.leases import Leases
from multiboard.backends.zookeeper.server_info import server_info
from multiboard.backends.zookeeper.session import Session
from multiboard.backends.zookeeper.settings import ZooKeeperSettings, options_of
from multiboard.primitives import Lease, NewPosting, Page, Place, Posting, Shelf

TRAITS = primitives.Traits(
    durable=True,
    cross_process=True,
    cross_host=True,
    max_body=MAX_BODY,
    # The server looks for dead sessions once a tick, which is two seconds by default.
    lease_slack=3.0,
    fencing_survives_failover=True,
)


class ZooKeeperBackend(primitives.Backend):
    """The primitives over a ZooKeeper ensemble. See :class:`multiboard.primitives.Backend`."""

    settings_class = ZooKeeperSettings
    settings: ZooKeeperSettings

    def __init__(self, settings: ZooKeeperSettings) -> None:
        super().__init__(settings)
        self._session = Session(settings, woken=self._wake, forked=self._start_over)
        self._start_over()

    def _start_over(self) -> None:
        """Begin without anything remembered of the postings, and with no lock that may be held."""
        board, self._cache = Board(self._session), Cache()
        self._feed = Feed(board)
        self._directory = Directory(board, self._cache, self._feed)
        self._leases = Leases(board, self._cache)
        self._endings = LeaseEndings(board, self._cache)
        self._next = NextClaims(board, self._cache, self._feed, self._directory, self._leases)

    def _wake(self) -> None:
        self._feed.wake()

    @classmethod
    def from_url(cls, url: primitives.Url) -> Mapping[str, Any]:
        return options_of(url)

    @property
    def traits(self) -> primitives.Traits:
        return TRAITS

    # -- the session -----------------------------------------------------------------------------

    @property
    def incarnation(self) -> str:
        return self._session.incarnation

    @property
    def position(self) -> int:
        return self._session.zxid

    @property
    def session_time(self) -> float:
        return self._session.granted or self.settings.session_timeout

    def open(self) -> None:
        self.settings.check_tls_files()
        self._session.open()
        self._start_over()

    def close(self) -> None:
        self._session.close()
        self._wake()

    def keepalive(self, within: float | None = None) -> float:
        return self._session.keepalive(within)

    def boards(self) -> Sequence[str]:
        return self._session.namespaces(self.settings.connect_timeout)

    def server_info(self) -> Mapping[str, str]:
        return server_info(self._session.client(), self.settings.session_timeout)

    # -- postings --------------------------------------------------------------------------------

    def add(
        self, postings: Sequence[NewPosting], shelf: Shelf = Shelf.LIVE
    ) -> Sequence[Posting | errors.MultiboardError]:
        return self._directory.add(postings, shelf)

    def get(self, keys: Sequence[str]) -> Sequence[Posting | None]:
        return self._directory.get(keys)

    def count(self, shelf: Shelf = Shelf.LIVE) -> int:
        return self._directory.count(shelf)

    def list(
        self, shelf: Shelf = Shelf.LIVE, *, after: Place | None = None, limit: int | None = None
    ) -> Page:
        return self._directory.list(shelf, after, limit)

    def restore(self, key: str) -> Posting:
        return self._directory.restore(key)

    def purge(self, keys: Sequence[str], shelf: Shelf = Shelf.TRASH) -> Sequence[bool]:
        return self._directory.purge(keys, shelf)

    def remove(
        self, leases: Sequence[Lease], to: Shelf | None = None
    ) -> Sequence[errors.MultiboardError | None]:
        return self._endings.end(leases, REMOVE if to is None else TRASH)

    # -- leases ----------------------------------------------------------------------------------

    def acquire(
        self, key: str, holder: str, claim_id: str, expires_in: float | None = None
    ) -> Lease:
        if claim_id in self._cache.spent_claims:
            raise errors.LeaseLost(key, 0, f"claim id {claim_id!r} had its lease")
        client = self._leases.client_for(expires_in)
        return self._leases.acquire(client, key, records.Hold(holder, claim_id, expires_in))

    def acquire_next(
        self, holder: str, claim_ids: Sequence[str], expires_in: float | None = None
    ) -> Sequence[tuple[Posting, Lease]]:
        won = self._next.acquire_next(holder, claim_ids, expires_in)
        return super().acquire_next(holder, claim_ids, expires_in) if won is None else won

    def renew(self, lease: Lease, expires_in: float) -> Lease:
        return self._leases.renew(lease, expires_in)

    def release(self, lease: Lease, delay: float = 0.0) -> None:
        error = self._endings.end([lease], RELEASE, delay)[0]
        if error is not None:
            raise error

    # -- feed ------------------------------------------------------------------------------------

    def changes(self, cursor: str | None, timeout: float) -> primitives.Changes:
        return self._feed.changes(cursor, timeout)
