# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Adding postings to a board in etcd, and entries to its entities.

A repeat must not bring back a posting that was consumed since, and the store has no memory of it.
So each backend remembers what it added, and where a reply was lost it closes the fence and reads
the past. This module imports the primitives, the errors and its own siblings.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from multiboard import errors
from multiboard.backends.etcd import messages, past, records
from multiboard.backends.etcd.board import Board
from multiboard.backends.etcd.clock import wall_clock
from multiboard.backends.etcd.directory import Directory
from multiboard.backends.etcd.errors import LeaseGone
from multiboard.backends.etcd.recent import Recent
from multiboard.backends.etcd.records import PLACES, Head, Seen
from multiboard.backends.etcd.transactions import Outcome, Step
from multiboard.primitives import NewPosting, Posting, boottime

#: Seconds for which a repeated posting is told from a new one.
REPEAT_WINDOW = 300.0


@dataclass(frozen=True, slots=True)
class _Added:
    """A posting that this backend added or tried to, without its body."""

    content: tuple[int, bytes]
    at: float
    #: None while no reply has confirmed it.
    posting: Posting | None = None
    #: Nothing was added before this revision.
    since: int = 0


class Additions:
    """Adds postings and entries; ``known`` receives the postings that were added."""

    def __init__(self, board: Board, directory: Directory, known: Recent[str, Seen]) -> None:
        self._board = board
        self._directory = directory
        self._known = known
        self._added: Recent[str, _Added] = Recent()
        #: The outcome of an attempt to add entries is unknown.
        self._entries_unconfirmed = False

    # -- postings --------------------------------------------------------------------------------

    def add(self, postings: Sequence[NewPosting]) -> list[Posting | errors.MultiboardError]:
        """Add postings to the live shelf."""
        board = self._board
        answers: dict[int, Posting | errors.MultiboardError] = {}
        known: list[int] = []
        new_ones: list[int] = []
        unconfirmed: list[int] = []
        fresh: set[str] = set()
        for index, new in enumerate(postings):
            before = self._added.get(new.key)
            if before is not None and before.at < boottime() - REPEAT_WINDOW:
                before = None
            if before is not None and before.content == _content(new) and new.key not in fresh:
                (known if before.posting is not None else unconfirmed).append(index)
            else:
                fresh.add(new.key)
                new_ones.append(index)
        if unconfirmed:
            # What was sent and got no reply is there by now, or never will be.
            fence = board.transactions.close_fence()
            since = min(self._added[postings[index].key].since for index in unconfirmed)
            keys = [postings[index].key for index in unconfirmed]
            there = past.added_since(board.session, keys, since, fence)
            for index in unconfirmed:
                (known if postings[index].key in there else new_ones).append(index)
            new_ones.sort()
        self._add_new(postings, new_ones, answers, known)
        answers.update(
            zip(known, self._existing([postings[index] for index in known]), strict=True)
        )
        return [answers[index] for index in range(len(postings))]

    def _add_new(
        self,
        postings: Sequence[NewPosting],
        indexes: Sequence[int],
        answers: dict[int, Posting | errors.MultiboardError],
        known: list[int],
    ) -> None:
        """Add the postings at ``indexes``; those that exist are appended to ``known``."""
        board, left, now = self._board, list(indexes), wall_clock()
        while left:
            part = left[:PLACES]
            steps, heads = [], []
            for place, index in enumerate(part):
                head, step = self._step(postings[index], place, now)
                heads.append(head)
                steps.append(step)
                self._note(postings[index], None, board.session.client.revision)
            outcomes = board.transactions.commit(steps, news=True, fence=True)
            for index, head, outcome in zip(part, heads, outcomes, strict=False):
                new = postings[index]
                if outcome.done:
                    serial = outcome.revision * PLACES + head.place
                    posting = dataclasses.replace(
                        head.posting(new.key, serial, new.body), due_in=new.delay
                    )
                    self._note(new, posting, outcome.revision)
                    self._known.note(new.key, Seen(new.key, head, serial, outcome.revision))
                    if head.since is not None:
                        board.session.clock.first_seen(new.key, head.since)
                    answers[index] = posting
                else:
                    known.append(index)
                    self._added.pop(new.key, None)
            left = left[len(outcomes) :]

    def _step(self, new: NewPosting, place: int, now: float) -> tuple[Head, Step]:
        since = self._board.session.clock.stamp() if new.delay > 0 else None
        head = Head(new.rank, place, now, now, delay=new.delay, since=since)
        of = self._board.keys.of
        live, trash, body = of("live", new.key), of("trash", new.key), of("bodies", new.key)
        return head, Step(
            [messages.created(raw, 0) for raw in (live, trash, body)],
            [messages.put(live, head.encode()), messages.put(body, new.body)],
        )

    def _note(self, new: NewPosting, posting: Posting | None, since: int) -> None:
        """Remember an attempt to add a posting, and what it added; forget what is too old."""
        if posting is not None:
            posting = dataclasses.replace(posting, body=b"")
        self._added.pop(new.key, None)
        self._added.note(new.key, _Added(_content(new), boottime(), posting, since))
        while self._added:
            oldest = next(iter(self._added.values()))
            if oldest.at > boottime() - REPEAT_WINDOW:
                break
            self._added.popitem(last=False)

    def _existing(self, postings: Sequence[NewPosting]) -> list[Posting | errors.MultiboardError]:
        """Return what the store holds of postings that are, or were, in it."""
        if not postings:
            return []
        keys = [new.key for new in postings]
        live, trash = self._board.look(keys, bodies=True), self._directory.trashed(keys)
        answers: list[Posting | errors.MultiboardError] = []
        for new, (seen, body), trashed in zip(postings, live, trash, strict=True):
            found: Posting | None = None if trashed is None else trashed[0]
            if isinstance(seen, Seen):
                found = self._board.posting(seen, body)
            elif seen is None and trashed is None:
                answers.append(self._gone(new))
                continue
            if found is None or (found.rank, found.body) != (new.rank, new.body):
                answers.append(errors.PostingExists(new.key))
                continue
            if self._added.get(new.key) is None:
                # Whoever added it first: a repeat of this add must not bring it back, either.
                self._note(new, found, self._board.session.client.revision)
            answers.append(found)
        return answers

    def _gone(self, new: NewPosting) -> Posting | errors.MultiboardError:
        """Return what a repeat receives for a posting that was consumed since."""
        added = self._added.get(new.key)
        if added is None or added.posting is None:
            return errors.PostingNotFound(new.key)
        return dataclasses.replace(added.posting, body=new.body)

    # -- entries ---------------------------------------------------------------------------------

    def enter(self, postings: Sequence[NewPosting]) -> list[Posting | errors.MultiboardError]:
        """Add entries to the entities, which live by the session."""
        board, now = self._board, wall_clock()
        if self._entries_unconfirmed:
            self._entries_unconfirmed = False
            try:
                # What was sent and got no reply is there by now, or never will be.
                board.transactions.close_fence()
            except BaseException:
                self._entries_unconfirmed = True
                raise
        session = board.session.ensure()
        steps, heads = [], []
        for place, new in enumerate(postings):
            head = Head(new.rank, place % PLACES, now, now)
            raw = board.keys.of("entities", new.key)
            heads.append(head)
            steps.append(
                Step([], [messages.put(raw, records.encode_entity(head, new.body), session)])
            )
        outcomes: list[Outcome] = []
        try:
            while len(outcomes) < len(steps):  # another thread may have closed the fence
                outcomes += board.transactions.commit(steps[len(outcomes) :], fence=True)
        except LeaseGone:
            raise board.session.over(session) from None
        except errors.Indeterminate:
            self._entries_unconfirmed = True
            raise
        return [
            head.posting(new.key, outcome.revision * PLACES + head.place, new.body)
            for new, head, outcome in zip(postings, heads, outcomes, strict=True)
        ]


def _content(new: NewPosting) -> tuple[int, bytes]:
    """Return what a repeat has to have in common with a posting, beside the key."""
    return new.rank, hashlib.sha256(new.body).digest()
