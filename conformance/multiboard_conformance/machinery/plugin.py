# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The pytest plugin of the suite: its options, its fixtures, its verdicts.

It is loaded by ``multiboard-conformance`` alone; no entry point loads it into other test runs.
Imports the primitives, the errors and the suite's own modules.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import random
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

import pytest

from multiboard_conformance import harness as harnesses
from multiboard_conformance import results as v
from multiboard_conformance.backend.fixtures import Board, Store
from multiboard_conformance.backend.guarantees import GUARANTEES, ids_of
from multiboard_conformance.harness import Harness
from multiboard_conformance.machinery.proxy import ProxiedStore, Proxy
from multiboard_conformance.machinery.shards import THE_END
from multiboard_conformance.promises import asks, sentences

_BOARD = pytest.StashKey[Board]()
_SUITE = pytest.StashKey["Suite"]()
#: Seconds that the fixtures of a check took before it began.
_PREPARED = pytest.StashKey[float]()
#: What a check counted.
_MEASURED = pytest.StashKey[dict[str, float]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the options that the command passes on."""
    group = parser.getgroup("multiboard conformance")
    group.addoption("--board", help="the backend: a URL, a name or module:Class")
    group.addoption("--quick", action="store_true", help="fewer rounds, not fewer guarantees")
    group.addoption("--harness", metavar="MODULE:CLASS", help="hooks of this store")
    group.addoption("--only", action="append", default=[], metavar="ID")
    group.addoption("--seed", type=int, default=0, help="of the random schedules")
    group.addoption("--shard", default="0/1", help="which part of the checks, of how many; 'alone'")
    group.addoption("--outcomes", type=int, help="descriptor to write outcomes to, as JSON lines")


@dataclass(frozen=True)
class Effort:
    """How much a check does."""

    quick: bool
    seed: int

    def rounds(self, quick: int, full: int) -> int:
        """Return the number of rounds."""
        return quick if self.quick else full

    def dice(self, salt: str) -> random.Random:
        """Return the random numbers of one check, the same for the same seed."""
        return random.Random(f"{self.seed}:{salt}")


class Suite:
    """One run of the suite, or of one shard of it."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.effort = Effort(config.getoption("--quick"), config.getoption("--seed"))
        target = config.getoption("--board")
        self.harness = harnesses.load(config.getoption("--harness"), target)
        if config.getoption("--shard") == "alone" and harnesses.provides(self.harness, "spare"):
            target = self.harness.spare()
        self.store = Store(target)
        self._outcomes: int | None = config.getoption("--outcomes")

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        """Keep the checks of this shard; those that share a scene stay together, in the first."""
        only = set(config.getoption("--only"))
        if only:
            config.hook.pytest_deselected(items=[i for i in items if not only & set(ids_of(i))])
            items[:] = [item for item in items if only & set(ids_of(item))]
        shard, _, shards = config.getoption("--shard").partition("/")
        # Without a harness they only report that they can't be run, and may do so in any shard.
        disturbing = config.getoption("--harness") is not None
        alone = [i for i in items if disturbing and i.get_closest_marker("alone") is not None]
        if shard == "alone":
            items[:] = alone
            return
        numbers = itertools.count(1)
        mine: list[pytest.Item] = []
        others: list[pytest.Item] = []
        for item in items:
            shared = "deaths" in getattr(item, "fixturenames", ())
            number = 0 if shared else next(numbers)
            chosen = number % int(shards) == int(shard) and item not in alone
            (mine if chosen else others).append(item)
        items[:] = mine
        config.hook.pytest_deselected(items=others)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Function, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Turn what pytest reports of a check into an outcome with ids, sentence and operations."""
        report = yield
        if report.when == "setup" and report.passed:
            item.stash[_PREPARED] = report.duration
            return report  # the check itself is still to come
        ids = ids_of(item)
        board = item.stash.get(_BOARD, None)
        took = report.duration + (item.stash.get(_PREPARED, 0.0) if report.when == "call" else 0.0)
        outcome = v.Outcome(item.name, ids, v.PASSED, took)
        outcome.measured = dict(item.stash.get(_MEASURED, {}))
        if board is not None and board.history.resets:
            outcome.measured["resets"] = board.history.resets
        if report.skipped:
            outcome.verdict, outcome.why = v.NOT_EXERCISED, _reason(report)
        elif report.failed:
            if board is not None and board.history.native_errors():
                outcome.ids = ids = tuple(dict.fromkeys((*ids, "ERR-1")))
            outcome.verdict, outcome.why = v.FAILED, _reason(report)
            broken = sentences(ids, GUARANTEES)
            table = "" if board is None else f"\n\n{board.history.table()}"
            trace = _shortened(report.longreprtext)
            outcome.text = f"{broken}\n\nIt asks: {asks(item.function)}\n\n{trace}{table}"
        self._report(dataclasses.asdict(outcome))
        return report

    def _report(self, line: dict[str, Any]) -> None:
        if self._outcomes is not None:
            with open(self._outcomes, "a", encoding="utf-8", closefd=False) as file:
                file.write(json.dumps(line) + "\n")

    def pytest_sessionfinish(self) -> None:
        """End what the run began."""
        with contextlib.suppress(Exception):
            self.harness.close()
        self.store.close()
        self._report(THE_END)


def _shortened(text: str, most: int = 60) -> str:
    """Leave out the middle of a text of too many lines."""
    lines = text.splitlines()
    if len(lines) <= most:
        return text
    half = most // 2
    return "\n".join([*lines[:half], f"(... {len(lines) - most} lines)", *lines[-half:]])


def _reason(report: pytest.TestReport) -> str:
    if isinstance(report.longrepr, tuple):
        return str(report.longrepr[2]).removeprefix("Skipped: ")
    crash = getattr(report.longrepr, "reprcrash", None)
    return str(crash.message if crash is not None else report.longrepr)[:500]


def pytest_configure(config: pytest.Config) -> None:
    """Begin a run."""
    suite = Suite(config)
    config.stash[_SUITE] = suite
    config.pluginmanager.register(suite, "multiboard-conformance-suite")


# -- fixtures --------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def suite(pytestconfig: pytest.Config) -> Suite:
    """Return the run."""
    return pytestconfig.stash[_SUITE]


@pytest.fixture(scope="session")
def store(suite: Suite) -> Store:
    """Return the store under test."""
    return suite.store


@pytest.fixture(scope="session")
def effort(suite: Suite) -> Effort:
    """Return how much to do."""
    return suite.effort


@pytest.fixture(scope="session")
def harness(suite: Suite) -> Harness:
    """Return the hooks of this store."""
    return suite.harness


#: The fixtures with which a check can make a fault.
_FAULTS = frozenset({"harness", "proxy", "faulty"})


@pytest.fixture
def board(request: pytest.FixtureRequest, store: Store) -> Iterator[Board]:
    """Return a board of a name that nobody used before."""
    board = Board(store)
    board.history.disturbed = not _FAULTS.isdisjoint(request.fixturenames)
    show(request, board)
    yield board
    board.close()


def show(request: pytest.FixtureRequest, board: Board) -> None:
    """Let a failure of this check print the operations of a board that several checks share."""
    request.node.stash[_BOARD] = board


def measure(request: pytest.FixtureRequest, **counted: float) -> None:
    """Put what a check counted into the report, by names of its choice."""
    request.node.stash.setdefault(_MEASURED, {}).update(counted)


@pytest.fixture
def proxy(store: Store, harness: Harness) -> Iterator[Proxy]:
    """Return a proxy before the server, or skip where this store has no address to stand before."""
    address = harness.address() if harnesses.provides(harness, "address") else store.address()
    if address is None:
        not_exercised("the store has no single server to put a proxy before")
    host, port = address
    with Proxy(host, port) as proxy:
        yield proxy


@pytest.fixture
def faulty(store: Store, proxy: Proxy, board: Board) -> Iterator[Board]:
    """Return the check's board, seen through the proxy."""
    through = ProxiedStore(store, proxy)
    faulty = Board(through)
    faulty.namespace, faulty.history = board.namespace, board.history
    yield faulty
    proxy.heal()
    faulty.close()


def not_exercised(why: str) -> NoReturn:
    """End a check that can't be run on this store; it is listed apart from what passed."""
    pytest.skip(why)


def need(harness: Harness, *hooks: str) -> None:
    """End a check that needs hooks which the harness does not provide."""
    missing = [hook for hook in hooks if not harnesses.provides(harness, hook)]
    if missing:
        not_exercised(f"needs a harness with {' and '.join(missing)}")
