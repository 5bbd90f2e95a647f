# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""What a check of a jobboard expects: of an answer, of an error, of what comes in time.

Imports TaskFlow's errors only.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from taskflow import exceptions as excp

#: Seconds after which a check that waits for something gives up.
PATIENCE = 10.0


def same(wanted: Any, found: Any, what: str) -> None:
    """Break the promise where something is not as it was wanted."""
    if found != wanted:
        raise AssertionError(f"{what}: expected {_short(wanted)}, found {_short(found)}")


def holds(condition: Any, what: str) -> None:
    """Break the promise where something is not the case."""
    if not condition:
        raise AssertionError(what)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 200 else f"{text[:200]}..."


def eventually(ready: Callable[[], Any], what: str, within: float = PATIENCE) -> Any:
    """Wait until something is the case, and return its answer."""
    give_up = time.monotonic() + within
    while not (answer := ready()):
        if time.monotonic() > give_up:
            raise AssertionError(f"not within {within:g} s: {what}")
        time.sleep(0.02)
    return answer


def refused(
    call: Callable[..., Any], *arguments: Any, by: Any = excp.JobFailure, exactly: bool = False
) -> None:
    """Break the promise where a call does not raise one of these errors."""
    kinds: tuple[type[Exception], ...] = by if isinstance(by, tuple) else (by,)
    names = " or ".join(kind.__name__ for kind in kinds)
    try:
        answer = call(*arguments)
    except kinds as error:
        if exactly and type(error) not in kinds:
            raise AssertionError(f"expected exactly {names}, got {error!r}") from error
    except Exception as error:
        raise AssertionError(f"expected {names}, got {_short(error)}") from error
    else:
        raise AssertionError(f"expected {names}, got no error: it returned {_short(answer)}")


def answer_of(call: Callable[..., Any], *arguments: Any, **more: Any) -> Any:
    """Return the error that a call raises, or its answer."""
    try:
        return call(*arguments, **more)
    except Exception as error:
        return error


def within(seconds: float, call: Callable[[], Any], what: str) -> Any:
    """Return the error that a call raises, or its answer, where it comes in time."""
    began = time.monotonic()
    answer = answer_of(call)
    took = time.monotonic() - began
    holds(took <= seconds, f"{what} took {took:.1f} s, more than {seconds:g} s")
    return answer


def names(jobs: Any) -> list[str]:
    """Return the names of jobs, in their order."""
    return [job.name for job in jobs]
