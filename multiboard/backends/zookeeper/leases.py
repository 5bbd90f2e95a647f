# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""How ZooKeeper fences, and the leases themselves: how they are given and kept.

**The fence.** A lease is a node, ``leases/KEY~TOKEN~CLAIM~KIND``, and a node's name is never used
twice: the token counts the claims of a posting from above its serial, and the mark of the claim id
stands beside it. So the node's presence *is* the right, and the name is the fencing token:

- A claim makes that node and writes the token to ``states/KEY``, in one transaction. It names the
  version of the state that it read; of two claims one is refused.
- Whatever a holder writes (a removal, a release, a move to the trash) deletes that very node in
  the same transaction as all else that it does. Where the lease ended meanwhile, by an expired
  session or by time, the node is gone, the server refuses the transaction, and nothing of it is
  applied, however late it arrives.
- A timed lease is renewed, and ended, at the version of its node that was read.

Versions alone would not fence, because a node that was made anew counts from 0 again: hence the
token in the name, and the child ``states/KEY/BORN`` that a later claim checks. The fence is in the
replicated data, so it survives a failover. The nodes are described in
:mod:`multiboard.backends.zookeeper.records`; leases end in
:mod:`multiboard.backends.zookeeper.lease_endings`.

This module imports kazoo, the primitives, the errors and its own siblings.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from kazoo.protocol import serialization as wire

from multiboard import errors
from multiboard.backends.zookeeper import records
from multiboard.backends.zookeeper.board import Board
from multiboard.backends.zookeeper.cache import Cache
from multiboard.backends.zookeeper.client import Client
from multiboard.backends.zookeeper.seen import Now, Seen
from multiboard.backends.zookeeper.transactions import (
    Outcome,
    Write,
    commit,
    commit_one,
    commit_together,
)
from multiboard.primitives import Damage, Lease, Posting

#: How often a step is retried because another writer was faster, each time at something else.
TRIES = 30


class Unclaimed(NamedTuple):
    """A posting that nobody ever claimed, and the transaction that made it."""

    key: str
    made_by: int


class Contended(errors.Unavailable):
    """Every attempt at one posting was refused, and yet it looks as if it could be done."""


class Leases:
    """Gives leases and renews them."""

    def __init__(self, board: Board, cache: Cache) -> None:
        self._board = board
        self._cache = cache

    def client_for(self, expires_in: float | None) -> Client:
        """Return a client for claims: a session lease lives as long as its session."""
        session = self._board.session
        return session.leasing_client() if expires_in is None else session.client()

    # -- giving ----------------------------------------------------------------------------------

    def acquire(self, client: Client, key: str, hold: records.Hold) -> Lease:
        """Lease a posting, or return the lease that this very claim has."""
        serial = self._cache.take_unclaimed(key)
        if serial is not None:
            lease = self.claim(client, key, hold, serial)
            if lease is not None:
                return lease
        for attempt in range(0 if serial is None else 1, TRIES):
            # The second time another claim was faster, or the server is behind: read fresh.
            seen = self._board.look(client, [key], fresh=attempt > 0)[0]
            if not isinstance(seen, Seen):
                if attempt:
                    raise errors.PostingNotFound(key)
                continue
            now = self._board.time_for(client, [seen])
            current = seen.lease(now)
            if current is None:
                lease = self.claim(client, key, hold, seen)
                if lease is not None:
                    return lease
            elif attempt:
                if (current.claim_id, current.session) != (hold.claim_id, _session(client, hold)):
                    raise errors.LeaseHeld(key, current.holder)
                self._cache.note_state(key, seen.state)
                return current
        raise Contended(f"posting {key!r} changes hands too fast")

    def claim(
        self, client: Client, key: str, hold: records.Hold, known: Seen | int
    ) -> Lease | None:
        """Try to lease a posting as it was seen; None if it is otherwise.

        Of one that nobody ever claimed the serial is enough.
        """
        state, operations = self._claim_operations(client, key, hold, known)
        outcome = commit_one(client, operations)
        self._raise_error(client, outcome, hold)
        return None if outcome.refused is not None else self._leased(client, key, hold, state)

    def claim_unclaimed(
        self, client: Client, key: str, hold: records.Hold, serial: int
    ) -> tuple[Posting, Lease] | None:
        """Lease a posting that nobody ever claimed, and read it, in one round trip."""
        state, operations = self._claim_operations(client, key, hold, serial)
        reading: list[Any] = []

        def claim_and_read() -> Iterator[Write]:
            yield operations, self._board.session.writes.marker("claim", key)
            # The claim was sent by now; what is read behind it no other process can take away.
            reading.append(client.submit(wire.GetData(f"{self._board.paths.live}/{key}", None)))

        outcome = commit(client, claim_and_read())[0]
        self._raise_error(client, outcome, hold)
        if outcome.stat is None:
            return None
        lease = self._leased(client, key, hold, state)
        live = client.value(reading[0])
        try:
            job, stat = records.Job.decode(live[0]), live[1]
        except (ValueError, TypeError):
            return None  # somebody overwrote it this very moment
        return _claimed(job, stat, state, outcome, lease), lease

    def claim_together(
        self, client: Client, wanted: Sequence[tuple[records.Hold, Seen | Unclaimed]]
    ) -> list[tuple[Posting, Lease] | None]:
        """Lease postings as they were seen, and read them; None for those that are otherwise."""
        states, writes, paths = [], list[Write](), []
        for hold, known in wanted:
            base = known if isinstance(known, Seen) else known.made_by
            state, operations = self._claim_operations(client, known.key, hold, base)
            marker = self._board.session.writes.marker("claim", known.key)
            states.append(state)
            writes.append((operations, marker))
            paths.append(f"{self._board.paths.live}/{known.key}")
        outcomes = commit_together(client, writes, [known.key for _, known in wanted])
        leases: list[Lease | None] = []
        for (hold, known), state, outcome in zip(wanted, states, outcomes, strict=True):
            self._raise_error(client, outcome, hold)
            won = outcome.stat is not None
            leases.append(self._leased(client, known.key, hold, state) if won else None)
        # What is read behind the claims no other process can take away.
        won_paths = [path for path, lease in zip(paths, leases, strict=True) if lease is not None]
        replies = iter(client.read(won_paths) if won_paths else ())
        pairs: list[tuple[Posting, Lease] | None] = []
        for lease, state, outcome in zip(leases, states, outcomes, strict=True):
            pairs.append(None)
            if lease is not None:
                try:
                    data, stat = next(replies)
                    posting = _claimed(records.Job.decode(data), stat, state, outcome, lease)
                    pairs[-1] = posting, lease
                except (ValueError, TypeError):
                    pass  # somebody overwrote it this very moment
        return pairs

    def _raise_error(self, client: Client, outcome: Outcome, hold: records.Hold) -> None:
        """Raise why a claim failed; by a session lease, that the session ended goes first."""
        if outcome.error is not None:
            if hold.expires_in is None:
                self._board.session.report_end(client)
            raise outcome.error

    def _leased(self, client: Client, key: str, hold: records.Hold, state: records.State) -> Lease:
        self._cache.note_state(key, state)
        session = _session(client, hold)
        return Lease(key, hold.holder, hold.claim_id, state.token, session, hold.expires_in)

    def _claim_operations(
        self, client: Client, key: str, hold: records.Hold, known: Seen | int
    ) -> tuple[records.State, list[Any]]:
        seen = None if isinstance(known, int) else known
        paths = self._board.paths
        mark = records.claim_mark(hold.claim_id)
        suffix = f"{mark}~{'s' if hold.expires_in is None else 't'}"
        path = f"{paths.states}/{key}"
        born = uuid.uuid4().hex[:16]
        operations: list[Any] = [wire.CheckVersion(f"{paths.live}/{key}", -1)]
        state = (
            records.State(known + 1, 1, 0, born, suffix)
            if isinstance(known, int)
            else known.claimed(suffix, born)
        )
        if seen is None or seen.state_stat is None:
            operations.append(client.create(path, state.encode()))
        else:
            operations.append(wire.SetData(path, state.encode(), seen.state_stat.version))
        if state.born == born:
            operations.append(client.create(f"{path}/{born}", b""))
        else:
            # A state that was made anew counts its versions from 0 again; its child is unique.
            operations.append(wire.CheckVersion(f"{path}/{state.born}", -1))
        if seen is not None and seen.hold is not None:  # a timed lease that is over
            ended = f"{paths.leases}/{seen.lease_name}"
            operations.append(wire.Delete(ended, seen.hold_stat.version))
        node = f"{paths.leases}/{key}~{state.token}~{suffix}"
        ephemeral = hold.expires_in is None
        operations.append(client.create(node, hold.encode(), ephemeral=ephemeral))
        return state, operations

    # -- keeping ---------------------------------------------------------------------------------

    def renew(self, lease: Lease, expires_in: float) -> Lease:
        """Renew a timed lease; of a session lease, confirm that it is there."""
        client = self._board.session.client()
        for attempt in range(TRIES):
            # A session lease is only looked at: what is seen must be current at once.
            fresh = attempt > 0 or lease.session is not None
            seen = self._board.look(client, [lease.key], fresh=fresh)[0]
            now = self._board.time_for(client, [seen])
            lost = loss_of(lease, seen, now)
            if lost is not None:
                if fresh:
                    raise lost
                continue
            assert isinstance(seen, Seen)
            assert seen.hold is not None
            found, ends = seen.lease(now), seen.ends
            if found is not None and ends is None:
                return found
            path = f"{self._board.paths.leases}/{seen.lease_name}"
            hold = records.Hold(seen.hold.holder, seen.hold.claim_id, expires_in)
            renewal = wire.SetData(path, hold.encode(), seen.hold_stat.version)
            outcome = commit_one(client, [renewal])
            if outcome.error is not None:
                raise outcome.error
            if outcome.results is None:
                continue
            stat = outcome.results[0]
            if ends is not None and stat.mtime >= ends:
                # It ended while the renewal was in flight, and no process had noticed yet.
                commit_one(client, [wire.Delete(path, stat.version)])
                raise errors.LeaseLost(lease.key, lease.token)
            return Lease(lease.key, hold.holder, hold.claim_id, lease.token, None, hold.expires_in)
        raise errors.Unavailable(f"the lease on {lease.key!r} changes too fast")


def _claimed(
    job: records.Job, stat: Any, state: records.State, outcome: Outcome, lease: Lease
) -> Posting:
    """Return a posting that was just claimed."""
    return Posting(
        lease.key,
        job.rank,
        job.serial(stat.czxid),
        job.body,
        state.attempts,
        state.deaths,
        (job.created or stat.ctime) / 1000.0,
        outcome.stat.mtime / 1000.0,
        0.0,
        lease,
    )


def loss_of(lease: Lease, seen: Seen | Damage | None, now: Now) -> errors.MultiboardError | None:
    """Return why a lease is not current; None where it is."""
    if not isinstance(seen, Seen):
        return errors.PostingNotFound(lease.key)
    if seen.state is None or seen.state.token != lease.token:
        return errors.LeaseLost(lease.key, lease.token)
    if not seen.held(now, by_holder=True):
        return errors.LeaseLost(lease.key, lease.token)
    if seen.hold is not None and seen.hold.claim_id != lease.claim_id:
        # A posting of the same key was made anew, and its tokens began anew with it.
        return errors.LeaseLost(lease.key, lease.token)
    return None


def _session(client: Client, hold: records.Hold) -> str | None:
    """Return the session that a lease lives by."""
    return client.id if hold.expires_in is None else None
