# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Checks of errors: which, when, and that what failed or is repeated leaves no trace."""

from __future__ import annotations

import dataclasses
import socket
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from multiboard import errors
from multiboard.primitives import (
    Backend,
    ChangeKind,
    Lease,
    NewPosting,
    Shelf,
    boottime,
)
from multiboard_conformance.backend.answers import answer_of, has_cause, name_of, persist, raised
from multiboard_conformance.backend.feeds import MOMENTS, Reader, beside
from multiboard_conformance.backend.fixtures import (
    Board,
    Store,
    address_settings,
    post,
    post_and_trash,
    take,
)
from multiboard_conformance.backend.guarantees import guarantee
from multiboard_conformance.backend.reading import listed, look, snapshot
from multiboard_conformance.harness import Harness
from multiboard_conformance.machinery.plugin import need, not_exercised

LEASE = Lease("k", "me", "c", 1, None, 1.0)
VERBS: dict[str, Callable[[Backend], object]] = {
    "add": lambda b: b.add([NewPosting("k", b"")]),
    "add entity": lambda b: b.add([NewPosting("k", b"")], Shelf.ENTITIES),
    "get": lambda b: b.get(["k"]),
    "list": lambda b: b.list(),
    "count": lambda b: b.count(),
    "remove": lambda b: b.remove([LEASE]),
    "restore": lambda b: b.restore("k"),
    "purge": lambda b: b.purge(["k"]),
    "acquire": lambda b: b.acquire("k", "me", "c"),
    "acquire_next": lambda b: b.acquire_next("me", ["c"]),
    "renew": lambda b: b.renew(LEASE, 1.0),
    "release": lambda b: b.release(LEASE),
    "changes": lambda b: b.changes(None, 0.0),
    "keepalive": lambda b: b.keepalive(),
}


def _answers(backend: Backend, calls: Mapping[str, Callable[[Backend], object]]) -> dict[str, Any]:
    return {verb: answer_of(lambda: call(backend)) for verb, call in calls.items()}  # noqa: B023


@guarantee("ERR-1")
def check_backend_that_was_not_opened(board: Board) -> None:
    """Before open every verb raises Closed."""
    backend = board.make()
    assert _answers(backend, VERBS) == dict.fromkeys(VERBS, "Closed")


@guarantee("ERR-1")
def check_backend_that_was_closed(board: Board) -> None:
    """After close every verb raises Closed, and nothing was done."""
    backend, other = board.open(), board.open()
    backend.close()
    assert _answers(backend, VERBS) == dict.fromkeys(VERBS, "Closed")
    assert listed(other) == []


@guarantee("ERR-1")
def check_close_may_be_repeated(board: Board) -> None:
    """Close raises nothing: not again, not before open, not with leases held."""
    unopened, backend = board.make(), board.open()
    post(backend, "k")
    take(backend, "k")
    backend.keepalive()
    for one in (unopened, backend, backend):
        one.close()
    assert answer_of(backend.list) == "Closed"


@guarantee("ERR-1")
def check_making_a_backend_does_nothing(board: Board) -> None:
    """A backend that is made and not opened declares its traits, and needs no close.

    Only whether what it keeps is durable may depend on the server.
    """
    traits = board.make().traits
    assert dataclasses.replace(traits, durable=board.traits.durable) == board.traits
    assert traits.max_body > 0
    assert traits.lease_slack >= 0


@guarantee("ERR-1")
def check_facts_name_the_store(board: Board) -> None:
    """Facts reports the store's name, as strings."""
    facts = board.open().server_info()
    assert "store" in facts
    assert {type(value) for value in facts.values()} == {str}


@guarantee("ERR-1")
def check_incarnation_is_the_boards(board: Board) -> None:
    """All backends of one board see one incarnation, also after everybody left."""
    first = board.open()
    incarnation = first.incarnation
    second = board.open()
    post(first, "k")
    seen = [incarnation, second.incarnation]
    first.close()
    second.close()
    assert {*seen, board.open().incarnation} == {incarnation}
    assert incarnation


@guarantee("ERR-1")
def check_unreachable_store(board: Board, store: Store) -> None:
    """Open of a store that is not there raises Unavailable in time, with host and cause only."""
    if store.address() is None:
        not_exercised("the store has no single server that could be away")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    backend = board.make()
    settings = address_settings(backend, ("127.0.0.1", port))
    known = {field.name for field in dataclasses.fields(backend.settings)}
    if {"username", "password"} <= known:
        settings.update(username="nobody", password="s3cret")
    backend = board.make(connect_timeout=1.5, **settings)
    began = boottime()
    error = raised(backend.open)
    took = boottime() - began
    assert name_of(error) == "Unavailable"
    assert "127.0.0.1" in str(error)
    assert "s3cret" not in f"{error!r} {error.__cause__!r} {backend.settings!r}"
    has_cause(error)
    assert took < 1.5 + 1.5


@guarantee("ERR-1")
def check_silent_store(board: Board, store: Store) -> None:
    """Open of a server that accepts and never replies raises Unavailable within connect_timeout."""
    if store.address() is None:
        not_exercised("the store has no single server that could be silent")
    with socket.create_server(("127.0.0.1", 0)) as mute:
        settings = address_settings(board.make(), mute.getsockname())
        backend = board.make(connect_timeout=1.0, **settings)
        began = boottime()
        answer = answer_of(backend.open)
        took = boottime() - began
    assert answer == "Unavailable"
    assert took < 1.0 + 1.5


@guarantee("ERR-1", "FEED-4")
@pytest.mark.parametrize("anew", [False, True], ids=["empty", "made anew"])
def check_board_that_was_wiped(board: Board, harness: Harness, anew: bool) -> None:
    """When the store lost the board every verb of an open backend raises BoardLost.

    That holds where another backend has made the board anew as well: nothing is read from that
    one, and nothing in it changes.
    """
    need(harness, "wipe")
    backend = board.open()
    post(backend, "k", "t")
    lease = take(backend, "k", 60.0)
    backend.remove([take(backend, "t")], Shelf.TRASH)
    reader = Reader(backend).start()
    with beside(
        lambda wiped: answer_of(lambda: reader.until(lambda: False, 3 * MOMENTS, since=wiped))
    ) as ([waiting], wiped):
        harness.wipe(backend.settings)
        wiped.set()
        if anew:
            other = board.open()
            post(other, "k", "t")
            before = snapshot(other)
        answers = _answers(backend, _calls(lease, reader))
        answers["changes, waiting"] = waiting.result()
    assert answers == dict.fromkeys(answers, "BoardLost")
    assert snapshot(other) == before if anew else listed(board.open()) == []


def _calls(lease: Lease, reader: Reader) -> dict[str, Callable[[Backend], object]]:
    """Return every verb, those that speak of a lease with one that the backend acquired."""
    return {
        **VERBS,
        "list the trash": lambda b: b.list(Shelf.TRASH),
        "remove": lambda b: b.remove([lease]),
        "renew": lambda b: b.renew(lease, 60.0),
        "release": lambda b: b.release(lease),
        "changes from a cursor": lambda b: b.changes(reader.cursor, 0.0),
    }


@pytest.mark.alone
@guarantee("ERR-1", "FEED-4", "DIR-1")
def check_board_that_was_put_back(board: Board, harness: Harness) -> None:
    """When a backup was put back every verb of a backend that knew of more raises BoardLost.

    That holds for who made the last changes, for who only saw them, for a reader that waits, and
    also when the store has come as far again by other changes. What is opened anew recalls nothing
    of it, and works with what is there.
    """
    need(harness, "put_back")
    writer, watcher = board.open(), board.open()
    post(writer, "old", "taken")
    reader = Reader(watcher)
    leases: list[Lease] = []

    def writes() -> None:
        persist(reader.start, 30.0)  # the store may have been stopped for the backup
        persist(lambda: post(writer, "new"), 30.0)
        leases.append(take(writer, "new", 60.0))
        assert list(writer.remove([take(writer, "taken", 60.0)])) == [None]
        assert reader.receives(ChangeKind.REMOVED, "taken")
        assert listed(watcher) == ["old", "new"]

    def answers(backend: Backend) -> dict[str, str | None]:
        calls = _calls(leases[0], reader)
        return {
            verb: answer_of(lambda: persist(lambda: call(backend), 30.0))  # noqa: B023
            for verb, call in calls.items()
        }

    with ThreadPoolExecutor(1) as threads:
        harness.put_back(writer.settings, writes)
        waiting = threads.submit(
            answer_of, lambda: persist(lambda: reader.until(lambda: False, 3 * MOMENTS), 30.0)
        )
        found = [answers(writer), answers(watcher), {"changes, waiting": waiting.result()}]
    fresh = board.make()
    persist(fresh.open, 30.0)
    assert listed(fresh) == ["old", "taken"]
    for key in ("n1", "n2", "n3", "n4"):  # as many changes as were lost
        post(fresh, key)
        assert list(fresh.remove([take(fresh, key, 60.0)])) == [None]
    found += [answers(writer), answers(watcher)]
    assert found == [dict.fromkeys(one, "BoardLost") for one in found]
    assert listed(fresh) == ["old", "taken"]
    again = board.open()
    post(again, "k")
    assert listed(again) == ["old", "taken", "k"]


# -- ERR-2: failed operations ----------------------------------------------------------------


@guarantee("ERR-2", "ERR-1")
def check_what_failed_changed_nothing(board: Board) -> None:
    """After every refusal the board is as it was and the feed has nothing to report."""
    backend, other = board.open(), board.open()
    post(backend, "held", "free")
    held = take(backend, "held", 60.0)
    lost = dataclasses.replace(held, token=held.token + 5)
    reader = Reader(other).start()
    before = snapshot(backend)
    reported = [
        answer_of(lambda: take(other, "held")),
        answer_of(lambda: take(other, "none")),
        answer_of(lambda: other.renew(lost, 30.0)),
        answer_of(lambda: other.release(lost)),
        name_of(other.remove([lost])[0]),
        name_of(other.remove([dataclasses.replace(held, key="none")])[0]),
        answer_of(lambda: other.restore("none")),
        name_of(other.add([NewPosting("free", b"other")])[0]),
        other.purge(["free"])[0],
    ]
    assert reported == [
        "LeaseHeld", "PostingNotFound", "LeaseLost", "LeaseLost", "LeaseLost", "PostingNotFound",
        "PostingNotFound", "PostingExists", False,
    ]  # fmt: skip
    assert snapshot(backend) == before
    post(backend, "last")
    assert reader.receives(ChangeKind.POSTED, "last")
    assert [change.key for change in reader.received] == ["last"]


# -- ERR-2: repeated operations --------------------------------------------------------------


@guarantee("ERR-2")
@pytest.mark.parametrize("to", [None, Shelf.TRASH], ids=["remove", "trash"])
def check_repeated_removal(board: Board, to: Shelf | None) -> None:
    """A removal that is repeated answers None again, and is reported once."""
    backend = board.open()
    post(backend, "k")
    reader = Reader(backend).start()
    lease = take(backend, "k")
    assert [list(backend.remove([lease], to)) for _ in range(3)] == [[None]] * 3
    post(backend, "last")
    assert reader.receives(ChangeKind.POSTED, "last")
    end = ChangeKind.REMOVED if to is None else ChangeKind.TRASHED
    assert reader.story("k") == [ChangeKind.CLAIMED, end]


@guarantee("ERR-2")
def check_repeated_release(board: Board) -> None:
    """A release that is repeated does nothing: no error, no second delay, reported once."""
    backend = board.open()
    post(backend, "k")
    reader = Reader(backend).start()
    lease = take(backend, "k")
    backend.release(lease, 60.0)
    before = look(backend, "k")
    assert [answer_of(lambda: backend.release(lease, 600.0)) for _ in range(2)] == [None, None]
    assert (look(backend, "k"), look(backend, "k").due_in <= 60.0) == (before, True)
    post(backend, "last")
    assert reader.receives(ChangeKind.POSTED, "last")
    assert reader.story("k") == [ChangeKind.CLAIMED, ChangeKind.RELEASED]


@guarantee("ERR-2")
def check_repeated_restore(board: Board) -> None:
    """A restore that is repeated finds the posting live and answers with it as it is."""
    backend = board.open()
    post(backend, "k", "l")
    backend.remove([take(backend, "k")], Shelf.TRASH)
    reader = Reader(backend).start()
    first = backend.restore("k")
    assert backend.restore("k") == first
    lease = take(backend, "k", 60.0)
    assert backend.restore("k").lease == lease
    assert reader.tale("k", 2) == [ChangeKind.RESTORED, ChangeKind.CLAIMED]


@guarantee("ERR-2")
def check_repeated_trashing_after_restore(board: Board) -> None:
    """A trashing that is repeated after the restore does not trash the posting again."""
    backend = board.open()
    lease = post_and_trash(backend, "k")
    backend.restore("k")
    name_of(backend.remove([lease], Shelf.TRASH)[0])
    assert (listed(backend), listed(backend, Shelf.TRASH)) == (["k"], [])


@guarantee("ERR-2")
def check_removal_of_another_kind_is_no_repeat(board: Board) -> None:
    """A lease that trashed its posting can't remove it for good as well, nor give it back."""
    backend = board.open()
    lease = post_and_trash(backend, "k")
    answers = [name_of(backend.remove([lease])[0]), answer_of(lambda: backend.release(lease))]
    assert answers == ["PostingNotFound", "PostingNotFound"]
    assert listed(backend, Shelf.TRASH) == ["k"]


@guarantee("ERR-1")
def check_errors_tell_what_they_are_about(board: Board) -> None:
    """Errors carry the key, the token and the holder that they are about."""
    backend = board.open()
    post(backend, "k")
    lease = take(backend, "k", 60.0, holder="somebody")
    held = raised(lambda: take(backend, "k"))
    forged = dataclasses.replace(lease, token=lease.token + 7)
    lost, missing = raised(lambda: backend.renew(forged, 1.0)), raised(lambda: take(backend, "no"))
    (exists,) = backend.add([NewPosting("k", b"other")])
    assert isinstance(exists, errors.PostingExists)
    assert (held.key, held.holder) == ("k", "somebody")
    assert (lost.key, lost.token) == ("k", lease.token + 7)
    assert (missing.key, exists.key) == ("no", "k")
