# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""A backend for multiboard that keeps its boards in PostgreSQL."""

from multiboard_postgresql.backend import PostgreSQLBackend
from multiboard_postgresql.settings import PostgreSQLSettings

__all__ = ["PostgreSQLBackend", "PostgreSQLSettings"]
