# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The list of broken backends, each with the guarantees that must fail on it, and that may."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

Mutant = TypeVar("Mutant", bound=type)

#: Random programs judge everything, and carry this id: any fault may meet it.
ANYWHERE = frozenset({"RUN-1"})
#: The ids of the checks that judge a whole history at once, as "history" in what else may fail.
HISTORY = ("LEASE-1", "LEASE-2", "LEASE-3", "FEED-1")


@dataclass(frozen=True)
class Verdict:
    """By which ids a mutant dies."""

    #: What it breaks: they must fail on it.
    expected: tuple[str, ...]
    #: They fail as well, every time, for what they promise leans on what is broken.
    also: tuple[str, ...] = ()
    #: They may fail as well, by chance: it depends on which of two is quicker.
    perhaps: tuple[str, ...] = ()

    @property
    def all(self) -> frozenset[str]:
        """All ids that fail every time, where the whole suite is run."""
        return frozenset(self.expected).union(_spelled(self.also))

    @property
    def allowed(self) -> frozenset[str]:
        """All ids that may fail; no other may."""
        return self.all | ANYWHERE | _spelled(self.perhaps)


def _spelled(names: tuple[str, ...]) -> frozenset[str]:
    parts = (HISTORY if name == "history" else (name,) for name in names)
    return frozenset(one for part in parts for one in part)


#: ``module:Class`` -> the verdict on it.
MUTANTS: dict[str, Verdict] = {}


def caught_by(*ids: str, also: str = "", perhaps: str = "") -> Callable[[Mutant], Mutant]:
    """Register a mutant with the guarantees that it breaks, and those that lean on them."""

    def register(cls: Mutant) -> Mutant:
        verdict = Verdict(ids, tuple(also.split()), tuple(perhaps.split()))
        MUTANTS[f"{cls.__module__}:{cls.__name__}"] = verdict
        return cls

    return register
