# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The etcd backend where a password is required, and accounts change meanwhile. Real servers."""

from __future__ import annotations

import itertools
import pathlib
import threading
from collections.abc import Callable
from typing import Any

import pytest

from multiboard import errors
from multiboard.backends.etcd import EtcdBackend, EtcdSettings
from multiboard.primitives import NewPosting, Shelf
from multiboard.runtime.retry import RetryingGuard
from tests.backends.etcd.accounts import KINDS, SECRET, Admin, locked_server
from tests.backends.etcd.boards import boards_on
from tests.leaks import all_logs, shown_by
from tests.waiting import eventually

_names = itertools.count()


def another(admin: Admin) -> None:
    """Add a user, as ``etcdctl user add`` does."""
    admin.ask("user/add", name=f"user{next(_names)}", password=SECRET)


def test_a_user_with_the_boards_alone_can_do_everything(locked: Admin) -> None:
    with boards_on(locked, username="me", password=SECRET) as make:
        board = make()
        board.add([NewPosting("k", b"body"), NewPosting("n", b"body")])
        cursor = board.changes(None, 1.0).cursor
        lease = board.acquire("k", "me", "c")
        assert board.keepalive() > 0
        board.release(lease, 0.01)
        assert [p.key for p, _ in board.acquire_next("me", ["d"], 30.0)]
        assert board.changes(cursor, 1.0).events
        board._session.client._token = "a token that has run out"
        assert board.count() == 2


def test_stranger_is_denied_and_no_secret_is_shown(locked: Admin) -> None:
    hosts = (f"127.0.0.1:{locked.port}",)
    for options in (
        {},
        {"username": "me", "password": "wrong-" + SECRET},
        {"username": "me", "password": SECRET, "root": "/elsewhere"},
    ):
        board = EtcdBackend(EtcdSettings(hosts=hosts, **options))
        with all_logs() as lines, pytest.raises(errors.AccessDenied) as caught:
            board.open()
        assert SECRET not in shown_by(caught.value) + "".join(lines) + repr(board.settings)


def test_error_of_a_refused_password_has_no_word_of_the_server(locked: Admin) -> None:
    place = f"127.0.0.1:{locked.port}"
    for user, password in (("me", "invalid"), ("nobody", "ed"), ("", "x"), ("me", "")):
        board = EtcdBackend(EtcdSettings(hosts=(place,), username=user, password=password))
        with pytest.raises(errors.AccessDenied) as caught:
            board.open()
        assert str(caught.value) == f"etcd at {place} refused the user or the password"
        assert "etcdserver" not in shown_by(caught.value)


def test_password_for_a_cluster_without_authentication_is_ignored(server: Any) -> None:
    with boards_on(server, username="me", password=SECRET) as make:
        assert make().count() == 0


# -- accounts that change ----------------------------------------------------------------------

VERBS: dict[str, Callable[[EtcdBackend], object]] = {
    "add": lambda b: b.add([NewPosting("new", b"")]),
    "add an entity": lambda b: b.add([NewPosting("e", b"")], Shelf.ENTITIES),
    "get": lambda b: b.get(["k"]),
    "list": lambda b: b.list(),
    "count": lambda b: b.count(),
    "acquire": lambda b: b.acquire("k", "me", "c"),
    "keepalive": lambda b: b.keepalive(),
    "renew": lambda b: b.renew(b.acquire("k", "me", "c"), 30.0),
    "release": lambda b: b.release(b.acquire("k", "me", "c")),
    "acquire next": lambda b: b.acquire_next("me", ["d"], 30.0),
    "changes": lambda b: b.changes(None, 1.0),
    "remove": lambda b: b.remove([b.acquire("n", "me", "e")], Shelf.TRASH),
    "restore": lambda b: b.restore("n"),
    "purge": lambda b: b.purge(["n"]),
}


def test_a_change_of_the_accounts_stops_no_verb(locked: Admin) -> None:
    with boards_on(locked, username="me", password=SECRET) as make:
        board = make()
        board.add([NewPosting("k", b""), NewPosting("n", b"")])
        for call in VERBS.values():
            another(locked)
            call(board)


def test_a_change_of_the_accounts_does_not_end_the_feed(locked: Admin) -> None:
    with boards_on(locked, username="me", password=SECRET) as make:
        board, other = make(), make()
        cursor = board.changes(None, 1.0).cursor
        assert eventually(lambda: board._feed._watch is not None)
        another(locked)
        board._feed._watch.close()  # type: ignore[union-attr] - a watch has to begin anew
        other.add([NewPosting("k", b"")])
        seen: list[str] = []

        def received() -> bool:
            nonlocal cursor
            changes = board.changes(cursor, 1.0)
            cursor = changes.cursor
            seen.extend(change.key for change in changes.events)
            return seen == ["k"]

        assert eventually(received, ignoring=(errors.Unavailable,))


def test_accounts_that_change_all_the_time_deny_nothing(locked: Admin) -> None:
    """Between a token and the call with it there may be another change."""
    with boards_on(locked, username="me", password=SECRET) as make:
        # Nobody keeps the session here, and a busy machine takes its time for the passwords.
        board = RetryingGuard(make(operation_timeout=60.0, session_timeout=120.0))
        over = threading.Event()

        def change() -> None:
            while not over.is_set():
                another(locked)

        thread = threading.Thread(target=change)
        thread.start()
        try:
            for number in range(20):
                board.add([NewPosting(f"k{number}", b"")])
                board.remove([board.acquire(f"k{number}", "me", f"c{number}")])
        finally:
            over.set()
            thread.join()
        assert board.count() == 0


def test_a_right_that_is_taken_is_denied_and_granted_anew_is_back(locked: Admin) -> None:
    with boards_on(locked, username="me", password=SECRET) as make:
        board = make()
        board.add([NewPosting("k", b"body"), NewPosting("n", b"body")])
        cursor = board.changes(None, 1.0).cursor
        board.keepalive()
        locked.revoke("/multiboard/")
        for verb, call in VERBS.items():
            if verb not in ("keepalive", "changes"):
                with pytest.raises(errors.AccessDenied, match="permission denied"):
                    call(board)
        locked.grant("/multiboard/")
        assert [posting.key for posting in board.list().postings] == ["k", "n"]
        lease = board.acquire("k", "me", "c")
        assert eventually(
            lambda: board.changes(cursor, 1.0).events,
            ignoring=(errors.Unavailable, errors.AccessDenied),
        )
        assert board.remove([lease]) == [None]


def test_a_password_that_was_changed_is_denied(tmp_path: pathlib.Path) -> None:
    with (
        locked_server("simple", tmp_path) as admin,
        boards_on(admin, username="me", password=SECRET) as make,
    ):
        board = make()
        admin.ask("user/changepw", name="me", password="another")
        with pytest.raises(errors.AccessDenied, match="refused the user or the password"):
            board.count()
        admin.ask("user/changepw", name="me", password=SECRET)
        assert board.count() == 0


@pytest.mark.parametrize("kind", KINDS)
def test_authentication_may_be_turned_on_and_off_under_a_board(
    kind: str, tmp_path: pathlib.Path
) -> None:
    with (
        locked_server(kind, tmp_path) as admin,
        boards_on(admin, username="me", password=SECRET) as make,
    ):
        admin.ask("disable")
        board, stranger = make(), make(username=None, password=None)
        board.add([NewPosting("k", b"")])
        admin.ask("enable")
        assert board.count() == 1
        with pytest.raises(errors.AccessDenied):
            stranger.count()
        admin.ask("disable")
        assert (board.count(), stranger.count()) == (1, 1)
