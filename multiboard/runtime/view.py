# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The local picture of a board: filled by listing, kept by the change feed, corrected by both.

A thread follows the feed, and asks the store where a change does not hold enough; whoever does
something to the board itself notes it here, so that it is seen at once. It knows neither jobs nor
TaskFlow; what a posting means is the caller's matter.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from multiboard import errors
from multiboard.primitives import (
    Backend,
    Change,
    ChangeKind,
    FailureLog,
    Lease,
    Posting,
    Shelf,
    boottime,
    interrupts,
)
from multiboard.runtime.view_state import Entry, ViewState

LOG = logging.getLogger(__name__)

#: Seconds that one question to the feed waits for an answer: bounds how long silence is believed.
FEED_TIMEOUT = 15.0
#: Seconds that changes may gather for before they are taken in, unless somebody listens, or waits
#: for the picture to change: a worker's own claims, one by one, would cost as much to receive as
#: to make, and the questions of all who watch would reach the store before its answer reaches the
#: poster.
GATHER = 0.02
#: Pages of the feed that are read to bring a picture up to date, before a listing is the shorter
#: way; and seconds for which that replaces a listing, which also shows what no feed reports: what
#: was written by hand, or is damaged.
CATCH_UP = 4
RELIST = 30.0
#: Seconds after a reset when the board is listed once more. Where a store has just changed its
#: leader, the old one may have told the listing: it wakes up, and has not heard of it yet.
SETTLE = 5.0
#: Seconds to wait after a first failure of the feed; doubled with each that follows.
FIRST_PAUSE = 0.05
#: Seconds after which the store is asked again for what the picture shows as free to take and the
#: store did not hand out; doubled with each time, up to the last.
ASK_AGAIN = 0.02
ASK_AGAIN_AT_MOST = 0.5


class View:
    """The live shelf of one board, in order, as of moments ago.

    ``interpret`` turns a posting into what the caller wants to see in its place, or raises
    ``ValueError`` for a damaged one. ``on_change`` is called, in order and under a lock, for every
    change of the picture: it must not block and must not call back.
    """

    def __init__(
        self,
        backend: Backend,
        interpret: Callable[[Posting], Any],
        on_change: Callable[[ChangeKind, Any], None],
    ) -> None:
        self._backend = backend
        self._changed = interrupts.Condition()
        self._state = ViewState(interpret, on_change)
        self._thread: threading.Thread | None = None
        #: Whether somebody listens to the picture for good; set where somebody begins to, or to
        #: wait for it to change, and in the end.
        self._prompt = False
        self._hurry = interrupts.Event()
        #: How many steps of the picture were cut short, and how many of those the last listing has
        #: put right.
        self._torn = self._righted = 0
        self._loaded = False
        self._closed = False
        #: Why the view is over; and why the store refuses to be listed, as of the last attempt.
        self._failure: errors.BoardLost | None = None
        self._denied: errors.AccessDenied | None = None
        self._answered_at: float | None = None
        #: Up to where the feed was taken in, and when the board was last listed.
        self._cursor: str | None = None
        self._listed_at = 0.0

    # -- life ----------------------------------------------------------------------------------

    @property
    def started(self) -> bool:
        """Whether the view is being kept."""
        return self._thread is not None

    def start(self, prompt: bool = False) -> None:
        """Begin to keep the view, in a thread of its own; does not wait for it.

        ``prompt`` is for those who listen: from then on changes do not gather, since what this
        board does itself is reported at once and must not overtake what others did before.
        """
        with self._changed:
            if prompt:
                self._prompt = True
                self._hurry.set()
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(
                    target=self._follow, name="multiboard-view", daemon=True
                )
            if self._thread is not None:
                interrupts.begin(self._thread)

    @property
    def loaded(self) -> bool:
        """Whether the view shows the board, as of moments ago."""
        return self._loaded and self._state.whole and self._torn == self._righted

    def load(self, timeout: float) -> None:
        """Begin to keep the view, and wait until it shows the board as of some instant after.

        Raises: ``Unavailable`` after ``timeout`` seconds; ``AccessDenied`` as soon as the store
        refuses it; ``Closed``; ``BoardLost``.
        """
        self.start()
        self.wait(lambda: self._loaded, timeout)
        if not self._loaded:
            raise errors.Unavailable(f"the board could not be listed within {timeout:g} s")
        self._put_right()

    def _put_right(self) -> None:
        """List the board where a step of the picture was cut short."""
        if self._loaded and not self.loaded:
            self._list()

    def close(self) -> None:
        """End the view. The backend must be closed first: that wakes the thread."""
        with self._changed:
            self._closed = True
            self._hurry.set()
            self._changed.notify_all()
        thread = self._thread
        if thread not in (None, threading.current_thread()):
            with contextlib.suppress(RuntimeError):  # it has not even begun
                thread.join(timeout=1.0)

    @property
    def age(self) -> float | None:
        """Seconds since the feed last answered; None before its first answer."""
        answered_at = self._answered_at
        return None if answered_at is None else boottime() - answered_at

    @property
    def damage(self) -> dict[str, str]:
        """What was skipped as foreign or damaged, and why."""
        with self._changed:
            return dict(self._state.damage)

    # -- reading -------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._state.entries)

    def entries(self) -> Iterator[Entry]:
        """Iterate over the entries of this instant, in order.

        Raises: ``Closed``; ``BoardLost``: a picture that is no longer kept is not shown.
        """
        with self._changed:
            self._check()
            self._mend()
            return iter(self._state.in_order())

    def find(self, key: str) -> Entry | None:
        """Return a posting's entry, or None."""
        return self._state.entries.get(key)

    @property
    def openings(self) -> int:
        """A number that changes whenever a posting may have become free to take."""
        return self._state.openings

    def wait(self, ready: Callable[[], bool], timeout: float | None) -> bool:
        """Wait until ``ready`` is true of the picture; return whether it is.

        Raises: ``Closed``; ``BoardLost``; ``AccessDenied`` where the board was never listed.
        """
        give_up = None if timeout is None else boottime() + timeout
        while True:
            self._put_right()
            with self._changed:
                self._check()
                if ready():
                    return True
                left = None if give_up is None else give_up - boottime()
                if left is not None and left <= 0:
                    return False
                self._hurry.set()  # what changes is reported at once
                self._changed.wait(left)

    def _check(self) -> None:
        if self._closed:
            raise errors.Closed("the board was closed")
        if self._failure is not None:
            raise self._failure
        if self._denied is not None and not self._loaded:
            raise self._denied

    def wait_for_opening(self, seen: int, timeout: float, again: float) -> bool:
        """Wait until ``openings`` is no more ``seen``, or a delayed posting becomes due.

        Where a posting is free to take by the picture, for ``again`` seconds at most: the store,
        which handed out none, may have another clock, or the picture may be behind. Returns
        whether something opened.
        """
        give_up, ask_at = boottime() + timeout, boottime() + again
        while boottime() < give_up:
            with self._changed:
                self._mend()
                due = self._state.next_due()
                until = give_up if due is None else min(give_up, due)
                if self._state.ripe:
                    until = min(until, ask_at)
            if self.wait(lambda: self._state.openings != seen, max(0.0, until - boottime())):
                return True
            if self._state.ripe and boottime() >= ask_at:
                break
        return False

    # -- what this board did itself --------------------------------------------------------------

    @contextlib.contextmanager
    def asking(self) -> Iterator[int]:
        """Ask the store something whose answer will be noted; yields the present tick.

        What is learned while the question is under way is newer than its answer, and stays.
        """
        with self._changed:
            asked_at = self._state.ask()
        try:
            yield asked_at
        finally:
            with self._changed:
                self._state.answered(asked_at)
                self._changed.notify_all()

    def _take_in(self, step: Callable[[], None]) -> None:
        """Take a step of the picture; one that is cut short leaves it torn."""
        with self._changed:
            self._mend()
            self._state.whole = False
            step()
            self._state.whole = True
            self._changed.notify_all()

    def _mend(self) -> None:
        """Make a torn picture one that can be used; called with the lock held."""
        if not self._state.whole:
            self._torn += 1
            self._state.mend()

    def note_present(
        self, postings: Sequence[Posting], asked_at: int, items: Sequence[Any] | None = None
    ) -> None:
        """Take over postings as the store showed them to a question that is still under way.

        ``items`` is what to see in their places, where that is known already.
        """

        def put() -> None:
            for index, posting in enumerate(postings):
                self._state.put(posting, asked_at, None if items is None else items[index])

        self._take_in(put)

    def note_lease(self, lease: Lease) -> None:
        """Take over a lease that was just acquired."""
        self._take_in(functools.partial(self._state.lease, lease.key, lease.token))

    def note_release(self, lease: Lease, delay: float) -> None:
        """Take over that a lease was just given back."""
        self._take_in(functools.partial(self._state.release, lease, delay))

    def note_absent(self, key: str, kind: ChangeKind, token: int | None) -> None:
        """Take over that a posting is gone from the live shelf, by the lease of a token."""
        self._take_in(functools.partial(self._state.drop, key, kind, token))

    def quarantine(self, where: str, why: str) -> None:
        """Take note of something foreign or damaged; it is reported once."""
        with self._changed:
            self._state.quarantine(where, why)

    def refresh(self) -> None:
        """Bring the picture up to date: it is then no older than this call.

        Where the feed can answer, it is asked, which costs as much as happened meanwhile;
        elsewhere, and now and then, the board is listed, which costs as much as it holds.

        Raises: what :meth:`multiboard.primitives.PostingDirectory.list` does.
        """
        if not self._catch_up():
            self._list()

    def _catch_up(self) -> bool:
        """Take in what the feed has by now; return whether the picture is up to date."""
        cursor, listed_at = self._cursor, self._listed_at
        if cursor is None or not self.loaded or not self._backend.traits.linearizable_feed:
            return False
        if boottime() > listed_at + RELIST:
            return False
        # The thread that follows the feed takes in the same again: to receive it twice is harmless.
        with contextlib.suppress(errors.Unavailable, errors.Indeterminate):
            for _ in range(CATCH_UP):
                answer = self._backend.changes(cursor, 0.0)
                if answer.reset:
                    return False
                if not answer.events:
                    return True
                self._apply(answer.events)
                cursor = answer.cursor
        return False

    def _list(self) -> None:
        """List the board and correct the picture."""
        began = boottime()
        with self._changed:
            self._mend()
            torn = self._torn
        with self.asking() as asked_at:
            page = self._backend.list(Shelf.LIVE)
            step = self._state.correct
            self._take_in(functools.partial(step, page.postings, page.damaged, asked_at))
            self._listed_at, self._righted = began, torn

    # -- following the feed ----------------------------------------------------------------------

    def _follow(self) -> None:
        cursor: str | None = None
        pause = FIRST_PAUSE
        failures = FailureLog(
            LOG,
            "The change feed is interrupted, trying again",
            "The change feed is followed again",
        )
        #: By boottime: when to list the board once more.
        again_at = float("inf")
        while not self._closed:
            try:
                patience = min(FEED_TIMEOUT, max(0.0, again_at - boottime()))
                answer = self._backend.changes(cursor, patience)
                if answer.events and not self._is_awaited():
                    self._hurry.wait(GATHER)
                self._apply(answer.events)
                if answer.reset or boottime() >= again_at or (self._loaded and not self.loaded):
                    self._list()
                    unsettled = answer.reset and self._loaded
                    again_at = boottime() + SETTLE if unsettled else float("inf")
                    self._loaded = True
                failures.succeeded()
                self._denied = None
                cursor = self._cursor = answer.cursor
                pause = FIRST_PAUSE
                self._answered_at = boottime()
                with self._changed:
                    self._changed.notify_all()
            except errors.Closed:
                return
            except errors.BoardLost as error:
                LOG.error("The picture of the board is no longer kept: %s", error)
                with self._changed:
                    self._failure = error
                    self._changed.notify_all()
                return
            except errors.MultiboardError as error:
                failures.failed(error)
                with self._changed:
                    # A right that was taken may be given back: only who has nothing to see yet
                    # need not wait for that.
                    self._denied = error if isinstance(error, errors.AccessDenied) else None
                    self._changed.notify_all()
                    self._changed.wait_for(lambda: self._closed, pause)
                pause = min(2 * pause, 1.0)
            except (Exception, SystemExit, KeyboardInterrupt) as error:
                # Nothing must end the feed for good in silence: start anew from a listing.
                failures.failed(error, logging.ERROR, trace=True)
                cursor = None
                with self._changed:
                    self._changed.wait_for(lambda: self._closed, 1.0)

    def _is_awaited(self) -> bool:
        """Tell whether somebody waits for changes, who then must not gather."""
        with self._changed:
            self._hurry.clear()
            return self._prompt or self._closed or self._changed.awaited

    def _apply(self, events: Sequence[Change]) -> None:
        if not events:
            return
        with self.asking() as asked_at:
            with self._changed:
                ask = self._state.to_ask(events)
            found = self._backend.get(sorted(ask)) if ask else ()
            postings = {posting.key: posting for posting in found if posting is not None}
            self._take_in(functools.partial(self._state.apply, events, ask, postings, asked_at))
