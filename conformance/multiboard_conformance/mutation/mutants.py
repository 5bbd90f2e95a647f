# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""All mutants of a backend's sources, each known by what it changes and not by where it stands.

Imports the rules, and the loader to find the sources.
"""

from __future__ import annotations

import collections
import difflib
import fnmatch
import functools
import hashlib
import importlib
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from multiboard.config import loading
from multiboard_conformance.mutation import rules_lua, rules_python, rules_sql
from multiboard_conformance.mutation.edits import Edit

_RULES: Mapping[str, Callable[[bytes], Iterator[Edit]]] = {
    ".py": rules_python.edits_of,
    ".lua": rules_lua.edits_of,
    ".sql": rules_sql.edits_of,
}

#: How settings are declared and read from a URL: the suite sets them, and judges no other.
_NOT_JUDGED = {"settings.py"}


@dataclass(frozen=True)
class Sources:
    """Where a backend's code is, and the name that it is imported by."""

    #: What is mutated: a package's folder, or the one file of a module.
    place: pathlib.Path
    #: The outermost package's folder, or that file: it is copied as a whole.
    top: pathlib.Path
    #: The name of the module or package at ``place``.
    module: str

    @classmethod
    def of(cls, target: str) -> Sources:
        """Return the sources of a backend: the package that its class is in.

        Raises: ``ConfigError`` where the target names no backend.
        """
        name = loading.spec_class(target).__module__
        module = importlib.import_module(name)
        assert module.__file__ is not None
        file = pathlib.Path(module.__file__).resolve()
        package = name if hasattr(module, "__path__") else name.rpartition(".")[0]
        if not package:
            return cls(file, file, name)
        return cls(file.parent, file.parents[package.count(".")], package)

    def files(self) -> Iterator[tuple[str, pathlib.Path]]:
        """Yield what rules are known for, by the names that are shown."""
        if self.place.is_file():
            yield self.place.name, self.place
            return
        for path in sorted(self.place.rglob("*")):
            if path.suffix in _RULES and path.name not in _NOT_JUDGED:
                yield path.relative_to(self.place).as_posix(), path


@dataclass(frozen=True)
class Mutant:
    """One change, and what it is known by when the lines around it have moved."""

    file: str
    edit: Edit
    line: int
    was: str
    becomes: str
    #: Among those of which all else is the same: the first, the second, ...
    number: int

    @functools.cached_property
    def description(self) -> dict[str, str | int]:
        """What it is known by, for a file that is read by people."""
        lines = {"was": _stripped(self.was), "becomes": _stripped(self.becomes)}
        known = {"file": self.file, "scope": self.edit.scope, "rule": self.edit.rule, **lines}
        return {**known, **({"number": self.number} if self.number else {})}

    @functools.cached_property
    def key(self) -> str:
        """A short name for it."""
        text = "\0".join(str(part) for part in self.description.values())
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def diff(self) -> str:
        """Return the change as lines with - and +."""
        lines = difflib.ndiff(self.was.splitlines(), self.becomes.splitlines())
        return "\n".join(line for line in lines if line[:1] in "-+ ")


def _stripped(text: str) -> str:
    return "\n".join(line.strip() for line in text.splitlines())


def all_of(sources: Sources, without: Sequence[str] = ()) -> list[Mutant]:
    """Return every mutant that the rules make of the sources, some files left out."""
    made: list[Mutant] = []
    numbers: collections.Counter[tuple[str, ...]] = collections.Counter()
    for name, path in sources.files():
        if any(fnmatch.fnmatch(name, pattern) for pattern in without):
            continue
        source = path.read_bytes()
        for edit in _RULES[path.suffix](source):
            line, was, becomes = edit.lines(source)
            alike = (name, edit.scope, edit.rule, _stripped(was), _stripped(becomes))
            made.append(Mutant(name, edit, line, was, becomes, numbers[alike]))
            numbers[alike] += 1
    return made


def sample(
    mutants: Sequence[Mutant], files: Sequence[str], size: int | None, seed: int
) -> list[Mutant]:
    """Return those of some files, and of these so many by chance.

    The choice is made for each mutant by itself: a larger sample of the same seed contains a
    smaller one, and an edit of the sources changes little of it.
    """
    chosen = [m for m in mutants if not files or any(fnmatch.fnmatch(m.file, f) for f in files)]

    def lot(mutant: Mutant) -> str:
        return hashlib.sha256(f"{seed} {mutant.key}".encode()).hexdigest()

    return sorted(chosen, key=lot)[:size]
