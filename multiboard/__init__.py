# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""One jobboard over many stores: a drop-in jobboard for TaskFlow.

::

    import multiboard

    with multiboard.backend("jobs", "sqlite:///var/lib/service/jobs.sqlite3") as board:
        board.post("resize", details={"server": 42})
        for job in board.claim_next("worker-1", timeout=5.0):
            board.consume(job, "worker-1")

Small sites name an SQLite file or a Redis server, large ones an ensemble of ZooKeeper servers, and
nothing but the URL changes. Backend authors start at :mod:`multiboard.primitives`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from multiboard.jobboard.board import JobBoard

__all__ = ["backend", "fetch", "from_config"]


def fetch(name: str, url_or_conf: str | Mapping[str, Any], *, persistence: Any = None) -> JobBoard:
    """Make a board, not connected yet, from a URL or from a dict with ``url`` and options.

    ``name`` is the board's name for people; which board it is, is the URL's matter. The same
    through TaskFlow: ``taskflow.jobs.backends.fetch(name, {"board": "multiboard", "url": ...})``.

    Raises: :class:`multiboard.errors.ConfigError`, which says what would be right.
    """
    from multiboard.jobboard.board import JobBoard  # backend authors need not load TaskFlow

    conf = {"url": url_or_conf} if isinstance(url_or_conf, str) else url_or_conf
    return JobBoard(name, conf, persistence=persistence)


@contextlib.contextmanager
def backend(
    name: str, url_or_conf: str | Mapping[str, Any], *, persistence: Any = None
) -> Iterator[JobBoard]:
    """Make a board as :func:`fetch` does, connect it, and close it at the end of the block.

    Raises: :class:`multiboard.errors.ConfigError`; ``taskflow.exceptions.JobFailure`` when the
    store can't be reached.
    """
    board = fetch(name, url_or_conf, persistence=persistence)
    board.connect()
    with contextlib.closing(board):
        yield board


def from_config(conf: Any, name: str = "multiboard", *, persistence: Any = None) -> JobBoard:
    """Make a board, not connected yet, from oslo.config: ``[multiboard] backend_url`` and options.

    Raises: :class:`multiboard.errors.ConfigError`.
    """
    from multiboard.config import oslo  # services that do not use oslo.config need not load it

    return fetch(name, oslo.read(conf), persistence=persistence)
