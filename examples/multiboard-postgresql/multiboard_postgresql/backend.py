# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The backend: what the three primitives are in PostgreSQL.

Each verb is one call of a function in ``verbs.sql``, which does it in one transaction. Here
arguments become parameters, and rows become values. It imports public names of multiboard only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from multiboard import errors, primitives
from multiboard.primitives import Damage, Lease, NewPosting, Page, Place, Posting, Shelf

from multiboard_postgresql import feed
from multiboard_postgresql.records import Row, added, failure_of, in_parts, posting_of, raise_any
from multiboard_postgresql.session import Board
from multiboard_postgresql.settings import PostgreSQLSettings, from_url


class PostgreSQLBackend(primitives.Backend):
    """A board in a PostgreSQL database."""

    settings_class = PostgreSQLSettings
    settings: PostgreSQLSettings
    from_url = staticmethod(from_url)
    traits = primitives.Traits(
        linearizable_feed=True,
        native_claim_next=True,
        durable=True,
        cross_process=True,
        cross_host=True,
        lease_slack=0.5,
        max_body=16 * 1024 * 1024,
    )

    def __init__(self, settings: PostgreSQLSettings) -> None:
        super().__init__(settings)
        self._board = Board(settings)
        self._spent = primitives.SpentClaims()

    @property
    def incarnation(self) -> str:
        return self._board.incarnation

    # -- life ------------------------------------------------------------------------------------

    def open(self) -> None:
        self._board.open()

    def boards(self) -> Sequence[str]:
        return self._board.namespaces()

    def close(self) -> None:
        self._board.close()

    def keepalive(self, within: float | None = None) -> float:
        at_most = self.settings.operation_timeout
        timeout = at_most if within is None else min(within, at_most)
        self._board.run_in_session("keepalive", timeout=timeout)
        return self.settings.session_timeout

    def server_info(self) -> Mapping[str, str]:
        ((version, switches),) = self._board.read("server_info")
        info = {"store": "postgresql", "version": version}
        for name in switches or ():
            info[f"warning_{name}"] = f"{name} is off: a crash may lose acknowledged postings"
        return info

    # -- the directory ---------------------------------------------------------------------------

    def add(
        self, postings: Sequence[NewPosting], shelf: Shelf = Shelf.LIVE
    ) -> Sequence[Posting | errors.MultiboardError]:
        self._board.check_open()
        answers: list[Posting | errors.MultiboardError] = []
        for part in in_parts(postings):
            columns = (
                [posting.key for posting in part],
                [posting.rank for posting in part],
                [posting.body for posting in part],
                [float(posting.delay) for posting in part],
            )
            if shelf is Shelf.ENTITIES:
                _, rows = self._board.run_in_session("add_entities", *columns)
            else:
                rows = self._board.run("add", *columns)
            answers += [added(posting, row) for posting, row in zip(part, rows, strict=True)]
        return answers

    def get(self, keys: Sequence[str]) -> Sequence[Posting | None]:
        found = {row[1]: posting_of(row) for row in self._board.read("get", list(keys))}
        return [found.get(key) for key in keys]

    def list(
        self, shelf: Shelf = Shelf.LIVE, *, after: Place | None = None, limit: int | None = None
    ) -> Page:
        rank, serial = after or (None, None)
        more = None if limit is None else limit + 1  # one more shows whether it is the end
        rows = self._board.read("list", shelf.value, rank, serial, more)
        postings = [posting_of(row) for row in rows if row[0] is None]
        damaged = [
            Damage(f"multiboard.postings, key {row[1]!r}", "a column is empty or out of range")
            for row in rows
            if row[0] is not None
        ]
        if limit is None or len(postings) <= limit:
            return Page(postings, None, damaged)
        return Page(postings[:limit], postings[limit - 1].place, damaged)

    def count(self, shelf: Shelf = Shelf.LIVE) -> int:
        ((number,),) = self._board.read("count", shelf.value)
        return int(number)

    def remove(
        self, leases: Sequence[Lease], to: Shelf | None = None
    ) -> Sequence[errors.MultiboardError | None]:
        self._board.check_open()
        answers: list[errors.MultiboardError | None] = []
        for part in in_parts(leases):
            keys, tokens = [lease.key for lease in part], [lease.token for lease in part]
            rows = self._board.run("remove", keys, tokens, to is Shelf.TRASH)
            for lease, row in zip(part, rows, strict=True):
                answers.append(failure_of(lease, row))
                if answers[-1] is None:
                    self._spent.note(lease.claim_id)
        return answers

    def restore(self, key: str) -> Posting:
        restored = self._whole(self._board.run("restore", key))
        if not restored:
            raise errors.PostingNotFound(key)
        return restored[0]

    def purge(self, keys: Sequence[str], shelf: Shelf = Shelf.TRASH) -> Sequence[bool]:
        self._board.check_open()
        rows = [
            row
            for part in in_parts(keys)
            for row in self._board.run("purge", list(part), shelf.value)
        ]
        return [row[0] for row in rows]

    def _whole(self, rows: Sequence[Row]) -> Sequence[Posting]:
        """Return postings that a verb which writes has returned, and read their bodies.

        A posting that has gone meanwhile is left out.
        """
        postings = [posting_of(row) for row in rows]
        try:
            found = self.get([posting.key for posting in postings]) if postings else []
        except errors.Unavailable as error:  # by the read; but the verb was applied
            raise errors.Indeterminate(str(error)) from error
        bodies = {posting.key: posting.body for posting in found if posting is not None}
        return [replace(p, body=bodies[p.key]) for p in postings if p.key in bodies]

    # -- the leases ------------------------------------------------------------------------------

    def acquire(
        self, key: str, holder: str, claim_id: str, expires_in: float | None = None
    ) -> Lease:
        if claim_id in self._spent:
            raise errors.LeaseLost(key, 0, f"claim id {claim_id!r} had its lease")
        session, rows = self._board.run_in_session("acquire", key, holder, claim_id, expires_in)
        if not rows:
            raise errors.PostingNotFound(key)
        lease = posting_of(rows[0]).lease
        assert lease is not None  # if it was free, it is ours now
        if lease.claim_id != claim_id or lease.session not in (None, session):
            raise errors.LeaseHeld(key, lease.holder)
        return lease

    def acquire_next(
        self, holder: str, claim_ids: Sequence[str], expires_in: float | None = None
    ) -> Sequence[tuple[Posting, Lease]]:
        unspent = [claim_id for claim_id in claim_ids if claim_id not in self._spent]
        _, rows = self._board.run_in_session("acquire_next", holder, unspent, expires_in)
        won = self._whole(rows)
        return [(posting, posting.lease) for posting in won if posting.lease is not None]

    def renew(self, lease: Lease, expires_in: float) -> Lease:
        raise_any(
            failure_of(
                lease, self._board.run("renew", lease.key, lease.token, float(expires_in))[0]
            )
        )
        return lease if lease.session is not None else replace(lease, ends_in=float(expires_in))

    def release(self, lease: Lease, delay: float = 0.0) -> None:
        (row,) = self._board.run("release", lease.key, lease.token, float(delay))
        raise_any(failure_of(lease, row))
        self._spent.note(lease.claim_id)

    # -- the feed --------------------------------------------------------------------------------

    def changes(self, cursor: str | None, timeout: float) -> primitives.Changes:
        return feed.changes(self._board, cursor, timeout)
