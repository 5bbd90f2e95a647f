# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Waiting in tests: for a condition, with a deadline, never for a while."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

#: Seconds after which a test that waits for something gives up.
PATIENCE = 15.0


def eventually(ready: Callable[[], Any], timeout: float = PATIENCE) -> Any:
    """Wait until ``ready`` returns something true, and return it."""
    give_up = time.monotonic() + timeout
    while not (value := ready()):
        assert time.monotonic() < give_up, "it did not come true in time"
        time.sleep(0.01)
    return value
