# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""A store's clock and a board's own never agree wholly: that must cost moments, not a time-out."""

from __future__ import annotations

import dataclasses
import time
import uuid
from collections.abc import Iterator, Sequence

import pytest

import multiboard
from multiboard import errors
from multiboard.backends.memory import MemoryBackend
from multiboard.jobboard.board import JobBoard
from multiboard.primitives import Lease, Posting, Traits, boottime

#: Seconds by which the store's clock is behind.
LAG = 0.15
#: Seconds that a worker would sleep through, were it not to ask again.
LONG = 30.0


class Lagging(MemoryBackend):
    """A store in which a delayed posting is due later than it says."""

    asked = 0
    #: By boottime: when it hands something out again.
    late_until = 0.0

    def acquire_next(
        self, holder: str, claim_ids: Sequence[str], expires_in: float | None = None
    ) -> Sequence[tuple[Posting, Lease]]:
        type(self).asked += 1
        if boottime() < self.late_until:
            return []
        return super().acquire_next(holder, claim_ids, expires_in)


class LaggingWithoutNext(Lagging):
    """Such a store, whose boards first try what they see themselves."""

    @property
    def traits(self) -> Traits:
        return dataclasses.replace(super().traits, native_claim_next=False)

    def acquire(
        self, key: str, holder: str, claim_id: str, expires_in: float | None = None
    ) -> Lease:
        if boottime() < self.late_until:
            raise errors.LeaseHeld(key, "nobody")
        return super().acquire(key, holder, claim_id, expires_in)


@pytest.fixture(params=[Lagging, LaggingWithoutNext])
def board(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[JobBoard]:
    """A board on a store that lags."""
    monkeypatch.setattr(Lagging, "asked", 0)
    monkeypatch.setattr(Lagging, "late_until", 0.0)
    url = f"{__name__}:{request.param.__name__}?name={uuid.uuid4().hex}"
    with multiboard.backend("b", url) as made:
        yield made


def test_a_waiting_worker_asks_again_for_a_job_that_is_due_by_its_own_clock(
    board: JobBoard, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert list(board.iterjobs()) == []  # from here on the view is told of what is posted
    due_at = boottime() + 0.1
    job = board.post("job", delay=0.1)
    monkeypatch.setattr(Lagging, "late_until", due_at + LAG)
    begun = time.monotonic()
    assert board.claim_next("me", timeout=LONG) == [job]
    assert time.monotonic() - begun < LONG / 2
    # It asks soon and ever more rarely: a disagreement must not become a busy loop.
    assert Lagging.asked < 15


def test_what_was_given_back_is_asked_for_again(
    board: JobBoard, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = board.post("job")
    assert board.claim_next("me") == [job]
    assert list(board.iterjobs()) == [job]
    board.abandon(job, "me")
    monkeypatch.setattr(Lagging, "late_until", boottime() + LAG)
    assert board.claim_next("me", timeout=LONG) == [job]


def test_a_worker_does_not_ask_for_what_is_not_due(board: JobBoard) -> None:
    assert list(board.iterjobs()) == []
    board.post("later", delay=600)
    assert board.claim_next("me", timeout=0.3) == []
    assert Lagging.asked <= 3
