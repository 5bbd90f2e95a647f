# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The options of a board in an SQLite file, and what its URLs mean. It imports the primitives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from multiboard import errors, primitives


@dataclass(frozen=True, kw_only=True)
class SQLiteSettings(primitives.Settings):
    """The options of ``sqlite:///path``."""

    path: str = primitives.setting(
        "",
        help="The database file, on a local disk. Empty: multiboard/multiboard.sqlite3 in "
        "$XDG_STATE_HOME, or in ~/.local/state where that is not set.",
    )
    synchronous: str = primitives.setting(
        "FULL",
        help="FULL: what was acknowledged survives a power failure. NORMAL: it survives the death "
        "of every process, but a power failure may undo the last moments; faster.",
        choices=("FULL", "NORMAL"),
    )
    busy_timeout: float = primitives.setting(
        2.0,
        help="Seconds for which one attempt waits while other processes write to the file.",
        minimum=0.05,
        maximum=60.0,
    )


def from_url(url: primitives.Url) -> Mapping[str, Any]:
    """Return the settings that a URL gives by its path."""
    if url.hosts == ((":memory:", None),) or url.path.startswith("/:memory:"):
        raise errors.ConfigError("for a board in memory use memory://")
    if url.hosts or url.username or url.password:
        raise errors.ConfigError(
            "an SQLite URL is sqlite:///absolute/path, with three slashes and no host or user"
        )
    return {"path": "" if url.path == "/" else url.path}
