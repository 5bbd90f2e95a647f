# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The options of a board in memory, and what its URLs mean. It imports the primitives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from multiboard import errors, primitives


@dataclass(frozen=True, kw_only=True)
class MemorySettings(primitives.Settings):
    """The options of ``memory://``."""

    name: str = primitives.setting(
        "default", help="Which of the stores of this process: boards of two stores share nothing."
    )


def from_url(url: primitives.Url) -> Mapping[str, str]:
    """Return the settings that a URL gives by its host."""
    if len(url.hosts) > 1 or url.username or url.password or url.path not in ("", "/"):
        raise errors.ConfigError("a memory URL is memory://NAME, with no user, port or path")
    if url.hosts and url.hosts[0][1] is not None:
        raise errors.ConfigError("a memory URL is memory://NAME, with no port")
    return {"name": url.hosts[0][0]} if url.hosts else {}
