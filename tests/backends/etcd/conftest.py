# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The fixtures of the tests of the etcd board."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import servers

from tests.backends.etcd.accounts import KINDS, locked_server
from tests.backends.etcd.boards import Maker, boards_on


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    with servers.etcd_server() as running:
        yield running


@pytest.fixture
def make(server: Any) -> Iterator[Maker]:
    with boards_on(server) as make:
        yield make


@pytest.fixture(params=KINDS, scope="module")
def locked(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    with locked_server(request.param, tmp_path_factory.mktemp("tokens")) as admin:
        yield admin
