# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The board in a Redis server, 6.2 or newer.

Every verb is a Lua script of the same name (``scripts/acquire.lua`` is a claim), every key of a
board has the same hash tag, and every judgement of time is the server's. It imports the primitives,
the errors, and its own parts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from multiboard import errors, primitives
from multiboard.backends.redis import records, server_info
from multiboard.backends.redis.feed import Feed
from multiboard.backends.redis.locators import locator_factory
from multiboard.backends.redis.session import Board
from multiboard.backends.redis.settings import RedisSettings, from_url, replicas
from multiboard.primitives import Changes, Lease, NewPosting, Page, Place, Posting, Shelf, Url

__all__ = ["RedisBackend", "RedisSettings"]

#: What holds on every server; whether it is durable depends on the server.
_TRAITS = primitives.Traits(
    durable=False, cross_process=True, cross_host=True, fencing_survives_failover=True,
    native_claim_next=True, linearizable_feed=True, lease_slack=0.5, max_body=8 * 1024 * 1024,
)  # fmt: skip


class RedisBackend(primitives.Backend):
    """The primitives over Redis: one server, a master that sentinels guard, or a cluster.

    See :class:`multiboard.primitives.Backend`.
    """

    settings_class = RedisSettings
    settings: RedisSettings

    def __init__(self, settings: RedisSettings) -> None:
        super().__init__(settings)
        if "{" in settings.prefix or "}" in settings.prefix:
            raise errors.ConfigError("redis: the prefix must not contain '{' or '}'")
        keys = records.keys_of(settings.prefix, settings.namespace)
        # A call waits for at most half of what a whole operation may take: a lost reply gets a
        # second try.
        timeout = min(settings.connect_timeout, settings.operation_timeout / 2)
        make_locator = locator_factory(settings, keys["meta"])
        namespace = settings.namespace
        self._board = Board(make_locator, keys, namespace, timeout, replicas(settings))
        self._feed = Feed(self._board)
        self._spent = primitives.SpentClaims()

    @classmethod
    def from_url(cls, url: Url) -> Mapping[str, Any]:
        return from_url(url)

    @property
    def traits(self) -> primitives.Traits:
        return dataclasses.replace(_TRAITS, durable=self._board.appends)

    @property
    def incarnation(self) -> str:
        return self._board.incarnation

    @property
    def position(self) -> int:
        return self._board.mark.position

    def open(self) -> None:
        self.settings.check_tls_files()
        self._board.open(self.settings.connect_timeout, self.settings.create)

    def boards(self) -> Sequence[str]:
        return self._board.namespaces(self.settings.prefix, self.settings.connect_timeout)

    def close(self) -> None:
        self._board.close()

    def server_info(self) -> Mapping[str, str]:
        return server_info.of(self._board)

    # -- directory ---------------------------------------------------------------------------

    def add(
        self, postings: Sequence[NewPosting], shelf: Shelf = Shelf.LIVE
    ) -> Sequence[Posting | errors.MultiboardError]:
        results: list[Posting | errors.MultiboardError] = []
        for chunk in records.chunks(postings):
            args: list[Any] = []
            if shelf is Shelf.ENTITIES:
                for new in chunk:
                    args += (new.key, new.rank, new.body)
                (_, now, replies), _ = self._run_in_session("enter", args)
            else:
                for new in chunk:
                    delay, digest = records.micro(new.delay), records.digest(new)
                    args += (new.key, new.rank, delay, digest, new.body)
                _, now, replies = self._board.run("add", *args)
            for new, reply in zip(chunk, replies, strict=True):
                if reply[0] == b"OK":
                    row = (new.key.encode(), reply[1], reply[2], new.body)
                    results.append(_posting(row, now, shelf))
                elif reply[0] == b"GONE":
                    results.append(errors.PostingNotFound(new.key))
                else:
                    results.append(errors.PostingExists(new.key))
        return results

    def get(self, keys: Sequence[str]) -> Sequence[Posting | None]:
        results: list[Posting | None] = []
        while len(results) < len(keys):
            chunk = keys[len(results) : len(results) + records.PAGE]
            _, now, rows, dead, _, _ = self._board.run("list", "live", "keys", *chunk)
            lost = records.pairs(dead)
            for row in records.rows(rows):
                try:
                    results.append(records.posting(row, now, lost))
                except ValueError:  # there is none, or it is damaged
                    results.append(None)
        return results

    def list(
        self, shelf: Shelf = Shelf.LIVE, *, after: Place | None = None, limit: int | None = None
    ) -> Page:
        postings: list[Posting] = []
        damaged: list[primitives.Damage] = []
        place: Any = "" if after is None else after[0] * records.SERIALS + after[1]
        order = self._board.keys[shelf.value]
        while limit is None or len(postings) <= limit:
            count = records.PAGE if limit is None else min(records.PAGE, limit + 1 - len(postings))
            _, now, rows, dead, looked, foreign = self._board.run(
                "list", shelf.value, "after", place, count
            )
            lost = records.pairs(dead)
            for name, why in records.pairs(foreign).items():
                damaged.append(primitives.Damage(records.readable(name), why.decode()))
            for row in records.rows(rows):
                place = row[1]
                try:
                    posting = records.posting(row, now, lost, entity=shelf is Shelf.ENTITIES)
                except ValueError as error:
                    what = f"{order} {records.readable(row[0])}"
                    damaged.append(primitives.Damage(what, str(error)))
                else:
                    if posting is not None:
                        postings.append(posting)
            if not looked:
                return Page(postings, damaged=damaged)
        return Page(postings[:limit], after=postings[limit - 1].place, damaged=damaged)

    def count(self, shelf: Shelf = Shelf.LIVE) -> int:
        return int(self._board.run("count", shelf.value)[1])

    def remove(
        self, leases: Sequence[Lease], to: Shelf | None = None
    ) -> Sequence[errors.MultiboardError | None]:
        kind = primitives.ChangeKind.REMOVED if to is None else primitives.ChangeKind.TRASHED
        results: list[errors.MultiboardError | None] = []
        for chunk in records.chunks(leases):
            args = [text for lease in chunk for text in (lease.key, lease.token)]
            fast = len(chunk) == 1 and to is None
            reply = self._board.run("remove", kind.value, *args, fast=fast)
            for lease, outcome in zip(chunk, reply[1], strict=True):
                if outcome == b"OK":
                    self._spent.note(lease.claim_id)
                    results.append(None)
                elif outcome == b"LOST":
                    results.append(errors.LeaseLost(lease.key, lease.token))
                else:
                    results.append(errors.PostingNotFound(lease.key))
        return results

    def restore(self, key: str) -> Posting:
        status, *reply = self._board.run("restore", key)
        if status == b"GONE":
            raise errors.PostingNotFound(key, f"no posting {key!r} in the trash")
        now, score, state, body = reply
        return _posting((key.encode(), score, state, body), now)

    def purge(self, keys: Sequence[str], shelf: Shelf = Shelf.TRASH) -> Sequence[bool]:
        results: list[bool] = []
        for chunk in records.chunks(keys):
            results += [one == 1 for one in self._board.run("purge", shelf.value, *chunk)[1]]
        return results

    # -- lock --------------------------------------------------------------------------------

    def acquire(
        self, key: str, holder: str, claim_id: str, expires_in: float | None = None
    ) -> Lease:
        if claim_id in self._spent:
            raise errors.LeaseLost(key, 0, f"claim id {claim_id!r} had its lease")
        labels = (records.encoded(holder), records.encoded(claim_id))
        args = (key, *labels, records.micro(expires_in or 0.0))
        reply, session = self._run_leasing("acquire", args, expires_in, fast=True)
        if reply[0] == b"GONE":
            raise errors.PostingNotFound(key)
        if reply[0] == b"HELD":
            raise errors.LeaseHeld(key, records.decoded(reply[1]))
        _, now, token, ends = reply
        ends_in = None if session else max(0.0, (int(ends) - now) / 1e6)
        return Lease(key, holder, claim_id, int(token), session, ends_in)

    def acquire_next(
        self, holder: str, claim_ids: Sequence[str], expires_in: float | None = None
    ) -> Sequence[tuple[Posting, Lease]]:
        kept: list[Posting] = []
        won: list[Posting] = []
        for chunk in records.chunks([one for one in claim_ids if one not in self._spent]):
            wanted, more = dict.fromkeys(chunk), 1
            while wanted and more:
                span = records.micro(expires_in or 0.0)
                args = (records.encoded(holder), span, *map(records.encoded, wanted))
                reply, _ = self._run_leasing("acquire_next", args, expires_in)
                _, now, old, more, new = reply
                for rows, found in ((old, kept), (new, won)):
                    for row in records.rows(rows):
                        posting = _posting(row, now)
                        if posting.lease is not None:
                            wanted.pop(posting.lease.claim_id, None)
                            found.append(posting)
        kept.sort(key=lambda posting: posting.place)
        return [(posting, posting.lease) for posting in (*kept, *won) if posting.lease]

    def renew(self, lease: Lease, expires_in: float) -> Lease:
        reply = self._run_leased(lease, "renew", records.micro(expires_in))
        ends_in = None if lease.session else max(0.0, (int(reply[2]) - reply[1]) / 1e6)
        return dataclasses.replace(lease, ends_in=ends_in)

    def release(self, lease: Lease, delay: float = 0.0) -> None:
        self._run_leased(lease, "release", records.micro(delay))
        self._spent.note(lease.claim_id)

    def keepalive(self, within: float | None = None) -> float:
        self._run_in_session("keepalive", (), within=within)
        return self.settings.session_timeout

    # -- feed --------------------------------------------------------------------------------

    def changes(self, cursor: str | None, timeout: float) -> Changes:
        return self._feed.changes(cursor, timeout)

    # -- sessions and leases -----------------------------------------------------------------

    def _run_in_session(
        self, name: str, args: Sequence[Any], fast: bool = False, within: float | None = None
    ) -> tuple[Any, str]:
        timeout = records.micro(self.settings.session_timeout)
        return self._board.run_in_session(name, timeout, args, fast, within)

    def _run_leasing(
        self, name: str, args: Sequence[Any], expires_in: float | None, fast: bool = False
    ) -> tuple[Any, str | None]:
        """Run a script that leases; return its reply, and the session that it leased by."""
        if expires_in is not None:
            return self._board.run(name, 0, 0, 0, *args), None
        return self._run_in_session(name, args, fast)

    def _run_leased(self, lease: Lease, name: str, span: int) -> Any:
        reply = self._board.run(name, lease.key, lease.token, span)
        if reply[0] == b"LEASE":
            raise errors.LeaseLost(lease.key, lease.token)
        if reply[0] == b"GONE":
            raise errors.PostingNotFound(lease.key)
        return reply


def _posting(row: Any, now: int, shelf: Shelf = Shelf.LIVE) -> Posting:
    """Return a posting that a script found sound and whose lease, if any, is current."""
    posting = records.posting(row, now, {}, entity=shelf is Shelf.ENTITIES)
    assert posting is not None
    return posting
