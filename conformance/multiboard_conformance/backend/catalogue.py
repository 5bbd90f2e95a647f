# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Write ``GUARANTEES.md`` from the guarantees and the checks that carry their ids.

``python -m multiboard_conformance.backend.catalogue > conformance/GUARANTEES.md``; a test compares
the two.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from multiboard_conformance import backend
from multiboard_conformance.backend.guarantees import GUARANTEES
from multiboard_conformance.promises import asks, checks_in

_HEAD = """# The guarantees

What every backend promises, in the words that a failure prints. Each check carries the ids that it
judges. This page is made from the suite itself:
`python -m multiboard_conformance.backend.catalogue > conformance/GUARANTEES.md`.
"""


def checks() -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Yield the name, the docstring in one line and the ids of every check."""
    for name, check in checks_in(backend):
        yield name, asks(check), _ids(check)


def _ids(check: Any) -> tuple[str, ...]:
    marks = getattr(check, "pytestmark", [])
    return tuple(name for mark in marks if mark.name == "guarantee" for name in mark.args)


def render() -> str:
    """Return the page."""
    by_id: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for name, doc, ids in checks():
        for guarantee in ids:
            by_id[guarantee].append((name, doc))
    parts = [_HEAD]
    for promise in GUARANTEES.values():
        judged = "\n".join(f"- `{name}`: {doc}" for name, doc in by_id[promise.id])
        parts.append(f"## {promise.id}\n\n**{promise.sentence}** {promise.why}\n\n{judged}\n")
    return "\n".join(parts)


if __name__ == "__main__":
    print(render(), end="")
