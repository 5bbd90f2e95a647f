# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""TaskFlow's own tests of jobboards and of conductors, run on our board over every store.

They come with TaskFlow; nothing of them is changed but how the board is made.
"""

from __future__ import annotations

import uuid
from typing import Any
from unittest import mock

import pytest
from taskflow import test
from taskflow.conductors import backends as conductors
from taskflow.jobs import backends as jobboards
from taskflow.persistence.backends import impl_memory
from taskflow.tests import utils
from taskflow.tests.unit.jobs import base as jobs

from multiboard.jobboard.board import JobBoard

with mock.patch.object(utils, "zookeeper_available", return_value=True):
    # Importing it looks for a ZooKeeper on the standard port for half a minute. Ours is elsewhere.
    from taskflow.tests.unit import test_conductors

STORES = ("memory", "sqlite", "redis", "zookeeper", "etcd")
KINDS: dict[str, dict[str, Any]] = {
    "blocking": {"wait_timeout": 0.1},
    "nonblocking": {"wait_timeout": 0.1},
    "multiboard": {},
}


class OnStore:
    """Gives a unittest class the URL of a fresh board in its store."""

    store: str

    @pytest.fixture(autouse=True)
    def _fresh_board(self, request: pytest.FixtureRequest, tmp_path: Any) -> None:
        namespace = f"t-{uuid.uuid4().hex[:12]}"
        if self.store == "memory":
            location = f"memory://{namespace}"
        elif self.store == "sqlite":
            location = f"sqlite://{tmp_path / 'board.db'}"
        else:
            location = request.getfixturevalue(f"{self.store}_url")
        self.url = f"{location}?namespace={namespace}"

    def fetch(self, persistence: Any = None) -> JobBoard:
        """Fetch the board as a TaskFlow user does."""
        conf = {"board": "multiboard", "url": self.url}
        return jobboards.fetch("test-board", conf, persistence=persistence)


class BoardTests(OnStore):
    """What :class:`taskflow.tests.unit.jobs.base.BoardTestMixin` asks for."""

    def setUp(self) -> None:
        super().setUp()  # type: ignore[misc]
        self.client, self.board = self.create_board()
        self.addCleanup(self.board.close)  # type: ignore[attr-defined]

    def create_board(self, persistence: Any = None) -> tuple[None, JobBoard]:
        """Make a board; there is no client that the tests could reach behind its back."""
        board = self.fetch(persistence)
        self.addCleanup(board.close)  # type: ignore[attr-defined]
        return None, board


@pytest.mark.long
class ConductorTests(OnStore, test_conductors.ManyConductorTest):  # type: ignore[misc]
    """TaskFlow's conductor tests."""

    scenarios: list[Any] = []

    def make_components(self) -> Any:
        """Make a conductor of the kind under test, on a board in the store under test."""
        persistence = impl_memory.MemoryBackend()
        board = self.fetch(persistence)
        conductor = conductors.fetch(
            self.kind, "testing", board, persistence=persistence, **self.conductor_kwargs
        )
        self.addCleanup(board.close)
        return test_conductors.ComponentBundle(board, persistence, conductor)


def _classes() -> dict[str, type]:
    made: dict[str, type] = {}
    for store in STORES:
        title = store.title()
        made[f"Test{title}Board"] = type(
            f"Test{title}Board", (BoardTests, jobs.BoardTestMixin, test.TestCase), {"store": store}
        )
        for kind, kwargs in KINDS.items():
            name = f"Test{kind.title()}Conductor{title}"
            made[name] = type(
                name,
                (ConductorTests,),
                {"store": store, "kind": kind, "conductor_kwargs": kwargs, "__test__": True},
            )
            if kind == "multiboard":
                # It injects a failure into ``_fetch_jobs``, which this conductor never calls;
                # test_conductor.py lets the store itself fail.
                made[name].test_run_survives_transient_jobboard_failure = None  # type: ignore[attr-defined]
    return made


ConductorTests.__test__ = False  # only its subclasses have a store
globals().update(_classes())
