# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Whether a reset of the feed was due: only then may it end what a check would have judged.

A reset is an honest answer, and a cheap way out for a backend that reports one whenever a check
looks. It is due after a fault, where the history may be shorter than what was missed, and where
the machine or the store stood still for so long that a connection may have been lost. The suite
counts the resets that were due. Imports the primitives, the errors and the history only.
"""

from __future__ import annotations

from typing import Any

from multiboard import errors
from multiboard.primitives import boottime
from multiboard_conformance.machinery.history import History, Operation

#: As many changes every store must keep for a reader that is slow.
KEPT = 10_000
#: Seconds by which an operation that is late shows that a connection may have been lost.
STANDSTILL = 2.0


class ResetNotDue(AssertionError):
    """The feed reported a reset for which there was no reason."""


def accept_reset(backend: Any, since: float, called: float, timeout: float) -> None:
    """Count a reset that the feed of a backend reported, or raise where it was not due.

    ``since`` is when the reader got the cursor that it passed, ``called`` when it made the call
    that was to wait for ``timeout`` seconds at most; by boottime.

    Raises: ``ResetNotDue``.
    """
    history = getattr(backend, "history", None)
    if not isinstance(history, History):
        return  # there is no record of what happened on this board
    history.resets += 1
    if history.disturbed or boottime() - called > timeout + STANDSTILL:
        return
    meanwhile = [op for op in history.operations() if op.ended is None or op.ended >= since]
    if sum(map(_changes, meanwhile)) > KEPT or any(map(_may_have_cut, meanwhile)):
        return
    raise ResetNotDue(
        "the feed reported a reset to a reader that kept up: no fault was made, no operation"
        f" failed or stood still, and at most {sum(map(_changes, meanwhile))} changes were made"
        f" since it got its cursor, {boottime() - since:.3f} s before"
    )


def _changes(op: Operation) -> int:
    """Return how many changes an operation may have made."""
    for name in ("postings", "leases", "claim_ids"):
        if name in op.args:
            return len(op.args[name])
    return 1


def _may_have_cut(op: Operation) -> bool:
    """Tell whether an operation shows that somebody's connection or session was in trouble."""
    if op.verb == "changes":
        return isinstance(op.answer, (errors.BackendError, errors.SessionLost))
    took = (boottime() if op.ended is None else op.ended) - op.began
    trouble = (errors.Unavailable, errors.Indeterminate, errors.SessionLost)
    return isinstance(op.answer, trouble) or took > STANDSTILL
