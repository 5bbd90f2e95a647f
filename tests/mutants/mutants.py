# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The list of broken backends, each with the guarantees that must fail on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

Mutant = TypeVar("Mutant", bound=type)

#: ``module:Class`` -> ids that must fail on it.
MUTANTS: dict[str, tuple[str, ...]] = {}


def caught_by(*ids: str) -> Callable[[Mutant], Mutant]:
    """Register a mutant with the guarantees that it breaks."""

    def register(cls: Mutant) -> Mutant:
        MUTANTS[f"{cls.__module__}:{cls.__name__}"] = ids
        return cls

    return register
