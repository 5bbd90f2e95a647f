# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The demonstration's work: a flow that archives one file and proves that it can be read back.

What a task learns goes into the flow's logbook; what it makes, which may be large, into a file of
its own. So whoever takes a flow over finds both, and goes on after the last task that was done. It
knows TaskFlow and no board.
"""

from __future__ import annotations

import hashlib
import lzma
import os
import pathlib
from typing import Any

from taskflow import engines, task
from taskflow.patterns import linear_flow
from taskflow.persistence import backends, models

#: The flow's tasks, in order.
TASKS = ("read", "compress", "verify")


class Read(task.Task):  # type: ignore[misc]
    """Read the file and note what it held."""

    default_provides = ("digest", "size")

    def execute(self, path: str) -> tuple[str, int]:
        """Return the file's digest and its size."""
        data = pathlib.Path(path).read_bytes()
        return hashlib.sha256(data).hexdigest(), len(data)


class Compress(task.Task):  # type: ignore[misc]
    """Compress the file into the archive."""

    default_provides = "packed_size"

    def execute(self, path: str, packed: str) -> int:
        """Write the archive in one step, so that nobody finds half of it; return its size."""
        data = lzma.compress(pathlib.Path(path).read_bytes(), preset=1)
        unfinished = pathlib.Path(f"{packed}.{os.getpid()}")
        unfinished.write_bytes(data)
        unfinished.replace(packed)
        return len(data)


class Verify(task.Task):  # type: ignore[misc]
    """Read the archive back and compare it with what the file held."""

    def execute(self, packed: str, digest: str) -> None:
        """Raise ``ValueError`` where the archive holds anything else."""
        data = lzma.decompress(pathlib.Path(packed).read_bytes())
        if hashlib.sha256(data).hexdigest() != digest:
            raise ValueError(f"{packed} is not what was read")


def make() -> Any:
    """Make the flow. TaskFlow finds this function again by its name, in other processes too."""
    read, compress, verify = TASKS
    return linear_flow.Flow("archive").add(Read(read), Compress(compress), Verify(verify))


def open_logbooks(folder: str) -> Any:
    """Return TaskFlow's persistence in a folder that processes share."""
    persistence = backends.fetch({"connection": "dir", "path": folder, "max_cache_size": 256})
    persistence.get_connection().upgrade()
    return persistence


def new_logbook(persistence: Any, name: str) -> tuple[Any, str]:
    """Write the logbook of a new flow; return it and the flow's UUID."""
    book = models.LogBook(name)
    detail = models.FlowDetail(name, uuid=book.uuid)
    book.add(detail)
    engines.save_factory_details(detail, make, (), {})
    persistence.get_connection().save_logbook(book)
    return book, detail.uuid
