# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""All that an error, a log or an object shows of what it knows."""

from __future__ import annotations

import contextlib
import logging
import traceback
from collections.abc import Iterator


def chain(error: BaseException) -> list[BaseException]:
    """Return an error with all its causes and contexts, also those that a traceback leaves out."""
    found: list[BaseException] = []
    left: list[BaseException | None] = [error]
    while left:
        one = left.pop()
        if one is not None and one not in found:
            found.append(one)
            left += [one.__cause__, one.__context__]
    return found


def shown_by(error: BaseException) -> str:
    """Return everything that a service's log may show of an error."""
    lines = traceback.format_exception(error)
    for one in chain(error):
        lines += [str(one), repr(one), *traceback.format_exception_only(one)]
    return "\n".join(lines)


class _Recorder(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record) + repr(record.args))


@contextlib.contextmanager
def all_logs() -> Iterator[list[str]]:
    """Record what every logger says from DEBUG on; put the root logger back afterwards."""
    root, recorder = logging.getLogger(), _Recorder()
    handlers, level = list(root.handlers), root.level
    root.addHandler(recorder)
    root.setLevel(logging.DEBUG)
    try:
        yield recorder.lines
    finally:
        root.handlers[:], root.level = handlers, level
