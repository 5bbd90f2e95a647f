# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Checks that an answer follows its commit: the effect is there for others, and in the store."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from multiboard.primitives import Backend, Lease, NewPosting, Shelf
from multiboard_conformance.backend.answers import AWAY, answer_of, name_of, raised
from multiboard_conformance.backend.fixtures import (
    SHORT_SESSION,
    Board,
    open_patiently,
    post,
    post_and_trash,
    take,
    together,
)
from multiboard_conformance.backend.guarantees import guarantee
from multiboard_conformance.backend.reading import keys, listed, look
from multiboard_conformance.machinery.plugin import Effort
from multiboard_conformance.machinery.programs import claim_id
from multiboard_conformance.machinery.proxy import Mode, Proxy


@guarantee("DIR-1", "LEASE-1", "LEASE-2")
def check_effect_is_there_when_the_answer_is(board: Board, effort: Effort) -> None:
    """Whoever looks or acts right after an answer, on another connection, meets its effect."""
    backend, other = board.open(), board.open()
    for n in range(effort.rounds(3, 30)):
        key = f"k{n}"
        post(backend, key)
        assert keys(other.list().postings) == [key]
        lease = take(backend, key, 60.0)
        assert look(other, key).lease == lease
        backend.renew(lease, 600.0)
        renewed = look(other, key).lease
        assert renewed is not None
        assert (renewed.ends_in or 0.0) > 300.0
        backend.release(lease)
        lease = take(other, key)
        assert list(backend.remove([lease], Shelf.TRASH)) == [None]
        assert (listed(other), listed(other, Shelf.TRASH)) == ([], [key])
        backend.restore(key)
        ((posting, lease),) = other.acquire_next("me", [claim_id()], 60.0)
        assert posting.key == key
        assert look(backend, key).lease == lease
        assert list(other.remove([lease], Shelf.TRASH)) == [None]
        assert list(backend.purge([key])) == [True]
        assert listed(other, Shelf.TRASH) == []
        backend.add([NewPosting("me", b"")], Shelf.ENTITIES)
        assert listed(other, Shelf.ENTITIES) == ["me"]
        assert list(backend.purge(["me"], Shelf.ENTITIES)) == [True]
        assert listed(other, Shelf.ENTITIES) == []
        post(other, f"last{n}")
        assert list(backend.remove([take(other, f"last{n}")])) == [None]
        assert answer_of(lambda: take(other, f"last{n}")) == "PostingNotFound"  # noqa: B023


def _verbs(leases: dict[str, Lease]) -> dict[str, Callable[[Backend], Any]]:
    return {
        "add": lambda b: b.add([NewPosting("new", b"")]),
        "enter": lambda b: b.add([NewPosting("entity", b"")], Shelf.ENTITIES),
        "get": lambda b: b.get(["free"]),
        "list": lambda b: b.list(),
        "count": lambda b: b.count(),
        "renew": lambda b: b.renew(leases["renew"], 600.0),
        "release": lambda b: b.release(leases["release"]),
        "remove": lambda b: b.remove([leases["remove"]]),
        "trash": lambda b: b.remove([leases["trash"]], Shelf.TRASH),
        "restore": lambda b: b.restore("restore"),
        "purge": lambda b: b.purge(["purge"]),
        "acquire": lambda b: b.acquire("free", "me", claim_id(), 60.0),
        "acquire_next": lambda b: b.acquire_next("me", [claim_id()], 60.0),
        "keepalive": lambda b: b.keepalive(1.0),
    }


@guarantee("ERR-1", "ERR-2")
def check_nothing_is_answered_without_the_store(board: Board, faulty: Board, proxy: Proxy) -> None:
    """While nothing is passed to the store no verb answers as if it were: each raises.

    An answer would be of what the backend remembers, or of what it means to do later.
    """
    direct = board.open()
    backend = open_patiently(
        faulty.open, connect_timeout=1.0, operation_timeout=1.0, session_timeout=4 * SHORT_SESSION
    )
    post(direct, "free", "renew", "release", "remove", "trash")
    for key in ("restore", "purge"):
        post_and_trash(direct, key)
    backend.keepalive()
    leases = {key: take(backend, key, 60.0) for key in ("renew", "release", "remove", "trash")}
    for reading in (backend.list, backend.count, lambda: backend.get(["free"])):
        reading()
    proxy.set(Mode.BLACK_HOLE)
    verbs = _verbs(leases)
    answers = together([lambda call=call: raised(lambda: call(backend)) for call in verbs.values()])  # type: ignore[misc]
    proxy.lose()
    answered = {
        verb: name_of(answer)
        for verb, answer in zip(verbs, answers, strict=True)
        if not isinstance(answer, AWAY)
    }
    assert answered == {}
