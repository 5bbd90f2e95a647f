# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The whole suite on every mutant takes minutes: it runs where ``MULTIBOARD_FULL`` is set."""

from __future__ import annotations

import os

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker of the tests that only a full run makes."""
    config.addinivalue_line("markers", "full: takes minutes; runs where MULTIBOARD_FULL is set")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep either the quick tests of the mutants or the full ones, which include them."""
    full = bool(os.environ.get("MULTIBOARD_FULL"))
    here = os.path.dirname(os.path.abspath(__file__))
    mine = [item for item in items if str(item.path).startswith(here)]
    left_out = [
        item
        for item in mine
        if "mutant" in item.name and (item.get_closest_marker("full") is None) == full
    ]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]
