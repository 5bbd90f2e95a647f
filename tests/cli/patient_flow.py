# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Flows that conductors run in processes of their own; they talk to the test through files."""

from __future__ import annotations

import pathlib
from typing import Any

from taskflow import engines, task
from taskflow.patterns import linear_flow
from taskflow.persistence import models

from tests.waiting import eventually


class Wait(task.Task):  # type: ignore[misc]
    """Notes that it began, and waits until it may go on."""

    def execute(self, folder: str, label: str) -> None:
        """Wait for the file ``go``."""
        pathlib.Path(folder, f"{label}.begun").touch()
        eventually(pathlib.Path(folder, "go").exists, 100)


class Finish(task.Task):  # type: ignore[misc]
    """Notes that it ran."""

    def execute(self, folder: str, label: str) -> None:
        """Add a line to a file."""
        with open(pathlib.Path(folder, f"{label}.done"), "a") as file:
            file.write("done\n")


def waiting() -> Any:
    """A task that waits, then one that finishes."""
    return linear_flow.Flow("waiting").add(Wait("wait"), Finish("finish"))


def post(board: Any, persistence: Any, folder: pathlib.Path, label: str) -> Any:
    """Post a job for the flow."""
    book = models.LogBook(label)
    detail = models.FlowDetail(label, uuid=book.uuid)
    book.add(detail)
    engines.save_factory_details(detail, waiting, [], {})
    persistence.get_connection().save_logbook(book)
    store = {"folder": str(folder), "label": label}
    return board.post(label, book, details={"flow_uuid": detail.uuid, "store": store})
