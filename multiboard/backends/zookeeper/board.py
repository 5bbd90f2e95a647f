# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""A board in ZooKeeper as one backend sees it: its postings, and its server's time.

This module imports kazoo, the primitives, the errors and its own siblings.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from typing import Any

from kazoo.protocol import serialization as wire

from multiboard import errors
from multiboard.backends.zookeeper import records
from multiboard.backends.zookeeper.client import Client
from multiboard.backends.zookeeper.errors import NoNode
from multiboard.backends.zookeeper.seen import NO_MATTER, Now, Seen
from multiboard.backends.zookeeper.session import Session
from multiboard.backends.zookeeper.transactions import Outcome, commit_one
from multiboard.primitives import Damage, boottime

#: Seconds for which the server's clock is extrapolated from one reading of it.
CLOCK_WINDOW = 1.0


class Board:
    """What all verbs need of the board: the session, the time, and the postings with their state.

    The backend makes another one when it is opened, and in a forked child.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self.paths = session.paths
        self._sample = (0.0, 0.0, float("-inf"))

    # -- the time ------------------------------------------------------------------------------

    def now(self, client: Client) -> Now:
        """Return what the server's clock shows: only a write shows it."""
        stamp, sent, got = self._sample
        if boottime() - got > CLOCK_WINDOW:
            sent = boottime()
            outcome = commit_one(client, [wire.SetData(self.paths.clock, b"", -1)])
            if outcome.results is None:
                if outcome.refused is not None:
                    self.session.confirm(client)
                raise errors.Unavailable("the server's clock could not be read") from outcome.error
            stamp, got = float(outcome.results[0].mtime), boottime()
            self._sample = (stamp, sent, got)
        current = boottime()
        return Now(stamp + (current - got) * 1000, stamp + 1 + (current - sent) * 1000)

    def time_for(self, client: Client, seen: Iterable[Any]) -> Now:
        """Return the time, where it matters to one of the postings."""
        matters = any(isinstance(one, Seen) and one.needs_time for one in seen)
        return self.now(client) if matters else NO_MATTER

    # -- reading -------------------------------------------------------------------------------

    def look(
        self,
        client: Client,
        keys: Sequence[str],
        claimed: Container[str] | None = None,
        *,
        fresh: bool = False,
    ) -> list[Seen | Damage | None]:
        """Read live postings with all that belongs to them, each as of one instant.

        Where ``claimed`` is given, the others had no state at an instant shortly before. ``fresh``
        is for what must show every write acknowledged before the call.
        """
        found: dict[str, Seen | Damage | None] = {}
        left = list(dict.fromkeys(keys))
        while left:
            nodes: list[str] = []
            for key in left:
                # The state first: what it shows is true of the posting read after it, if that
                # was there before it.
                if claimed is None or key in claimed:
                    nodes.append(f"{self.paths.states}/{key}")
                nodes.append(f"{self.paths.live}/{key}")
            replies, fresh = iter(self.session.read(client, nodes, fresh=fresh)), False
            for key in left:
                state = next(replies) if claimed is None or key in claimed else NoNode()
                found[key] = self._seen(key, state, next(replies))
            left = self._look_at_leases(client, [found[key] for key in left])
        return [found[key] for key in keys]

    def _seen(self, key: str, state: Any, live: Any) -> Seen | Damage | None:
        if isinstance(live, Exception):
            return None
        path = f"{self.paths.live}/{key}"
        self.session.position.note(live[1].czxid)
        try:
            seen = Seen(key, records.Job.decode(live[0]), live[1])
            if not isinstance(state, Exception):
                path = f"{self.paths.states}/{key}"
                seen.state_stat = state[1]
                # An older one was left behind by an earlier posting of that key.
                if state[1].mzxid >= live[1].czxid and state[0] != records.GONE:
                    seen.state = records.State.decode(state[0])
        except ValueError as error:
            return Damage(path, str(error))
        return seen

    def _look_at_leases(self, client: Client, found: Iterable[Any]) -> list[str]:
        """Read the leases; return the keys whose state changed meanwhile."""
        leased = [s for s in found if isinstance(s, Seen) and s.lease_name is not None]
        leases = f"{self.paths.leases}/"
        replies = client.read([leases + str(seen.lease_name) for seen in leased])
        over = []
        for seen, reply in zip(leased, replies, strict=True):
            if isinstance(reply, Exception) or reply[0] == records.GONE:
                over.append(seen)
                continue
            seen.hold_stat = reply[1]
            self.session.position.note(reply[1].czxid)
            try:
                seen.hold = records.Hold.decode(reply[0])
            except ValueError:
                # Somebody overwrote it, and yet it is the lease: it keeps others away.
                seen.hold = records.Hold("", "", None)
        # Gone for ever: a lease's name is never used again. Where the state still names it, its
        # holder died; otherwise it was released, or removed, since the state was read.
        states = client.pipeline(
            wire.Exists(f"{self.paths.states}/{seen.key}", None) for seen in over
        )
        return [
            seen.key
            for seen, stat in zip(over, states, strict=True)
            if stat is None or stat.mzxid != seen.state_stat.mzxid
        ]

    # -- failed writes -------------------------------------------------------------------------

    def error_of(
        self, client: Client, outcome: Outcome, what: tuple[Any, ...]
    ) -> errors.MultiboardError:
        """Return the error of a write that failed as no reply about the posting explains."""
        if outcome.unconfirmed is not None:
            self.session.writes.note_unconfirmed(what, outcome.unconfirmed)
        if outcome.error is not None:
            return outcome.error
        self.session.confirm(client)
        return errors.BackendError(f"ZooKeeper refused it: {outcome.refused!r}")


def raise_first(failures: Sequence[errors.MultiboardError]) -> None:
    """Raise what concerns a whole call; the indeterminate before the surely not applied."""
    for failure in failures:
        if not isinstance(failure, errors.Unavailable):
            raise failure
    if failures:
        raise failures[0]
