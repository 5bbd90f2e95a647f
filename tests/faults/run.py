# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""A fault run: workers on a cluster that is maltreated at random, and the judgement on it.

One seed decides which faults strike, in which order and for how long, and what the workers want to
do; when exactly a fault meets an operation is up to the machine.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from multiboard_conformance.machinery.proxy import Mode, Proxy
from servers.clusters import Cluster

from multiboard import errors
from multiboard.config import loading
from multiboard.primitives import Shelf, boottime
from multiboard.runtime.retry import RetryingGuard
from tests.faults.board_record import BoardFindings, BoardRecord
from tests.faults.judge import Findings, findings
from tests.faults.putting_back import PutBack, put_back
from tests.faults.workers import BoardWorker, Record, Worker

#: What is asked of the store; a short session, so that deaths and freezes matter.
SETTINGS = {"session_timeout": 3.0, "connect_timeout": 3.0, "operation_timeout": 6.0}
#: Seconds that a frozen worker sleeps: longer than its session and its timed leases last.
SLEEP = 6.0
#: Seconds within which every worker must get an answer after the cluster was healed.
RECOVERED_WITHIN = 60.0
#: Seconds within which every watcher must see what is listed when all is over.
SEEN_WITHIN = 40.0


@dataclass
class Struck:
    """A fault that was there, and what it cost the workers."""

    fault: str
    began: float
    healed: float = 0.0
    #: The longest time that one worker, to whom nothing else happened, had no answer.
    outage: float = 0.0


@dataclass
class Result:
    """What a run came to."""

    cluster: str
    seed: str
    seconds: float = 0.0
    operations: int = 0
    posted: int = 0
    struck: list[Struck] = field(default_factory=list)
    findings: Findings = field(default_factory=Findings)
    #: What the workers on a whole jobboard came to.
    board: BoardFindings = field(default_factory=BoardFindings)
    #: What boards said of a store that was put back; None where that was not done.
    put_back: PutBack | None = None
    #: The last operations, where something is wrong.
    table: str = ""
    #: Why what the store acknowledged may be lost; empty where it may not.
    may_lose: str = ""
    #: Why it may end a session that is kept; empty where it may not.
    may_end_early: str = ""

    @property
    def outages(self) -> dict[str, float]:
        """The longest outage by the name of the fault."""
        longest: dict[str, float] = {}
        for one in self.struck:
            longest[one.fault] = max(one.outage, longest.get(one.fault, 0.0))
        return longest

    @property
    def failures(self) -> list[str]:
        """What may not be."""
        found = self.findings
        early = [] if self.may_end_early else found.early
        # A store that takes back what it acknowledged lets a posting be removed a second time.
        sure = [] if self.may_lose else [*found.lost, *found.double, *early]
        board = self.board
        ours = [] if self.may_lose else [*board.lost, *board.double]
        late = [] if self.may_end_early or self.may_lose else board.late
        deceived = [] if self.put_back is None else self.put_back.deceived
        return [*sure, *found.other, *ours, *late, *board.kept, *deceived]


class Run:
    """One run, on a cluster that is there already.

    ``safe`` is for the settings with which a store loses nothing, where it has to be asked for it.
    """

    def __init__(
        self,
        cluster: Cluster,
        seed: str,
        *,
        workers: int = 4,
        boards: int = 2,
        safe: bool = True,
        say: Callable[[str], None] = lambda _line: None,
    ) -> None:
        self._cluster = cluster
        self._dice = random.Random(seed)
        self._say = say
        self._record = Record()
        self._stack = contextlib.ExitStack()
        options = cluster.safe if safe else {}
        namespace = f"faults-{uuid.uuid4().hex[:12]}"
        self._settings = {**SETTINGS, "namespace": namespace, **options}
        self._proxies = self._make_proxies()
        self._count = workers
        self._workers: list[Worker] = []
        self._board_record = BoardRecord()
        self._board_count = boards
        self._board_workers: list[BoardWorker] = []
        self._started = 0
        #: The worker to which something is being done: its silence is not the store's.
        self._victim = ""
        self._killed: dict[str, float] = {}
        may_lose = "" if options else cluster.may_lose
        self.result = Result(
            cluster.name, seed, may_lose=may_lose, may_end_early=cluster.may_end_early
        )

    def _make_proxies(self) -> list[Proxy]:
        members = self._cluster.members
        if not members or self._cluster.url_through([(m.host, m.port) for m in members]) is None:
            return []
        return [self._stack.enter_context(Proxy(m.host, m.port)) for m in members]

    def _hire(self, place: int) -> Worker:
        """Start a worker; the first one reaches the store through proxies."""
        self._started += 1
        target: str | None = self._cluster.url
        if place == 0 and self._proxies:
            target = self._cluster.url_through([proxy.address for proxy in self._proxies])
        assert target is not None
        who = f"w{self._started}"
        seed = f"{self.result.seed}:{who}"
        return Worker(self._record, who, seed, target, self._settings)

    def _hire_for_board(self, place: int) -> BoardWorker:
        """Start a worker on a whole jobboard; the first one reaches the store through proxies."""
        self._started += 1
        target: str | None = self._cluster.url
        if place == 0 and self._proxies:
            target = self._cluster.url_through([proxy.address for proxy in self._proxies])
        assert target is not None
        who = f"b{self._started}"
        settings = {**self._settings, "namespace": f"{self._settings['namespace']}-jobs"}
        return BoardWorker(self._board_record, who, f"{self.result.seed}:{who}", target, settings)

    def run(self, seconds: float) -> Result:
        """Run for so long, or until every fault was there once, and judge."""
        began = boottime()
        try:
            self._workers = [self._hire(place) for place in range(self._count)]
            self._board_workers = [
                self._hire_for_board(place) for place in range(self._board_count)
            ]
            self._await_answers(boottime())
            faults, rounds = self._faults(), 0
            while boottime() - began < seconds or not rounds:
                name = self._dice.choice(sorted(faults))
                fault = faults.pop(name)  # each once, before any for a second time
                if not faults:
                    faults, rounds = self._faults(), rounds + 1
                time.sleep(self._dice.uniform(0.3, 1.5))
                self._strike(name, fault)
            self.result.seconds = boottime() - began
            self._judge()
        finally:
            for worker in [*self._workers, *self._board_workers]:
                worker.kill()
            self._stack.close()
        return self.result

    # -- faults ------------------------------------------------------------------------------------

    def _faults(self) -> dict[str, Callable[[], Callable[[], None]]]:
        """Return what can be done, by name; what each returns ends it."""

        def done_to_the_store(strike: Callable[[], None]) -> Callable[[], Callable[[], None]]:
            def fault() -> Callable[[], None]:
                strike()
                self._hold(0.5, 6.0)
                return self._cluster.heal

            return fault

        faults = {
            name: done_to_the_store(strike)
            for name, strike in {**self._cluster.faults(), **self._cluster.disturbances()}.items()
        }
        faults |= {"worker killed": self._kill_worker, "worker frozen": self._freeze_worker}
        if self._board_workers:
            faults |= {
                "board worker killed": self._kill_board_worker,
                "board worker frozen": self._freeze_board_worker,
                "board interrupted": self._interrupt_board_worker,
            }
        if self._proxies:
            faults["client partitioned"] = lambda: self._part(Mode.BLACK_HOLE)
            faults["client cut off"] = lambda: self._part(Mode.REFUSE)
        return faults

    def _hold(self, least: float, most: float) -> None:
        time.sleep(self._dice.uniform(least, most))

    def _kill_worker(self) -> Callable[[], None]:
        place = self._dice.randrange(self._count)
        self._victim = self._workers[place].who
        self._killed[self._victim] = boottime()
        self._workers[place].kill()
        self._workers[place] = self._hire(place)
        return lambda: None

    def _freeze_worker(self) -> Callable[[], None]:
        worker = self._dice.choice(self._workers)
        self._victim = worker.who
        worker.freeze()
        time.sleep(SLEEP)
        return worker.thaw

    def _kill_board_worker(self) -> Callable[[], None]:
        place = self._dice.randrange(self._board_count)
        self._board_workers[place].kill()
        self._board_workers[place] = self._hire_for_board(place)
        return lambda: None

    def _freeze_board_worker(self) -> Callable[[], None]:
        worker = self._dice.choice(self._board_workers)
        began = boottime()
        worker.freeze()
        time.sleep(SLEEP)

        def thaw() -> None:
            worker.thaw()
            self._board_record.frozen[worker.who].append((began, boottime()))

        return thaw

    def _interrupt_board_worker(self) -> Callable[[], None]:
        self._dice.choice(self._board_workers).interrupt()
        self._hold(1.0, 3.0)
        return lambda: None

    def _part(self, mode: Mode) -> Callable[[], None]:
        self._victim = self._workers[0].who
        for proxy in self._proxies:
            proxy.set(mode)
        self._hold(1.0, 6.0)

        def heal() -> None:
            for proxy in self._proxies:
                proxy.heal()  # what was on its way arrives now, however late

        return heal

    def _strike(self, name: str, fault: Callable[[], Callable[[], None]]) -> None:
        struck = Struck(name, boottime())
        self._victim = ""
        heal = fault()
        heal()
        struck.healed = boottime()
        self._await_answers(struck.healed)
        struck.outage = self._outage(struck)
        self.result.struck.append(struck)
        self._say(
            f"  {name:<20} for {struck.healed - struck.began:5.1f} s, the longest outage"
            f" {struck.outage:.2f} s, {self._record.operations} operations so far"
        )

    def _await_answers(self, since: float) -> None:
        """Wait until each worker got an answer to something that it began after an instant."""
        give_up = boottime() + RECOVERED_WITHIN
        while any(worker.last_answer() < since for worker in self._workers):
            silent = [worker.who for worker in self._workers if worker.last_answer() < since]
            if boottime() > give_up:
                raise RuntimeError(
                    f"{', '.join(silent)} had no answer within {RECOVERED_WITHIN:g} s after all"
                    f" was healed\n{self._record.history.table(40)}"
                )
            everyone = [*self._workers, *self._board_workers]
            dead = [worker.who for worker in everyone if not worker.alive]
            if dead:
                raise RuntimeError(f"{', '.join(dead)} died by themselves")
            time.sleep(0.02)

    def _outage(self, struck: Struck) -> float:
        longest = 0.0
        for worker in self._workers:
            if worker.who == self._victim or struck.fault == "worker killed":
                continue
            ended = [end for _, end in self._record.answered[worker.who]]
            for before, after in itertools.pairwise(ended):
                if after > struck.began and before < struck.healed:
                    longest = max(longest, after - before)
        return longest

    # -- the end -----------------------------------------------------------------------------------

    def _judge(self) -> None:
        stopped = boottime()
        for worker in self._workers:
            worker.ask("quiet")
        quiet = boottime()
        backend = RetryingGuard(loading.load(self._cluster.url, **self._settings))
        backend.open()
        try:
            blind = self._blind(backend)
            seen = boottime()
            for worker in self._workers:
                worker.ask("leave")
            left = self._left(backend)
            live = [posting.key for posting in backend.list().postings]
            trash = [posting.key for posting in backend.list(Shelf.TRASH).postings]
        finally:
            backend.close()
        self._say(
            f"  the workers gave back what they held in {quiet - stopped:.1f} s, all saw one board"
            f" {seen - quiet:.1f} s later, and it was free after {boottime() - seen:.1f} s"
        )
        result, record = self.result, self._record
        result.operations = record.operations
        result.posted = sum(op.done for op in record.history.operations("add"))
        result.findings = findings(record.history, record.reads, live, trash, self._killed)
        result.findings.other += [*blind, *left]
        result.board = self._judge_board()
        if self._cluster.can_be_put_back:
            namespace = f"{self._settings['namespace']}-end"
            result.put_back = put_back(self._cluster, {**self._settings, "namespace": namespace})
        if result.failures:
            named = {word for said in result.failures for word in said.split()}
            result.table = "\n".join([*result.failures, record.history.table(40, about=named)])

    def _judge_board(self) -> BoardFindings:
        kept = {worker.who: worker.ask("quiet") for worker in self._board_workers}
        settings = {**self._settings, "namespace": f"{self._settings['namespace']}-jobs"}
        backend = RetryingGuard(loading.load(self._cluster.url, **settings))
        backend.open()
        try:
            there = [posting.key for posting in backend.list().postings]
        finally:
            backend.close()
        return self._board_record.findings(there, kept)

    def _blind(self, backend: RetryingGuard) -> list[str]:
        """Return the watchers whose view is not what is listed, though nothing happens any more."""
        give_up = boottime() + SEEN_WITHIN
        while True:
            listed = sorted(
                [posting.key, None if posting.lease is None else posting.lease.token]
                for posting in backend.list().postings
            )
            views = {worker.who: _pairs(worker.ask("view")) for worker in self._workers}
            wrong = [who for who, view in views.items() if view != _pairs(listed)]
            if not wrong:
                return []
            if boottime() > give_up:
                return [
                    f"the view of {who} is not the listing: it has too much"
                    f" {sorted(views[who] - _pairs(listed))}, it lacks"
                    f" {sorted(_pairs(listed) - views[who])}"
                    for who in wrong
                ]
            time.sleep(0.1)

    def _left(self, backend: RetryingGuard) -> list[str]:
        """Return the postings that nobody could take when all workers had gone."""
        give_up = boottime() + SEEN_WITHIN
        while True:
            postings = backend.list().postings
            if all(posting.lease is None and posting.due_in == 0 for posting in postings):
                break
            if boottime() > give_up:
                held = [p.key for p in postings if p.lease is not None]
                return [f"{key} is leased by somebody who has gone" for key in held]
            with contextlib.suppress(errors.Unavailable):
                backend.changes(backend.changes(None, 0.0).cursor, 0.2)
        won = backend.acquire_next("the end", [uuid.uuid4().hex for _ in postings])
        missed = {posting.key for posting in postings} - {posting.key for posting, _ in won}
        return [f"{key} is free, and nobody is given it" for key in sorted(missed)]


def _pairs(view: Iterable[Any]) -> set[tuple[str, int | None]]:
    return {(key, token) for key, token in view}
