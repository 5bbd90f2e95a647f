# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""What every test may ask for: real stores, one server each for the whole run, a board of its own.

A store that is not installed fails the tests that need it; nothing is skipped. Tests that kill or
pause a server start one of their own with :mod:`servers`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pathlib
import signal
import sys
import urllib.parse
import uuid
from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))

import servers  # noqa: E402 - found through the line above

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts what runs behind it deaf to interrupts, and the processes that tests start and
    # interrupt would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)

# futurist imports eventlet where it is installed, and eventlet says on standard error, in every
# process, that it is deprecated.
os.environ.setdefault("EVENTLET_TESTS", "1")

# How long it takes to draw an example, or to try it, is the machine's business.
hypothesis.settings.register_profile(
    "busy machine",
    deadline=None,
    suppress_health_check=[
        hypothesis.HealthCheck.too_slow,
        hypothesis.HealthCheck.data_too_large,
    ],
)
hypothesis.settings.register_profile(
    "few", hypothesis.settings.get_profile("busy machine"), max_examples=20
)
hypothesis.settings.load_profile("busy machine")

STORES = ("memory", "sqlite", "redis", "zookeeper", "etcd")

#: Servers that were named by the environment instead of started here.
_given: list[str] = []


@contextlib.contextmanager
def _url_of(name: str) -> Iterator[str]:
    """Serve the URL in ``MULTIBOARD_<NAME>_URL``, or that of a server started for this run."""
    given = os.environ.get(f"MULTIBOARD_{name.upper()}_URL")
    if given:
        _given.append(f"{name} on {urllib.parse.urlsplit(given).netloc.rpartition('@')[2]}")
        yield given
    else:
        with servers.server(name) as server:
            yield server.url


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """The URL of the run's Redis, without a query."""
    with _url_of("redis") as url:
        yield url


@pytest.fixture(scope="session")
def zookeeper_url() -> Iterator[str]:
    """The URL of the run's ZooKeeper, without a query; it grants sessions of 1 to 10 seconds."""
    with _url_of("zookeeper") as url:
        yield url


@pytest.fixture(scope="session")
def etcd_url() -> Iterator[str]:
    """The URL of the run's etcd, without a query."""
    with _url_of("etcd") as url:
        yield url


@pytest.fixture(autouse=True)
def _own_log_levels() -> Iterator[None]:
    """Undo what a test does to the levels of loggers: the command silences libraries by them."""
    yield
    for name, level in _log_levels().items():
        if level != _LOG_LEVELS.get(name, logging.NOTSET):
            logging.getLogger(name).setLevel(_LOG_LEVELS.get(name, logging.NOTSET))


def _log_levels() -> dict[str, int]:
    """Return the level that each logger was given."""
    loggers = list(logging.root.manager.loggerDict.items())
    return {name: found.level for name, found in loggers if isinstance(found, logging.Logger)}


_LOG_LEVELS = _log_levels()


@pytest.fixture(params=STORES)
def store_url(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> str:
    """A URL of each store in turn, with a namespace that no other test has.

    More options go behind it: ``f"{store_url}&session_timeout=2"``.
    """
    namespace = f"t-{uuid.uuid4().hex[:12]}"
    if request.param == "memory":
        base = f"memory://{namespace}"
    elif request.param == "sqlite":
        base = f"sqlite://{tmp_path / 'board.db'}"
    else:
        base = request.getfixturevalue(f"{request.param}_url")
    return f"{base}?namespace={namespace}"


def pytest_configure(config: pytest.Config) -> None:
    """Declare the markers of the tests that only a full run makes."""
    config.addinivalue_line("markers", "full: takes minutes; runs where MULTIBOARD_FULL is set")
    config.addinivalue_line("markers", "strict: runs where MULTIBOARD_FULL is 'strict'")
    config.addinivalue_line("markers", "served: needs a server; set by itself where that shows")
    config.addinivalue_line("markers", "long: takes seconds; `make check` leaves it out")


#: The stores that have a server.
_SERVED = frozenset({"redis", "zookeeper", "etcd"})


def _needs_server(item: pytest.Item) -> bool:
    """Tell whether a test asks for a server: by a fixture, a parameter, its class or its folder."""
    asked = {name.removesuffix("_url") for name in getattr(item, "fixturenames", ())}
    callspec = getattr(item, "callspec", None)
    values = () if callspec is None else callspec.params.values()
    given = {value.partition("+")[0] for value in values if isinstance(value, str)}
    of_class = getattr(getattr(item, "cls", None), "store", "")
    return bool((asked | given | {of_class, item.path.parent.name}) & _SERVED)


@pytest.hookimpl(tryfirst=True)  # before pytest selects by the marker
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the long tests to a full run; they are deselected, not skipped.

    ``MULTIBOARD_FULL=1``: each mutant must fail the ids that it names, and each cluster is put
    through its faults. ``MULTIBOARD_FULL=strict``: the whole suite runs on each mutant as well: the
    ids that it names all fail, and no other.
    """
    for item in items:
        if _needs_server(item):
            item.add_marker("served")
    asked = os.environ.get("MULTIBOARD_FULL", "")
    names = ([] if asked else ["full"]) + ([] if asked == "strict" else ["strict"])
    long = [item for item in items if any(item.get_closest_marker(name) for name in names)]
    if long:
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in long]


#: What the processes of a run that is spread over several (``-n``) told when they ended.
_told: list[str] = []


def _used() -> list[str]:
    """Return a line for each store that was used in this process."""
    ports: dict[str, list[int]] = {}
    for server in servers.started:
        ports.setdefault(f"{server.name} {server.version}", []).append(server.port)
    lines = [
        f"{store}: {len(used)} start(s) on {servers.HOST}, ports "
        + ", ".join(str(port) for port in used[:5])
        + (", ..." if used[5:] else "")
        for store, used in ports.items()
    ]
    return lines + [f"{given}: named by the environment" for given in _given]


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Tell the process that started this one what was used here."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["servers used"] = _used()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Hear what one of the processes used."""
    _told.extend(getattr(node, "workeroutput", {}).get("servers used", []))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show the servers that the run used."""
    terminalreporter.section("servers used")
    for line in [*_told, *_used()] or ["none"]:
        terminalreporter.line(line)
