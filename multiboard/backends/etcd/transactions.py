# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The transactions of a board in etcd: steps, each with its conditions, and the fence.

Every transaction compares the board's incarnation. A step is a transaction inside of one, so that
many steps share a round trip and each holds or fails by itself. This module imports the errors and
its own siblings.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from multiboard import errors
from multiboard.backends.etcd import messages
from multiboard.backends.etcd.messages import M
from multiboard.backends.etcd.session import Session

#: etcd takes no more than 128 operations in a transaction, those around a nested one included.
STEPS = 100
#: etcd takes requests of 1.5 MiB.
REQUEST = 1_300_000
#: How often a step is tried anew because somebody else was faster, each time at something else.
TRIES = 100
#: Seconds for which a closed fence is kept: no request is in flight for longer.
FENCE_KEPT = 600


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


class Outcome(NamedTuple):
    """What became of a step: whether its conditions held, and the responses to its operations."""

    done: bool
    revision: int
    #: The step's place in its transaction.
    place: int
    responses: Sequence[Any]

    def kv(self, index: int) -> Any:
        """Return the record that was read by the operation at ``index``; None for none."""
        kvs = self.responses[index].response_range.kvs
        return kvs[0] if kvs else None


class Transactions:
    """Commits steps; a fence of its own makes void what was sent and got no reply."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.fence = uuid.uuid4().hex

    def commit(
        self, steps: Sequence[Step], *, news: bool = False, fence: bool = False,
        compare: Sequence[Any] = (),
    ) -> list[Outcome]:  # fmt: skip
        """Do steps, each indivisibly, in order; as many in one round trip as etcd takes.

        ``news`` notifies those who look for work that there may be some; ``fence`` lets
        :meth:`close_fence` make void what was sent and got no reply. ``compare`` holds for all of
        them; where it or the fence does not, nothing more is done and fewer outcomes are returned.

        Raises: ``Unavailable``, ``Indeterminate``, ``AccessDenied``, ``BoardLost``, ``Closed``,
        ``LeaseGone``.
        """
        session = self._session
        conditions = [session.same_board(), *compare]
        if fence:
            conditions.append(messages.created(session.keys.of("fences", self.fence), 0))
        outcomes: list[Outcome] = []
        for part in _parts(steps):
            operations = [
                messages.nested(messages.transaction(s.compare, s.success, s.failure)) for s in part
            ]
            if news:
                operations.append(messages.put(session.keys.news, b""))
            request = messages.transaction(conditions, operations)
            client = session.client
            known = client.revision
            answer = client.call("Txn", request, write=True)
            client.check_revision(answer.header.revision, known)
            if not answer.succeeded:
                if compare or fence:
                    # This raises where the board is gone.
                    session.read([messages.read(session.keys.news)])
                    return outcomes
                raise session.board_lost()
            revision = answer.header.revision
            for place, response in enumerate(answer.responses[: len(part)]):
                txn = response.response_txn
                outcomes.append(Outcome(txn.succeeded, revision, place, txn.responses))
        return outcomes

    def touch_news(self) -> int:
        """Write the news, for a caller who waits until a watch is as far; return the revision.

        Raises: ``Unavailable``, ``AccessDenied``, ``BoardLost``, ``Closed``.
        """
        session = self._session
        put = messages.put(session.keys.news, b"")
        request = messages.transaction([session.same_board()], [put])
        try:
            answer = session.client.call("Txn", request, write=True)
        except errors.Indeterminate as error:
            raise errors.Unavailable(str(error)) from error.__cause__
        if not answer.succeeded:
            raise session.board_lost()
        return int(answer.header.revision)

    def close_fence(self) -> str:
        """Make void what was sent behind the fence and got no reply; return the closed fence.

        Raises: as :meth:`commit`; then the fence may not be closed.
        """
        old, session = self.fence, self._session
        try:
            grant = M["LeaseGrantRequest"](TTL=FENCE_KEPT)
            lease = session.client.call("LeaseGrant", grant, write=True).ID
            self.commit([Step([], [messages.put(session.keys.of("fences", old), b"", lease)])])
        except errors.Indeterminate as error:
            raise errors.Unavailable(str(error)) from error.__cause__
        if self.fence == old:
            self.fence = uuid.uuid4().hex
        return old


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
