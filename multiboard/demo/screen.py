# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""What the demonstration shows: live on a terminal, plain lines elsewhere, tables at the end.

It reads the books and decides nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from multiboard.demo.ledger import Ledger, Takeover
from multiboard.demo.processes import Worker

#: Where nothing can be redrawn, a line for each of so many parts of the work.
PARTS = 5


class Screen:
    """Shows the progress of the jobs in a ledger while it is entered."""

    def __init__(self, stdout: Any, ledger: Ledger, workers: Mapping[str, Worker]) -> None:
        self._console = Console(file=stdout, highlight=False)
        self._ledger = ledger
        self._workers = workers
        self._told = 0
        self._live: Live | None = None
        if self._console.is_terminal:
            self._live = Live(
                console=self._console,
                get_renderable=self._picture,
                refresh_per_second=10,
                transient=True,
            )

    def __enter__(self) -> Screen:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, text: str, style: str = "") -> None:
        """Print a line that stays."""
        self._console.print(Text(text, style=style), soft_wrap=True)

    def progress(self) -> None:
        """Show where the work stands; on a terminal it is seen without this."""
        total = len(self._ledger.names)
        part = PARTS * self._ledger.finished // max(total, 1)
        if self._live is None and part > self._told:
            self._told = part
            self.show(f"  {self._ledger.finished} of {total} jobs done")

    def _picture(self) -> Group:
        ledger = self._ledger
        table = Table.grid(padding=(0, 2))
        table.add_row(
            Text("jobs", style="bold"),
            f"{ledger.finished} of {len(ledger.names)}",
            ProgressBar(total=max(1, len(ledger.names)), completed=ledger.finished, width=40),
        )
        for name, worker in self._workers.items():
            if name in ledger.killed:
                now = Text("killed", style="red")
            else:
                now = Text(ledger.name(ledger.working.get(name, "")), style="dim", no_wrap=True)
            table.add_row(f"{name} ({worker.pid})", f"{ledger.consumed_by[name]} done", now)
        return Group(table)

    # -- the end ---------------------------------------------------------------------------------

    def show_workers(self) -> None:
        """Print how many jobs each conductor did."""
        table = Table(title="Conductors", title_justify="left")
        for heading in ("conductor", "process"):
            table.add_column(heading)
        table.add_column("jobs", justify="right")
        table.add_column("")
        for name, worker in self._workers.items():
            notes = ["killed with kill -9"] if name in self._ledger.killed else []
            notes += [
                f"took over {takeover.name}"
                for takeover in self._ledger.takeovers
                if takeover.to == name
            ]
            jobs = str(self._ledger.consumed_by[name])
            table.add_row(name, str(worker.pid), jobs, escape(", ".join(notes)))
        self._console.print(table)

    def show_takeovers(self) -> None:
        """Print which job went from whom to whom, how fast, and what was not done again."""
        if not self._ledger.takeovers:
            return
        table = Table(title="Takeovers", title_justify="left")
        table.add_column("job", overflow="fold")
        table.add_column("from", no_wrap=True)
        table.add_column("to", no_wrap=True)
        table.add_column("within", justify="right", no_wrap=True)
        table.add_column("done before, and after")
        for takeover in self._ledger.takeovers:
            before, after = (" ".join(tasks) or "-" for tasks in (takeover.before, takeover.after))
            table.add_row(
                escape(takeover.name),
                takeover.frm,
                takeover.to,
                seconds_of(takeover),
                f"{before} | {after}",
            )
        self._console.print(table)

    def show_verdict(self, faults: Sequence[str], rate: float, saved: str) -> None:
        """Print the last lines."""
        ledger = self._ledger
        done = f"{ledger.finished} of {len(ledger.names)} jobs done, {rate:.1f} jobs/s"
        counts = f"{len(ledger.lost)} lost, {len(ledger.twice)} done twice"
        self.show(f"{done}; {counts}; {saved}", style="bold")
        for fault in faults:
            self.show(f"FAULT: {fault}", style="bold red")
        if not faults:
            self.show("No job was lost, and none was completed twice.", style="bold green")


def seconds_of(takeover: Takeover) -> str:
    """Return how long a takeover took, for people."""
    if takeover.seconds is None:
        return "not killed"
    if takeover.seconds < 1:
        return f"{1000 * takeover.seconds:.0f} ms"
    return f"{takeover.seconds:.1f} s"


def size_of(size: float) -> str:
    """Return a number of bytes, for people."""
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
