# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""How leases are ended by their holders: released, or with their postings removed or trashed.

Each deletes the lease's node in the same transaction as all else that it does: that is the fence
described in :mod:`multiboard.backends.zookeeper.leases`. This module imports kazoo, the
primitives, the errors and its own siblings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kazoo.protocol import serialization as wire

from multiboard import errors
from multiboard.backends.zookeeper import records
from multiboard.backends.zookeeper.board import Board, raise_first
from multiboard.backends.zookeeper.cache import Cache
from multiboard.backends.zookeeper.client import Client
from multiboard.backends.zookeeper.errors import NodeExists
from multiboard.backends.zookeeper.leases import TRIES, loss_of
from multiboard.backends.zookeeper.seen import Seen, died, was_released
from multiboard.backends.zookeeper.transactions import Write, commit_one, commit_together
from multiboard.primitives import Damage, Lease

RELEASE, REMOVE, TRASH = "release", "remove", "trash"


class LeaseEndings:
    """Ends leases for their holders."""

    def __init__(self, board: Board, cache: Cache) -> None:
        self._board = board
        self._cache = cache

    def end(
        self, leases: Sequence[Lease], how: str, delay: float = 0.0
    ) -> list[errors.MultiboardError | None]:
        """End leases by removing, trashing or releasing their postings."""
        board, log = self._board, self._board.session.writes
        client = board.session.client()
        answers: dict[int, errors.MultiboardError | None] = {}
        indeterminate: set[int] = set()
        for index, lease in enumerate(leases):
            what = (how, records.lease_name(lease))
            applied = bool(log.applied(what)) or log.resolve(what, client)
            if applied:
                log.note_applied(what)
                self._cache.spent_claims.note(lease.claim_id)
                answers[index] = None
            elif applied is None:
                indeterminate.add(index)
        seen = self._look_where_needed(client, leases, how, skip=answers)
        now = board.time_for(client, seen.values())
        writes: dict[int, Write] = {}
        again: list[int] = []
        for index, lease in enumerate(leases):
            if index in answers:
                continue
            found = seen.get(index)
            if index in seen and loss_of(lease, found, now) is not None:
                again.append(index)
            else:
                operations = self._end_operations(client, lease, how, delay, found)
                writes[index] = (operations, log.marker(how, lease.key))
        failures: list[errors.MultiboardError] = []
        keys = [leases[index].key for index in writes]
        outcomes = commit_together(client, list(writes.values()), keys)
        for index, outcome in zip(writes, outcomes, strict=True):
            what = (how, records.lease_name(leases[index]))
            if outcome.stat is not None:
                self._ended(what, leases[index])
                answers[index] = None
            elif outcome.refused is not None:
                again.append(index)
            else:
                failures.append(board.error_of(client, outcome, what))
        raise_first(failures)
        for index in again:
            answers[index] = self._end_again(
                client, leases[index], how, delay, indeterminate=index in indeterminate
            )
        return [answers[index] for index in range(len(leases))]

    def _ended(self, what: tuple[str, str], lease: Lease) -> None:
        self._board.session.writes.note_applied(what)
        self._cache.note_end(what[1], lease.claim_id)

    def _look_where_needed(
        self, client: Client, leases: Sequence[Lease], how: str, skip: Mapping[int, Any]
    ) -> dict[int, Seen | Damage | None]:
        """Look at the postings of which more is needed than their lease."""
        needed = [
            index
            for index, lease in enumerate(leases)
            if index not in skip
            and (
                lease.session is None
                or how == TRASH
                or records.lease_name(lease) not in self._cache.states
            )
        ]
        found = self._board.look(client, [leases[index].key for index in needed])
        return dict(zip(needed, found, strict=True))

    def _end_again(
        self, client: Client, lease: Lease, how: str, delay: float, *, indeterminate: bool
    ) -> errors.MultiboardError | None:
        """End a lease by a fresh read; return why it can't be."""
        board, log = self._board, self._board.session.writes
        what = (how, records.lease_name(lease))
        for _ in range(TRIES):
            if log.applied(what):
                return None  # the same lease stands in the batch twice
            seen = board.look(client, [lease.key], fresh=True)[0]
            now = board.time_for(client, [seen])
            lost = loss_of(lease, seen, now)
            if lost is not None:
                if indeterminate and how == RELEASE and was_released(lease, seen):
                    self._ended(what, lease)
                    return None
                if indeterminate and not died(lease, seen):
                    raise errors.Indeterminate(
                        f"whether the {how} of posting {lease.key!r} was applied can't be known "
                        "any more: the session that would show it has ended"
                    )
                return lost
            operations = self._end_operations(client, lease, how, delay, seen)
            outcome = commit_one(client, operations, log.marker(how, lease.key))
            if outcome.stat is not None:
                self._ended(what, lease)
                return None
            if outcome.refused is None:
                raise board.error_of(client, outcome, what)
            if isinstance(outcome.refused[1], NodeExists):
                return errors.PostingExists(lease.key, "the trash holds something of that name")
        raise errors.Unavailable(f"the lease on {lease.key!r} changes too fast")

    def _end_operations(
        self, client: Client, lease: Lease, how: str, delay: float, found: Any
    ) -> list[Any]:
        paths, key = self._board.paths, lease.key
        seen = found if isinstance(found, Seen) else None
        state = seen.state if seen is not None else self._cache.states[records.lease_name(lease)]
        assert state is not None
        name = records.lease_name(lease) if seen is None else seen.lease_name
        version = -1 if seen is None or seen.ends is None else seen.hold_stat.version
        end_lease = wire.Delete(f"{paths.leases}/{name}", version)
        if how == RELEASE:
            released = records.State(
                state.token, state.attempts, state.deaths, state.born, None, delay
            )
            return [
                wire.SetData(paths.leases, b"", -1),  # for the watchers: no death
                end_lease,
                wire.SetData(f"{paths.states}/{key}", released.encode(), -1),
            ]
        removal = [
            wire.Delete(f"{paths.live}/{key}", -1),
            wire.Delete(f"{paths.states}/{key}/{state.born}", -1),
            wire.Delete(f"{paths.states}/{key}", -1),
            end_lease,
        ]
        if how == REMOVE:
            return removal
        assert seen is not None
        trashed = records.Trashed(
            seen.job.rank,
            seen.job.body,
            seen.job.created or seen.stat.ctime,
            seen.serial,
            state.attempts,
            state.deaths,
            state.token,
        )
        return [
            wire.SetData(paths.live, b"", -1),  # for the watchers: a move, no removal
            *removal,
            client.create(f"{paths.trash}/{key}", trashed.encode()),
        ]
