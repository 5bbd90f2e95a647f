# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""From the outcomes of checks to a verdict for each guarantee.

Imports the suite's guarantees only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from multiboard_conformance.backend.guarantees import GUARANTEES

PASSED, FAILED, WAIVED = "passed", "failed", "waived"
NOT_EXERCISED, NOT_RUN = "not exercised", "not run"


@dataclass
class Outcome:
    """What became of one check."""

    check: str
    ids: tuple[str, ...]
    verdict: str
    seconds: float = 0.0
    #: Why it failed, was waived, or was not exercised.
    why: str = ""
    #: What a failure prints.
    text: str = ""


@dataclass
class Verdicts:
    """All outcomes of a run, and what the waivers make of them."""

    #: Guarantee ids or names of checks, each with a reason.
    waivers: Mapping[str, str] = field(default_factory=dict)
    outcomes: dict[str, Outcome] = field(default_factory=dict)

    def waiver(self, check: str, ids: Sequence[str]) -> str | None:
        """Return why a failure of this check is waived: by its name, or all of its ids are."""
        if check in self.waivers:
            return self.waivers[check]
        reasons = [self.waivers[name] for name in ids if name in self.waivers]
        return reasons[0] if reasons and len(reasons) == len(ids) else None

    def note(self, outcome: Outcome) -> None:
        """Take an outcome in; of the phases of one check the worst one counts."""
        if outcome.verdict == FAILED:
            waived = self.waiver(outcome.check, outcome.ids)
            if waived is not None:
                outcome.verdict, outcome.why = WAIVED, waived
        order = (PASSED, NOT_EXERCISED, WAIVED, FAILED)
        known = self.outcomes.get(outcome.check)
        if known is None:
            self.outcomes[outcome.check] = outcome
            return
        known.seconds += outcome.seconds
        known.ids = tuple(dict.fromkeys(known.ids + outcome.ids))
        if order.index(outcome.verdict) > order.index(known.verdict):
            known.verdict, known.why, known.text = outcome.verdict, outcome.why, outcome.text

    def of(self, guarantee: str) -> str:
        """Return the verdict on a guarantee."""
        verdicts = {o.verdict for o in self.outcomes.values() if guarantee in o.ids}
        for worst in (FAILED, WAIVED, PASSED, NOT_EXERCISED):
            if worst in verdicts:
                return worst
        return NOT_RUN

    def needless_waivers(self) -> list[str]:
        """Return the waivers of which nothing failed, though it ran."""
        needless = []
        for name in self.waivers:
            concerned = [o for o in self.outcomes.values() if name == o.check or name in o.ids]
            ran = [o for o in concerned if o.verdict != NOT_EXERCISED]
            if ran and not any(o.verdict in (WAIVED, FAILED) for o in ran):
                needless.append(name)
        return needless

    def ran(self) -> bool:
        """Tell whether anything was judged at all."""
        return any(o.verdict != NOT_EXERCISED for o in self.outcomes.values())

    def result(self) -> str:
        """Return conformant, partial, failed, or nothing run."""
        if not self.ran():
            return "nothing run"
        verdicts = [self.of(name) for name in GUARANTEES]
        if FAILED in verdicts or self.needless_waivers():
            return FAILED
        if any(o.verdict == FAILED for o in self.outcomes.values()):
            return FAILED
        return "conformant" if set(verdicts) == {PASSED} else "partial"

    def all(self, verdict: str) -> list[Outcome]:
        """Return the outcomes of one verdict."""
        return [o for o in self.outcomes.values() if o.verdict == verdict]

    def summary(self) -> str:
        """Return how many checks came out how."""
        counts = {name: len(self.all(name)) for name in (PASSED, FAILED, WAIVED, NOT_EXERCISED)}
        return ", ".join(f"{count} {name}" for name, count in counts.items() if count)

    def table(self) -> list[str]:
        """Return the lines that end a run: a verdict for each guarantee, and what was left out."""
        lines = []
        for name, promise in GUARANTEES.items():
            outcomes = [o for o in self.outcomes.values() if name in o.ids]
            passed = sum(o.verdict == PASSED for o in outcomes)
            count = f"{passed}/{len(outcomes)}"
            lines.append(f"{name:<8} {self.of(name):<14} {count:>6}  {promise.sentence}")
        for title, verdict in (("Waived", WAIVED), ("Not exercised", NOT_EXERCISED)):
            chosen = self.all(verdict)
            if chosen:
                lines += ["", f"{title}:"]
                lines += [f"  {o.check} ({', '.join(o.ids)}): {o.why}" for o in chosen]
        for name in self.needless_waivers():
            lines += ["", f"The waiver of {name} is needless: nothing of it failed. Remove it."]
        return lines
