# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The judge of fault runs on histories made up for it."""

from __future__ import annotations

from typing import Any

import pytest
from multiboard_conformance.machinery.history import History, Operation, outcome_of

from multiboard import errors
from multiboard.primitives import Lease, NewPosting, Page, Posting, Shelf
from tests.faults.judge import Findings, Read, findings, read_of


def _posting(key: str) -> Posting:
    return Posting(key, 0, 1, b"", 0, 0, 0.0, 0.0)


def _lease(token: int, holder: str = "a") -> Lease:
    return Lease("k", holder, f"c{token}", token, session="s")


class Story:
    """A record of what workers did, one thing a second unless told otherwise."""

    def __init__(self) -> None:
        self.history = History()
        self.reads: list[Read] = []
        self._now = 0.0

    def op(self, who: str, verb: str, args: dict[str, Any], answer: Any) -> Story:
        self._now += 1.0
        op = Operation(int(self._now), who, verb, args, self._now)
        op.ended, op.answer, op.outcome = self._now + 0.5, answer, outcome_of(answer)
        read = read_of(op) if verb in ("get", "list") else None
        if read is not None:
            self.reads.append(read)
        else:
            self.history.adopt(op)
        return self

    def add(self) -> Story:
        return self.op("a", "add", {"postings": [NewPosting("k", b"")]}, [_posting("k")])

    def keep(self, who: str, granted: float) -> Story:
        return self.op(who, "keepalive", {}, granted)

    def acquire(self, who: str, token: int) -> Story:
        return self.op(who, "acquire", {"key": "k"}, _lease(token, who))

    def remove(self, who: str, token: int, to: Shelf | None = None, answer: Any = None) -> Story:
        return self.op(who, "remove", {"leases": [_lease(token, who)], "to": to}, [answer])

    def list(self, *keys: str) -> Story:
        page = Page([_posting(key) for key in keys])
        return self.op("b", "list", {"shelf": Shelf.LIVE, "limit": None}, page)

    def judged(self, *live: str, **killed: float) -> Findings:
        return findings(self.history, self.reads, live, (), killed)


def test_a_right_story_has_no_findings() -> None:
    story = Story().add().list("k").keep("a", 9.0).acquire("a", 1).remove("a", 1).list()
    assert story.judged().all == []


@pytest.mark.parametrize(
    ("story", "live", "kind", "words"),
    [
        (Story().add(), "", "lost", "k is lost"),
        (Story().add().acquire("a", 1).remove("a", 1), "k", "lost", "and is there"),
        (Story().add().list(), "k", "other", "k is there, and list of b did not see it"),
        (
            Story().add().op("b", "acquire", {"key": "k"}, errors.PostingNotFound("k")),
            "k",
            "other",
            "k is there, and acquire of b did not see it",
        ),
        (
            Story().add().acquire("a", 1).remove("a", 1).list("k"),
            "",
            "other",
            "k was removed, and list of b saw it",
        ),
        (
            Story().add().keep("a", 20.0).acquire("a", 1).acquire("b", 2),
            "k",
            "early",
            "while the kept session of a held it with token 1",
        ),
    ],
)
def test_what_is_wrong_is_found(story: Story, live: str, kind: str, words: str) -> None:
    found = story.judged(*live)
    assert words in " ".join(getattr(found, kind)), found
    assert len(found.all) == 1


def test_a_session_that_was_not_kept_holds_nothing() -> None:
    story = Story().add().keep("a", 3.0).acquire("a", 1).list("k").list("k").acquire("b", 2)
    assert story.judged("k").all == []


def test_the_session_of_a_dead_worker_holds_nothing() -> None:
    story = Story().add().keep("a", 60.0).acquire("a", 1).list("k").acquire("b", 2)
    assert story.judged("k", a=4.0).all == []
    assert len(story.judged("k", a=5.9).all) == 1


def test_a_session_that_was_given_up_holds_nothing() -> None:
    story = Story().add().keep("a", 60.0).acquire("a", 1)
    story.op("a", "release", {"lease": _lease(1)}, None).acquire("b", 2)
    assert story.judged("k").all == []


def test_a_removal_in_doubt_excuses_either_sight() -> None:
    story = Story().add().acquire("a", 1)
    story.op("a", "remove", {"leases": [_lease(1)], "to": None}, errors.Indeterminate("lost"))
    assert story.list().list("k").judged().all == []
