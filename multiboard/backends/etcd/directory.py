# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The shelves of a board in etcd: listing them whole or in pages, restoring, purging.

Every listing is of one revision, and names what is foreign in the store. This module imports the
primitives, the errors and its own siblings.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

from multiboard import errors
from multiboard.backends.etcd import messages, records
from multiboard.backends.etcd.board import LOOKS, Board
from multiboard.backends.etcd.clock import wall_clock
from multiboard.backends.etcd.errors import Compacted
from multiboard.backends.etcd.records import PLACES, Head, Keys, Seen
from multiboard.backends.etcd.transactions import TRIES, Step
from multiboard.primitives import Damage, Page, Place, Posting, Shelf

#: How often a listing is begun anew because its revision was compacted meanwhile.
LISTINGS = 5
#: Foreign keys named in one listing.
NAMED = 1000
_FOREIGN = "it is not the board's"


class Directory:
    """Reads the shelves, and moves what is on them."""

    def __init__(self, board: Board) -> None:
        self._board = board

    # -- listing ---------------------------------------------------------------------------------

    def page(self, shelf: Shelf, after: Place | None, limit: int | None) -> Page:
        """Read a shelf from behind a place."""
        for _ in range(LISTINGS):
            try:
                if shelf is Shelf.ENTITIES:
                    return self._page_of_entities(after, limit)
                return self._page(shelf, after, limit)
            except Compacted:
                continue
        raise errors.Unavailable("etcd is compacted faster than the board can be read")

    def _page_of_entities(self, after: Place | None, limit: int | None) -> Page:
        damaged: list[Damage] = []
        postings = list(self._entities(damaged))
        in_order = sorted((posting.place, posting) for posting in postings)
        rest = [posting for place, posting in in_order if after is None or place > after]
        more = limit is not None and len(rest) > limit
        rest = rest[:limit]
        return Page(rest, rest[-1].place if more else None, damaged)

    def _page(self, shelf: Shelf, after: Place | None, limit: int | None) -> Page:
        board = self._board
        damaged: list[Damage] = []
        if shelf is Shelf.LIVE:
            found, revision = self._live(damaged)
            if after is None:
                damaged += self._between(revision)
            places: dict[Place, Any] = {seen.place: seen for seen in found}
        else:
            trashed, revision = self._trash(damaged)
            places = {posting.place: posting for posting in trashed}
        rest = sorted(place for place in places if after is None or place > after)
        more = limit is not None and len(rest) > limit
        chosen = [places[place] for place in rest[:limit]]
        bodies = self._bodies([one.key for one in chosen], revision)
        postings = []
        for one in chosen:
            body = bodies.get(one.key)
            if body is None:
                where = board.keys.of(shelf.value, one.key).decode()
                damaged.append(Damage(where, "it has no body"))
            elif isinstance(one, Seen):
                postings.append(board.posting(one, body))
            else:
                postings.append(dataclasses.replace(one, body=body))
        return Page(postings, rest[len(chosen) - 1] if more else None, damaged)

    def _live(self, damaged: list[Damage]) -> tuple[list[Seen], int]:
        scan = self._board.scan("leases", end="live")
        heads: list[tuple[str, Any]] = []
        leases: dict[str, Any] = {}
        for kv in scan.kvs:
            folder, name = self._board.keys.part(kv.key)
            if not records.is_key(name) or folder not in ("live", "leases"):
                damaged.append(Damage(_readable(kv.key), _FOREIGN))
            elif folder == "live":
                heads.append((name, kv))
            else:
                leases[name] = kv
        found = []
        for name, kv in heads:
            try:
                found.append(Seen.read(name, kv, leases.pop(name, None)))
            except ValueError as error:
                leases.pop(name, None)
                damaged.append(Damage(_readable(kv.key), str(error)))
        damaged += [
            Damage(_readable(kv.key), "it is the lease of nothing") for kv in leases.values()
        ]
        over = set(self._board.reap(found))
        if over:
            again = self._board.look(sorted(over))
            found = [seen for seen in found if seen.key not in over]
            found += [seen for seen, _ in again if isinstance(seen, Seen)]
        return found, scan.revision

    def _trash(self, damaged: list[Damage]) -> tuple[list[Posting], int]:
        scan = self._board.scan("trash")
        found = []
        for kv in scan.kvs:
            _, name = self._board.keys.part(kv.key)
            try:
                found.append(_trashed(name, kv, b""))
            except ValueError as error:
                damaged.append(Damage(_readable(kv.key), str(error)))
        return found, scan.revision

    def _entities(self, damaged: list[Damage]) -> Iterable[Posting]:
        for kv in self._board.scan("entities").kvs:
            _, name = self._board.keys.part(kv.key)
            try:
                if not records.is_key(name):
                    raise ValueError(_FOREIGN)
                yield records.decode_entity(name, kv)
            except ValueError as error:
                damaged.append(Damage(_readable(kv.key), str(error)))

    def _between(self, revision: int) -> Iterable[Damage]:
        """Name what lies between the board's folders."""
        top = self._board.keys.top
        taken = [(top + f.encode(), messages.prefix_end(top + f.encode())) for f in Keys.FOLDERS]
        # What lies between the leases and the live postings was read with them.
        taken += [(key, key + b"\0") for key in (self._board.keys.meta, self._board.keys.news)]
        begin, gaps = top, []
        for first, last in sorted(taken):
            gaps.append((begin, first))
            begin = last
        gaps.append((begin, messages.prefix_end(top)))
        operations = [
            messages.read(first, last, limit=NAMED, keys_only=True, revision=revision)
            for first, last in gaps
            if first < last and first != self._board.keys.of("leases")[:-1] + b"0"
        ]
        for response in self._board.session.read(operations).responses:
            for kv in response.response_range.kvs:
                yield Damage(_readable(kv.key), _FOREIGN)

    def _bodies(self, keys: Sequence[str], revision: int) -> dict[str, bytes]:
        """Read bodies as of a revision, by the way that reads less."""
        folder = self._board.keys.of("bodies")
        end = messages.prefix_end(folder)
        if len(keys) > LOOKS:
            count = messages.read(folder, end, count_only=True, revision=revision)
            all_of_them = self._board.session.read([count]).responses[0].response_range.count
            if len(keys) * 2 > all_of_them:
                kvs = self._board.scan("bodies", revision=revision).kvs
                wanted = set(keys)
                named = ((self._board.keys.part(kv.key)[1], kv) for kv in kvs)
                return {name: kv.value for name, kv in named if name in wanted}
        found: dict[str, bytes] = {}
        for at in range(0, len(keys), LOOKS * 3):
            part = keys[at : at + LOOKS * 3]
            reads = [
                messages.read(self._board.keys.of("bodies", k), revision=revision) for k in part
            ]
            for key, response in zip(part, self._board.session.read(reads).responses, strict=True):
                if response.response_range.kvs:
                    found[key] = response.response_range.kvs[0].value
        return found

    def count(self, shelf: Shelf) -> int:
        """Count what is on a shelf."""
        folder = self._board.keys.of(shelf.value)
        count = messages.read(folder, messages.prefix_end(folder), count_only=True)
        return int(self._board.session.read([count]).responses[0].response_range.count)

    # -- by key ----------------------------------------------------------------------------------

    def _read_each(self, folders: Sequence[str], keys: Sequence[str]) -> list[list[Any]]:
        """Read records by key; for each key one of each folder, None for none."""
        found = []
        size = LOOKS * 2 // len(folders)
        for at in range(0, len(keys), size):
            part = keys[at : at + size]
            reads = [
                messages.read(self._board.keys.of(folder, k)) for k in part for folder in folders
            ]
            kvs = [r.response_range.kvs for r in self._board.session.read(reads).responses]
            records = [kv[0] if kv else None for kv in kvs]
            found += [records[n : n + len(folders)] for n in range(0, len(records), len(folders))]
        return found

    def trashed(self, keys: Sequence[str]) -> list[tuple[Posting, int] | None]:
        """Read trashed postings by key, with the revision of each; None where there is none."""
        found: list[tuple[Posting, int] | None] = []
        for key, (kv, body) in zip(keys, self._read_each(["trash", "bodies"], keys), strict=True):
            try:
                record = None if kv is None or body is None else _trashed(key, kv, body.value)
            except ValueError:
                record = None
            found.append(None if record is None else (record, kv.mod_revision))
        return found

    def _entered(self, keys: Sequence[str]) -> list[int]:
        """Return the revisions of entries by key; 0 where there is none that can be read."""
        found = []
        for key, (kv,) in zip(keys, self._read_each(["entities"], keys), strict=True):
            try:
                if kv is not None:
                    records.decode_entity(key, kv)
                found.append(0 if kv is None else int(kv.mod_revision))
            except ValueError:
                found.append(0)
        return found

    # -- moving ----------------------------------------------------------------------------------

    def restore(self, key: str) -> Posting:
        """Put a trashed posting back on the live shelf."""
        board, of = self._board, self._board.keys.of
        live, trash = of("live", key), of("trash", key)
        for _ in range(TRIES):
            ((seen, body),) = board.look([key], bodies=True)
            if isinstance(seen, Seen):
                return board.posting(seen, body)
            (found,) = self.trashed([key])
            if found is None or seen is not None:
                raise errors.PostingNotFound(key, f"no posting {key!r} in the trash")
            posting, revision = found
            modified = max(wall_clock(), posting.modified_on + 1e-6)
            head = Head(
                posting.rank, 0, posting.created_on, modified, posting.attempts, posting.deaths
            )
            step = Step(
                [messages.unchanged(trash, revision), messages.created(live, 0)],
                [messages.delete(trash), messages.put(live, head.encode())],
            )
            (outcome,) = board.transactions.commit([step], news=True)
            if outcome.done:
                return head.posting(key, outcome.revision * PLACES, posting.body)
        raise errors.Unavailable(f"posting {key!r} changes too fast")

    def purge(self, keys: Sequence[str], shelf: Shelf) -> list[bool]:
        """Delete postings from the trash, or entries, for good; return which were there."""
        of, folder = self._board.keys.of, shelf.value
        if shelf is Shelf.TRASH:
            sound = [0 if found is None else found[1] for found in self.trashed(keys)]
        else:
            sound = self._entered(keys)
        steps: dict[int, Step] = {}
        for index, (key, revision) in enumerate(zip(keys, sound, strict=True)):
            if revision:  # what is not the board's is not deleted
                operations = [messages.delete(of(folder, key))]
                if shelf is Shelf.TRASH:
                    operations.append(messages.delete(of("bodies", key)))
                condition = messages.unchanged(of(folder, key), revision)
                steps[index] = Step([condition], operations)
        outcomes = self._board.transactions.commit(list(steps.values()))
        done = dict(zip(steps, (outcome.done for outcome in outcomes), strict=True))
        return [done.get(index, False) for index in range(len(keys))]


def _trashed(key: str, kv: Any, body: bytes) -> Posting:
    head = Head.decode(kv.value)
    if not records.is_key(key) or head.serial is None:
        raise ValueError(_FOREIGN)
    return head.posting(key, head.serial, body)


def _readable(raw: bytes) -> str:
    return raw.decode("utf-8", "backslashreplace")
