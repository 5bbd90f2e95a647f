# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Until when a jobboard relies on its claims, and how it renews them: measured at its backend.

The backend notes what it was asked, when, and what it granted; what the board takes for its claims
is compared with that, by one clock. A busy machine makes the board know less, never more. Imports
the suite's own modules.
"""

from __future__ import annotations

import itertools
import statistics
import time
from typing import Any

from multiboard.primitives import boottime
from multiboard_conformance.jobboard import faults
from multiboard_conformance.jobboard.expect import eventually, holds
from multiboard_conformance.jobboard.faults import Faults
from multiboard_conformance.jobboard.guarantees import promise
from multiboard_conformance.jobboard.scene import Scene, unless_stalled

SESSION = 4.0


def _relies_no_longer(claims: list[tuple[str, Any, Faults]]) -> None:
    """Look at claims that nobody renews any more until their board relies on none of them."""
    give_up = boottime() + 5 * SESSION
    while claims and boottime() < give_up:
        for claim in list(claims):
            what, job, its = claim
            now = boottime()
            lease = job.lease
            if lease is None:
                claims.remove(claim)
                continue
            over = now - its.until(lease)
            holds(
                over <= 0,
                f"{what}: a board relies on its claim {over:.2f} s after the last instant that "
                "the store's answers allow, counted from its requests",
            )
        time.sleep(0.002)
    holds(not claims, f"a board relies on its claim for ever: {[what for what, _, _ in claims]}")


@promise("BOARD-31", deadline=90.0)
def check_claims_are_not_relied_on_for_too_long(scene: Scene) -> None:
    """Answers that take their time, the first deadline of a claim, and those with an expiry."""
    claims: list[tuple[str, Any, Faults]] = []

    def begin(what: str) -> tuple[Any, Any, Faults]:
        board, its = scene.faulty(session_timeout=str(SESSION))
        job = board.post(what)
        claims.append((what, job, its))
        return board, job, its

    board, job, its = begin("a renewal whose answer comes late")
    board.claim(job, "me")
    eventually(lambda: len(its.renewals) >= 2, "the claim is renewed")
    its.set(faults.first(faults.slow, faults.refused), "keepalive")

    idle, second, idles = begin("a claim in a session that has stood for a while")
    before = idle.post("before")
    idle.claim(before, "me")
    eventually(lambda: idles.renewals, "the claim is renewed")
    idle.consume(before, "me")
    idles.set(faults.refused, "keepalive")
    time.sleep(0.42 * SESSION)
    idle.claim(second, "me")

    late, timed, lates = begin("a claim with an expiry whose answer comes late")
    lates.set(faults.slow, "acquire")
    lates.set(faults.refused, "get")
    late.claim(timed, "me", expiry=3)

    longer, extended, longers = begin("a claim that was extended, and the answer comes late")
    longer.claim(extended, "me", expiry=2)
    longers.set(faults.slow, "renew")
    longers.set(faults.refused, "get")
    holds(extended.extend_expiry(3), "a claim could not be extended")

    seen, looked, seens = begin("a claim with an expiry that is looked at, and the answer is late")
    seens.set(faults.first(faults.slow, faults.refused), "get")
    seen.claim(looked, "me", expiry=6)

    _relies_no_longer(claims)


@promise("BOARD-31", deadline=60.0)
def check_renewals_come_in_time_for_another(scene: Scene) -> None:
    """Twice in the time granted or more often, each with a limit; a refused one is repeated."""
    granted = 2.0
    board, its = scene.faulty(session_timeout=str(granted))
    job = board.post("a")
    board.claim(job, "me")
    eventually(lambda: len(its.renewals) >= 9, "the claim is renewed", 8 * granted)
    holds(job.lease is not None, "a claim that is renewed does not stand for its board")
    renewals = its.renewals[1:]
    pairs = itertools.pairwise(renewals)
    pace = statistics.median(after.asked_at - before.asked_at for before, after in pairs)
    holds(
        granted / 20 <= pace <= granted / 2,
        f"a session that is granted {granted:g} s is renewed every {pace:.2f} s",
    )
    for renewal in renewals:
        limit = renewal.within
        holds(limit is not None, "a renewal has no time limit: no other one may follow in time")
        assert limit is not None
        assert renewal.until is not None
        holds(
            renewal.asked_at + limit <= max(renewal.until, renewal.asked_at + 0.1) + 0.1,
            f"a renewal may take {limit:.2f} s, and the session stands for "
            f"{renewal.until - renewal.asked_at:.2f} s",
        )
    before = len(its.renewals)
    its.set(faults.refused, "keepalive")
    eventually(lambda: job.lease is None, "the claim counts as lost", 8 * granted)
    tried = len(its.renewals) - before
    holds(tried >= 2, f"the claim was given up after {tried} renewals that were refused")


@promise("BOARD-31", deadline=60.0)
def check_claim_is_kept_over_a_lost_renewal(scene: Scene) -> None:
    """One renewal without an answer does not cost the claim: another one follows in time."""

    def once() -> None:
        board, its = scene.faulty(session_timeout="8")
        job = board.post("a")
        board.claim(job, "me")
        eventually(lambda: its.renewals, "the claim is renewed")
        its.set(faults.first(faults.silent), "keepalive")
        count = len(its.renewals)
        stood = []

        def renewed() -> bool:
            stood.append(job.lease is not None)
            return len(its.renewals) > count + 2

        eventually(renewed, "the claim is renewed again", 30.0)
        holds(all(stood), "a claim was lost for one renewal without an answer")

    unless_stalled(once)
