# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""What a call answered or raised, as checks compare it. Imports the primitives and errors only."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

from multiboard import errors
from multiboard.primitives import boottime

T = TypeVar("T")
#: How a verb ends that the store did not answer.
AWAY = (errors.Unavailable, errors.Indeterminate)


def raised(call: Callable[[], Any]) -> Any:
    """Return the multiboard error that a call raises, or its answer where it raises none."""
    try:
        return call()
    except errors.MultiboardError as error:
        return error


def name_of(answer: Any) -> Any:
    """Return the class name of an error, or the answer itself."""
    return type(answer).__name__ if isinstance(answer, errors.MultiboardError) else answer


def answer_of(call: Callable[[], Any]) -> Any:
    """Return the class name of the error that a call raises, or its answer."""
    return name_of(raised(call))


def has_cause(error: BaseException) -> None:
    """Require that the store's own error is the cause of one of ours."""
    assert error.__cause__ is not None, (
        f"{type(error).__name__} has no __cause__: write 'raise ... from error', with the error of "
        f"the store's client, so that an operator can see what happened. It says: {error}"
    )


def persist(call: Callable[[], T], within: float = 20.0) -> T:
    """Repeat a call while the store is away or its reply is lost, as the guard does."""
    give_up = boottime() + within
    while True:
        try:
            return call()
        except AWAY:
            if boottime() > give_up:
                raise
        time.sleep(0.05)


def eventually(condition: Callable[[], T], within: float, every: float = 0.02) -> tuple[T, float]:
    """Wait until a condition answers something true; return it, and how long that took.

    After ``within`` seconds, return its last answer.
    """
    began = boottime()
    while True:
        answer = condition()
        took = boottime() - began
        if answer or took > within:
            return answer, took
        time.sleep(every)
