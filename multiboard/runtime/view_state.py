# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""What is known of a board's live shelf, and how news of it is taken in.

The feed is a hint and the listing the truth. The two come from different threads, and a listing
takes time, so each piece of news carries the tick at which the question for it was asked: what was
learned after that is newer and stays. It has no lock and no thread: the view has both.

A step that is cut short leaves the picture torn: the view sees that, has it mended and lists the
board anew. ``entries`` is the only record of the postings, and all else is derived from it. A
change is reported to the callback before the entries show it: better twice than never.
"""

from __future__ import annotations

import heapq
import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sortedcontainers import SortedDict

from multiboard.primitives import Change, ChangeKind, Damage, Lease, Posting, arguments, boottime

LOG = logging.getLogger(__name__)

#: How many postings that went are remembered, so that late news of them costs no question.
PAST = 10_000
#: Seconds after which a question counts as answered: whoever asked it was interrupted.
LONGEST_QUESTION = 3600.0
_GOES = frozenset({ChangeKind.REMOVED, ChangeKind.TRASHED})
_ENDS = frozenset({ChangeKind.RELEASED, ChangeKind.EXPIRED})


@dataclass(slots=True)
class Entry:
    """A posting in the view."""

    posting: Posting
    #: What the caller made of the posting.
    item: Any
    #: The token of the current lease; None where there is none.
    leased: int | None
    #: The highest token received.
    last_token: int
    #: By this machine's boottime.
    due_at: float
    #: When this was learned.
    tick: int
    #: The token of an earlier lease that must be over, of whose end nothing was received yet: until
    #: then it is not reported that the posting was leased again.
    unreported: int | None = None


class ViewState:
    """The postings of a live shelf, in order, as far as they are known.

    ``interpret`` makes of a posting what the user wants to see, or raises ``ValueError`` for a
    damaged one; ``on_change`` is called for every change, in the order of each posting's.
    """

    def __init__(
        self, interpret: Callable[[Posting], Any], on_change: Callable[[ChangeKind, Any], None]
    ) -> None:
        self._interpret = interpret
        self._on_change = on_change
        self.entries: dict[str, Entry] = {}
        self._order: SortedDict[tuple[int, int], Entry] = SortedDict()
        self._tick = 0
        #: The questions to the store that are under way, by their ticks, with the time of each;
        #: and what has gone since the first began.
        self._questions: dict[int, float] = {}
        self._gone: dict[str, int] = {}
        #: The tokens with which postings went, 0 where it was not reported.
        self._past: OrderedDict[str, int] = OrderedDict()
        #: When delayed postings are due, as a heap; those that are free to take, as far as is seen.
        self._due: list[tuple[float, str]] = []
        self._ripe: set[str] = set()
        #: False while a step is under way, and after one that was cut short.
        self.whole = True
        #: Changes whenever a posting may have become free to take.
        self.openings = 0
        #: What was skipped as foreign or damaged, and why.
        self.damage: dict[str, str] = {}

    def in_order(self) -> list[Entry]:
        """Return the entries of this instant."""
        return list(self._order.values())

    def mend(self) -> None:
        """Make anew, after a step that was cut short, what is made of the entries."""
        entries = list(self.entries.items())
        self._order = SortedDict({entry.posting.place: entry for _, entry in entries})
        self._ripe, self._due = set(), []
        for key, entry in entries:
            if entry.leased is None:
                self._open(key, entry)
        self.whole = True

    def next_due(self) -> float | None:
        """Return when the next delayed posting is due; those that are by now have opened."""
        while self._due and self._due[0][0] <= boottime():
            _, key = heapq.heappop(self._due)
            entry = self.entries.get(key)
            if entry is not None and entry.leased is None and entry.due_at <= boottime():
                self._ripe.add(key)
                self.openings += 1
        return self._due[0][0] if self._due else None

    @property
    def ripe(self) -> bool:
        """Whether a posting is free to take, as far as is seen."""
        return bool(self._ripe)

    def ask(self) -> int:
        """Begin a question to the store; return its tick, which no other has.

        News that led to a later question is newer than what an earlier one is answered.
        """
        now = boottime()
        for tick, asked in list(self._questions.items()):
            if asked > now - LONGEST_QUESTION:
                break
            self._questions.pop(tick, None)
        self._tick += 1
        self._questions[self._tick] = now
        return self._tick

    def answered(self, asked_at: int) -> None:
        """End a question: its answer was taken in, or there was none."""
        self._questions.pop(asked_at, None)
        if not self._questions:
            self._gone.clear()

    # -- news ----------------------------------------------------------------------------------

    def apply(
        self,
        events: Sequence[Change],
        asked: set[str],
        postings: Mapping[str, Posting],
        asked_at: int,
    ) -> None:
        """Take in changes, and what the store replied about those that did not hold enough."""
        last = {event.key: index for index, event in enumerate(events)}
        for index, event in enumerate(events):
            if event.kind in _GOES:
                # The removal is older than the answer to the question that it caused.
                self.drop(event.key, event.kind, event.token, asked_at)
            elif event.key in asked:
                if index == last[event.key] and event.key in postings:
                    self.put(postings[event.key], asked_at)
            elif event.kind is ChangeKind.CLAIMED and event.token is not None:
                self.lease(event.key, event.token)
            elif event.kind in _ENDS and event.token is not None:
                self._end_lease(event.key, event.token, event.kind)

    def to_ask(self, events: Sequence[Change]) -> set[str]:
        """Return the keys of which the events do not hold enough."""
        ask: set[str] = set()
        went: set[str] = set()
        for event in events:
            key, entry = event.key, self.entries.get(event.key)
            if event.kind in _GOES:
                ask.discard(key)
                went.add(key)
            elif event.kind is ChangeKind.RESTORED:
                if entry is None or key in went:
                    ask.add(key)
            elif entry is None:
                if key not in self._past and key not in went:
                    ask.add(key)
            elif event.kind is ChangeKind.POSTED:
                pass  # our own, most likely
            elif event.token is None or (
                event.kind is ChangeKind.RELEASED
                and (entry.last_token < event.token or entry.leased == event.token)
            ):
                ask.add(key)
        return ask

    def correct(
        self, postings: Sequence[Posting], damaged: Sequence[Damage], asked_at: int
    ) -> None:
        """Take in a listing of the whole shelf."""
        for damage in damaged:
            self.quarantine(damage.where, damage.why)
        there = {posting.key for posting in postings}
        for key in [k for k, e in self.entries.items() if k not in there and e.tick <= asked_at]:
            self.drop(key, ChangeKind.REMOVED)
        for posting in postings:
            self.put(posting, asked_at)

    def put(self, posting: Posting, asked_at: int, item: Any = None) -> None:
        """Show a posting as the store had it when ``asked_at`` was the present tick or later."""
        key, token = posting.key, None if posting.lease is None else posting.lease.token
        known = self.entries.get(key)
        if self._gone.get(key, -1) > asked_at or (known is not None and known.tick > asked_at):
            return
        if known is not None and known.posting.serial != posting.serial:
            # Trashed and restored behind our back.
            self.drop(key, ChangeKind.REMOVED, None, asked_at)
            known = None
        due_at = boottime() + posting.due_in
        if known is None:
            try:
                item = self._interpret(posting) if item is None else item
            except ValueError as error:
                self.quarantine(key, str(error))
                return
            self._tick += 1
            entry = Entry(posting, item, token, token or 0, due_at, self._tick)
            self._on_change(ChangeKind.POSTED, item)
            if token is not None:
                self._on_change(ChangeKind.CLAIMED, item)
            self.entries[key] = self._order[posting.place] = entry
        else:
            entry, before = known, known.posting
            self._tick += 1
            died = posting.deaths > before.deaths
            ended = ChangeKind.EXPIRED if died else ChangeKind.RELEASED
            self._report_end(entry, ended)
            if entry.leased is not None and entry.leased != token:
                self._on_change(ended, entry.item)
            if token is not None and entry.leased != token:
                self._on_change(ChangeKind.CLAIMED, entry.item)
            last_token = max(entry.last_token, token or 0)
            entry.posting, entry.due_at, entry.tick = posting, due_at, self._tick
            entry.leased, entry.last_token = token, last_token
            self._ripe.discard(key)
        if entry.leased is None:
            self._open(key, entry)

    def _open(self, key: str, entry: Entry) -> None:
        self.openings += 1
        if entry.due_at <= boottime():
            self._ripe.add(key)
            return
        if len(self._due) > 2 * len(self.entries) + 1000:
            # Nobody waited for them, and most are over: once for as many as there are.
            self._due = [(e.due_at, k) for k, e in self.entries.items() if e.leased is None]
            heapq.heapify(self._due)
        heapq.heappush(self._due, (entry.due_at, key))

    def lease(self, key: str, token: int) -> None:
        """Show that a posting is leased."""
        entry = self.entries.get(key)
        if entry is None or token <= entry.last_token:
            return  # not received yet, or old news
        self._tick += 1
        self._report_end(entry, ChangeKind.RELEASED)  # of an even earlier one, if at all
        if entry.leased is None:
            self._on_change(ChangeKind.CLAIMED, entry.item)
        entry.unreported, entry.leased, entry.last_token = entry.leased, token, token
        entry.tick = self._tick
        self._ripe.discard(key)

    def release(self, lease: Lease, delay: float) -> None:
        """Show that a lease was given back by ourselves."""
        entry = self.entries.get(lease.key)
        if entry is not None and entry.leased == lease.token:
            self._tick += 1
            due_at = boottime() + delay
            self._report_end(entry, ChangeKind.RELEASED)
            self._on_change(ChangeKind.RELEASED, entry.item)
            entry.leased, entry.tick, entry.due_at = None, self._tick, due_at
            self._open(lease.key, entry)

    def _end_lease(self, key: str, token: int, kind: ChangeKind) -> None:
        entry = self.entries.get(key)
        if entry is None:
            return
        if entry.unreported == token:
            self._report_end(entry, kind)
        elif entry.leased == token and kind is ChangeKind.EXPIRED:
            self._tick += 1
            self._on_change(kind, entry.item)
            entry.leased, entry.tick = None, self._tick
            self._open(key, entry)

    def _report_end(self, entry: Entry, kind: ChangeKind) -> None:
        """Report the end of a lease, received after its successor began, and the successor."""
        if entry.unreported is not None:
            self._on_change(kind, entry.item)
            self._on_change(ChangeKind.CLAIMED, entry.item)
            entry.unreported = None

    def drop(
        self, key: str, kind: ChangeKind, token: int | None = None, known_at: int | None = None
    ) -> None:
        """Show a posting no more; ``known_at`` is when it was known to be gone, if not just now."""
        went_by = self._past.get(key, 0)
        if token is not None and token <= went_by:
            return  # old news: it went, and may have been restored since
        self._tick += 1
        if self._questions:
            gone_at = self._tick if known_at is None else known_at
            self._gone[key] = max(gone_at, self._gone.get(key, 0))
        self._past[key] = token or went_by
        while len(self._past) > PAST:
            self._past.popitem(last=False)
        entry = self.entries.get(key)
        if entry is not None:
            self._report_end(entry, ChangeKind.RELEASED)
            self._on_change(kind, entry.item)
            self._ripe.discard(key)
            self._order.pop(entry.posting.place, None)
            del self.entries[key]

    def quarantine(self, where: str, why: str) -> None:
        """Report, once, what is skipped."""
        if where not in self.damage:
            self.damage[where] = why
            LOG.warning(
                "Skipping %s, which is left where it is: %s",
                arguments.printable(where),
                arguments.printable(why),
            )
