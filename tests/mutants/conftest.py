# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The whole suite on every mutant takes minutes: it runs where ``MULTIBOARD_FULL`` is set."""

from __future__ import annotations

import os

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker of the tests that only a full run makes."""
    config.addinivalue_line("markers", "full: takes minutes; runs where MULTIBOARD_FULL is set")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the long tests to a full run; they are deselected, not skipped."""
    if not os.environ.get("MULTIBOARD_FULL"):
        long = [item for item in items if item.get_closest_marker("full")]
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in long]
