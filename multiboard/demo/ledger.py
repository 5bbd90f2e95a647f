# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The demonstration's books: what was posted, what the workers reported, and the verdict.

Only bookkeeping: no processes, no board, no screen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from multiboard.demo import flow as demo_flow
from multiboard.demo.processes import Report


@dataclass
class Takeover:
    """A job that one worker had, and another one finished or tried to."""

    job: str
    name: str
    frm: str
    to: str
    #: Seconds from the kill until the other one had claimed the job; None where nobody was killed.
    seconds: float | None
    #: The tasks that were done when the first worker had it, and those done by the second one.
    before: list[str]
    after: list[str] = field(default_factory=list)


@dataclass
class Ledger:
    """What is known of every job."""

    #: The names of the jobs posted, by UUID.
    names: dict[str, str] = field(default_factory=dict)
    consumed: Counter[str] = field(default_factory=Counter)
    consumed_by: Counter[str] = field(default_factory=Counter)
    #: Each task that was done, of each job: (worker, task).
    done: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    #: Why a flow failed, by job.
    failed: dict[str, str] = field(default_factory=dict)
    takeovers: list[Takeover] = field(default_factory=list)
    #: When a worker was killed, by boottime.
    killed: dict[str, float] = field(default_factory=dict)
    #: Workers that ended by themselves, and how.
    ended: dict[str, int] = field(default_factory=dict)
    #: Who works on what, as far as is known.
    working: dict[str, str] = field(default_factory=dict)
    _owner: dict[str, str] = field(default_factory=dict)

    def note(self, report: Report) -> Takeover | None:
        """Enter what a worker reported; return the takeover that begins by it, if one does."""
        match report.event:
            case "claimed":
                return self._claimed(report)
            case "done":
                self._done(report)
            case "failed":
                why = f"{report.fields['task']}: {report.fields['why']}"
                self.failed[report.job] = why
            case "consumed":
                self.consumed[report.job] += 1
                self.consumed_by[report.worker] += 1
                self._leave(report)
            case "abandoned" | "trashed":
                self._leave(report)
            case "ended" if report.worker not in self.killed:
                self.ended[report.worker] = report.fields["status"]
        return None

    def note_kill(self, worker: str, at: float) -> None:
        """Enter that a worker is killed now; ``at`` is by boottime."""
        self.killed[worker] = at
        self.working.pop(worker, None)

    def _claimed(self, report: Report) -> Takeover | None:
        job, worker = report.job, report.worker
        before = self._owner.get(job)
        self._owner[job] = worker
        self.working[worker] = job
        if before is None or before == worker:
            return None
        killed_at = self.killed.get(before)
        seconds = None if killed_at is None else report.fields["at"] - killed_at
        done = [task for _, task in self.done.get(job, [])]
        takeover = Takeover(job, self.name(job), before, worker, seconds, done)
        self.takeovers.append(takeover)
        return takeover

    def _done(self, report: Report) -> None:
        self.done.setdefault(report.job, []).append((report.worker, report.fields["task"]))
        for takeover in self.takeovers:
            if (takeover.job, takeover.to) == (report.job, report.worker):
                takeover.after.append(report.fields["task"])

    def _leave(self, report: Report) -> None:
        self._owner.pop(report.job, None)
        self.working.pop(report.worker, None)

    def name(self, job: str) -> str:
        """Return a job's name."""
        return self.names.get(job, job)

    # -- the verdict -----------------------------------------------------------------------------

    @property
    def finished(self) -> int:
        """How many of the jobs were consumed."""
        return len(self.consumed.keys() & self.names.keys())

    @property
    def lost(self) -> list[str]:
        """The jobs that were posted and never consumed."""
        return [job for job in self.names if not self.consumed[job]]

    @property
    def twice(self) -> list[str]:
        """The jobs that were consumed more than once, or were never posted."""
        return [job for job, n in self.consumed.items() if n > 1 or job not in self.names]

    @property
    def undone(self) -> list[str]:
        """The jobs that were consumed although not all of their tasks were done."""
        return [
            job
            for job in self.consumed
            if job not in self.failed
            and {task for _, task in self.done.get(job, [])} != set(demo_flow.TASKS)
        ]

    def faults(self, left: Collection[str]) -> list[str]:
        """Say what is wrong, a line each; ``left`` are the jobs that are still on the board."""
        lost, still_there = set(self.lost), set(left)
        lines_of = [
            *((job, "was lost") for job in lost - still_there),
            *((job, "is still on the board") for job in lost & still_there),
            *((job, "was consumed and is on the board") for job in still_there - lost),
            *((job, f"was consumed {self.consumed[job]} times") for job in self.twice),
            *((job, f"failed: {why}") for job, why in self.failed.items()),
            *((job, "was consumed before its flow was done") for job in self.undone),
        ]
        lines = [f"{self.name(job)} ({job}) {what}" for job, what in sorted(lines_of)]
        if not self.takeovers:
            lines.append("no job was taken over")
        for worker, status in self.ended.items():
            if status:
                lines.append(f"{worker} ended with status {status}")
        return lines

    def to_dict(self) -> Mapping[str, Any]:
        """Return the books for a program to read."""
        return {
            "posted": len(self.names),
            "consumed": dict(self.consumed_by),
            "lost": [self.name(job) for job in self.lost],
            "twice": [self.name(job) for job in self.twice],
            "failed": {self.name(job): why for job, why in self.failed.items()},
            "killed": list(self.killed),
            "takeovers": [
                {
                    "job": takeover.name,
                    "from": takeover.frm,
                    "to": takeover.to,
                    "seconds": takeover.seconds,
                    "tasks_before": takeover.before,
                    "tasks_after": takeover.after,
                }
                for takeover in self.takeovers
            ],
        }
