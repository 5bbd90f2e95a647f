# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Which tests of the mutants are made: they take minutes.

``MULTIBOARD_FULL=1``: each mutant must fail the ids that it names. ``MULTIBOARD_FULL=strict``: the
whole suite runs on each: the ids that it names all fail, and no other.
"""

from __future__ import annotations

import os

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker of the tests that only a full run makes."""
    config.addinivalue_line("markers", "full: takes minutes; runs where MULTIBOARD_FULL is set")
    config.addinivalue_line("markers", "strict: runs where MULTIBOARD_FULL is 'strict'")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the long tests to a full run; they are deselected, not skipped."""
    asked = os.environ.get("MULTIBOARD_FULL", "")
    names = ([] if asked else ["full"]) + ([] if asked == "strict" else ["strict"])
    long = [item for item in items if any(item.get_closest_marker(name) for name in names)]
    if long:
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in long]
