# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The local picture of a board: filled by listing, kept by the change feed, corrected by both.

The feed is a hint and the listing the truth. The two come from different threads, and a listing
takes time, so each piece of news carries the tick at which the question for it was asked: what was
learned after that is newer and stays. It knows neither jobs nor TaskFlow; what a posting means is
told by the caller.
"""

from __future__ import annotations

import contextlib
import heapq
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sortedcontainers import SortedDict

from multiboard import errors
from multiboard.primitives import (
    Backend,
    Change,
    ChangeKind,
    Damage,
    Lease,
    Posting,
    Shelf,
    boottime,
)

LOG = logging.getLogger(__name__)

#: Seconds that one question to the feed waits for an answer: bounds how long silence is believed.
FEED_TIMEOUT = 15.0
#: Seconds that changes may gather for before they are taken in, unless somebody listens, or waits
#: for the picture to change: a worker's own claims, one by one, would cost as much to hear of as
#: to make, and the questions of all who watch would reach the store before its answer reaches the
#: poster.
GATHER = 0.02
#: Seconds to wait after a first failure of the feed; doubled with each that follows.
FIRST_PAUSE = 0.05
#: How many postings that went are remembered, so that late news of them costs no question.
PAST = 10_000
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
    #: The highest token heard of.
    last_token: int
    #: By this machine's boottime.
    due_at: float
    #: When this was learned.
    tick: int
    #: The token of an earlier lease that must be over, of whose end nothing was heard yet: until
    #: then it is not told that the posting was leased again.
    unheard: int | None = None


class View:
    """The live shelf of one board, in order, as of moments ago.

    ``interpret`` turns a posting into what the caller wants to see in its place, or raises
    ``ValueError`` for a damaged one. ``tell`` is called, in order and under a lock, for every
    change of the picture: it must not block and must not call back.
    """

    def __init__(
        self,
        backend: Backend,
        interpret: Callable[[Posting], Any],
        tell: Callable[[ChangeKind, Any], None],
    ) -> None:
        self._backend = backend
        self._interpret = interpret
        self._tell = tell
        self._changed = threading.Condition()
        self._entries: dict[str, Entry] = {}
        self._order: SortedDict[tuple[int, int], Entry] = SortedDict()
        self._tick = 0
        #: How many questions to the store are under way, and what has gone since the first began.
        self._questions = 0
        self._gone: dict[str, int] = {}
        #: The tokens with which postings went, 0 where it was not told.
        self._past: OrderedDict[str, int] = OrderedDict()
        #: When delayed postings are due, as a heap, and how often work has become available.
        self._due: list[float] = []
        self._openings = 0
        self._damage: dict[str, str] = {}
        self._thread: threading.Thread | None = None
        #: How many wait for the picture to change, and whether somebody listens to it for good;
        #: set while there is any of them, and in the end.
        self._waiting = 0
        self._prompt = False
        self._hurry = threading.Event()
        self._loaded = False
        self._closed = False
        self._failure: errors.MultiboardError | None = None
        self._heard_at: float | None = None

    # -- life ----------------------------------------------------------------------------------

    @property
    def started(self) -> bool:
        """Whether the view is being kept."""
        return self._thread is not None

    def start(self, prompt: bool = False) -> None:
        """Begin to keep the view, in a thread of its own; does not wait for it.

        ``prompt`` is for those who listen: from then on changes do not gather, since what this
        board does itself is told at once and must not overtake what others did before.
        """
        with self._changed:
            if prompt:
                self._prompt = True
                self._hurry.set()
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(
                    target=self._follow, name="multiboard-view", daemon=True
                )
                self._thread.start()

    @property
    def loaded(self) -> bool:
        """Whether the view shows the board, as of moments ago."""
        return self._loaded

    def load(self, timeout: float) -> None:
        """Begin to keep the view, and wait until it shows the board as of some instant after.

        Raises: ``Unavailable`` after ``timeout`` seconds; ``Closed``; ``BoardLost``.
        """
        self.start()
        self.wait(lambda: self._loaded, timeout)
        if not self._loaded:
            raise errors.Unavailable(f"the board could not be listed within {timeout:g} s")

    def close(self) -> None:
        """End the view. The backend must be closed first: that wakes the thread."""
        with self._changed:
            self._closed = True
            self._hurry.set()
            self._changed.notify_all()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout=1.0)

    @property
    def age(self) -> float | None:
        """Seconds since the feed last answered; None before its first answer."""
        heard_at = self._heard_at
        return None if heard_at is None else boottime() - heard_at

    @property
    def damage(self) -> dict[str, str]:
        """What was skipped as foreign or damaged, and why."""
        with self._changed:
            return dict(self._damage)

    # -- reading -------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._entries)

    def entries(self) -> Iterator[Entry]:
        """Iterate over the entries of this instant, in order.

        Raises: ``Closed``; ``BoardLost``: a picture that is no longer kept is not shown.
        """
        with self._changed:
            self._check()
            return iter(list(self._order.values()))

    def find(self, key: str) -> Entry | None:
        """Return a posting's entry, or None."""
        return self._entries.get(key)

    @property
    def openings(self) -> int:
        """A number that changes whenever a posting may have become free to take."""
        return self._openings

    def wait(self, ready: Callable[[], bool], timeout: float | None) -> bool:
        """Wait until ``ready`` is true of the picture; return whether it is.

        Raises: ``Closed``; ``BoardLost``.
        """
        give_up = None if timeout is None else boottime() + timeout
        with self._changed:
            while True:
                self._check()
                if ready():
                    return True
                left = None if give_up is None else give_up - boottime()
                if left is not None and left <= 0:
                    return False
                self._await_change(left)

    def _check(self) -> None:
        if self._closed:
            raise errors.Closed("the board was closed")
        if self._failure is not None:
            raise self._failure

    def _await_change(self, timeout: float | None) -> None:
        """Wait for the picture to change, changes being told at once; called with the lock held."""
        self._waiting += 1
        self._hurry.set()
        try:
            self._changed.wait(timeout)
        finally:
            self._waiting -= 1
            if not (self._waiting or self._prompt or self._closed):
                self._hurry.clear()

    def wait_for_opening(self, seen: int, timeout: float) -> None:
        """Wait until ``openings`` is no more ``seen``, or a delayed posting becomes due."""
        give_up = boottime() + timeout
        while boottime() < give_up:
            with self._changed:
                while self._due and self._due[0] <= boottime():
                    heapq.heappop(self._due)
                    self._openings += 1
                until = min(give_up, self._due[0]) if self._due else give_up
            if self.wait(lambda: self._openings != seen, max(0.0, until - boottime())):
                return

    # -- what this board did itself --------------------------------------------------------------

    @contextlib.contextmanager
    def asking(self) -> Iterator[int]:
        """Ask the store something whose answer will be noted; yields the present tick.

        What is learned while the question is under way is newer than its answer, and stays.
        """
        with self._changed:
            self._questions += 1
            asked_at = self._tick
        try:
            yield asked_at
        finally:
            with self._changed:
                self._questions -= 1
                if not self._questions:
                    self._gone.clear()
                self._changed.notify_all()

    def note_present(
        self, postings: Sequence[Posting], asked_at: int, items: Sequence[Any] | None = None
    ) -> None:
        """Take over postings as the store showed them to a question that is still under way.

        ``items`` is what to see in their places, where that is known already.
        """
        with self._changed:
            for index, posting in enumerate(postings):
                self._put(posting, asked_at, None if items is None else items[index])
            self._changed.notify_all()

    def note_lease(self, lease: Lease) -> None:
        """Take over a lease that was just acquired."""
        with self._changed:
            self._lease(lease.key, lease.token)
            self._changed.notify_all()

    def note_release(self, lease: Lease, delay: float) -> None:
        """Take over that a lease was just given back."""
        with self._changed:
            entry = self._entries.get(lease.key)
            if entry is not None and entry.leased == lease.token:
                self._tick += 1
                entry.leased, entry.tick, entry.due_at = None, self._tick, boottime() + delay
                self._open(entry)
                self._hear_end(entry, ChangeKind.RELEASED)
                self._tell(ChangeKind.RELEASED, entry.item)
            self._changed.notify_all()

    def note_absent(self, key: str, kind: ChangeKind, token: int | None) -> None:
        """Take over that a posting is gone from the live shelf, by the lease of a token."""
        with self._changed:
            self._drop(key, kind, token)
            self._changed.notify_all()

    def quarantine(self, where: str, why: str) -> None:
        """Take note of something foreign or damaged; it is reported once."""
        with self._changed:
            self._quarantine(where, why)

    def refresh(self) -> None:
        """List the board and correct the picture: it is then no older than this call.

        Raises: what :meth:`multiboard.primitives.PostingDirectory.list` does.
        """
        with self.asking() as asked_at:
            page = self._backend.list(Shelf.LIVE)
            with self._changed:
                self._correct(page.postings, page.damaged, asked_at)

    # -- following the feed ----------------------------------------------------------------------

    def _follow(self) -> None:
        cursor: str | None = None
        pause = FIRST_PAUSE
        while not self._closed:
            try:
                answer = self._backend.changes(cursor, FEED_TIMEOUT)
                if answer.events:
                    self._hurry.wait(GATHER)
                self._apply(answer.events)
                if answer.reset:
                    self.refresh()
                    self._loaded = True
                if pause > FIRST_PAUSE:
                    LOG.info("The change feed is followed again")
                cursor, pause = answer.cursor, FIRST_PAUSE
                self._heard_at = boottime()
                with self._changed:
                    self._changed.notify_all()
            except errors.Closed:
                return
            except (errors.BoardLost, errors.AccessDenied) as error:
                LOG.error("The picture of the board is no longer kept: %s", error)
                with self._changed:
                    self._failure = error
                    self._changed.notify_all()
                return
            except errors.MultiboardError as error:
                # Once an outage: this comes round every second.
                level = logging.DEBUG if pause > FIRST_PAUSE else logging.WARNING
                LOG.log(level, "The change feed is interrupted, trying again: %s", error)
                with self._changed:
                    self._changed.wait_for(lambda: self._closed, pause)
                pause = min(2 * pause, 1.0)
            except Exception:
                # A defect must not end the feed for good in silence: start anew from a listing.
                LOG.exception("Following the change feed failed, starting anew")
                cursor = None
                with self._changed:
                    self._changed.wait_for(lambda: self._closed, 1.0)

    def _apply(self, events: Sequence[Change]) -> None:
        if not events:
            return
        with self.asking() as asked_at:
            with self._changed:
                ask = self._to_ask(events)
            found = self._backend.get(sorted(ask)) if ask else ()
            postings = {posting.key: posting for posting in found if posting is not None}
            last = {event.key: index for index, event in enumerate(events)}
            with self._changed:
                for index, event in enumerate(events):
                    if event.kind in _GOES:
                        # It is older than the answer to what was asked because of it.
                        self._drop(event.key, event.kind, event.token, asked_at)
                    elif event.key in ask:
                        if index == last[event.key] and event.key in postings:
                            self._put(postings[event.key], asked_at)
                    elif event.kind is ChangeKind.CLAIMED and event.token is not None:
                        self._lease(event.key, event.token)
                    elif event.kind in _ENDS and event.token is not None:
                        self._end_lease(event.key, event.token, event.kind)

    def _to_ask(self, events: Sequence[Change]) -> set[str]:
        """Return the keys of which the events do not tell enough; called with the lock held."""
        ask: set[str] = set()
        went: set[str] = set()
        for event in events:
            key, entry = event.key, self._entries.get(event.key)
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

    # -- the picture (called with the lock held) -------------------------------------------------

    def _correct(
        self, postings: Sequence[Posting], damaged: Sequence[Damage], asked_at: int
    ) -> None:
        for damage in damaged:
            self._quarantine(damage.where, damage.why)
        there = {posting.key for posting in postings}
        for key in [k for k, e in self._entries.items() if k not in there and e.tick <= asked_at]:
            self._drop(key, ChangeKind.REMOVED)
        for posting in postings:
            self._put(posting, asked_at)

    def _put(self, posting: Posting, asked_at: int, item: Any = None) -> None:
        """Show a posting as the store had it when ``asked_at`` was the present tick or later."""
        key, token = posting.key, None if posting.lease is None else posting.lease.token
        known = self._entries.get(key)
        if self._gone.get(key, -1) > asked_at or (known is not None and known.tick > asked_at):
            return
        if known is not None and known.posting.serial != posting.serial:
            # Trashed and restored behind our back.
            self._drop(key, ChangeKind.REMOVED, None, asked_at)
            known = None
        due_at = boottime() + posting.due_in
        if known is None:
            try:
                item = self._interpret(posting) if item is None else item
            except ValueError as error:
                self._quarantine(key, str(error))
                return
            self._tick += 1
            entry = Entry(posting, item, token, token or 0, due_at, self._tick)
            self._entries[key] = self._order[posting.place] = entry
            self._tell(ChangeKind.POSTED, item)
            if token is not None:
                self._tell(ChangeKind.CLAIMED, item)
        else:
            entry, before = known, known.posting
            self._tick += 1
            died = posting.deaths > before.deaths
            ended = ChangeKind.EXPIRED if died else ChangeKind.RELEASED
            self._hear_end(entry, ended)
            entry.posting, entry.due_at, entry.tick = posting, due_at, self._tick
            if entry.leased is not None and entry.leased != token:
                self._tell(ended, entry.item)
            if token is not None and entry.leased != token:
                self._tell(ChangeKind.CLAIMED, entry.item)
            entry.leased, entry.last_token = token, max(entry.last_token, token or 0)
        if entry.leased is None:
            self._open(entry)

    def _open(self, entry: Entry) -> None:
        self._openings += 1
        if entry.due_at > boottime():
            heapq.heappush(self._due, entry.due_at)

    def _lease(self, key: str, token: int) -> None:
        entry = self._entries.get(key)
        if entry is None or token <= entry.last_token:
            return  # not heard of yet, or old news
        self._tick += 1
        self._hear_end(entry, ChangeKind.RELEASED)  # of an even earlier one, if at all
        entry.unheard, entry.leased, entry.last_token = entry.leased, token, token
        entry.tick = self._tick
        if entry.unheard is None:
            self._tell(ChangeKind.CLAIMED, entry.item)

    def _end_lease(self, key: str, token: int, kind: ChangeKind) -> None:
        entry = self._entries.get(key)
        if entry is None:
            return
        if entry.unheard == token:
            self._hear_end(entry, kind)
        elif entry.leased == token and kind is ChangeKind.EXPIRED:
            self._tick += 1
            entry.leased, entry.tick = None, self._tick
            self._open(entry)
            self._tell(kind, entry.item)

    def _hear_end(self, entry: Entry, kind: ChangeKind) -> None:
        """Tell how a lease ended that was succeeded before that was heard, and the successor."""
        if entry.unheard is not None:
            entry.unheard = None
            self._tell(kind, entry.item)
            self._tell(ChangeKind.CLAIMED, entry.item)

    def _drop(
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
        entry = self._entries.pop(key, None)
        if entry is not None:
            del self._order[entry.posting.place]
            self._hear_end(entry, ChangeKind.RELEASED)
            self._tell(kind, entry.item)

    def _quarantine(self, where: str, why: str) -> None:
        """Report, once, what is skipped; called with the lock held."""
        if where not in self._damage:
            self._damage[where] = why
            LOG.warning("Skipping %s, which is left where it is: %s", where, why)
