# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""What the revisions that etcd keeps prove. Real servers."""

from __future__ import annotations

import pytest

from multiboard import errors
from multiboard.backends.etcd import past
from multiboard.primitives import NewPosting, Shelf
from tests.backends.etcd.boards import Maker, post, write
from tests.waiting import eventually


@pytest.mark.parametrize("between", [0, 1, 49, 50, 51, 300])
def test_how_a_lease_ended_is_read_from_the_past(make: Maker, between: int) -> None:
    board = make()
    post(board, "removed", "trashed", "released", "expired", "held")
    leases = {
        n: board.acquire(n, "me", n, 60.0) for n in ("removed", "trashed", "released", "held")
    }
    leases["expired"] = board.acquire("expired", "me", "e", 0.05)
    for number in range(between):
        write(board, "other", str(number).encode())
    board.remove([leases["removed"]])
    board.remove([leases["trashed"]], Shelf.TRASH)
    board.release(leases["released"])
    assert eventually(lambda: board.get(["expired"])[0].lease is None)  # type: ignore[union-attr]
    for number in range(between):
        write(board, "other", str(number).encode())
    ended = {
        name: past.how_lease_ended(board._session, name, lease.token)
        for name, lease in leases.items()
    }
    assert ended == {
        "removed": "remove", "trashed": "trash", "released": "release", "expired": "expiry",
        "held": None,
    }  # fmt: skip
    assert past.how_lease_ended(board._session, "removed", leases["removed"].token + 1) is None


def test_unconfirmed_addition_does_not_come_back_after_it_was_consumed(make: Maker) -> None:
    board, other = make(), make()
    new = NewPosting("k", b"body")
    board._additions._note(new, None, board._session.client.revision)  # as after a lost reply
    other.add([new])
    other.remove([other.acquire("k", "me", "c")])
    assert [type(answer) for answer in board.add([new])] == [errors.PostingNotFound]
    board._additions._note(NewPosting("never", b""), None, board._session.client.revision)
    assert board.add([NewPosting("never", b"")])[0].key == "never"  # type: ignore[union-attr]
