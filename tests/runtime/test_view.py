# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The view ends up showing what the store holds, whatever happened in which order."""

from __future__ import annotations

import contextlib
import dataclasses
import random
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from multiboard import errors
from multiboard.backends import memory
from multiboard.primitives import Change, ChangeKind, Changes, NewPosting, Page, Posting, Shelf
from multiboard.runtime import view
from multiboard.runtime.view import RELIST, View
from tests.waiting import eventually


class Store(memory.MemoryBackend):
    """A memory backend whose feed can be made to forget, and to fail."""

    fail: Exception | None = None
    forget = False

    def changes(self, cursor: str | None, timeout: float) -> Changes:
        """Tell what happened, or fail, or say that it is not known."""
        if self.fail is not None:
            error, self.fail = self.fail, None
            raise error
        if self.forget:
            self.forget, cursor = False, "unknown"
        return super().changes(cursor, min(timeout, 0.2))

    lists = 0
    #: What the next listing answers, from a past that a deposed leader still has.
    stale: Page | None = None

    def list(self, *args: Any, **kwargs: Any) -> Page:
        """Count the listings."""
        self.lists += 1
        stale, self.stale = self.stale, None
        return super().list(*args, **kwargs) if stale is None else stale


class Watched:
    """A view, its store, and what it told."""

    def __init__(self, kind: type[Store] = Store) -> None:
        settings = memory.MemorySettings(name=uuid.uuid4().hex, session_timeout=60.0)
        self.store, self.own = kind(settings), memory.MemoryBackend(settings)
        self.store.open()
        self.own.open()
        self.told: list[tuple[ChangeKind, str]] = []
        self.view = View(self.store, self._read, lambda kind, item: self.told.append((kind, item)))

    @staticmethod
    def _read(posting: Posting) -> str:
        if posting.body == b"damaged":
            raise ValueError("it is damaged")
        return posting.key

    def shown(self) -> list[tuple[str, bool]]:
        """What the view shows, in order."""
        return [(entry.item, entry.leased is not None) for entry in self.view.entries()]

    def held(self) -> list[tuple[str, bool]]:
        """What the store holds, in order."""
        return [(p.key, p.lease is not None) for p in self.own.list().postings]


@pytest.fixture
def watched() -> Iterator[Watched]:
    """A view that is kept."""
    made = Watched()
    made.view.load(5.0)
    yield made
    made.store.close()
    made.view.close()
    made.own.close()


def test_it_follows_the_feed(watched: Watched) -> None:
    own = watched.own
    own.add([NewPosting("b", b"", 1), NewPosting("a", b"", 0)])
    eventually(lambda: watched.shown() == [("a", False), ("b", False)])
    lease = own.acquire("a", "me", "c1")
    eventually(lambda: watched.shown() == [("a", True), ("b", False)])
    own.release(lease)
    eventually(lambda: watched.shown() == [("a", False), ("b", False)])
    own.remove([own.acquire("b", "me", "c2")], Shelf.TRASH)
    eventually(lambda: watched.shown() == [("a", False)])
    own.restore("b")
    own.acquire("a", "me", "c3", 0.1)
    eventually(lambda: watched.told[-1] == (ChangeKind.EXPIRED, "a"))
    assert watched.told == [
        (ChangeKind.POSTED, "b"),
        (ChangeKind.POSTED, "a"),
        (ChangeKind.CLAIMED, "a"),
        (ChangeKind.RELEASED, "a"),
        (ChangeKind.CLAIMED, "b"),
        (ChangeKind.TRASHED, "b"),
        (ChangeKind.POSTED, "b"),
        (ChangeKind.CLAIMED, "a"),
        (ChangeKind.EXPIRED, "a"),
    ]


def test_a_reset_whose_listing_was_of_the_past_is_corrected(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(view, "SETTLE", 0.3)
    own = watched.own
    own.add([NewPosting("gone", b""), NewPosting("there", b"")])
    lease = own.acquire("gone", "me", "c1")
    past = own.list()
    own.remove([lease])
    eventually(lambda: watched.shown() == [("there", False)])
    watched.store.stale, watched.store.forget = past, True
    eventually(lambda: watched.shown() == [("gone", True), ("there", False)])
    eventually(lambda: watched.shown() == [("there", False)])
    lists = watched.store.lists
    threading.Event().wait(0.8)
    assert watched.store.lists == lists  # once is enough


def test_a_reset_is_a_listing_and_tells_the_difference(watched: Watched) -> None:
    own = watched.own
    own.add([NewPosting(key, b"") for key in ("gone", "leased", "freed")])
    lease = own.acquire("freed", "me", "c1")
    eventually(lambda: watched.shown()[2:] == [("freed", True)])
    watched.told.clear()
    with own._opened().changed:  # all of it happens while the view can't see
        own.remove([own.acquire("gone", "me", "c2")])
        own.acquire("leased", "me", "c3")
        own.release(lease)
        own.add([NewPosting("new", b"")])
        watched.store.forget = True
    eventually(lambda: watched.shown() == watched.held() and len(watched.told) >= 4)
    eventually(lambda: not watched.store.forget)
    assert dict(watched.shown()) == {
        "leased": True,
        "freed": False,
        "new": False,
    }


def test_damage_is_skipped_and_reported_once(
    watched: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    watched.own.add([NewPosting("bad", b"damaged"), NewPosting("good", b"")])
    eventually(lambda: watched.shown() == [("good", False)])
    watched.view.refresh()
    watched.view.refresh()
    assert watched.view.damage == {"bad": "it is damaged"}
    assert caplog.text.count("it is damaged") == 1
    assert watched.own.count() == 2


@pytest.mark.parametrize("failure", [errors.Unavailable("away"), ZeroDivisionError("a defect")])
def test_the_feed_is_taken_up_again(watched: Watched, failure: Exception) -> None:
    watched.store.fail = failure
    eventually(lambda: watched.store.fail is None)
    watched.own.add([NewPosting("a", b"")])
    eventually(lambda: watched.shown() == [("a", False)])


class Refusing(Store):
    """A store that takes an account's right to read for a while."""

    denied = False

    def changes(self, cursor: str | None, timeout: float) -> Changes:
        """Return what happened, to who may read."""
        self._check()
        return super().changes(cursor, timeout)

    def list(self, *args: Any, **kwargs: Any) -> Page:
        """Return the listing, to who may read."""
        self._check()
        return super().list(*args, **kwargs)

    def _check(self) -> None:
        if self.denied:
            raise errors.AccessDenied("no right to read the board")


@pytest.fixture
def refusing() -> Iterator[Watched]:
    """A view, not begun yet, of a store that may refuse it."""
    made = Watched(Refusing)
    yield made
    made.store.close()
    made.view.close()


def test_a_right_that_is_taken_for_a_moment_interrupts_the_view_and_does_not_end_it(
    refusing: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    store, view = refusing.store, refusing.view
    assert isinstance(store, Refusing)
    view.load(5.0)
    store.denied = True
    eventually(lambda: "no right to read the board" in caplog.text)
    refusing.own.add([NewPosting("a", b"")])
    assert refusing.shown() == []  # what was seen last, as when the store is away
    store.denied = False
    assert view.wait(lambda: refusing.shown() == [("a", False)], 10.0)
    assert caplog.text.count("no right to read the board") < 5


def test_who_waits_for_the_first_listing_receives_the_refusal_and_the_view_goes_on(
    refusing: Watched,
) -> None:
    store, view = refusing.store, refusing.view
    assert isinstance(store, Refusing)
    store.denied = True
    begun = time.monotonic()
    with pytest.raises(errors.AccessDenied, match="no right to read"):
        view.load(30.0)
    with pytest.raises(errors.AccessDenied, match="no right to read"):
        view.wait(lambda: False, 30.0)
    assert time.monotonic() - begun < 20.0
    store.denied = False

    def is_loaded() -> bool:
        with contextlib.suppress(errors.AccessDenied):
            view.load(5.0)
        return view.loaded

    eventually(is_loaded)


def test_a_lost_board_ends_the_view_and_is_told_to_who_waits(watched: Watched) -> None:
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(watched.view.wait, lambda: False, 20.0)
        watched.store.fail = errors.BoardLost("it came back empty")
        assert isinstance(waiting.exception(timeout=10), errors.BoardLost)


def test_closing_wakes_who_waits(watched: Watched) -> None:
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(watched.view.wait, lambda: False, 20.0)
        watched.store.close()
        watched.view.close()
        assert isinstance(waiting.exception(timeout=10), errors.Closed)


def test_an_answer_does_not_undo_what_was_learned_while_it_was_asked_for(watched: Watched) -> None:
    view, own = watched.view, watched.own
    [posting] = own.add([NewPosting("a", b"")])
    assert isinstance(posting, Posting)
    eventually(lambda: watched.shown() == [("a", False)])
    with view.asking() as asked_at:  # the answer "it is there, unleased" is on its way
        lease = own.acquire("a", "me", "c")
        eventually(lambda: watched.shown() == [("a", True)])
        view.note_present([posting], asked_at)
        assert watched.shown() == [("a", True)]
        own.remove([lease])
        eventually(lambda: watched.shown() == [])
        view.note_present([posting], asked_at)
        assert watched.shown() == []


def test_old_news_of_a_trashed_posting_does_not_hide_the_restored_one(watched: Watched) -> None:
    own, view = watched.own, watched.view
    own.add([NewPosting("a", b"")])
    lease = own.acquire("a", "me", "c")
    own.remove([lease], Shelf.TRASH)
    restored = own.restore("a")

    def shows_it() -> bool:
        entry = view.find("a")
        return entry is not None and entry.posting.serial == restored.serial

    own.add([NewPosting("last", b"")])
    eventually(lambda: view.find("last"))  # so that all before it was heard, too
    assert shows_it()
    view._apply([Change(ChangeKind.TRASHED, "a", lease.token)])
    assert shows_it()


@pytest.mark.parametrize("later", [True, False])
def test_an_answer_does_not_bring_back_what_went_since_it_was_asked_for(
    watched: Watched, later: bool
) -> None:
    picture = watched.view._state
    own = watched.own
    own.add([NewPosting("a", b"")])
    eventually(lambda: watched.shown() == [("a", False)])
    [posting] = own.get(["a"])
    assert posting is not None
    with watched.view._changed:
        asked_at = picture.ask()
        of_news = picture.ask() if later else asked_at
        picture.apply([Change(ChangeKind.REMOVED, "a", 7)], set(), {}, of_news)
        picture.put(posting, asked_at)
    # Of the same question the news is the older part: it was asked because of them.
    assert (picture.entries == {}) is later


@pytest.mark.parametrize("linearizable", [True, False])
def test_it_is_brought_up_to_date_by_what_happened_or_by_a_listing(
    watched: Watched, monkeypatch: pytest.MonkeyPatch, linearizable: bool
) -> None:
    traits = dataclasses.replace(watched.store.traits, linearizable_feed=linearizable)
    monkeypatch.setattr(Store, "traits", traits)
    before = watched.store.lists
    for number in range(20):
        watched.own.add([NewPosting(f"k{number}", b"")])
        watched.view.refresh()
        assert watched.shown() == watched.held()
    assert watched.store.lists - before == (0 if linearizable else 20)


@pytest.mark.parametrize("why", ["failed", "forgot", "busy", "long ago"])
def test_the_feed_does_not_replace_a_listing_for_ever(
    watched: Watched, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    view, store, own = watched.view, watched.store, watched.own
    eventually(lambda: view._cursor is not None)
    own.add([NewPosting("a", b"")])
    eventually(lambda: watched.shown() == [("a", False)])
    before = store.lists
    if why == "long ago":
        monkeypatch.setattr(view, "_listed_at", view._listed_at - RELIST)
    else:

        def changes(cursor: str | None, timeout: float) -> Changes:
            if timeout:
                return memory.MemoryBackend.changes(store, cursor, 0.05)
            if why == "failed":
                raise errors.Unavailable("it is away")
            told = [Change(ChangeKind.POSTED, "a")] if why == "busy" else []
            return Changes(told, "1", reset=why == "forgot")

        monkeypatch.setattr(store, "changes", changes)
    own.add([NewPosting("b", b"")])
    view.refresh()
    assert watched.shown() == watched.held()
    assert store.lists == before + 1


@pytest.mark.parametrize("seed", range(5))
def test_any_schedule_ends_in_the_truth(watched: Watched, seed: int) -> None:
    """Workers of the same board and of others, resets and refreshes, in any order."""
    view = watched.view

    def work(number: int) -> None:
        chance = random.Random(seed * 100 + number)
        backend: Any = watched.store if number % 2 else watched.own
        noting = backend is watched.store
        for step in range(60):
            key = f"k{number}-{step}"
            with view.asking() as asked_at:
                [posting] = backend.add([NewPosting(key, b"", chance.randrange(3))])
                if noting:
                    view.note_present([posting], asked_at)
            for lease in [pair[1] for pair in backend.acquire_next("me", [uuid.uuid4().hex])]:
                if noting:
                    view.note_lease(lease)
                act = chance.randrange(4)
                if act == 0:
                    backend.release(lease)
                    if noting:
                        view.note_release(lease, 0.0)
                elif act == 1:
                    backend.remove([lease])
                    if noting:
                        view.note_absent(lease.key, ChangeKind.REMOVED, lease.token)
                elif act == 2:
                    backend.remove([lease], Shelf.TRASH)
                    backend.restore(lease.key)
            if chance.random() < 0.05:
                watched.store.forget = True
            if chance.random() < 0.05:
                view.refresh()

    with ThreadPoolExecutor() as pool:
        for worker in [pool.submit(work, number) for number in range(4)]:
            worker.result()
    eventually(lambda: watched.shown() == watched.held(), 5.0)
    threading.Event().wait(0.1)
    assert watched.shown() == watched.held()
