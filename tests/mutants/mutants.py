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
class Fate:
    """By which ids a mutant dies."""

    #: They must fail on it.
    expected: tuple[str, ...]
    #: They may fail on it, for what they promise leans on what is broken; no other id may.
    also: tuple[str, ...] = ()

    @property
    def allowed(self) -> frozenset[str]:
        """All ids that may fail."""
        also = (HISTORY if name == "history" else (name,) for name in self.also)
        return ANYWHERE.union(self.expected, *also)


#: ``module:Class`` -> its fate.
MUTANTS: dict[str, Fate] = {}


def caught_by(*ids: str, also: str = "") -> Callable[[Mutant], Mutant]:
    """Register a mutant with the guarantees that it breaks, and those that lean on them."""

    def register(cls: Mutant) -> Mutant:
        MUTANTS[f"{cls.__module__}:{cls.__name__}"] = Fate(ids, tuple(also.split()))
        return cls

    return register
