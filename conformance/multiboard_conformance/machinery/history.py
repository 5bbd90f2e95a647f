# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""What every process invoked and what it got back: the record, and the table that a failure prints.

An operation is ``ok``, ``failed`` (surely without effect) or ``unknown`` (it may have had its
effect: the reply was lost, or its process was killed). Times are those of
:func:`multiboard.primitives.boottime`, which all processes of a machine share. Imports the
primitives and the errors only.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from multiboard import errors
from multiboard.primitives import Change, Changes, Lease, NewPosting, Page, Posting, Shelf, boottime

#: As the suite makes them. Eight characters of it are enough to distinguish two.
_CLAIM_ID = re.compile("[0-9a-f]{32}")


@dataclass(slots=True)
class Operation:
    """One operation as its caller saw it."""

    number: int
    who: str
    verb: str
    args: Mapping[str, Any]
    began: float
    ended: float | None = None
    #: ok, failed or unknown; unknown until the answer came.
    outcome: str = "unknown"
    answer: Any = None
    #: The error was none of multiboard's.
    native: bool = False

    @property
    def done(self) -> bool:
        """Whether its effect is certain."""
        return self.outcome == "ok"

    def note(self, what: str) -> dict[str, Any]:
        """Return what a worker reports when it begins (``invoke``) and when it was answered."""
        if what == "invoke":
            fields = {"at": self.began, "who": self.who, "verb": self.verb, "args": dict(self.args)}
        else:
            fields = {"at": self.ended, "answer": self.answer}
        return {"note": what, "number": self.number, **fields}

    @classmethod
    def begun(cls, fields: Mapping[str, Any]) -> Operation:
        """Return the operation whose begin a worker reported."""
        return cls(fields["number"], fields["who"], fields["verb"], fields["args"], fields["at"])


class History:
    """The operations of one check, of all its actors, in the order in which they began."""

    def __init__(self, report: Callable[[str, Operation], None] | None = None) -> None:
        self._lock = threading.Lock()
        self._operations: list[Operation] = []
        self._report = report
        self._number = 0
        #: A fault may be made on this board: whoever reads its feed may receive a reset.
        self.disturbed = False
        #: How many resets its readers received, and what was not judged for that.
        self.resets = 0

    def invoke(self, who: str, verb: str, args: Mapping[str, Any]) -> Operation:
        """Note that an operation begins."""
        with self._lock:
            self._number += 1
            operation = Operation(self._number, who, verb, args, boottime())
            if self._report is None:
                self._operations.append(operation)
        if self._report is not None:
            self._report("invoke", operation)
        return operation

    def conclude(self, operation: Operation, answer: Any) -> None:
        """Note what an operation answered or raised."""
        operation.answer = answer
        operation.outcome = outcome_of(answer)
        operation.native = isinstance(answer, BaseException) and not isinstance(
            answer, errors.MultiboardError
        )
        operation.ended = boottime()
        if self._report is not None:
            self._report("conclude", operation)

    def adopt(self, operation: Operation) -> None:
        """Take in an operation that another process noted."""
        with self._lock:
            self._operations.append(operation)

    def operations(self, *verbs: str) -> Sequence[Operation]:
        """Return the operations, all or those of some verbs, by the time they began."""
        with self._lock:
            chosen = [op for op in self._operations if not verbs or op.verb in verbs]
        return sorted(chosen, key=lambda op: op.began)

    def native_errors(self) -> Sequence[Operation]:
        """Return the operations that let a foreign error escape."""
        return [op for op in self.operations() if op.native]

    def table(self, last: int = 25, about: Collection[str] = ()) -> str:
        """Return the last operations as a table: who, when, what, outcome.

        ``about`` names postings of which every operation is shown besides.
        """
        operations = self.operations()
        if not operations:
            return "(no operation was begun)"
        zero = operations[0].began
        rows = [("when", "took", "who", "what", "outcome")]
        earlier = operations[:-last]
        telling = [op for op in earlier if not _keys(op).isdisjoint(about)]
        for op in [*telling, *operations[-last:]]:
            took = "-" if op.ended is None else f"{(op.ended - op.began) * 1000:.1f} ms"
            rows.append((f"{op.began - zero:8.3f} s", took, op.who, _what(op), _outcome(op)))
        widths = [max(len(row[n]) for row in rows) for n in range(4)]
        lines = ["  ".join([*map(str.ljust, row[:4], widths), row[4]]).rstrip() for row in rows]
        hidden = len(earlier) - len(telling)
        if hidden:
            lines.insert(1 + len(telling), f"(... {hidden} earlier operations)")
        return "\n".join(lines)


def outcome_of(answer: Any) -> str:
    """Return ok, failed or unknown for what a verb answered or raised."""
    if isinstance(answer, errors.MultiboardError):
        return "unknown" if isinstance(answer, errors.Indeterminate) else "failed"
    return "unknown" if isinstance(answer, BaseException) else "ok"


# -- the words of the table ------------------------------------------------------------------


def _keys(value: Any) -> set[str]:
    """Return the keys of the postings that an operation, or a part of it, speaks of."""
    if isinstance(value, Operation):
        named = {value.args["key"]} if "key" in value.args else {*value.args.get("keys", ())}
        return named | _keys([*value.args.values(), value.answer])
    if isinstance(value, (Posting, NewPosting, Lease, Change)):
        return {value.key}
    if isinstance(value, (Page, Changes)):
        return _keys(value.postings if isinstance(value, Page) else value.events)
    return set().union(*map(_keys, value)) if isinstance(value, (list, tuple)) else set()


def _what(op: Operation) -> str:
    args = ", ".join(
        f"{name}={_short(value)}" if name not in ("key", "keys", "postings", "lease", "leases")
        else _short(value)
        for name, value in op.args.items()
        if value is not None
    )  # fmt: skip
    return f"{op.verb}({args})"[:110]


def _outcome(op: Operation) -> str:
    if op.ended is None:
        return "unknown: no answer came"
    if isinstance(op.answer, BaseException):
        # The messages of client libraries run over several lines; a row is one.
        text = " ".join(str(op.answer).split())
        cause = op.answer.__cause__
        why = "" if cause is None else f" (from {type(cause).__name__})"
        return f"{op.outcome}: {type(op.answer).__name__}: {text[:140]}{why}"
    return f"ok: {_short(op.answer)}"[:160]


def _short(value: Any) -> str:
    if isinstance(value, str):
        return f"{value[:8]}.." if _CLAIM_ID.fullmatch(value) else value
    if isinstance(value, Posting):
        held = "" if value.lease is None else f" {_short(value.lease)}"
        tried = f" tried {value.attempts}" if value.attempts else ""
        return f"{value.key}@{value.rank}.{value.serial}{tried}{held}"
    if isinstance(value, Lease):
        end = "" if value.session is not None else f" ends in {value.ends_in}"
        return f"<{value.key} #{value.token} {value.holder}{end}>"
    if isinstance(value, NewPosting):
        return f"{value.key}@{value.rank} {len(value.body)} B"
    if isinstance(value, Page):
        damaged = f" damaged {len(value.damaged)}" if value.damaged else ""
        return f"{_short(value.postings)}{damaged}"
    if isinstance(value, Change):
        return f"{value.kind.name} {value.key}"
    if isinstance(value, Changes):
        return f"{'RESET ' if value.reset else ''}{_short(value.events)}"
    if isinstance(value, errors.MultiboardError):
        return type(value).__name__
    if isinstance(value, Shelf):
        return value.name
    if isinstance(value, float):
        return f"{value:.3f}"
    if isinstance(value, (list, tuple)):
        return _short_items(value)
    return repr(value)


def _short_items(values: Iterable[Any]) -> str:
    items = list(values)
    more = f", +{len(items) - 6}" if len(items) > 6 else ""
    return "[" + ", ".join(_short(item) for item in items[:6]) + more + "]"
