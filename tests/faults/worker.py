# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""A worker of the fault tests: a process that posts, claims and consumes while the store suffers.

It tells what it invokes and what it hears, line by line, on standard output, so that all of it is
known even where it is killed; it obeys a few commands on standard input. It works through the
guard, as a board does, and each attempt of the guard is an operation of its own in the record.
"""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import os
import random
import signal
import sys
import threading
import time
import uuid
from typing import Any, TextIO

from multiboard_conformance.machinery import serialization
from multiboard_conformance.machinery.history import History, Operation
from multiboard_conformance.machinery.recording import Recorded

from multiboard import errors
from multiboard.config import loading
from multiboard.primitives import Lease, NewPosting, Shelf
from multiboard.runtime.retry import RetryingGuard
from multiboard.runtime.view import View

#: Postings on the board from which on nobody posts more.
ENOUGH = 60
#: Old leases that a worker keeps to see them refused.
STALE = 20
#: Seconds for which a timed lease is asked for at most.
LONGEST = 3.0
#: Seconds between two operations, on average.
PACE = 0.008


class Work:
    """What a worker does by itself, until it is told to be quiet."""

    def __init__(self, backend: RetryingGuard, view: View, who: str, seed: str) -> None:
        self._backend = backend
        self._view = view
        self._who = who
        self._dice = random.Random(seed)
        self._held: dict[str, Lease] = {}
        self._stale: list[Lease] = []
        #: What could not be given back: it has to be before the end.
        self._owed: list[Lease] = []
        self._number = 0
        self._lock = threading.Lock()
        self._acts = [self._post] * 5 + [self._take] * 3 + [self._claim] * 2 + [self._finish] * 9
        self._acts += [self._use_stale] * 1 + [self._read] * 2 + [self._restore] * 1

    def step(self) -> None:
        """Do one thing; what fails is part of the story."""
        with contextlib.suppress(errors.MultiboardError):
            self._dice.choice(self._acts)()
        time.sleep(self._dice.expovariate(1 / PACE))

    def session_lost(self) -> None:
        """Take all session leases for lost."""
        with self._lock:
            for lease in list(self._held.values()):
                if lease.session is not None:
                    self._drop(lease)

    def finish(self) -> None:
        """Give all leases back; one that may have been is not asked about for ever."""
        for lease in [*self._held.values(), *self._owed]:
            while True:
                try:
                    self._backend.release(lease)
                except errors.Unavailable:
                    continue
                except errors.MultiboardError:
                    pass
                break

    def _drop(self, lease: Lease) -> None:
        if self._held.get(lease.key) == lease:
            del self._held[lease.key]
        self._stale = [lease, *self._stale][:STALE]

    def _post(self) -> None:
        if len(self._view) >= ENOUGH:
            return
        new = []
        for _ in range(self._dice.randrange(1, 4)):
            self._number += 1
            key = f"{self._who}.{self._number}"
            new.append(NewPosting(key, key.encode(), rank=self._dice.choice([1, 5, 9])))
        self._backend.add(new)

    def _span(self) -> float | None:
        return self._dice.choice([None, None, self._dice.uniform(0.5, LONGEST)])

    def _take(self) -> None:
        ids = [uuid.uuid4().hex for _ in range(self._dice.randrange(1, 3))]
        for posting, lease in self._backend.acquire_next(self._who, ids, self._span()):
            self._held[posting.key] = lease

    def _claim(self) -> None:
        free = [entry.item for entry in self._view.entries() if entry.leased is None]
        if free:
            key = self._dice.choice(free[:8])
            self._held[key] = self._backend.acquire(key, self._who, uuid.uuid4().hex, self._span())

    def _finish(self) -> None:
        with self._lock:
            held = list(self._held.values())
        if not held:
            return
        lease = self._dice.choice(held)
        what = self._dice.randrange(20)
        if what < 3 and lease.session is None:
            # Never sooner than before: the judge takes a renewal for a later end.
            self._held[lease.key] = self._backend.renew(lease, LONGEST)
            return
        if what < 4 and lease.session is None:
            self._drop(lease)  # left to its end
            return
        with self._lock:
            self._drop(lease)
        try:
            if what < 12:
                self._backend.remove([lease])
            elif what < 14:
                self._backend.remove([lease], Shelf.TRASH)
            else:
                self._backend.release(lease, self._dice.choice([0.0, 0.0, 0.3]))
        except errors.BackendError:
            self._owed.append(lease)
            raise

    def _use_stale(self) -> None:
        # Most of them are of postings that are gone: what stands has a successor to be harmed.
        standing = [lease for lease in self._stale if self._view.find(lease.key) is not None]
        if self._stale:
            lease = self._dice.choice(standing or self._stale)
            what = self._dice.randrange(3)
            if what == 0:
                self._backend.remove([lease])
            elif what == 1:
                self._backend.release(lease)
            elif lease.session is None:
                self._backend.renew(lease, LONGEST)

    def _read(self) -> None:
        if self._dice.randrange(4) == 0:
            self._backend.list()
        else:
            keys = [entry.item for entry in self._view.entries()]
            mine = [f"{self._who}.{self._number - n}" for n in range(3) if self._number > n]
            self._backend.get(self._dice.sample(keys, min(3, len(keys))) + mine)

    def _restore(self) -> None:
        trashed = self._backend.list(Shelf.TRASH, limit=5).postings
        if trashed:
            self._backend.restore(self._dice.choice(trashed).key)


class Process:
    """The conversation with whoever started this process."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._speaking = threading.Lock()
        self._quiet = threading.Event()
        self._over = threading.Event()

    def serve(self) -> None:
        """Do as the first line says, and answer the others."""
        first = serialization.loads(sys.stdin.readline())
        bare = loading.load(first["target"], **first["settings"])
        who = first["who"]
        recorded = Recorded(bare, who, History(self._on_change))
        guard = RetryingGuard(recorded)
        while True:
            try:
                RetryingGuard(bare).open()
                break
            except errors.BackendError:
                time.sleep(0.1)  # it begins while its store is away
        view = View(RetryingGuard(bare), lambda posting: posting.key, lambda _kind, _item: None)
        view.start()
        work = Work(guard, view, who, first["seed"])
        threads = [
            threading.Thread(target=self._work, args=(work,), daemon=True),
            threading.Thread(target=self._keep, args=(recorded, work), daemon=True),
        ]
        for thread in threads:
            thread.start()
        self._say({"ready": who})
        for line in sys.stdin:
            do = serialization.loads(line)["do"]
            if do == "quiet":
                self._quiet.set()
                threads[0].join()
                self._say({"answer": None})
            elif do == "leave":
                bare.close()
                self._say({"answer": None})
            elif do == "view":
                shown = [[entry.item, entry.leased] for entry in view.entries()]
                self._say({"answer": sorted(shown)})
        os._exit(0)

    def _work(self, work: Work) -> None:
        while not self._quiet.is_set():
            work.step()
        work.finish()

    def _keep(self, recorded: Recorded, work: Work) -> None:
        pause = 0.2
        while True:
            try:
                pause = recorded.keepalive() / 4
            except errors.Closed:
                return
            except errors.SessionLost:
                work.session_lost()
                pause = 0.0
            except errors.MultiboardError:
                pause = 0.1
            time.sleep(pause)

    def _on_change(self, what: str, op: Operation) -> None:
        self._say(op.note(what))

    def _say(self, value: Any) -> None:
        line = serialization.dumps(value)
        with self._speaking:
            self._out.write(line + "\n")
            self._out.flush()


if __name__ == "__main__":
    logging.basicConfig(level=logging.CRITICAL)
    faulthandler.register(signal.SIGUSR1)
    # A library that prints must not speak between the lines of the conversation.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    Process(answers).serve()
