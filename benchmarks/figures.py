# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""What was measured, how it compares, and whether our bounds hold; as tables or as JSON."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.boards import Contestant


@dataclass(frozen=True)
class Bound:
    """What we hold ourselves to: printed, never asserted.

    Against TaskFlow's board on the same store ``value`` is how many times better we are at least;
    where ``absolute``, our own figure must not be above it.
    """

    store: str
    value: float
    absolute: bool = False

    def __str__(self) -> str:
        return f"at most {self.value:g}x" if self.absolute else f"at least {self.value:g}x"


@dataclass(frozen=True)
class Metric:
    """One thing that is measured, many times, of many contestants."""

    key: str
    title: str
    unit: str
    more_is_better: bool = False
    #: The part of the samples below the figure that is quoted.
    quantile: float = 0.5
    bounds: tuple[Bound, ...] = ()


@dataclass
class Table:
    """The samples of one metric."""

    metric: Metric
    samples: dict[Contestant, list[float]] = field(default_factory=dict)

    def note(self, contestant: Contestant, *values: float) -> None:
        """Take down samples."""
        self.samples.setdefault(contestant, []).extend(values)

    def figure(self, contestant: Contestant) -> float | None:
        """Return what is quoted of a contestant; None where it took no part."""
        values = sorted(self.samples.get(contestant, ()))
        if not values:
            return None
        if self.metric.quantile == 0.5:
            return statistics.median(values)
        return values[min(len(values) - 1, math.ceil(self.metric.quantile * len(values)) - 1)]

    def rows(self) -> list[dict[str, Any]]:
        """Return one row for each store: both figures, how many times better ours is, the bound."""
        by_store: dict[str, dict[str, float | None]] = {}
        for contestant in self.samples:
            figures = by_store.setdefault(contestant.store, {})
            figures[contestant.side] = self.figure(contestant)
        return [self._row(store, figures) for store, figures in by_store.items()]

    def _row(self, store: str, figures: dict[str, float | None]) -> dict[str, Any]:
        theirs, ours = figures.get("taskflow"), figures.get("multiboard")
        ratio = None
        if theirs and ours:
            ratio = ours / theirs if self.metric.more_is_better else theirs / ours
        row = {"store": store, "taskflow": theirs, "multiboard": ours, "ratio": ratio}
        for bound in self.metric.bounds:
            judged = ours if bound.absolute else ratio
            if bound.store == store and judged is not None:
                row["bound"] = str(bound)
                row["holds"] = judged <= bound.value if bound.absolute else judged >= bound.value
        return row


def as_text(tables: Sequence[Table]) -> str:
    """Return the tables for people."""
    lines: list[str] = []
    for table in tables:
        better = "more" if table.metric.more_is_better else "less"
        lines += ["", f"{table.metric.title}   [{table.metric.unit}, {better} is better]"]
        lines.append(f"  {'':10} {'TaskFlow':>10} {'multiboard':>11} {'ratio':>8}  bound")
        for row in table.rows():
            bound = ""
            if "bound" in row:
                bound = f"{row['bound']}: {'holds' if row['holds'] else 'MISSED'}"
            ratio = "-" if row["ratio"] is None else f"{_number(row['ratio'])}x"
            theirs, ours = _number(row["taskflow"]), _number(row["multiboard"])
            line = f"  {row['store']:10} {theirs:>10} {ours:>11} {ratio:>8}  {bound}"
            lines.append(line.rstrip())
    return "\n".join(lines)


def as_json(tables: Sequence[Table], facts: dict[str, Any]) -> dict[str, Any]:
    """Return everything, the single samples too, for programs."""
    return {
        **facts,
        "metrics": [
            {
                "key": table.metric.key,
                "title": table.metric.title,
                "unit": table.metric.unit,
                "more_is_better": table.metric.more_is_better,
                "quantile": table.metric.quantile,
                "rows": table.rows(),
                "samples": {str(who): values for who, values in table.samples.items()},
            }
            for table in tables
        ],
    }


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"
