# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""What fails in a row is logged at growing pauses, with a count."""

from __future__ import annotations

import itertools
import logging

import pytest

from multiboard.primitives import failures
from multiboard.primitives.failures import FailureLog

LOG = logging.getLogger("failures under test")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that a log of failures sees."""
    now = [1000.0]

    class Time:
        @staticmethod
        def monotonic() -> float:
            return now[0]

    monkeypatch.setattr(failures, "time", Time)
    return now


def _lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    lines = [record.getMessage() for record in caplog.records]
    caplog.clear()
    return lines


def test_the_same_failure_is_logged_at_growing_pauses(
    clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    log = FailureLog(LOG, "It failed")
    begun, times = clock[0], []
    for n in range(4000):
        log.failed(ValueError(f"no {n}"))
        times += [clock[0] - begun] * len(caplog.records)
        caplog.clear()
        clock[0] += 0.125
    pauses = [later - sooner for sooner, later in itertools.pairwise(times)]
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60, 60, 60, 60, 60]


def test_a_repeated_failure_is_logged_with_its_number(
    clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    log = FailureLog(LOG, "It failed")
    for _ in range(5):
        log.failed(ValueError("away"))
        clock[0] += 0.25
    assert _lines(caplog) == ["It failed: away", "It failed: away (5 times in 1 s)"]


def test_another_failure_is_logged_at_once_and_has_a_row_of_its_own(
    clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    log = FailureLog(LOG, "It failed")
    for _ in range(4):
        log.failed(ValueError("away"))
        log.failed(KeyError("gone"))
        clock[0] += 0.3
    assert _lines(caplog) == ["It failed: away", "It failed: 'gone'"]


def test_a_success_ends_the_row(clock: list[float], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    log = FailureLog(LOG, "It failed", "It works again")
    log.succeeded()
    assert not log.failing
    log.failed(ValueError("away"))
    clock[0] += 0.5
    log.failed(KeyError("gone"))
    assert log.failing
    clock[0] += 2.5
    log.succeeded()
    log.failed(ValueError("away"))
    assert _lines(caplog) == [
        "It failed: away",
        "It failed: 'gone'",
        "It works again (2 failures in 3 s)",
        "It failed: away",
    ]


@pytest.mark.usefixtures("clock")
def test_a_trace_is_shown_once(clock: list[float], caplog: pytest.LogCaptureFixture) -> None:
    log = FailureLog(LOG, "It failed")
    for _ in range(3):
        try:
            raise SystemExit
        except SystemExit as error:
            log.failed(error, logging.ERROR, trace=True)
        clock[0] += 2
    assert [bool(record.exc_info) for record in caplog.records] == [True, False, False]
    assert _lines(caplog) == [
        "It failed: SystemExit()",
        "It failed: SystemExit() (2 times in 2 s)",
        "It failed: SystemExit() (3 times in 4 s)",
    ]
