# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Reading the shelves of a board in etcd: whole, in pages, and what is foreign in them.

Every listing is of one revision. This module imports the primitives, the errors and its own
siblings.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from multiboard import errors
from multiboard.backends.etcd import messages, records
from multiboard.backends.etcd.board import LOOKS, Board, Compacted
from multiboard.backends.etcd.messages import M
from multiboard.backends.etcd.records import Head, Keys, Seen
from multiboard.primitives import Damage, Page, Place, Posting, Shelf

#: How often a listing is begun anew because its revision was compacted meanwhile.
TRIES = 5
#: Foreign keys named in one listing.
NAMED = 1000
_FOREIGN = "it is not the board's"


def page(
    board: Board,
    shelf: Shelf,
    after: Place | None,
    limit: int | None,
    shown: Callable[[Seen, bytes], Posting],
) -> Page:
    """Read a shelf from behind a place; ``shown`` makes postings of what is live."""
    for _ in range(TRIES):
        try:
            return _page(board, shelf, after, limit, shown)
        except Compacted:
            continue
    raise errors.Unavailable("etcd is compacted faster than the board can be read")


def _page(
    board: Board,
    shelf: Shelf,
    after: Place | None,
    limit: int | None,
    shown: Callable[[Seen, bytes], Posting],
) -> Page:
    damaged: list[Damage] = []
    if shelf is Shelf.ENTITIES:
        postings = list(_entities(board, damaged))
        in_order = sorted((posting.place, posting) for posting in postings)
        rest = [posting for place, posting in in_order if after is None or place > after]
        more = limit is not None and len(rest) > limit
        rest = rest[:limit]
        return Page(rest, rest[-1].place if more else None, damaged)
    if shelf is Shelf.LIVE:
        found, revision = _live(board, damaged)
        if after is None:
            damaged += _between(board, revision)
        places: dict[tuple[int, int], Any] = {seen.place: seen for seen in found}
    else:
        trashed, revision = _trash(board, damaged)
        places = {posting.place: posting for posting in trashed}
    rest_places = sorted(place for place in places if after is None or place > after)
    more = limit is not None and len(rest_places) > limit
    chosen = [places[place] for place in rest_places[:limit]]
    bodies = _bodies(board, [one.key for one in chosen], revision)
    postings = []
    for one in chosen:
        body = bodies.get(one.key)
        if body is None:
            where = board.keys.of(shelf.value, one.key).decode()
            damaged.append(Damage(where, "it has no body"))
        elif isinstance(one, Seen):
            postings.append(shown(one, body))
        else:
            postings.append(with_body(one, body))
    return Page(postings, rest_places[len(chosen) - 1] if more else None, damaged)


def with_body(posting: Posting, body: bytes) -> Posting:
    """Return a posting with its body."""
    return Posting(
        posting.key, posting.rank, posting.serial, body, posting.attempts, posting.deaths,
        posting.created_on, posting.modified_on,
    )  # fmt: skip


def _live(board: Board, damaged: list[Damage]) -> tuple[list[Seen], int]:
    scan = board.scan("leases", end="live")
    heads: list[tuple[str, Any]] = []
    leases: dict[str, Any] = {}
    for kv in scan.kvs:
        folder, name = board.keys.part(kv.key)
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
    damaged += [Damage(_readable(kv.key), "it is the lease of nothing") for kv in leases.values()]
    over = set(board.reap(found))
    if over:
        again = board.look(sorted(over))
        found = [seen for seen in found if seen.key not in over]
        found += [seen for seen, _ in again if isinstance(seen, Seen)]
    return found, scan.revision


def _trash(board: Board, damaged: list[Damage]) -> tuple[list[Posting], int]:
    scan = board.scan("trash")
    found = []
    for kv in scan.kvs:
        _, name = board.keys.part(kv.key)
        try:
            found.append(_trashed(name, kv, b""))
        except ValueError as error:
            damaged.append(Damage(_readable(kv.key), str(error)))
    return found, scan.revision


def _trashed(key: str, kv: Any, body: bytes) -> Posting:
    head = Head.decode(kv.value)
    if not records.is_key(key) or head.serial is None:
        raise ValueError(_FOREIGN)
    return head.posting(key, head.serial, body)


def _entities(board: Board, damaged: list[Damage]) -> Iterable[Posting]:
    for kv in board.scan("entities").kvs:
        _, name = board.keys.part(kv.key)
        try:
            if not records.is_key(name):
                raise ValueError(_FOREIGN)
            yield records.decode_entity(name, kv)
        except ValueError as error:
            damaged.append(Damage(_readable(kv.key), str(error)))


def _between(board: Board, revision: int) -> Iterable[Damage]:
    """Name what lies between the board's folders."""
    top = board.keys.top
    taken = [(top + f.encode(), messages.prefix_end(top + f.encode())) for f in Keys.FOLDERS]
    # What lies between the leases and the live postings was read with them.
    taken += [(key, key + b"\0") for key in (board.keys.meta, board.keys.news)]
    begin, gaps = top, []
    for first, last in sorted(taken):
        gaps.append((begin, first))
        begin = last
    gaps.append((begin, messages.prefix_end(top)))
    operations = [
        messages.read(first, last, limit=NAMED, keys_only=True, revision=revision)
        for first, last in gaps
        if first < last and first != board.keys.of("leases")[:-1] + b"0"
    ]
    for response in board.ask(operations).responses:
        for kv in response.response_range.kvs:
            yield Damage(_readable(kv.key), _FOREIGN)


def _bodies(board: Board, keys: Sequence[str], revision: int) -> dict[str, bytes]:
    """Read bodies as of a revision, by the way that reads less."""
    folder = board.keys.of("bodies")
    end = messages.prefix_end(folder)
    if len(keys) > LOOKS:
        count = messages.read(folder, end, count_only=True, revision=revision)
        all_of_them = board.ask([count]).responses[0].response_range.count
        if len(keys) * 2 > all_of_them:
            kvs = board.scan("bodies", revision=revision).kvs
            wanted = set(keys)
            named = ((board.keys.part(kv.key)[1], kv) for kv in kvs)
            return {name: kv.value for name, kv in named if name in wanted}
    found: dict[str, bytes] = {}
    for at in range(0, len(keys), LOOKS * 3):
        part = keys[at : at + LOOKS * 3]
        reads = [messages.read(board.keys.of("bodies", k), revision=revision) for k in part]
        for key, response in zip(part, board.ask(reads).responses, strict=True):
            if response.response_range.kvs:
                found[key] = response.response_range.kvs[0].value
    return found


def _read_each(board: Board, folders: Sequence[str], keys: Sequence[str]) -> list[list[Any]]:
    """Read records by key; for each key one of each folder, None for none."""
    found = []
    size = LOOKS * 2 // len(folders)
    for at in range(0, len(keys), size):
        part = keys[at : at + size]
        reads = [messages.read(board.keys.of(folder, k)) for k in part for folder in folders]
        kvs = [r.response_range.kvs for r in board.ask(reads).responses]
        records = [kv[0] if kv else None for kv in kvs]
        found += [records[n : n + len(folders)] for n in range(0, len(records), len(folders))]
    return found


def trashed(board: Board, keys: Sequence[str]) -> list[tuple[Posting, int] | None]:
    """Read trashed postings by key, with the revision of each; None where there is none."""
    found: list[tuple[Posting, int] | None] = []
    for key, (kv, body) in zip(keys, _read_each(board, ["trash", "bodies"], keys), strict=True):
        try:
            record = None if kv is None or body is None else _trashed(key, kv, body.value)
        except ValueError:
            record = None
        found.append(None if record is None else (record, kv.mod_revision))
    return found


def entered(board: Board, keys: Sequence[str]) -> list[int]:
    """Return the revisions of entries by key; 0 where there is none that can be read."""
    found = []
    for key, (kv,) in zip(keys, _read_each(board, ["entities"], keys), strict=True):
        try:
            if kv is not None:
                records.decode_entity(key, kv)
            found.append(0 if kv is None else int(kv.mod_revision))
        except ValueError:
            found.append(0)
    return found


def added_since(board: Board, keys: Sequence[str], since: int, fence: str) -> set[str]:
    """Tell which live postings were made after a revision and before a fence was closed.

    They may be gone since: this reads the past.

    Raises: ``Indeterminate`` where the past is not kept; ``Unavailable``, ``Closed``.
    """
    live = {board.keys.of("live", key): key for key in keys}
    mark = board.keys.of("fences", fence)
    stream = board.client.watch(
        M["WatchCreateRequest"](key=mark, range_end=max(live) + b"\0", start_revision=since + 1)
    )
    found: set[str] = set()
    give_up = time.monotonic() + board.client.patience
    try:
        while time.monotonic() < give_up:
            for response in stream.take(board.client.patience, board.client.patience):
                if response.canceled:
                    raise errors.Indeterminate(
                        "whether postings were added can't be known any more: "
                        f"{response.cancel_reason or 'their revision was compacted'}"
                    )
                for event in response.events:
                    if event.kv.key in live and event.type == messages.PUT:
                        found.add(live[event.kv.key])
                    elif event.kv.key == mark:
                        return found
    finally:
        stream.close()
    raise errors.Unavailable("etcd did not tell the past in time")


def _readable(raw: bytes) -> str:
    return raw.decode("utf-8", "backslashreplace")
