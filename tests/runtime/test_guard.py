# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The guard refuses bad arguments, repeats what is in doubt, and lets no native error through."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn

import pytest

import multiboard.backends.zookeeper  # noqa: F401 - which uses kazoo
from multiboard import errors
from multiboard.backends.memory import MemoryBackend, MemorySettings
from multiboard.primitives import Lease, NewPosting, Posting, Shelf
from multiboard.runtime import guard
from multiboard.runtime.guard import Guard
from multiboard.runtime.retry import RetryingGuard


class Faulty(MemoryBackend):
    """A memory backend that fails as it is told, before or after it did what was asked."""

    def __init__(self) -> None:
        name = uuid.uuid4().hex
        super().__init__(MemorySettings(name=name, operation_timeout=0.5))
        self.before: list[Exception] = []
        self.after: list[Exception] = []
        self.calls: list[int] = []

    def add(self, postings: Any, shelf: Shelf = Shelf.LIVE) -> Any:
        """Add, or fail."""
        self.calls.append(len(postings))
        if self.before:
            raise self.before.pop(0)
        answer = super().add(postings, shelf)
        if self.after:
            raise self.after.pop(0)
        return answer


@pytest.fixture
def backend() -> Faulty:
    """An open backend that does as it is told."""
    made = Faulty()
    made.open()
    return made


def new(key: str = "k", body: bytes = b"b") -> NewPosting:
    """A posting to add."""
    return NewPosting(key, body)


def test_what_was_not_applied_is_repeated(backend: Faulty) -> None:
    backend.before = [errors.Unavailable("away")] * 3
    [posting] = RetryingGuard(backend).add([new()])
    assert isinstance(posting, Posting)
    assert len(backend.calls) == 4


def test_what_may_have_been_applied_is_repeated_and_has_one_effect(backend: Faulty) -> None:
    backend.after = [errors.Indeterminate("no answer")] * 2
    [posting] = RetryingGuard(backend).add([new()])
    assert [posting] == backend.list().postings
    assert backend.count() == 1


def test_repetition_is_bounded(backend: Faulty) -> None:
    backend.before = [errors.Unavailable("away")] * 10_000
    begun = time.monotonic()
    with pytest.raises(errors.Unavailable, match="away"):
        RetryingGuard(backend).add([new()])
    assert 0.4 < time.monotonic() - begun < 5


def test_one_attempt_in_doubt_leaves_the_whole_in_doubt(backend: Faulty) -> None:
    backend.after = [errors.Indeterminate("no answer")]
    guarded = RetryingGuard(backend)

    def lose(*_: Any) -> Any:
        backend.before = [errors.Unavailable("away")] * 10_000

    threading.Timer(0.0, lose).start()
    backend.before = []
    original = backend.add

    def first_then_away(postings: Any, shelf: Shelf = Shelf.LIVE) -> Any:
        try:
            return original(postings, shelf)
        finally:
            lose()

    backend.add = first_then_away  # type: ignore[method-assign]
    with pytest.raises(errors.Indeterminate, match="earlier attempt"):
        guarded.add([new()])


def test_closing_ends_the_repetition(backend: Faulty) -> None:
    backend.before = [errors.Unavailable("away")] * 10_000
    guarded = RetryingGuard(backend, patience=60.0)
    with ThreadPoolExecutor() as pool:
        adding = pool.submit(guarded.add, [new()])
        time.sleep(0.1)
        guarded.close()
        assert isinstance(adding.exception(timeout=5), errors.MultiboardError)


@pytest.mark.parametrize("native", [OSError("disk"), KeyError("x"), RuntimeError("boom")])
def test_a_native_error_arrives_as_unknown_outcome(backend: Faulty, native: Exception) -> None:
    backend.before = [native]
    with pytest.raises(errors.Indeterminate) as caught:
        Guard(backend).add([new()])
    assert caught.value.__cause__ is native


def test_large_batches_are_split_and_answered_in_order(backend: Faulty) -> None:
    count = 2 * guard.BATCH + 7
    answers = RetryingGuard(backend).add([new(f"k{number}") for number in range(count)])
    assert [a.key for a in answers if isinstance(a, Posting)] == [f"k{n}" for n in range(count)]
    assert backend.calls == [guard.BATCH, guard.BATCH, 7]


def test_too_large_a_body_is_an_answer_and_is_not_sent(backend: Faulty) -> None:
    limit = backend.traits.max_body
    answers = RetryingGuard(backend).add([new("a"), new("b", b"x" * (limit + 1)), new("c")])
    assert [type(answer) for answer in answers] == [Posting, errors.PostingTooLarge, Posting]
    assert backend.calls == [2]


LEASE = Lease("k", "h", "c", 1, None, 1.0)
_bad: list[tuple[str, Callable[[RetryingGuard], Any]]] = [
    ("is not a key", lambda g: g.add([new("")])),
    ("is not a key", lambda g: g.add([new("-x")])),
    ("is not a key", lambda g: g.add([new("a/b")])),
    ("is not a key", lambda g: g.get(["a b"])),
    ("is not a key", lambda g: g.acquire("k" * 129, "h", "c")),
    ("is not a key", lambda g: g.restore("é")),
    ("is not a key", lambda g: g.purge([7])),  # type: ignore[list-item]
    ("is not bytes", lambda g: g.add([NewPosting("k", "text")])),  # type: ignore[arg-type]
    ("is not a rank", lambda g: g.add([NewPosting("k", b"", rank=100)])),
    ("is not a rank", lambda g: g.add([NewPosting("k", b"", rank=True)])),
    ("delay is -1", lambda g: g.add([NewPosting("k", b"", delay=-1)])),
    ("not to TRASH", lambda g: g.add([new()], Shelf.TRASH)),
    ("limit is 0", lambda g: g.list(limit=0)),
    ("only to the trash", lambda g: g.remove([LEASE], Shelf.LIVE)),
    ("never purged", lambda g: g.purge(["k"], Shelf.LIVE)),
    ("a holder is", lambda g: g.acquire("k", "", "c")),
    ("a holder is", lambda g: g.acquire("k", "h" * 256, "c")),
    ("is not a claim id", lambda g: g.acquire("k", "h", "")),
    ("is not a claim id", lambda g: g.acquire_next("h", ["a b"])),
    ("not for two", lambda g: g.acquire_next("h", ["a", "a"])),
    ("expires_in is 0", lambda g: g.acquire("k", "h", "c", 0)),
    ("expires_in is inf", lambda g: g.renew(LEASE, float("inf"))),
    ("expires_in is nan", lambda g: g.renew(LEASE, float("nan"))),
    ("expires_in is True", lambda g: g.renew(LEASE, True)),
    ("delay is -1", lambda g: g.release(LEASE, -1)),
    ("timeout is -1", lambda g: g.changes(None, -1)),
]


@pytest.mark.parametrize(("complaint", "call"), _bad)
def test_a_bad_argument_is_refused_before_anything_is_sent(
    complaint: str, call: Callable[[RetryingGuard], Any]
) -> None:
    never_opened = RetryingGuard(Faulty())  # would raise Closed if it were asked anything
    with pytest.raises(errors.InvalidArgument, match=complaint):
        call(never_opened)


def test_claims_of_which_only_a_part_was_answered_are_in_doubt(
    backend: Faulty, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "BATCH", 2)
    backend.add([new(f"k{number}") for number in range(4)])
    doubts: list[tuple[Any, ...]] = []
    guarded = RetryingGuard(backend, on_unconfirmed=lambda *told: doubts.append(told))
    native = backend.acquire_next

    def acquire_next(holder: str, claim_ids: Any, expires_in: float | None = None) -> Any:
        if "c2" in claim_ids:
            raise errors.Unavailable("away")
        return native(holder, claim_ids, expires_in)

    monkeypatch.setattr(backend, "acquire_next", acquire_next)
    claim_ids = [f"c{number}" for number in range(4)]
    with pytest.raises(errors.Unavailable, match="away"):
        guarded.acquire_next("me", claim_ids)
    assert doubts == [(claim_ids, None, False)]


class ClientError(Exception):
    """An error of a client library: of a package that the wrapper below does not use."""


ClientError.__module__ = "kazoo.exceptions"


def test_an_error_of_a_wrapped_backends_client_is_not_taken_for_an_interrupt() -> None:
    """A backend that stands for another one uses none of the packages that the other uses."""
    client_error = ClientError()  # made by the library, raised elsewhere: it has no frame of it
    wrapper = type("Wrapper", (MemoryBackend,), {"__module__": "somebody.else"})
    backend = wrapper(MemorySettings(name="wrapped", operation_timeout=0.05))
    backend.open()

    def fail(_keys: Sequence[str]) -> NoReturn:
        raise errors.Unavailable("the connection was lost") from client_error

    backend.get = fail  # type: ignore[attr-defined]
    with pytest.raises(errors.Unavailable, match="the connection was lost"):
        Guard(backend).get(["k"])
