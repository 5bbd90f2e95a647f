# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""What the workers on a whole jobboard reported, and what is wrong with it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass
class BoardFindings:
    """What is wrong, each a sentence, and what was counted."""

    lost: list[str] = field(default_factory=list)
    double: list[str] = field(default_factory=list)
    #: Claims whose loss was reported after the heir's claim.
    late: list[str] = field(default_factory=list)
    #: Claims that stayed though nobody knew of them.
    kept: list[str] = field(default_factory=list)
    posted: int = 0
    consumed: int = 0
    interrupted: int = 0
    reported: int = 0
    #: Seconds between the report of a loss and the heir's claim, where there was one; the least.
    least_margin: float | None = None

    @property
    def all(self) -> list[str]:
        """All sentences."""
        return [*self.lost, *self.double, *self.late, *self.kept]


class BoardRecord:
    """The notes of all workers, by their kind."""

    def __init__(self) -> None:
        self.notes: dict[str, list[dict[str, Any]]] = defaultdict(list)
        #: When each worker was frozen: it could report nothing then.
        self.frozen: dict[str, list[tuple[float, float]]] = defaultdict(list)

    def add(self, who: str, note: Mapping[str, Any]) -> None:
        """Take in a note of a worker."""
        self.notes[note["note"]].append({**note, "who": who})

    def findings(self, there: Sequence[str], kept: Mapping[str, Sequence[str]]) -> BoardFindings:
        """Return what is wrong with a run whose board ended with these jobs.

        ``kept`` names the jobs that each worker's board still claimed when nobody worked.
        """
        found = BoardFindings(
            posted=len(self.notes["posted"]),
            interrupted=len(self.notes["interrupted"]),
            reported=len(self.notes["lost"]),
        )
        found.kept += [
            f"{who} still claims {key}, and works on nothing"
            for who, keys in kept.items()
            for key in keys
        ]
        consumed: dict[str, list[int]] = defaultdict(list)
        perhaps = {note["key"] for note in self.notes["finishing"] if note["verb"] == "consume"}
        for note in self.notes["finished"]:
            if note["verb"] == "consume" and note["outcome"] == "done":
                consumed[note["key"]].append(note["token"])
        found.consumed = len(consumed)
        for key, tokens in consumed.items():
            if len(tokens) > 1:
                found.double.append(f"{key} was consumed with the tokens {tokens}")
            if key in there:
                found.double.append(f"{key} was consumed and is on the board")
        for note in self.notes["posted"]:
            key = note["key"]
            if key not in there and key not in perhaps:
                found.lost.append(f"{key} was posted, nobody consumed it, and it is gone")
        self._judge_reports(found)
        return found

    def _judge_reports(self, found: BoardFindings) -> None:
        claims: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for note in self.notes["claimed"]:
            claims[note["key"]].append(note)
        for lost in self.notes["lost"]:
            heirs = [c for c in claims[lost["key"]] if c["token"] > lost["token"]]
            if not heirs or self._was_frozen(lost["who"], lost["at"]):
                continue
            heir = min(heirs, key=lambda claim: claim["token"])
            margin = heir["ended"] - lost["at"]
            if found.least_margin is None or margin < found.least_margin:
                found.least_margin = margin
            if margin < 0:
                found.late.append(
                    f"{lost['who']} reported {-margin:.3f} s late that it had lost {lost['key']}"
                    f" (token {lost['token']}): {heir['who']} had it with token {heir['token']}"
                )

    def _was_frozen(self, who: str, at: float) -> bool:
        """Return whether a process stood still shortly before it made a report."""
        return any(began <= at <= ended + 2.0 for began, ended in self.frozen[who])
