# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""A board in etcd as one backend sees it: its transactions, its times, its past.

This module imports the primitives, the errors and its own siblings.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from multiboard import errors
from multiboard.backends.etcd import messages
from multiboard.backends.etcd.errors import Compacted, LeaseGone
from multiboard.backends.etcd.messages import M
from multiboard.backends.etcd.records import Held, Seen
from multiboard.backends.etcd.session import Connection
from multiboard.primitives import Damage

#: etcd takes no more than 128 operations in a transaction, those around a nested one included.
STEPS = 100
#: Postings read in one transaction: three ranges each.
LOOKS = 40
#: etcd takes requests of 1.5 MiB.
REQUEST = 1_300_000
#: Bytes in one part of a long answer, about.
ANSWER = 4_000_000
#: Revisions looked at in one step of a search through the past.
_SEARCH = 50


@dataclass(frozen=True, slots=True)
class Step:
    """One indivisible step: conditions, what to do where they hold, what to read where not."""

    compare: Sequence[Any]
    success: Sequence[Any]
    failure: Sequence[Any] = ()

    @property
    def writes(self) -> set[bytes]:
        """The keys that it writes."""
        found = set()
        for operation in self.success:
            kind = operation.WhichOneof("one_r")
            if kind != "request_range":
                found.add(getattr(operation, kind).key)
        return found


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a step."""

    done: bool
    revision: int
    #: Its place among the steps of its transaction.
    place: int
    #: The answers to its operations.
    answers: Sequence[Any]

    def kv(self, index: int) -> Any:
        """Return the record that was read by the operation at ``index``; None for none."""
        kvs = self.answers[index].response_range.kvs
        return kvs[0] if kvs else None


@dataclass(frozen=True, slots=True)
class Scan:
    """What a folder held at a revision."""

    kvs: Sequence[Any]
    revision: int


class Board(Connection):
    """A board's transactions, its times and its past."""

    # -- transactions ----------------------------------------------------------------------------

    def commit(
        self, steps: Sequence[Step], *, news: bool = False, fence: bool = False,
        compare: Sequence[Any] = (),
    ) -> list[Outcome]:  # fmt: skip
        """Do steps, each indivisibly, in order; as many in one round trip as etcd takes.

        ``news`` tells those who look for work that there may be some; ``fence`` lets
        :meth:`close_fence` say that what was sent and not answered is never done. ``compare``
        holds for all of them; where it or the fence does not, nothing more is done or answered.

        Raises: ``Unavailable``, ``Indeterminate``, ``AccessDenied``, ``BoardLost``, ``Closed``,
        ``LeaseGone``.
        """
        conditions = [self.same_board(), *compare]
        if fence:
            conditions.append(messages.created(self.keys.of("fences", self.fence), 0))
        outcomes: list[Outcome] = []
        for part in _parts(steps):
            operations = [
                messages.nested(messages.transaction(s.compare, s.success, s.failure)) for s in part
            ]
            if news:
                operations.append(messages.put(self.keys.news, b""))
            request = messages.transaction(conditions, operations)
            client = self.client
            known = client.revision
            answer = client.call("Txn", request, write=True)
            client.judge(answer.header.revision, known)
            if not answer.succeeded:
                if compare or fence:
                    self.ask([messages.read(self.keys.news)])  # raises where the board is gone
                    return outcomes
                raise self.lose()
            revision = answer.header.revision
            for place, response in enumerate(answer.responses[: len(part)]):
                txn = response.response_txn
                outcomes.append(Outcome(txn.succeeded, revision, place, txn.responses))
        return outcomes

    def tick(self) -> int:
        """Write the news, for who has to know that a watch is as far as now; return the revision.

        Raises: ``Unavailable``, ``AccessDenied``, ``BoardLost``, ``Closed``.
        """
        request = messages.transaction([self.same_board()], [messages.put(self.keys.news, b"")])
        try:
            answer = self.client.call("Txn", request, write=True)
        except errors.Indeterminate as error:
            raise errors.Unavailable(str(error)) from error.__cause__
        if not answer.succeeded:
            raise self.lose()
        return int(answer.header.revision)

    def close_fence(self) -> str:
        """Let nothing be done any more that was sent behind the fence and not answered.

        Return the closed fence.

        Raises: as :meth:`commit`; then the fence may not be closed.
        """
        old = self.fence
        try:
            lease = self.client.call("LeaseGrant", M["LeaseGrantRequest"](TTL=600), write=True).ID
            self.commit([Step([], [messages.put(self.keys.of("fences", old), b"", lease)])])
        except errors.Indeterminate as error:
            raise errors.Unavailable(str(error)) from error.__cause__
        if self.fence == old:
            self.fence = uuid.uuid4().hex
        return old

    # -- reading -----------------------------------------------------------------------------------

    def look(
        self, keys: Sequence[str], *, bodies: bool = False
    ) -> list[tuple[Seen | Damage | None, bytes]]:
        """Read live postings, each as of one instant, without leases that are over."""
        found: dict[str, tuple[Seen | Damage | None, bytes]] = {}
        left = list(dict.fromkeys(keys))
        while left:
            parts = [left[at : at + LOOKS] for at in range(0, len(left), LOOKS)]
            answers = self.ask_many([[*self._reads(part, bodies)] for part in parts])
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
            (answer,) = self.ask_many([[part]], agreed=not found)[0].responses
            kvs = answer.response_range.kvs
            revision = revision or answer.response_range.header.revision
            found += kvs
            if not answer.response_range.more:
                return Scan(found, revision)
            begin = kvs[-1].key + b"\0"
            size = sum(len(kv.value) + len(kv.key) + 40 for kv in kvs) / len(kvs)
            limit = max(1, min(10_000, int(ANSWER / size)))

    # -- time --------------------------------------------------------------------------------------

    def left(self, held: Held | None) -> float | None:
        """Return the seconds until a lease is over, as far as is known; None for a session's."""
        if held is None or not held.timed:
            return None
        span, since = held.hold.expires_in, held.hold.since
        assert span is not None
        if since is None:
            return span
        return max(0.0, span - self.clock.passed(held.key, since))

    def due_in(self, seen: Seen) -> float:
        """Return the seconds until a posting may be handed out."""
        head = seen.head
        if not head.delay or head.since is None:
            return 0.0
        return max(0.0, head.delay - self.clock.passed(seen.key, head.since))

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

        Nobody has to know whether an answer was lost: whoever looks again sees.
        """
        steps = []
        for held in over:
            key = self.keys.of("leases", held.key)
            steps.append(Step([messages.unchanged(key, held.revision)], [messages.delete(key)]))
        try:
            return max((o.revision for o in self.commit(steps)), default=0)
        except errors.Indeterminate as error:
            raise errors.Unavailable(str(error)) from error.__cause__

    # -- the past ----------------------------------------------------------------------------------

    def fate(self, key: str, token: int) -> str | None:
        """Tell what ended a lease: "remove", "trash", "release" or "expiry".

        None where it has not ended, or there was none. etcd keeps the past until it is compacted.

        Raises: ``Compacted``; and as :meth:`ask`.
        """
        lease = self.keys.of("leases", key)
        answer = self.ask([messages.read(lease)])
        if self._is(answer.responses[0], token) or token > answer.header.revision:
            return None
        if not self._is(self.ask([messages.read(lease, revision=token)]).responses[0], token):
            return None
        there, gone, stride = token, answer.header.revision, 1
        while gone - there > 1:
            # Most ended soon: begin with small strides, never longer than what is left.
            stride = max(1, min(stride, (gone - there) // _SEARCH))
            marks = range(there + stride, min(gone, there + stride * _SEARCH), stride)
            past = self.ask([messages.read(lease, revision=mark) for mark in marks]).responses
            still = [self._is(response, token) for response in past]
            first = still.index(False) if False in still else len(still)
            if first < len(marks):
                gone = marks[first]
            else:
                stride *= _SEARCH
            if first > 0:
                there = marks[first - 1]
        folders = [self.keys.of(folder, key) for folder in ("live", "trash")]
        then = self.ask([messages.read(raw, revision=gone) for raw in folders]).responses
        live, trashed = (
            [kv for kv in response.response_range.kvs if kv.mod_revision == gone]
            for response in then
        )
        if live:
            return "release"
        if trashed:
            return "trash"
        return "expiry" if then[0].response_range.kvs else "remove"

    @staticmethod
    def _is(response: Any, token: int) -> bool:
        kvs = response.response_range.kvs
        return bool(kvs) and kvs[0].create_revision == token


def _parts(steps: Sequence[Step]) -> Iterable[Sequence[Step]]:
    """Part steps into transactions that etcd takes: not too many, not too large, no key twice."""
    part: list[Step] = []
    written: set[bytes] = set()
    size = 0
    for step in steps:
        more = sum(operation.ByteSize() + 100 for operation in step.success)
        writes = step.writes
        if part and (len(part) == STEPS or size + more > REQUEST or writes & written):
            yield part
            part, written, size = [], set(), 0
        part.append(step)
        written |= writes
        size += more
    if part:
        yield part


def wall() -> float:
    """Return the time of day, for people to read: etcd has none to ask for."""
    return time.time()


__all__ = ["Board", "Compacted", "LeaseGone", "Outcome", "Step", "wall"]
