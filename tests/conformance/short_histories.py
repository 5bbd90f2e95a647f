# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Backends that keep few changes of a board, and trim them as they do after many more.

What they keep is a constant of theirs, which is another one for a while.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterator
from typing import Any

from multiboard_conformance.harness import Harness

#: How many changes are kept.
FEW = 12


def keeps_few(module: str, **constants: int) -> Callable[..., Any]:
    """Return the hook ``keep_changes`` of a backend, by the constants of one of its modules."""

    @contextlib.contextmanager
    def keep_changes(_harness: Harness, _settings: Any) -> Iterator[int]:
        place = importlib.import_module(module)
        before = {name: getattr(place, name) for name in constants}
        vars(place).update(constants)
        try:
            yield FEW
        finally:
            vars(place).update(before)

    return keep_changes


class MemoryHarness(Harness):
    """A board in this process's memory."""

    @contextlib.contextmanager
    def keep_changes(self, settings: Any) -> Iterator[int]:
        from multiboard.backends.memory import state

        with state.boards_lock:
            board = state.boards[settings.name, settings.namespace]
        board.history = FEW
        yield FEW
