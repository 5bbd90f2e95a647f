# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Waiting in tests: for a condition, with a deadline, never for a while."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any

#: Seconds after which a test that waits for something gives up.
PATIENCE = 30.0


def eventually(
    ready: Callable[[], Any],
    timeout: float = PATIENCE,
    *,
    ignoring: tuple[type[Exception], ...] = (),
) -> Any:
    """Wait until ``ready`` returns something true, and return it.

    An error of a kind that is ignored counts as not yet.
    """
    give_up = time.monotonic() + timeout
    while True:
        with contextlib.suppress(*ignoring):
            if value := ready():
                return value
        assert time.monotonic() < give_up, "it did not come true in time"
        time.sleep(0.01)
