# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""How what fails again and again is logged. It imports the standard library only."""

from __future__ import annotations

import logging
import time

#: Seconds after which a failure that goes on is logged again: the first, and the longest pause.
FIRST = 1.0
LONGEST = 60.0


class FailureLog:
    """Logs the failures of something that is tried again and again, until it succeeds.

    The first failure is logged at once, the same one in a row 1, 2, 4, ... and then every 60
    seconds later, with the number of times that it happened. Failures are the same if they have
    one class: their texts may hold what differs each time.

    It takes no lock, so that it can be used anywhere and survives a fork; of two threads that come
    at the same instant both may log.
    """

    def __init__(self, log: logging.Logger, failed: str, succeeded: str | None = None) -> None:
        """Log to ``log``; ``failed`` names what can't be done, ``succeeded`` that it can again."""
        self._log = log
        self._failed = failed
        self._succeeded = succeeded
        #: For each class: when it happened first, how often since, when to log it, the next pause.
        self._row: dict[type[BaseException], tuple[float, int, float, float]] = {}

    @property
    def failing(self) -> bool:
        """Whether the last attempt failed."""
        return bool(self._row)

    def failed(
        self, error: BaseException, level: int = logging.WARNING, *, trace: bool = False
    ) -> None:
        """Take in a failure; with ``trace`` its first mention shows where it happened."""
        now = time.monotonic()
        since, times, log_at, pause = self._row.get(type(error), (now, 0, now, FIRST))
        times += 1
        if now < log_at:
            self._row[type(error)] = (since, times, log_at, pause)
            return
        self._row[type(error)] = (since, times, now + pause, min(2 * pause, LONGEST))
        text = str(error) if str(error) and not trace else repr(error)
        if times == 1:
            self._log.log(level, "%s: %s", self._failed, text, exc_info=error if trace else None)
        else:
            self._log.log(
                level, "%s: %s (%d times in %.0f s)", self._failed, text, times, now - since
            )

    def succeeded(self) -> None:
        """Take in a success, which ends the row."""
        if not self._row:
            return
        row, self._row = self._row, {}
        if self._succeeded is not None:
            times = sum(times for _, times, _, _ in row.values())
            seconds = time.monotonic() - min(since for since, _, _, _ in row.values())
            self._log.info("%s (%d failures in %.0f s)", self._succeeded, times, seconds)
