# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Claim ids that a backend must not lease by again."""

from __future__ import annotations

from multiboard.primitives.clock import boottime


class SpentClaims:
    """The claim ids whose leases a backend has released or removed by, for a minute or two.

    It has no lock: a forked child may use it, whatever other threads did in that instant.
    """

    _SPAN = 60.0

    def __init__(self) -> None:
        #: Hashes by the minute, since busy workers end thousands of leases in a second.
        self._by_minute: dict[int, set[int]] = {}

    def note(self, claim_id: str) -> None:
        """Remember a claim id."""
        minute = int(boottime() // self._SPAN)
        self._by_minute.setdefault(minute, set()).add(hash(claim_id))
        if len(self._by_minute) > 2:
            for old in [known for known in tuple(self._by_minute) if known < minute - 1]:
                self._by_minute.pop(old, None)

    def __contains__(self, claim_id: str) -> bool:
        return any(hash(claim_id) in known for known in tuple(self._by_minute.values()))
