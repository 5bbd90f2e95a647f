# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The claim of whatever comes next: by the order that the feed keeps.

This module imports kazoo, the primitives, the errors and its own siblings.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Container, Sequence

from kazoo.protocol import serialization as wire

from multiboard import errors
from multiboard.backends.zookeeper import records
from multiboard.backends.zookeeper.board import Board
from multiboard.backends.zookeeper.cache import Cache
from multiboard.backends.zookeeper.client import Client
from multiboard.backends.zookeeper.directory import Directory
from multiboard.backends.zookeeper.feed import Feed
from multiboard.backends.zookeeper.leases import Contended, Leases, Unclaimed
from multiboard.backends.zookeeper.order import Entry
from multiboard.backends.zookeeper.seen import Seen
from multiboard.backends.zookeeper.transactions import TOGETHER
from multiboard.primitives import FailureLog, Lease, Posting, Spread

LOG = logging.getLogger(__name__)

Won = tuple[Posting, Lease]


class NextClaims:
    """Claims the first postings that are due and unleased."""

    def __init__(
        self, board: Board, cache: Cache, feed: Feed, directory: Directory, leases: Leases
    ) -> None:
        self._board = board
        self._cache = cache
        self._feed = feed
        self._directory = directory
        self._leases = leases
        self._spread = Spread()
        self._passed_over = FailureLog(LOG, "A posting is passed over")

    def acquire_next(
        self, holder: str, claim_ids: Sequence[str], expires_in: float | None
    ) -> Sequence[Won] | None:
        """Lease the next postings; None where the server has no watches that keep the order."""
        board, feed = self._board, self._feed
        client = self._leases.client_for(expires_in)
        feed.ensure(client, ordered=True)
        if not feed.recursive:
            return None
        epoch = client.epoch
        # Every change acknowledged before has been received by the feed after this.
        client.pipeline([wire.Sync(board.paths.live)])
        if not feed.ordered:
            raise errors.Unavailable("the connection to ZooKeeper was lost meanwhile")
        feed.end_timed_leases(client, wait=True)
        wanted = [claim_id for claim_id in claim_ids if claim_id not in self._cache.spent_claims]
        won = self._won_before(client, wanted, expires_in)
        feed.look_up(client)
        earliest = board.now(client).earliest if feed.has_delayed() else 0.0
        tried: set[str] = set()
        while wanted:
            block = self._block(earliest, min(len(wanted), TOGETHER), tried)
            if not block:
                break
            tried.update(key for key, _ in block)
            holds = [records.Hold(holder, claim_id, expires_in) for claim_id in wanted]
            pairs = self._claim_block(client, block, holds)
            if not all(pairs):
                self._spread.met()
            for pair in filter(None, pairs):
                wanted.remove(pair[1].claim_id)
                won.append(pair)
        if wanted:
            # That there is no more is true only if the server that replied is one of those that
            # agree now, and so was one of them then.
            board.session.confirm(client)
            if client.epoch != epoch:
                raise errors.Unavailable("the connection to ZooKeeper was lost meanwhile")
        return won

    def _won_before(self, client: Client, wanted: list[str], expires_in: float | None) -> list[Won]:
        """Return what these claims have already, and take them out of ``wanted``."""
        session = client.id if expires_in is None else None
        won: list[Won] = []
        held = self._feed.claimed_as({records.claim_mark(claim_id) for claim_id in wanted})
        for posting in self._directory.get(held) if held else ():
            lease = None if posting is None else posting.lease
            if posting and lease and lease.claim_id in wanted and lease.session == session:
                wanted.remove(lease.claim_id)
                won.append((posting, lease))
        won.sort(key=lambda pair: pair[0].place)
        return won

    def _block(
        self, earliest: float, number: int, tried: Container[str]
    ) -> list[tuple[str, Entry]]:
        """Return the candidates to try next, as many as there are claims to make."""
        untried = (one for one in self._feed.candidates(earliest) if one[0] not in tried)
        found = list(itertools.islice(untried, number * self._spread.width))
        blocks = [found[start : start + number] for start in range(0, len(found), number)]
        return blocks[self._spread.pick([block[0][0] for block in blocks])] if blocks else []

    def _claim_block(
        self, client: Client, block: Sequence[tuple[str, Entry]], holds: Sequence[records.Hold]
    ) -> list[Won | None]:
        """Lease postings, in one transaction where that can be; None for what others have."""
        if len(block) == 1:
            ((key, entry),) = block
            return [self._claim(client, key, holds[0], entry)]
        claimed = [key for key, entry in block if not entry.unclaimed]
        seen = dict(zip(claimed, self._board.look(client, claimed), strict=True))
        now = self._board.time_for(client, seen.values())
        known: dict[str, Seen | Unclaimed] = {}
        for key, entry in block:
            found = seen.get(key)
            if entry.unclaimed:
                known[key] = Unclaimed(key, entry.place[1] // records.PLACES)
            elif isinstance(found, Seen) and not found.held(now):
                known[key] = found
        by_key = dict(zip([key for key, _ in block], holds, strict=False))
        together = [(by_key[key], one) for key, one in known.items()]
        pairs = dict(zip(known, self._leases.claim_together(client, together), strict=True))
        return [
            pairs.get(key) or self._claim(client, key, by_key[key], entry, refused=True)
            for key, entry in block
        ]

    def _claim(
        self, client: Client, key: str, hold: records.Hold, entry: Entry, *, refused: bool = False
    ) -> Won | None:
        """Lease one posting; None where another process has it, or where that can't be done.

        It was ``refused`` already, as it was last seen.
        """
        if entry.unclaimed and not refused:
            made_by = entry.place[1] // records.PLACES
            pair = self._leases.claim_unclaimed(client, key, hold, made_by)
            if pair is not None:
                return pair
            refused = True
        if refused and not self._feed.is_free(key):
            return None  # the change by which it was refused was received before the refusal
        try:
            lease = self._leases.acquire(client, key, hold)
        except (errors.LeaseHeld, errors.PostingNotFound):
            return None
        except Contended as error:
            # Or this server shows what the others don't hold: that must not stop the others.
            self._passed_over.failed(error)
            return None
        posting = self._directory.get([key])[0]
        return None if posting is None or posting.lease is None else (posting, lease)
