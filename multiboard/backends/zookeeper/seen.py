# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""What the nodes of one live posting mean together: its lease, when it is due, its deaths.

This module imports the primitives and its own siblings.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from multiboard.backends.zookeeper.records import Hold, Job, State
from multiboard.primitives import Lease, Posting


class Now(NamedTuple):
    """What the server's clock shows: milliseconds between which it surely is."""

    earliest: float
    latest: float


#: For what does not depend on the time.
NO_MATTER = Now(0.0, 0.0)


@dataclass(slots=True)
class Seen:
    """All that the store holds of one live posting, as of one instant."""

    key: str
    job: Job
    stat: Any
    #: None where nobody ever claimed it; ``state_stat`` may still be there, of an earlier posting.
    state: State | None = None
    state_stat: Any = None
    #: None where it is unleased, or where the lease node is gone.
    hold: Hold | None = None
    hold_stat: Any = None

    @property
    def serial(self) -> int:
        """The posting's serial."""
        return self.job.serial(int(self.stat.czxid))

    @property
    def lease_name(self) -> str | None:
        """The name of the node of the lease that was given last and not released."""
        if self.state is None or self.state.lease is None:
            return None
        return f"{self.key}~{self.state.token}~{self.state.lease}"

    @property
    def ends(self) -> float | None:
        """When a timed lease ends: milliseconds by the server's clock."""
        if self.hold is None or self.hold.expires_in is None:
            return None
        return float(self.hold_stat.mtime) + self.hold.expires_in * 1000.0

    @property
    def due(self) -> float:
        """When it may be handed out: milliseconds by the server's clock; 0 for at once."""
        state = self.state
        if state is not None and state.delay is not None:
            return state.delay and float(self.state_stat.mtime) + state.delay * 1000.0
        if state is not None and state.due is not None:
            return float(state.due)
        return self.job.delay and float(self.stat.ctime) + self.job.delay * 1000.0

    def _due_in(self, now: Now) -> float:
        """Return the seconds until it may be handed out, never more than were requested."""
        if not self.due:
            return 0.0
        asked = self.job.delay if self.state is None else self.state.delay
        left = max(0.0, (self.due - now.earliest) / 1000.0)
        return left if asked is None else min(left, asked)

    @property
    def needs_time(self) -> bool:
        """Whether what it is depends on the time."""
        return self.due > 0 or self.ends is not None

    def held(self, now: Now, *, by_holder: bool = False) -> bool:
        """Return whether there is a lease that has not ended.

        While the time leaves it open, a lease is there for others and is over for its holder, so
        that nobody acts on it while somebody else may have it.
        """
        if self.hold is None:
            return False
        ends = self.ends
        return ends is None or ends > (now.latest if by_holder else now.earliest)

    def lease(self, now: Now) -> Lease | None:
        """Return the lease that has not ended."""
        if not self.held(now):
            return None
        assert self.hold is not None
        assert self.state is not None
        ends = self.ends
        session = format(self.hold_stat.ephemeralOwner & (2**64 - 1), "x")
        return Lease(
            self.key,
            self.hold.holder,
            self.hold.claim_id,
            self.state.token,
            session if ends is None else None,
            None if ends is None else max(0.0, (ends - now.latest) / 1000.0),
        )

    @property
    def tallies(self) -> tuple[int, int, int]:
        """Token, attempts and deaths, were the lease over that was given last.

        Tokens begin above the number of the transaction that made the posting. No transaction
        claims a posting twice, so that of a posting of the same key that is made later is above
        all of them.
        """
        if self.state is None:
            return int(self.stat.czxid), 0, 0
        died = self.state.lease is not None
        return self.state.token, self.state.attempts, self.state.deaths + died

    def posting(self, now: Now) -> Posting:
        """Return the posting as of ``now``."""
        lease = self.lease(now)
        _, attempts, deaths = self.tallies
        if lease is not None:
            deaths -= 1
        created = self.job.created or self.stat.ctime
        changed: float = self.stat.ctime if self.state is None else self.state_stat.mtime
        if self.hold is not None and lease is None:
            changed = max(changed, self.ends or 0.0)
        return Posting(
            self.key,
            self.job.rank,
            self.serial,
            self.job.body,
            attempts,
            deaths,
            created / 1000.0,
            changed / 1000.0,
            self._due_in(now),
            lease,
        )

    def claimed(self, mark_and_kind: str, born: str) -> State:
        """Return the state that a claim leaves behind."""
        token, attempts, deaths = self.tallies
        return State(
            token + 1,
            attempts + 1,
            deaths,
            self.state.born if self.state is not None else born,
            mark_and_kind,
            due=int(self.due),
        )


def is_unclaimed(posting: Posting) -> bool:
    """Return whether nobody ever claimed the posting."""
    return posting.attempts == 0 and posting.lease is None


def was_released(lease: Lease, seen: Any) -> bool:
    """Return whether the state shows that this very lease was released."""
    state = seen.state if isinstance(seen, Seen) else None
    return state is not None and state.token == lease.token and state.lease is None


def died(lease: Lease, seen: Any) -> bool:
    """Return whether the state shows that this very lease ended by itself."""
    state = seen.state if isinstance(seen, Seen) else None
    return state is not None and state.token == lease.token and state.lease is not None
