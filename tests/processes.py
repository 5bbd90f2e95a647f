# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Other processes as the tests see them."""

from __future__ import annotations

import contextlib
import pathlib


def state(pid: int) -> str:
    """Return the kernel's letter: ``T`` for one that is stopped; nothing where there is none."""
    with contextlib.suppress(OSError):
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return ""


def lives(pid: int) -> bool:
    """Tell whether it runs or could; one that nobody has waited for yet is dead all the same."""
    return state(pid) not in ("", "Z", "X")
