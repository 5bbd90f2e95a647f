# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""What a promise is, and how the checks that judge one are marked and found, for both judges.

A decorator only marks a check with the ids of its promises; whoever runs the checks finds them in
the modules ``checks_*.py`` of a package. The promises themselves are in ``backend/guarantees.py``
and ``jobboard/guarantees.py``. Imports the standard library only.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any


@dataclass(frozen=True)
class Promise:
    """One promise: its id, its sentence, and why anyone should care."""

    id: str
    sentence: str
    why: str


def by_id(promises: Iterable[Promise]) -> dict[str, Promise]:
    """Return promises by their ids, in their order."""
    return {promise.id: promise for promise in promises}


def require_known(ids: Sequence[str], promises: Mapping[str, Promise]) -> None:
    """Raise ValueError where a check is marked with no promise, or with an unknown one."""
    unknown = [name for name in ids if name not in promises]
    if unknown or not ids:
        raise ValueError(f"no such promise: {unknown}; there are {', '.join(promises)}")


def sentences(ids: Iterable[str], promises: Mapping[str, Promise]) -> str:
    """Return the lines by which a failure names the promises that are broken."""
    return "\n".join(f"  {name}: {promises[name].sentence}" for name in ids)


def checks_in(package: ModuleType) -> Iterator[tuple[str, Callable[..., Any]]]:
    """Yield the name and the function of every check in the modules of a package."""
    for found in pkgutil.iter_modules(package.__path__):
        if not found.name.startswith("checks_"):
            continue
        module = importlib.import_module(f"{package.__name__}.{found.name}")
        for name, check in vars(module).items():
            if name.startswith("check_"):
                yield name, check


def asks(check: Callable[..., Any]) -> str:
    """Return what a check asks for: its docstring in one line."""
    return " ".join((check.__doc__ or "").split())
