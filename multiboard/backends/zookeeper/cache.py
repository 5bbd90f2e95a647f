# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""What one backend remembers of postings, to save a read before a write.

Nothing here decides: the store refuses a write that was built on what is no longer so. This
module imports the primitives and its own siblings.
"""

from __future__ import annotations

from collections.abc import Iterable

from multiboard.backends.zookeeper import records
from multiboard.primitives import Posting, SpentClaims

#: Keys and states that are remembered.
REMEMBERED = 100_000


class Cache:
    """It is begun anew when the backend is opened, and in a forked child."""

    def __init__(self) -> None:
        #: Of postings that nobody ever claimed, the transactions that made them: a claim of one
        #: needs no read before.
        self._unclaimed: dict[str, int] = {}
        #: By the lease's name, the state that it stands for: no writer changes it while the lease
        #: is there.
        self.states: dict[str, records.State] = {}
        self.spent_claims = SpentClaims()

    def note_unclaimed(self, postings: Iterable[Posting]) -> None:
        """Remember that nobody ever claimed these."""
        if len(self._unclaimed) > REMEMBERED:
            self._unclaimed = {}
        self._unclaimed.update((one.key, one.serial // records.PLACES) for one in postings)

    def take_unclaimed(self, key: str) -> int | None:
        """Return the transaction that made a posting that nobody ever claimed, and forget it."""
        return self._unclaimed.pop(key, None)

    def note_state(self, key: str, state: records.State | None) -> None:
        """Remember the state of a posting that is leased now."""
        if state is not None:
            if len(self.states) > REMEMBERED:
                self.states = {}
            self.states[f"{key}~{state.token}~{state.lease}"] = state

    def note_end(self, lease_name: str, claim_id: str) -> None:
        """Remember that a lease was ended by this backend: its claim id gets no other one."""
        self.spent_claims.note(claim_id)
        self.states.pop(lease_name, None)
