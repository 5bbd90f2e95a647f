# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The shelves of a board in ZooKeeper: what adds, shows, restores and purges postings.

This module imports kazoo, the primitives, the errors and its own siblings.
"""

from __future__ import annotations

import dataclasses
import hashlib
import uuid
from collections.abc import Sequence
from typing import Any

from kazoo.protocol import serialization as wire

from multiboard import errors, primitives
from multiboard.backends.zookeeper import records
from multiboard.backends.zookeeper.board import Board, raise_first
from multiboard.backends.zookeeper.cache import Cache
from multiboard.backends.zookeeper.client import Client
from multiboard.backends.zookeeper.errors import NodeExists, NoNode
from multiboard.backends.zookeeper.feed import Feed
from multiboard.backends.zookeeper.leases import TRIES
from multiboard.backends.zookeeper.seen import Seen, is_unclaimed
from multiboard.backends.zookeeper.transactions import Write, commit, commit_one, commit_together
from multiboard.backends.zookeeper.write_log import Added
from multiboard.primitives import Damage, NewPosting, Posting, Shelf

#: ZooKeeper's own limit is 1 MiB for a request; it drops the connection that exceeds it.
MAX_BODY = 1_000_000
_FOREIGN = "it is not the board's"


class Directory:
    """The postings of one board on their shelves."""

    def __init__(self, board: Board, cache: Cache, feed: Feed) -> None:
        self._board = board
        self._cache = cache
        self._feed = feed

    # -- adding ----------------------------------------------------------------------------------

    def add(
        self, postings: Sequence[NewPosting], shelf: Shelf
    ) -> Sequence[Posting | errors.MultiboardError]:
        """Add postings or entities."""
        if shelf is Shelf.ENTITIES:
            return [self._enter(new) for new in postings]
        starts = range(0, len(postings), records.PLACES)
        parts = [self._add(postings[start : start + records.PLACES]) for start in starts]
        return [answer for part in parts for answer in part]

    def _add(self, postings: Sequence[NewPosting]) -> list[Posting | errors.MultiboardError]:
        log = self._board.session.writes
        client = self._board.session.client()
        answers: dict[int, Posting | errors.MultiboardError] = {}
        existing: list[int] = []
        indeterminate: list[int] = []
        writes: dict[int, Write] = {}
        for index, new in enumerate(postings):
            added = log.applied(("add", new.key))
            if len(new.body) > MAX_BODY:
                answers[index] = errors.PostingTooLarge(new.key, len(new.body), MAX_BODY)
                continue
            if added is not None and added.matches(new):
                existing.append(index)
                continue
            applied = log.resolve(("add", new.key), client)
            if applied:
                # Its presence is certain, its place is not: it is read below.
                self._note_added(new)
                existing.append(index)
            elif applied is None:
                indeterminate.append(index)
            else:
                operations = self._add_operations(client, new, len(writes))
                writes[index] = (operations, log.marker("add", new.key))
        failures: list[errors.MultiboardError] = []
        keys = [postings[index].key for index in writes]
        outcomes = commit_together(client, list(writes.values()), keys)
        for place, (index, outcome) in enumerate(zip(writes, outcomes, strict=True)):
            new = postings[index]
            if outcome.stat is not None:
                serial = outcome.stat.mzxid * records.PLACES + place
                answers[index] = self._added(new, serial, outcome.stat)
            elif outcome.refused is not None and isinstance(outcome.refused[1], NodeExists):
                existing.append(index)
            else:
                failures.append(self._board.error_of(client, outcome, ("add", new.key)))
        raise_first(failures)
        existing += indeterminate
        found = self._existing(client, [postings[index] for index in existing])
        answers.update(zip(existing, found, strict=True))
        for index in indeterminate:
            new = postings[index]
            if not isinstance(answers[index], Posting):
                # It was never there, or others consumed it: made anew it might be done twice.
                raise errors.Indeterminate(
                    f"whether posting {new.key!r} was added can't be known any more: it is not "
                    "there, and the session that would show it has ended"
                )
            self._note_added(new)
        return [answers[index] for index in range(len(postings))]

    def _add_operations(self, client: Client, new: NewPosting, place: int) -> list[Any]:
        paths = self._board.paths
        job = records.Job(new.rank, new.body, new.delay, place=place)
        trashed = f"{paths.trash}/{new.key}"
        return [
            # Made and deleted at once: it is refused where the key is in the trash.
            client.create(trashed, b""),
            wire.Delete(trashed, -1),
            client.create(f"{paths.live}/{new.key}", job.encode()),
        ]

    def _note_added(self, new: NewPosting, serial: int = 0, created: float = 0.0) -> None:
        digest = hashlib.sha256(new.body).digest()
        added = Added(new.rank, digest, serial, created)
        self._board.session.writes.note_applied(("add", new.key), added)

    def _added(self, new: NewPosting, serial: int, stat: Any) -> Posting:
        # The marker was written in the same transaction: what it shows holds for the posting.
        when = stat.mtime / 1000.0
        self._note_added(new, serial, when)
        posting = Posting(new.key, new.rank, serial, new.body, 0, 0, when, when, new.delay)
        self._cache.note_unclaimed([posting])
        return posting

    def _existing(
        self, client: Client, postings: Sequence[NewPosting]
    ) -> list[Posting | errors.MultiboardError]:
        """Return what the store holds of postings that are, or were, in it."""
        if not postings:
            return []
        seen = self._board.look(client, [new.key for new in postings], fresh=True)
        trash = client.read([f"{self._board.paths.trash}/{new.key}" for new in postings])
        now = self._board.time_for(client, seen)
        answers: list[Posting | errors.MultiboardError] = []
        for new, live, trashed in zip(postings, seen, trash, strict=True):
            found: Posting | None = None
            if isinstance(live, Seen):
                found = live.posting(now)
            elif not isinstance(trashed, Exception):
                found = _trashed(new.key, trashed)
            elif live is None:
                added = self._board.session.writes.applied(("add", new.key))
                if added is not None and added.matches(new) and added.serial:
                    answers.append(added.posting(new))
                else:
                    answers.append(errors.PostingNotFound(new.key))
                continue
            same = found is not None and (found.rank, found.body) == (new.rank, new.body)
            answers.append(found if found and same else errors.PostingExists(new.key))
        return answers

    def _enter(self, new: NewPosting) -> Posting | errors.MultiboardError:
        if len(new.body) > MAX_BODY:
            return errors.PostingTooLarge(new.key, len(new.body), MAX_BODY)
        client = self._board.session.leasing_client()
        path = f"{self._board.paths.entities}/{new.key}"
        create = client.create(path, records.Job(new.rank, new.body).encode(), ephemeral=True)
        operations: list[Any] = [create]
        for _ in range(TRIES):
            marker = self._board.session.writes.marker("enter", new.key)
            outcome = commit_one(client, operations, marker)
            if outcome.stat is not None:
                when = outcome.stat.mtime / 1000.0
                return Posting(new.key, new.rank, outcome.stat.mzxid, new.body, 0, 0, when, when)
            if outcome.error is not None:
                self._board.session.report_end(client)
                raise outcome.error
            self._board.session.confirm(client)
            missing = outcome.refused is not None and isinstance(outcome.refused[1], NoNode)
            operations = [create] if missing else [wire.Delete(path, -1), create]
        raise errors.Unavailable(f"the entry {new.key!r} changes too fast")

    # -- reading ---------------------------------------------------------------------------------

    def get(self, keys: Sequence[str]) -> Sequence[Posting | None]:
        """Return live postings as they are now."""
        client = self._board.session.client()
        seen = self._board.look(client, keys, fresh=True)
        return [
            found if isinstance(found, Posting) else None for found in self._shown(client, seen)
        ]

    def _shown(self, client: Client, seen: Sequence[Seen | Damage | None]) -> list[Any]:
        """Return what was seen as postings, and remember which of them were never claimed."""
        now = self._board.time_for(client, seen)
        shown = [found.posting(now) if isinstance(found, Seen) else found for found in seen]
        postings = [found for found in shown if isinstance(found, Posting)]
        self._cache.note_unclaimed(filter(is_unclaimed, postings))
        return shown

    def list(
        self, shelf: Shelf, after: primitives.Place | None, limit: int | None
    ) -> primitives.Page:
        """Return a page of a shelf, in order."""
        client, paths = self._board.session.client(), self._board.paths
        if shelf is Shelf.LIVE and after is not None and limit is not None:
            page = self._next_page(client, after, limit)
            if page is not None:
                return page
        folder = f"{paths.base}/{shelf.value}"
        watched = [paths.base, folder, paths.states, paths.leases]
        requests = [wire.GetChildren2(path, None) for path in watched]
        found = self._board.session.linearizable(client, requests)
        if any(isinstance(reply, Exception) for reply in found):
            self._board.session.lose()
        base, keys, states, leases = (children for children, _ in found)
        self._board.session.position.note(found[-1][1].pzxid)
        if shelf is Shelf.LIVE:
            self._board.session.position.note(found[1][1].pzxid)
        damaged = [Damage(f"{paths.base}/{n}", _FOREIGN) for n in base if n not in paths.FOLDERS]
        damaged += [Damage(f"{folder}/{n}", _FOREIGN) for n in keys if not records.is_key(n)]
        if shelf is Shelf.LIVE:
            damaged += [
                Damage(f"{paths.states}/{n}", _FOREIGN) for n in states if not records.is_key(n)
            ]
            odd = [name for name in leases if records.parse_lease_name(name) is None]
            damaged += [Damage(f"{paths.leases}/{name}", _FOREIGN) for name in odd]
        own = [name for name in keys if records.is_key(name)]
        there = self._on_shelf(client, shelf, own, set(states))
        damaged += [one for one in there if isinstance(one, Damage)]
        postings = [one for one in there if isinstance(one, Posting)]
        postings = [one for one in postings if after is None or one.place > after]
        postings.sort(key=lambda posting: posting.place)
        if limit is None or len(postings) <= limit:
            return primitives.Page(postings, damaged=damaged)
        return primitives.Page(postings[:limit], postings[limit - 1].place, damaged)

    def _next_page(
        self, client: Client, after: primitives.Place, limit: int
    ) -> primitives.Page | None:
        """Read a page that is not the first, without the bodies of the others.

        The places do not stand in the nodes' names: they are read once and kept by the feed.
        None where that can't be. What is foreign, or can't be read, was named on the first page.
        """
        feed = self._feed
        feed.ensure(client, ordered=True)
        if not feed.recursive:
            return None
        # Every change acknowledged before has been received by the feed after this.
        self._board.session.confirm(client)
        feed.look_up(client, again=True)
        if not feed.ordered:
            return None
        found = feed.page(after, limit + 1)
        shown = found[:limit]
        seen = self._shown(client, self._board.look(client, [key for key, _ in shown]))
        # One that went and came back since has another place, further on.
        postings = [
            posting
            for (_, entry), posting in zip(shown, seen, strict=True)
            if isinstance(posting, Posting) and posting.place == entry.place
        ]
        damaged = [one for one in seen if isinstance(one, Damage)]
        more = len(found) > limit
        return primitives.Page(postings, shown[-1][1].place if more else None, damaged)

    def _on_shelf(
        self, client: Client, shelf: Shelf, keys: Sequence[str], claimed: set[str]
    ) -> Sequence[Any]:
        if shelf is Shelf.LIVE:
            seen = self._board.look(client, keys, claimed)
            foreign = [
                Damage(f"{self._board.paths.live}/{one.key}", "there are foreign nodes under it")
                for one in seen
                if isinstance(one, Seen) and one.stat.numChildren
            ]
            return [*self._shown(client, seen), *foreign]
        folder = f"{self._board.paths.base}/{shelf.value}"
        replies = client.read([f"{folder}/{key}" for key in keys])
        read = _trashed if shelf is Shelf.TRASH else _entity
        found: list[Any] = []
        for key, reply in zip(keys, replies, strict=True):
            if not isinstance(reply, Exception):
                record = read(key, reply)
                found.append(record or Damage(f"{folder}/{key}", "it can't be read"))
        return found

    def count(self, shelf: Shelf) -> int:
        """Return how many nodes a shelf has."""
        client = self._board.session.client()
        folder = f"{self._board.paths.base}/{shelf.value}"
        stat = self._board.session.linearizable(client, [wire.Exists(folder, None)])[0]
        if stat is None:
            self._board.session.lose()
        return int(stat.numChildren)

    def restore(self, key: str) -> Posting:
        """Move a posting from the trash back to the live ones."""
        client, paths = self._board.session.client(), self._board.paths
        for _ in range(TRIES):
            live = self._board.look(client, [key], fresh=True)[0]
            if isinstance(live, Seen):
                return live.posting(self._board.time_for(client, [live]))
            path = f"{paths.trash}/{key}"
            requests = [wire.GetData(path, None), wire.Exists(f"{paths.states}/{key}", None)]
            record, litter = client.pipeline(requests)
            found = _trashed(key, record)
            if found is None or live is not None:
                raise errors.PostingNotFound(key, f"no posting {key!r} in the trash")
            trashed = records.Trashed.decode(record[0])
            job = records.Job(found.rank, found.body, created=trashed.created)
            state = records.State(
                trashed.token, found.attempts, found.deaths, uuid.uuid4().hex[:16], delay=0.0
            )
            state_path = f"{paths.states}/{key}"
            operations = [
                wire.SetData(paths.live, b"", -1),  # for the watchers: a move, no posting
                wire.Delete(path, record[1].version),
                client.create(f"{paths.live}/{key}", job.encode()),
                client.create(state_path, state.encode())
                if litter is None
                else wire.SetData(state_path, state.encode(), litter.version),
                client.create(f"{state_path}/{state.born}", b""),
            ]
            outcome = commit_one(client, operations)
            if outcome.error is not None:
                raise outcome.error
            if outcome.results is not None:
                stat = outcome.results[0]
                when = float(stat.mtime) / 1000.0
                serial = job.serial(int(stat.mzxid))
                return dataclasses.replace(found, serial=serial, modified_on=when)
        raise errors.Unavailable(f"posting {key!r} changes too fast")

    def purge(self, keys: Sequence[str], shelf: Shelf) -> Sequence[bool]:
        """Delete what is on a shelf for good."""
        client = self._board.session.client()
        folder = f"{self._board.paths.base}/{shelf.value}"
        read = _trashed if shelf is Shelf.TRASH else _entity
        found = self._board.session.read(client, [f"{folder}/{key}" for key in keys], fresh=True)
        writes: dict[int, Write] = {}
        for index, (key, reply) in enumerate(zip(keys, found, strict=True)):
            if read(key, reply) is not None:  # what is not the board's is not deleted
                writes[index] = ([wire.Delete(f"{folder}/{key}", reply[1].version)], None)
        done: dict[int, bool] = {}
        failures: list[errors.MultiboardError] = []
        for index, outcome in zip(writes, commit(client, writes.values()), strict=True):
            if outcome.error is not None:
                failures.append(outcome.error)
            done[index] = outcome.results is not None
        raise_first(failures)
        return [done.get(index, False) for index in range(len(keys))]


def _trashed(key: str, reply: Any) -> Posting | None:
    """Return a trashed posting as it was read; None where there is none that can be read."""
    try:
        return records.Trashed.decode(reply[0]).posting(key, reply[1])
    except (ValueError, TypeError):
        return None


def _entity(key: str, reply: Any) -> Posting | None:
    """Return an entity as it was read; None where there is none that can be read."""
    try:
        job, stat = records.Job.decode(reply[0]), reply[1]
    except (ValueError, TypeError):
        return None
    when = stat.ctime / 1000.0
    return Posting(key, job.rank, stat.czxid, job.body, 0, 0, when, when)
