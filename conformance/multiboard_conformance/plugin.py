# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The pytest plugin of the suite: its options, its fixtures, its verdicts.

It is loaded by ``multiboard-conformance`` alone; no entry point loads it into other test runs.
Imports the primitives, the errors and the suite's own modules.
"""

from __future__ import annotations

import contextlib
import os
import random
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from multiboard_conformance import harness as harnesses
from multiboard_conformance import verdicts as v
from multiboard_conformance.boards import Board, Store
from multiboard_conformance.guarantees import GUARANTEES, ids_of
from multiboard_conformance.harness import Harness
from multiboard_conformance.proxy import Proxy, ProxiedStore

_BOARD = pytest.StashKey[Board]()
_SUITE = pytest.StashKey["Suite"]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the options that the command passes on."""
    group = parser.getgroup("multiboard conformance")
    group.addoption("--board", help="the backend: a URL, a name or module:Class")
    group.addoption("--quick", action="store_true", help="fewer rounds, not fewer guarantees")
    group.addoption("--waive", action="append", default=[], metavar="ID=REASON")
    group.addoption("--report", metavar="FILE", help="write the report as JSON")
    group.addoption("--harness", metavar="MODULE:CLASS", help="hooks of this store")
    group.addoption("--seed", type=int, help="of the random schedules")
    group.addoption("--reproduce", default="", help="the command that the report tells")


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
    """One run of the suite: what it runs on, and what came of it."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        waivers = dict(text.partition("=")[::2] for text in config.getoption("--waive"))
        self.verdicts = v.Verdicts(waivers)
        seed = config.getoption("--seed")
        self.effort = Effort(
            quick=config.getoption("--quick"),
            seed=int.from_bytes(os.urandom(4), "big") if seed is None else seed,
        )
        self.began = time.monotonic()
        self.store = Store(config.getoption("--board"))
        self.harness = harnesses.load(config.getoption("--harness"), self.store.target)
        self.facts = self.store.facts()

    # -- outcomes ----------------------------------------------------------------------------

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Turn what pytest says of a check into an outcome with ids, sentence and operations."""
        report = yield
        ids = ids_of(item)
        board = item.stash.get(_BOARD, None)
        outcome = v.Outcome(item.name, ids, v.PASSED, report.duration)
        if report.skipped:
            outcome.verdict = v.NOT_EXERCISED
            outcome.why = _reason(report).removeprefix("Skipped: ")
        elif report.failed:
            if board is not None and board.history.native_errors():
                outcome.ids = ids = tuple(dict.fromkeys((*ids, "ERR-1")))
            self._explain(report, ids, board)
            outcome.verdict, outcome.why = v.FAILED, _reason(report)
            waived = self.verdicts.waiver(item.name, ids)
            if waived is not None:
                outcome.verdict, outcome.why = v.WAIVED, waived
                report.outcome = "skipped"
                report.wasxfail = f"waived: {waived}"
        self.verdicts.note(outcome)
        return report

    def _explain(
        self, report: pytest.TestReport, ids: tuple[str, ...], board: Board | None
    ) -> None:
        broken = "\n".join(f"{name}: {GUARANTEES[name].sentence}" for name in ids)
        report.sections.append(("the promise", broken))
        if board is not None:
            report.sections.append(("the last operations", board.history.table()))

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Let the verdicts decide the exit status; nothing run is never a success."""
        if exitstatus not in (0, 1, 5):
            return
        result = self.verdicts.result()
        session.exitstatus = {"nothing run": 2, v.FAILED: 1}.get(result, 0)
        path = self.config.getoption("--report")
        if path:
            v.write(path, self.report())
        with contextlib.suppress(Exception):
            self.harness.close()
        self.store.close()

    def report(self) -> dict[str, Any]:
        """Return the report of this run."""
        traits = self.store.traits
        return self.verdicts.report(
            backend=self.store.target.partition("?")[0].rpartition("@")[2],
            facts=self.facts,
            traits={name: getattr(traits, name) for name in traits.__slots__},
            effort="quick" if self.effort.quick else "full",
            seed=self.effort.seed,
            seconds=round(time.monotonic() - self.began, 1),
            reproduce=self.config.getoption("--reproduce"),
        )

    # -- what is shown -----------------------------------------------------------------------

    def pytest_report_header(self) -> str:
        """Name the store and what is needed to repeat the run."""
        facts = ", ".join(f"{name} {value}" for name, value in self.facts.items())
        return f"multiboard conformance: {facts}; seed {self.effort.seed}"

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """End with a verdict for each guarantee."""
        terminalreporter.section("guarantees")
        for line in self.verdicts.table():
            terminalreporter.line(line)
        terminalreporter.line("")
        terminalreporter.line(
            f"{self.verdicts.result()} after {time.monotonic() - self.began:.1f} s"
            f" ({'quick' if self.effort.quick else 'full'}, seed {self.effort.seed})"
        )


def _reason(report: pytest.TestReport) -> str:
    if isinstance(report.longrepr, tuple):
        return str(report.longrepr[2])
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


@pytest.fixture
def board(request: pytest.FixtureRequest, store: Store) -> Iterator[Board]:
    """Return a board of a name that nobody used before."""
    board = Board(store)
    show(request, board)
    yield board
    board.close()


def show(request: pytest.FixtureRequest, board: Board) -> None:
    """Let a failure of this check print the operations of a board that several checks share."""
    request.node.stash[_BOARD] = board


@pytest.fixture
def proxy(store: Store, harness: Harness) -> Iterator[Proxy]:
    """Return a proxy before the server, or tell that this store has no address to stand before."""
    address = harness.address() if harnesses.provides(harness, "address") else store.address()
    if address is None:
        not_exercised("the store has no single server to put a proxy before")
    with Proxy(*address) as proxy:
        yield proxy


@pytest.fixture
def faulty(
    request: pytest.FixtureRequest, store: Store, proxy: Proxy, board: Board
) -> Iterator[Board]:
    """Return the check's board, seen through the proxy."""
    through = ProxiedStore(store, proxy)
    faulty = Board(through)
    faulty.namespace, faulty.history = board.namespace, board.history
    yield faulty
    proxy.heal()
    faulty.close()


def not_exercised(why: str) -> Any:
    """End a check that can't be run on this store; it is listed apart from what passed."""
    pytest.skip(why)


def need(harness: Harness, *hooks: str) -> None:
    """End a check that needs hooks which the harness does not provide."""
    missing = [hook for hook in hooks if not harnesses.provides(harness, hook)]
    if missing:
        not_exercised(f"needs a harness with {' and '.join(missing)}")
