# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""A jobboard in a process that forks after it was connected.

Imports TaskFlow and the suite's own modules.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from typing import Any

from taskflow import states

from multiboard_conformance.jobboard.expect import answer_of, eventually, holds, names, same
from multiboard_conformance.jobboard.guarantees import promise
from multiboard_conformance.jobboard.scene import Scene, found
from multiboard_conformance.results import NotExercised

#: Seconds after which a claim that nobody keeps has ended: a session's time-out is 2 s.
TIME_OUT = 5.0


class _Child:
    """A forked process that does something with the boards it inherited, and reports."""

    def __init__(self, work: Callable[[Callable[[str], None]], None]) -> None:
        self._receiver, sender = multiprocessing.Pipe(duplex=False)
        self.pid = os.fork()
        if self.pid:
            sender.close()
            return
        try:
            answer = answer_of(work, sender.send)
            sender.send(f"it raised {answer!r}" if isinstance(answer, Exception) else "done")
            time.sleep(300.0)
        finally:
            os._exit(0)

    def report(self, within: float = 20.0) -> str:
        """Return what it reports next."""
        holds(self._receiver.poll(within), f"the forked process did nothing for {within:g} s")
        report: str = self._receiver.recv()
        return report

    def kill(self) -> None:
        """End it as a crash does."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


@promise("BOARD-35", deadline=90.0)
def check_forked_process_and_its_parent_go_on(scene: Scene) -> None:
    """Both see what the other posts, and keep what they claimed; the child's end frees its own."""
    if not scene.maker.cross_process:
        raise NotExercised("no other process can reach this store")
    board, watcher = scene.board(), scene.board()
    kept, taken = board.post("kept by the parent"), board.post("taken by the child")
    board.claim(kept, "parent")
    list(board.iterjobs(ensure_fresh=True))

    def work(report: Callable[[str], None]) -> None:
        board.claim(taken, "child")
        report("claimed")
        listed: list[Any] = []

        def sees() -> bool:
            listed[:] = names(board.iterjobs(ensure_fresh=True))
            return "posted later" in listed

        eventually(sees, "the child sees what its parent posted")
        eventually(lambda: "posted later" in names(board.iterjobs()), "its view shows it")
        same("parent", board.find_owner(kept), "the owner of the parent's job")

    child = _Child(work)
    try:
        same("claimed", child.report(), "the claim in the forked process")
        later = board.post("posted later")
        same("done", child.report(), "what the forked process did")
        give_up = time.monotonic() + TIME_OUT
        mine, its = found(watcher, kept), found(watcher, taken)
        while time.monotonic() < give_up:
            same("parent", watcher.find_owner(mine), "the owner of what the parent claimed")
            same("child", watcher.find_owner(its), "the owner of what the child claimed")
            time.sleep(0.1)
    finally:
        child.kill()
    eventually(lambda: its.state == states.UNCLAIMED, "the child's claim ended with it", 30.0)
    same("parent", watcher.find_owner(mine), "the owner of what the parent claimed")
    watcher.claim(its, "heir")
    for job in (kept, later):
        if job is later:
            board.claim(later, "parent")
        board.consume(job, "parent")
        same(states.COMPLETE, job.state, "the state of a job that the parent consumed")


@promise("BOARD-35", deadline=90.0)
def check_closing_in_a_forked_process_ends_nothing_here(scene: Scene) -> None:
    """A child that closes the board it inherited, and ends, leaves its parent's claims alone."""
    board = scene.board()
    job = board.post("a")
    board.claim(job, "parent")
    list(board.iterjobs(ensure_fresh=True))

    child = _Child(lambda _: board.close())
    try:
        same("done", child.report(), "closing in the forked process")
    finally:
        child.kill()
    give_up = time.monotonic() + TIME_OUT
    while time.monotonic() < give_up:
        same("parent", board.find_owner(job), "the owner of what the parent claimed")
        time.sleep(0.1)
    second = board.post("b")
    same(["a", "b"], names(board.iterjobs(ensure_fresh=True)), "what the parent lists")
    for each in (job, second):
        if each is second:
            board.claim(second, "parent")
        board.consume(each, "parent")
