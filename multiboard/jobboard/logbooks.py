# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""TaskFlow's persistence, from a connection as operators write it."""

from __future__ import annotations

import urllib.parse
from typing import Any

from taskflow import exceptions as excp
from taskflow.persistence import backends

from multiboard import errors

#: Backends of TaskFlow that keep their data in a folder.
_FOLDERS = ("dir", "file")


def open_logbooks(connection: str) -> Any:
    """Return TaskFlow's persistence backend, connected, with what it needs made.

    ``connection`` is a URL as TaskFlow and SQLAlchemy know it, or ``dir:///path`` for a folder.

    Raises: ``ConfigError``, which repeats nothing of the connection but its scheme: it may hold a
    password.
    """
    scheme, _, rest = connection.partition("://")
    conf: dict[str, Any] = {"connection": connection}
    if scheme in _FOLDERS:
        if not rest.startswith("/"):
            raise errors.ConfigError(f"the logbooks' folder is written {scheme}:///path")
        conf = {"connection": scheme, "path": urllib.parse.unquote(rest), "max_cache_size": 256}
    elif scheme == "memory":
        raise errors.ConfigError(
            "logbooks in memory are seen by one process only, and flows are posted by others"
        )
    try:
        persistence = backends.fetch(conf)
        made = persistence.get_connection()
        made.upgrade()
        made.validate()
    except Exception as error:
        # Whatever a database's client raises; its text may repeat the URL.
        why = " ".join(str(error).split())
        if not why or rest in why or _password(rest) in why:
            why = f"{type(error).__name__} (its text is not shown: the URL is in it)"
        if isinstance(error, (excp.NotFound, ImportError)):
            why = "TaskFlow has no backend for it, or its library is not installed"
        raise errors.ConfigError(f"the logbooks at {scheme}:// can't be opened: {why}") from None
    return persistence


def _password(rest: str) -> str:
    """Return the password in a URL, or a text that stands nowhere."""
    user, at, _ = rest.rpartition("@")
    return user.partition(":")[2] or "\0" if at else "\0"
