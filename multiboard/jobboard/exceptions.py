# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""What the primitives raise, as what TaskFlow's users expect.

One table, used by the board alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from taskflow import exceptions as excp
from taskflow.jobs import base

from multiboard import errors
from multiboard.primitives import arguments

T = TypeVar("T")


class RefusedJob(excp.JobFailure, ValueError):  # type: ignore[misc]
    """A job, or what was asked of it, is refused before anything is sent; it names the fault."""


#: What the primitives raise, and what TaskFlow's users expect in its place.
_TABLE: Sequence[tuple[type[errors.MultiboardError], Any]] = (
    (errors.InvalidArgument, RefusedJob),
    (errors.PostingTooLarge, RefusedJob),
    (errors.PostingNotFound, excp.NotFound),
    (errors.LeaseHeld, excp.UnclaimableJob),
    (errors.MultiboardError, excp.JobFailure),
)


class raising_taskflow_errors:  # noqa: N801 - it is used as a function would be
    """Raise what TaskFlow's users expect in place of what the primitives raise.

    A class, since a generator costs three times as much on the way that every call takes.
    """

    __slots__ = ("_doing", "_job")

    def __init__(self, doing: str, job: object = None) -> None:
        self._doing = doing
        self._job = job

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: Any, trace: Any) -> None:
        if isinstance(error, errors.MultiboardError):
            job = self._job  # or what was handed in for one
            name = str(job) if isinstance(job, base.Job) else arguments.shown(job)
            doing = self._doing if job is None else f"{self._doing} {name}"
            raise translate(doing, error) from error


def translate(doing: str, error: Exception) -> Exception:
    """Return what TaskFlow's users expect in place of an error; others stay as they are."""
    if not isinstance(error, errors.MultiboardError):
        return error
    wanted = next(theirs for ours, theirs in _TABLE if isinstance(error, ours))
    # Not as TaskFlow's ``cause``, which would repeat the text of it in every message.
    translation: Exception = wanted(f"can not {doing}: {error}")
    translation.__cause__ = error
    return translation


def value_of(answer: T | errors.MultiboardError) -> T:
    """Return an item's answer of a batch, or raise it where it is an error."""
    if isinstance(answer, errors.MultiboardError):
        raise answer
    return answer


def check_who(who: Any) -> None:
    """Refuse what can't be an owner.

    Raises: ``TypeError`` and ``ValueError`` where TaskFlow does; ``InvalidArgument`` for the rest.
    """
    base.check_who(lambda *_: None)(None, None, who)
    arguments.check_holder(who)
