# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""From the outcomes of checks to a verdict for each promise, and how a run shows them.

Both judges use it: the one of a backend and the one of a jobboard. Imports the promises only.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from multiboard_conformance.promises import Promise

PASSED, FAILED, WAIVED = "passed", "failed", "waived"
NOT_SUPPORTED, NOT_EXERCISED, NOT_RUN = "not supported", "not exercised", "not run"

#: The verdicts of one check, the best first: of several phases or variants the worst one counts.
_OF_A_CHECK = (PASSED, NOT_EXERCISED, NOT_SUPPORTED, WAIVED, FAILED)
#: The verdicts of a promise, the one that counts first: what could not be judged counts last.
_OF_A_PROMISE = (FAILED, WAIVED, PASSED, NOT_SUPPORTED, NOT_EXERCISED)
#: The verdicts that say that a check judged nothing.
_NOTHING_JUDGED = (NOT_SUPPORTED, NOT_EXERCISED)

#: The results of a run.
CONFORMANT, PARTIAL, NOTHING_RUN = "conformant", "partial", "nothing run"


class NotSupported(Exception):
    """What is judged does not have what the check needs."""


class NotExercised(Exception):
    """The check can't be run on this store."""


@dataclass
class Outcome:
    """What became of one check."""

    check: str
    ids: tuple[str, ...]
    verdict: str
    seconds: float = 0.0
    #: Why it failed, was waived, or judged nothing.
    why: str = ""
    #: What a failure prints.
    text: str = ""
    #: How much it did, and ``resets``: how many resets of the feed it met.
    measured: dict[str, float] = field(default_factory=dict)


@dataclass
class Results:
    """All outcomes of a run, and what the waivers make of them."""

    #: What is judged, by its id.
    promises: Mapping[str, Promise]
    #: Ids of promises or names of checks, each with a reason.
    waivers: Mapping[str, str] = field(default_factory=dict)
    outcomes: dict[str, Outcome] = field(default_factory=dict)

    def waiver(self, check: str, ids: Sequence[str]) -> str | None:
        """Return why a failure of this check is waived: by its name, or all of its ids are."""
        if check in self.waivers:
            return self.waivers[check]
        reasons = [self.waivers[name] for name in ids if name in self.waivers]
        return reasons[0] if reasons and len(reasons) == len(ids) else None

    def add(self, outcome: Outcome) -> None:
        """Add an outcome; of the phases of one check the worst one counts."""
        if outcome.verdict == FAILED:
            waived = self.waiver(outcome.check, outcome.ids)
            if waived is not None:
                outcome.verdict, outcome.why = WAIVED, waived
        known = self.outcomes.get(outcome.check)
        if known is None:
            self.outcomes[outcome.check] = outcome
            return
        known.seconds += outcome.seconds
        known.measured.update(outcome.measured)
        known.ids = tuple(dict.fromkeys(known.ids + outcome.ids))
        if _OF_A_CHECK.index(outcome.verdict) > _OF_A_CHECK.index(known.verdict):
            known.verdict, known.why, known.text = outcome.verdict, outcome.why, outcome.text

    def sort(self, order: Iterable[str]) -> None:
        """Put the outcomes in the order of these names of checks."""
        self.outcomes = {name: self.outcomes[name] for name in order if name in self.outcomes}

    # -- verdicts ----------------------------------------------------------------------------

    def on(self, promise: str) -> list[Outcome]:
        """Return the outcomes of the checks that judge a promise."""
        return [outcome for outcome in self.outcomes.values() if promise in outcome.ids]

    def of(self, promise: str) -> str:
        """Return the verdict on a promise."""
        verdicts = {outcome.verdict for outcome in self.on(promise)}
        return next((verdict for verdict in _OF_A_PROMISE if verdict in verdicts), NOT_RUN)

    def all(self, verdict: str) -> list[Outcome]:
        """Return the outcomes of one verdict."""
        return [o for o in self.outcomes.values() if o.verdict == verdict]

    def needless_waivers(self) -> list[str]:
        """Return the waivers of which nothing failed, though it ran."""
        needless = []
        for name in self.waivers:
            concerned = [o for o in self.outcomes.values() if name == o.check or name in o.ids]
            ran = [o for o in concerned if o.verdict not in _NOTHING_JUDGED]
            if ran and not any(o.verdict in (WAIVED, FAILED) for o in ran):
                needless.append(name)
        return needless

    def ran(self) -> bool:
        """Return whether anything was judged at all."""
        return any(o.verdict not in _NOTHING_JUDGED for o in self.outcomes.values())

    def result(self) -> str:
        """Return conformant, partial, failed, or nothing run."""
        if not self.ran():
            return NOTHING_RUN
        if self.all(FAILED) or self.needless_waivers():
            return FAILED
        verdicts = {self.of(name) for name in self.promises}
        return CONFORMANT if verdicts == {PASSED} else PARTIAL

    # -- lines -------------------------------------------------------------------------------

    def summary(self) -> str:
        """Return how many checks came out how."""
        verdicts = (PASSED, FAILED, WAIVED, NOT_SUPPORTED, NOT_EXERCISED)
        counts = {verdict: len(self.all(verdict)) for verdict in verdicts}
        return ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)

    def headline(self, result: str) -> str:
        """Return a result with what it does not cover: how many checks were not exercised."""
        left_out = len(self.all(NOT_EXERCISED))
        checks = "check was" if left_out == 1 else "checks were"
        return f"{result}, but {left_out} {checks} not exercised" if left_out else result

    def table(self) -> list[str]:
        """Return the lines that end a run: a verdict for each promise, and what was left out."""
        lines = []
        for name, promise in self.promises.items():
            outcomes = self.on(name)
            passed = sum(outcome.verdict == PASSED for outcome in outcomes)
            count = f"{passed}/{len(outcomes)}"
            lines.append(f"{name:<8} {self.of(name):<14} {count:>6}  {promise.sentence}")
        for verdict in (WAIVED, NOT_SUPPORTED, NOT_EXERCISED):
            chosen = self.all(verdict)
            if chosen:
                lines += ["", f"{verdict.capitalize()}:"]
                lines += [f"  {o.check} ({', '.join(o.ids)}): {o.why}" for o in chosen]
        for name in self.needless_waivers():
            lines += ["", f"The waiver of {name} is needless: nothing of it failed. Remove it."]
        return lines

    def failures(self, hint: Callable[[Outcome], str]) -> list[str]:
        """Return what is printed of each failure; the hint stands beside the check's name."""
        line = "-" * 100
        return [
            f"\n{line}\nFAILED {outcome.check}{hint(outcome)}\n\n{outcome.text}"
            for outcome in self.all(FAILED)
        ]


class Progress:
    """A sign for each check as it ends; with ``-v`` a line."""

    def __init__(self, verbose: bool) -> None:
        self._verbose = verbose
        self._seen: set[str] = set()

    def show(self, outcome: Outcome) -> None:
        """Show an outcome; a check has several phases and is shown once, but for its failure."""
        known = outcome.check in self._seen
        self._seen.add(outcome.check)
        if outcome.verdict == PASSED and (known or not self._verbose):
            if not known:
                print(".", end="", flush=True)
        elif self._verbose:
            ids = ", ".join(outcome.ids)
            took = f"{outcome.seconds:>5.1f} s"
            print(f"{outcome.verdict:<14} {took}  {outcome.check} ({ids})", flush=True)
        else:
            print({FAILED: "F", WAIVED: "w"}.get(outcome.verdict, "-"), end="", flush=True)

    def end(self) -> None:
        """End the line."""
        if not self._verbose:
            print()


def listed(promises: Iterable[Promise]) -> str:
    """Return a line for each promise."""
    return "\n".join(f"{promise.id:<8} {promise.sentence}" for promise in promises)


def spelled(facts: Mapping[str, str]) -> str:
    """Return the facts of a store in one line."""
    return ", ".join(f"{name} {value}" for name, value in facts.items())


def nothing_run(why: object) -> int:
    """Print why nothing can be judged; return the exit status."""
    print(f"multiboard-conformance: {why}", file=sys.stderr)
    print("Nothing was run.", file=sys.stderr)
    return exit_status(NOTHING_RUN)


def exit_status(result: str) -> int:
    """Return the exit status for the result of a run."""
    return {NOTHING_RUN: 2, FAILED: 1}.get(result, 0)
