# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The clock by which this machine measures durations."""

from __future__ import annotations

import time


def boottime() -> float:
    """Return the seconds of this machine's clock that never jumps and counts suspended time."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if clock is None else time.clock_gettime(clock)
