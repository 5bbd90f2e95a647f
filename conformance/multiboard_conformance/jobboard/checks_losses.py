# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""A jobboard that loses its claims: when it knows, what it reports, and to whom.

What is asserted is an order, by this machine's clock, and never a duration. Imports TaskFlow, the
primitives' clock and the suite's own modules.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from taskflow import exceptions as excp
from taskflow.types import entity

from multiboard.primitives import boottime
from multiboard_conformance.jobboard import faults
from multiboard_conformance.jobboard.expect import answer_of, eventually, holds, same
from multiboard_conformance.jobboard.guarantees import promise
from multiboard_conformance.jobboard.scene import Scene, found, need, unless_stalled
from multiboard_conformance.machinery.proxy import Mode

LEASE_LOST = "LEASE_LOST"
#: The session's time-out: a fifth of it is the time to report in.
SESSION = 4.0
#: The expiry of claims that have one.
EXPIRY = 4.0


class _Holder:
    """A board with claims, and with listeners that do all that a listener should not."""

    def __init__(self, name: str, board: Any, blocked: threading.Event) -> None:
        need(board, "lease_of")
        self.name = name
        self.board = board
        #: The jobs whose loss was reported, with when.
        self.reported: list[tuple[Any, float]] = []
        register = board.notifier.register
        register(board.notifier.ANY, lambda *_, **__: blocked.wait(100))
        register(LEASE_LOST, _fail)
        register(LEASE_LOST, lambda *_, **__: blocked.wait(100))
        register(LEASE_LOST, self._report)
        kinds = ("kept", "timed", "consumed", "abandoned", "timed and consumed")
        self.jobs = {kind: board.post(f"{name}: {kind}") for kind in kinds}
        for kind, job in self.jobs.items():
            expiry = {"expiry": EXPIRY} if "timed" in kind else {}
            board.claim(job, "me", **expiry)
        board.consume(self.jobs["consumed"], "me")
        board.consume(self.jobs["timed and consumed"], "me")
        board.abandon(self.jobs["abandoned"], "me")

    @property
    def held(self) -> list[Any]:
        return [self.jobs["kept"], self.jobs["timed"]]

    def _report(self, _event: str, details: dict[str, Any]) -> None:
        self.reported.append((details["job"], boottime()))

    def losses(self, job: Any) -> list[float]:
        return [at for lost, at in list(self.reported) if lost == job]


def _fail(*_: Any, **__: Any) -> None:
    raise RuntimeError("this listener always fails")


def _inherit(heir: Any, holders: list[_Holder], heal: Callable[[], object]) -> None:
    """Claim what the holders lose as soon as it can be had; judge what they knew by then."""
    left = {job: (holder, found(heir, job)) for holder in holders for job in holder.held}
    give_up = boottime() + 8 * SESSION
    healed_at = boottime() + 2 * SESSION
    while left:
        for job, (holder, its) in list(left.items()):
            if isinstance(answer := answer_of(heir.claim, its, "heir"), excp.UnclaimableJob):
                continue
            claimed_at, lease = boottime(), job.lease
            same(None, answer, f"what the heir of {job.name!r} got")
            same(
                None, lease, f"what {job.name!r}'s holder takes for its claim, which is the heir's"
            )
            reports = holder.losses(job)
            holds(
                reports and reports[0] <= claimed_at,
                f"the loss of {job.name!r} was not reported before its heir claimed it",
            )
            del left[job]
        if healed_at < boottime():
            heal()  # what the store did without an answer is given back now
        holds(boottime() < give_up, f"nobody can claim {[job.name for job in left]}")
        time.sleep(0.01)
    time.sleep(0.5)
    for holder in holders:
        counts = {kind: len(holder.losses(job)) for kind, job in holder.jobs.items()}
        wanted = dict.fromkeys(counts, 0) | {"kept": 1, "timed": 1}
        same(wanted, counts, f"how often LEASE_LOST was reported by the board: {holder.name}")


@promise("BOARD-30", deadline=150.0)
def check_loss_is_reported_before_an_heir_has_the_job(scene: Scene) -> None:
    """A store that refuses, is silent, does not answer; listeners that block and fail."""

    def once() -> None:
        blocked = threading.Event()
        what = {
            "it refuses": faults.refused,
            "it is silent": faults.silent,
            "it does without an answer": faults.unanswered,
        }
        made = {name: scene.faulty(session_timeout=str(SESSION)) for name in what}
        holders = [_Holder(name, board, blocked) for name, (board, _) in made.items()]
        heir = scene.board()
        for holder in holders:
            for job in holder.held:
                found(heir, job)
        for name, (_, its) in made.items():
            its.set(what[name])
        try:
            _inherit(heir, holders, lambda: [its.heal() for _, its in made.values()])
        finally:
            blocked.set()

    unless_stalled(once)


@promise("BOARD-30", deadline=150.0)
def check_loss_over_the_network_is_reported_before(scene: Scene) -> None:
    """A server that is silent, refuses, or answers too late, behind a network of its own."""

    def once() -> None:
        blocked = threading.Event()
        boards, proxies = [], []
        for _ in range(3):
            proxies.append(scene.next_proxy())
            boards.append(scene.board(proxied=True, session_timeout=str(SESSION)))
        names = ("silent", "refusing", "slow")
        holders = [_Holder(*pair, blocked) for pair in zip(names, boards, strict=True)]
        heir = scene.board()
        for holder in holders:
            for job in holder.held:
                found(heir, job)
        silent, refusing, late = proxies
        silent.set(Mode.BLACK_HOLE)
        refusing.set(Mode.REFUSE)
        late.set(Mode.DELAY, SESSION)
        try:
            _inherit(heir, holders, lambda: [proxy.heal() for proxy in proxies])
        finally:
            blocked.set()
            for proxy in proxies:
                proxy.heal()

    need(scene.make(), "lease_of")
    unless_stalled(once)


@promise("BOARD-30")
def check_lost_claim_is_not_extended(scene: Scene) -> None:
    """A claim that was reported lost is over for its board, which does not extend it any more."""
    board, other = scene.board(), scene.board()
    need(board, "lease_of")
    job = board.post("a")
    its = found(other, job)
    lost = threading.Event()
    board.notifier.register(LEASE_LOST, lambda *_, **__: lost.set())
    board.claim(job, "me", expiry=2)
    holds(lost.wait(20.0), "a claim of 2 s was not reported lost")
    same(None, job.lease, "what its board takes for its claim")
    holds(not job.extend_expiry(60), "a claim that was reported lost was extended")
    eventually(lambda: answer_of(other.claim, its, "heir") is None, "another board claims the job")


@promise("BOARD-30", deadline=60.0)
def check_what_is_kept_is_not_reported_lost(scene: Scene) -> None:
    """Not by a session that is renewed, nor where another board extends the claim."""

    def once() -> None:
        board, other = scene.board(session_timeout=str(SESSION)), scene.board()
        need(board, "lease_of")
        lost: list[str] = []
        board.notifier.register(LEASE_LOST, lambda _, details: lost.append(details["job"].name))
        kept, extended = board.post("kept"), board.post("extended by another board")
        its = found(other, extended)
        board.claim(kept, "me")
        board.claim(extended, "me", expiry=SESSION)
        holds(its.extend_expiry(60), "another board could not extend the claim")
        time.sleep(2 * SESSION)
        same([], lost, "what was reported lost")
        for job in (kept, extended):
            holds(job.lease is not None, f"what is {job.name} is no claim of its board's any more")
            board.consume(job, "me")

    unless_stalled(once)


@promise("BOARD-37", deadline=60.0)
def check_claim_under_way_does_not_outlive_its_session(scene: Scene) -> None:
    """A session ends while a claim's answer is on its way: then that claim has ended too."""
    board, its = scene.faulty(away=True, session_timeout="2")
    other = scene.board()
    lost: list[Any] = []
    board.notifier.register(LEASE_LOST, lambda _, details: lost.append(details["job"]))
    board.register_entity(entity.Entity("conductor", "c@host:1", {}))  # it keeps the session
    held, claimed = board.post("held"), board.post("claimed")
    its_claimed = found(other, claimed)
    board.claim(held, "me")

    def lose_the_session() -> None:
        with scene.cut_off(its):
            eventually(lambda: other.find_owner(its_claimed) is None, "the session ended", 30.0)
        eventually(lambda: its.sessions_lost, "the board learned that its session had ended")

    its.set(faults.after(lose_the_session), "acquire")
    with ThreadPoolExecutor(1) as threads:
        answer = threads.submit(answer_of, board.claim, claimed, "me").result()
    eventually(lambda: held in lost, "the claim that it held is reported lost")
    eventually(
        lambda: (claimed.lease is not None) == (other.find_owner(its_claimed) == "me"),
        "the board knows whether the claim that was under way stands",
    )
    if claimed.lease is None and answer is None:
        eventually(lambda: claimed in lost, "the claim that was under way is reported lost")
    for job in (held, claimed):
        if job.lease is None:
            board.claim(job, "me")
        holds(job.lease is not None, "a board does not know the claim that it has made")
        board.consume(job, "me")


@promise("BOARD-37", deadline=60.0)
def check_conductors_are_shown_again(scene: Scene) -> None:
    """A conductor that was registered is shown again after its session was lost."""
    board, its = scene.faulty(away=True, session_timeout="2")
    other = scene.board()
    board.register_entity(entity.Entity("conductor", "c@host:1", {"pid": 1}))
    same(["c@host:1"], [each.name for each in board.entities()], "the conductors")
    with scene.cut_off(its):
        eventually(lambda: other.entities() == [], "the session ended", 30.0)
    eventually(
        lambda: [each.name for each in other.entities()] == ["c@host:1"],
        "the conductor is shown again",
    )
