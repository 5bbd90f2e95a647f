# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The board in an SQLite file."""

from multiboard.backends.sqlite.backend import SQLiteBackend
from multiboard.backends.sqlite.settings import SQLiteSettings

__all__ = ["SQLiteBackend", "SQLiteSettings"]
