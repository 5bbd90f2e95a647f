# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Run the checks of a jobboard, each in a process of its own that is killed at its deadline.

``multiboard-conformance --taskflow-board redis --conf host=... --report out.json``. What a board
breaks is a result, shown by the table and the exit status. Imports the suite's own modules.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import functools
import json
import multiprocessing
import multiprocessing.connection
import os
import re
import shlex
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from taskflow import exceptions as excp

from multiboard.config import loading
from multiboard_conformance import jobboard, report
from multiboard_conformance import results as v
from multiboard_conformance.jobboard import fetch
from multiboard_conformance.jobboard.guarantees import PROMISES, Judge
from multiboard_conformance.jobboard.scene import Scene
from multiboard_conformance.promises import asks, checks_in, sentences

_fork = multiprocessing.get_context("fork")


@dataclass(frozen=True)
class Check:
    """One check, and the promises that it judges."""

    name: str
    ids: tuple[str, ...]
    judge: Judge
    deadline: float

    @property
    def sentence(self) -> str:
        """What the check asks for."""
        return asks(self.judge)


def checks() -> list[Check]:
    """Return every check, those of the first promise first."""
    found: list[Check] = []
    for name, judge in checks_in(jobboard):
        mark = vars(judge)
        found.append(Check(name, mark["ids"], judge, mark["deadline"]))
    order = list(PROMISES)
    return sorted(found, key=lambda check: order.index(check.ids[0]))


class Running:
    """One check in a process, with its deadline."""

    def __init__(self, check: Check, judge: Callable[[], dict[str, str]]) -> None:
        self.check = check
        self.output = tempfile.TemporaryFile("w+b")  # noqa: SIM115 - it is closed in finish()
        self._receiver, sender = _fork.Pipe(duplex=False)
        self.process = _fork.Process(
            target=_inside, args=(judge, check.deadline, sender, self.output)
        )
        self.process.start()
        sender.close()
        self._began = time.monotonic()

    @property
    def left(self) -> float:
        """Seconds until the deadline."""
        return self._began + self.check.deadline - time.monotonic()

    def finish(self) -> v.Outcome:
        """Return the outcome of a check that has ended, or whose time is up."""
        late = self.process.is_alive()
        assert self.process.pid is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)  # with the processes that it started
        self.process.join()
        verdict: dict[str, str] = {}
        with contextlib.suppress(EOFError):
            if self._receiver.poll():
                verdict = self._receiver.recv()
        self._receiver.close()
        self.output.seek(0)
        printed = self.output.read().decode(errors="replace")
        self.output.close()
        if not verdict:
            why = (
                f"no answer within {self.check.deadline:g} s"
                if late
                else f"its process ended with status {self.process.exitcode}"
            )
            verdict = {"verdict": v.FAILED, "why": why, "text": f"{why}\n{printed[-3000:]}"}
        if verdict["verdict"] == v.FAILED:
            broken = sentences(self.check.ids, PROMISES)
            verdict["text"] = f"{broken}\n\n  {verdict['why']}\n\n{verdict['text']}"
        seconds = round(time.monotonic() - self._began, 1)
        return v.Outcome(self.check.name, self.check.ids, seconds=seconds, **verdict)


def _inside(judge: Callable[[], dict[str, str]], deadline: float, sender: Any, output: Any) -> None:
    """Judge in a process of its own, and leave without waiting for any thread."""
    os.setsid()
    signal.signal(signal.SIGALRM, _give_up)
    for stream in (1, 2):
        os.dup2(output.fileno(), stream)
    faulthandler.dump_traceback_later(max(deadline - 2.0, 1.0), file=2)
    verdict = judge()
    sys.stderr.flush()
    if verdict["verdict"] == v.FAILED:
        output.seek(0)
        verdict["text"] += f"\n{output.read()[-1500:].decode(errors='replace')}".rstrip()
    signal.alarm(0)
    sender.send(verdict)
    os._exit(0)


def _give_up(*_: object) -> None:
    raise TimeoutError


def _judge(check: Check, maker: fetch.Maker) -> dict[str, str]:
    scene = Scene(maker)
    verdict = {"verdict": v.PASSED, "why": "", "text": ""}
    try:
        check.judge(scene)
    except (v.NotSupported, NotImplementedError, excp.NotImplementedError) as error:
        verdict.update(verdict=v.NOT_SUPPORTED, why=str(error))
    except v.NotExercised as error:
        verdict.update(verdict=v.NOT_EXERCISED, why=str(error))
    except Exception as error:
        ours = isinstance(error, AssertionError)
        why = str(error) if ours else f"{type(error).__name__}: {error}"
        text = _where(error) if ours else traceback.format_exc()
        verdict.update(verdict=v.FAILED, why=_plain(why), text=text)
    with contextlib.suppress(Exception):
        faulthandler.cancel_dump_traceback_later()
        scene.heal()
        signal.alarm(5)  # a store that is stuck does not matter any more
        maker.sweep(scene.place)
    return verdict


def _where(error: Exception) -> str:
    """Return the lines of the checks at which a promise was broken."""
    frames = traceback.extract_tb(error.__traceback__)
    mine = [frame for frame in frames if "checks_" in frame.filename]
    return "".join(traceback.format_list(mine))


def _plain(why: str) -> str:
    """Take out what differs from one run to the next, so that reports can be compared."""
    why = re.sub(r"conformance-[0-9a-f]{12}", "conformance", why.partition("\n")[0])
    why = re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "<uuid>", why)
    why = re.sub(r"\b0x[0-9a-f]+", "0x...", why)
    why = re.sub(r"(127\.0\.0\.1:|port=)\d+", r"\1<port>", why)
    return why if len(why) <= 300 else f"{why[:300]}..."


def run_checks(chosen: Sequence[Check], maker: fetch.Maker, shards: int) -> Iterator[v.Outcome]:
    """Run checks, so many side by side; yield their outcomes as they end."""
    waiting = list(chosen)
    running: list[Running] = []
    try:
        while waiting or running:
            while waiting and len(running) < shards:
                check = waiting.pop(0)
                running.append(Running(check, functools.partial(_judge, check, maker)))
            soonest = max(0.0, min(each.left for each in running))
            sentinels = [each.process.sentinel for each in running]
            multiprocessing.connection.wait(sentinels, soonest)
            for each in [r for r in running if not r.process.is_alive() or r.left <= 0]:
                running.remove(each)
                yield each.finish()
    finally:
        for each in running:
            each.finish()


def _reproduce(options: argparse.Namespace) -> str:
    """Return the command, without what is one machine's or one run's."""
    words = ["multiboard-conformance", "--taskflow-board", options.taskflow_board]
    for given in options.conf:
        words += ["--conf", re.sub(r"127\.0\.0\.1:\d+", "HOST:PORT", loading.redact(given))]
    for name in options.only:
        words += ["--only", name]
    return shlex.join(words + (["-k", options.k] if options.k else []))


def _select(options: argparse.Namespace) -> list[Check]:
    only = set(options.only)
    return [
        check
        for check in checks()
        if (not only or only & set(check.ids)) and (not options.k or options.k in check.name)
    ]


def _configuration(given: Sequence[str]) -> dict[str, str]:
    pairs = [text.partition("=") for text in given]
    for name, equals, _ in pairs:
        if not (name and equals):
            raise ValueError(f"--conf {name}: it is given as key=value")
    return {name: value for name, _, value in pairs}


def _facts(maker: fetch.Maker) -> dict[str, str]:
    """Connect once, in a process of its own; raise what goes wrong."""

    def look() -> dict[str, str]:
        try:
            return {"verdict": v.PASSED, "why": json.dumps(maker.server_info()), "text": ""}
        except Exception as error:
            return {"verdict": v.FAILED, "why": f"{type(error).__name__}: {error}", "text": ""}

    running = Running(Check("facts", (), lambda _: None, 30.0), look)
    running.process.join(30.0)
    outcome = running.finish()
    if outcome.verdict != v.PASSED:
        raise RuntimeError(outcome.why)
    facts: dict[str, str] = json.loads(outcome.why)
    return facts


def run(options: argparse.Namespace) -> int:
    """Run the command for a jobboard; return its exit status."""
    if options.list:
        print(v.listed(PROMISES.values()))
        return 0
    unknown = [name for name in options.only if name not in PROMISES]
    try:
        if unknown:
            raise ValueError(f"--only {unknown[0]}: no such promise of a board; --list prints them")
        if options.waive or options.harness:
            raise ValueError("--waive and --harness are for backends, not for boards")
        maker = fetch.make(options.taskflow_board, _configuration(options.conf))
    except Exception as error:
        return v.nothing_run(error)
    try:
        maker.fetch(fetch.new_place())  # imports what every check would import
        facts = _facts(maker)
    except Exception as error:
        maker.close()
        return v.nothing_run(error)
    try:
        return _run(options, maker, facts)
    finally:
        maker.close()


def _run(options: argparse.Namespace, maker: fetch.Maker, facts: dict[str, str]) -> int:
    began = time.monotonic()
    print(f"multiboard conformance of a jobboard: {v.spelled(facts)}", flush=True)
    results = v.Results(PROMISES)
    progress = v.Progress(options.verbose)
    for outcome in run_checks(_select(options), maker, options.shards):
        results.add(outcome)
        progress.show(outcome)
    progress.end()
    results.sort(check.name for check in checks())
    asked = {check.name: check.sentence for check in checks()}
    for text in results.failures(lambda outcome: f": {asked[outcome.check]}"):
        print(text)
    print("\n" + "\n".join(results.table()))
    seconds = round(time.monotonic() - began, 1)
    print(f"\n{results.result()}: {results.summary()} in {seconds} s")
    made = report.of_board(results, facts=facts, seconds=seconds, reproduce=_reproduce(options))
    for path in options.report:
        report.write(path, made, results)
    return v.exit_status(results.result())
