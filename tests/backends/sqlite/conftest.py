# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The fixtures of the SQLite tests: boards in one file, and other processes on it."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from multiboard.backends.sqlite import SQLiteBackend, SQLiteSettings
from tests.backends.sqlite.boards import Child


@pytest.fixture
def path(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "board.sqlite3"


@pytest.fixture
def make(path: pathlib.Path) -> Iterator[Callable[..., SQLiteBackend]]:
    """Make open backends, which are closed at the end."""
    made: list[SQLiteBackend] = []

    def make(**settings: Any) -> SQLiteBackend:
        settings.setdefault("path", str(path))
        backend = SQLiteBackend(SQLiteSettings(**settings))
        made.append(backend)
        backend.open()
        return backend

    yield make
    for backend in made:
        backend.close()


@pytest.fixture
def board(make: Callable[..., SQLiteBackend]) -> SQLiteBackend:
    return make()


@pytest.fixture
def child(path: pathlib.Path) -> Iterator[Callable[..., Child]]:
    """Start other processes, which are killed at the end."""
    started: list[Child] = []

    def start(**options: Any) -> Child:
        started.append(Child(path, **options))
        return started[-1]

    yield start
    for one in started:
        one.kill()
