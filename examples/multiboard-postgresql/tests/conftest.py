# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""What the tests share: one server, and an environment in which the package is installed."""

from __future__ import annotations

import configparser
import importlib.metadata
import os
import pathlib
from collections.abc import Iterator

import pytest
from server import Server

ROOT = pathlib.Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """A PostgreSQL server."""
    started = Server.start_new()
    yield started
    started.close()


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a process that sees the package, its entry point and the harness.

    Where the package is not installed, what an installation would write is written to a temporary
    folder: tests need no network and change no environment but their own.
    """
    paths = [str(ROOT), str(ROOT / "tests")]
    names = {entry.name for entry in importlib.metadata.entry_points(group="multiboard.backends")}
    if "postgresql" not in names:
        config = configparser.ConfigParser()
        config.read(ROOT / "setup.cfg")
        folder = tmp_path_factory.mktemp("installed")
        info = folder / "multiboard_postgresql-0.1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            "Metadata-Version: 2.1\nName: multiboard-postgresql\nVersion: 0.1.0\n"
        )
        points = config["options.entry_points"]["multiboard.backends"].strip()
        (info / "entry_points.txt").write_text(f"[multiboard.backends]\n{points}\n")
        paths.append(str(folder))
    here = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths + ([here] if here else []))}
