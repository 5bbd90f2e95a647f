# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The board as its parts share it: its session, its transactions, its live postings and leases.

A lease that is over is ended by whoever reads it, so that nobody is shown one. This module imports
the primitives, the errors and its own siblings.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from multiboard import errors
from multiboard.backends.etcd import messages
from multiboard.backends.etcd.records import Held, Seen
from multiboard.backends.etcd.session import Session
from multiboard.backends.etcd.transactions import Step, Transactions
from multiboard.primitives import Damage, Posting

#: Postings read in one transaction: three ranges each.
LOOKS = 40
#: Bytes in one part of a long reply, about.
ANSWER = 4_000_000


@dataclass(frozen=True, slots=True)
class Scan:
    """What a folder held at a revision."""

    kvs: Sequence[Any]
    revision: int


class Board:
    """Reads a board, and ends the timed leases that it finds to be over."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.keys = session.keys
        self.transactions = Transactions(session)

    # -- reading -----------------------------------------------------------------------------------

    def look(
        self, keys: Sequence[str], *, bodies: bool = False
    ) -> list[tuple[Seen | Damage | None, bytes]]:
        """Read live postings, each as of one instant, without leases that are over."""
        found: dict[str, tuple[Seen | Damage | None, bytes]] = {}
        left = list(dict.fromkeys(keys))
        while left:
            parts = [left[at : at + LOOKS] for at in range(0, len(left), LOOKS)]
            answers = self.session.read_many([[*self._reads(part, bodies)] for part in parts])
            folders = 3 if bodies else 2
            for part, answer in zip(parts, answers, strict=True):
                kvs = [r.response_range.kvs for r in answer.responses]
                for at, key in enumerate(part):
                    head, lease, *body = kvs[at * folders : (at + 1) * folders]
                    found[key] = self._found(key, head, lease, body)
            left = self.reap(seen for seen, _ in (found[key] for key in left))
        return [found[key] for key in keys]

    def _reads(self, keys: Sequence[str], bodies: bool) -> Iterable[Any]:
        folders = ("live", "leases", "bodies") if bodies else ("live", "leases")
        for key in keys:
            for folder in folders:
                yield messages.read(self.keys.of(folder, key))

    def _found(
        self, key: str, head: Any, lease: Any, body: Any
    ) -> tuple[Seen | Damage | None, bytes]:
        if not head:
            return None, b""
        where = self.keys.of("live", key).decode()
        if body and not body[0]:
            return Damage(where, "it has no body"), b""
        try:
            seen = Seen.read(key, head[0], lease[0] if lease else None)
        except ValueError as error:
            return Damage(where, str(error)), b""
        return seen, body[0][0].value if body else b""

    def scan(self, folder: str, *, revision: int = 0, end: str = "", **options: Any) -> Scan:
        """Read a folder, or all from one to the end of another, as of one revision."""
        begin = self.keys.of(folder)
        last = messages.prefix_end(self.keys.of(end or folder))
        found: list[Any] = []
        limit = 200
        while True:
            # Not the first part: any member that has the revision may answer for the others.
            part = messages.read(
                begin, last, limit=limit, revision=revision, serializable=bool(found), **options
            )
            (answer,) = self.session.read_many([[part]], agreed=not found)[0].responses
            kvs = answer.response_range.kvs
            revision = revision or answer.response_range.header.revision
            found += kvs
            if not answer.response_range.more:
                return Scan(found, revision)
            begin = kvs[-1].key + b"\0"
            size = sum(len(kv.value) + len(kv.key) + 40 for kv in kvs) / len(kvs)
            limit = max(1, min(10_000, int(ANSWER / size)))

    def posting(self, seen: Seen, body: bytes) -> Posting:
        """Return a live posting as it is to be shown now."""
        return seen.posting(body, self.due_in(seen), self.left(seen.held))

    # -- time --------------------------------------------------------------------------------------

    def left(self, held: Held | None) -> float | None:
        """Return the seconds until a lease is over, as far as is known; None for a session's."""
        if held is None or not held.timed:
            return None
        span, since = held.hold.expires_in, held.hold.since
        assert span is not None
        if since is None:
            return span
        return max(0.0, span - self.session.clock.passed(held.key, since))

    def due_in(self, seen: Seen) -> float:
        """Return the seconds until a posting may be handed out."""
        head = seen.head
        if not head.delay or head.since is None:
            return 0.0
        return max(0.0, head.delay - self.session.clock.passed(seen.key, head.since))

    def reap(self, found: Iterable[Seen | Damage | None]) -> list[str]:
        """End the timed leases among these that are over; return their keys."""
        over = [
            seen.held
            for seen in found
            if isinstance(seen, Seen) and seen.held is not None and self.left(seen.held) == 0.0
        ]
        self.end(over)
        return [held.key for held in over]

    def end(self, over: Sequence[Held]) -> int:
        """End leases that are over, where nobody renewed them; return a revision by which it is so.

        A lost reply needs no care: whoever reads again sees what became of them.
        """
        steps = []
        for held in over:
            key = self.keys.of("leases", held.key)
            steps.append(Step([messages.unchanged(key, held.revision)], [messages.delete(key)]))
        try:
            return max((o.revision for o in self.transactions.commit(steps)), default=0)
        except errors.Indeterminate as error:
            raise errors.Unavailable(str(error)) from error.__cause__
