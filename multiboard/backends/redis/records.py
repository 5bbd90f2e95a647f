# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The keys of a board, and what its scripts take and reply as values of the primitives.

The layout, with PREFIX:{NAMESPACE}: before each name, so that all have one hash tag:

- ``meta``, a hash: incarnation, format, number of the last change (``seq``), last serial, and for
  each process that lost a reply the count of its losses;
- ``feed``, a stream of changes; ``gone`` and ``consumed``: what was done, for repeats;
- ``sessions``, by deadline; ``present``, entities by session;
- ``live``, ``trash``, ``entities``: for each shelf the keys by place, with their states in
  ``:state`` and their bodies in ``:body``;
- ``index``, ``timed``, ``delayed``: live postings by what may happen to them next; ``claims``:
  claim id to key.

``scripts/_common.lua`` describes the state of a posting and the indexes. Here are pure functions
over bytes. This module imports the primitives, never the client library.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

from multiboard.primitives import Change, ChangeKind, Lease, NewPosting, Posting

#: Of the keys and values in the store. Another version must refuse the board, not misread it.
FORMAT = "1"
#: The keys of a board, with the type of each.
KEYS = {
    "meta": "hash",
    "feed": "stream",
    "gone": "zset",
    "consumed": "hash",
    "sessions": "zset",
    "present": "zset",
    "timed": "zset",
    "index": "zset",
    "delayed": "zset",
    "claims": "hash",
    "live": "zset",
    "live:state": "hash",
    "live:body": "hash",
    "trash": "zset",
    "trash:state": "hash",
    "trash:body": "hash",
    "entities": "zset",
    "entities:state": "hash",
    "entities:body": "hash",
}
#: Postings or changes in one reply.
PAGE = 500
#: Items, and bytes of bodies, in one call: a few milliseconds of the server's time.
CHUNK = 100
CHUNK_BYTES = 4 * 1024 * 1024
#: A place (rank, serial) is the score rank * SERIALS + serial.
SERIALS = 1 << 46

_KINDS = {kind.value.encode(): kind for kind in ChangeKind}
_Item = TypeVar("_Item")


def keys_of(prefix: str, namespace: str) -> Mapping[str, str]:
    """Return the keys of a board; they have one hash tag, and so one node of a cluster."""
    return {name: f"{prefix}:{{{namespace}}}:{name}" for name in KEYS}


def micro(seconds: float) -> int:
    """Return seconds as the scripts take them."""
    return round(seconds * 1e6)


def encoded(text: str) -> bytes:
    """Return a label as bytes; one that is no proper Unicode survives too."""
    return text.encode("utf-8", "surrogatepass")


def decoded(text: bytes) -> str:
    """Return the label of :func:`encoded`, and something readable for foreign bytes."""
    try:
        return text.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return readable(text)


def readable(name: bytes) -> str:
    """Return foreign bytes for people to read."""
    return name.decode("utf-8", "backslashreplace")


def digest(new: NewPosting) -> str:
    """Return the digest by which a repeat differs from another posting under the same key."""
    return hashlib.blake2b(b"%d %b" % (new.rank, new.body), digest_size=16).hexdigest()


def chunks(items: Sequence[_Item]) -> Iterator[Sequence[_Item]]:
    """Cut a batch into parts that do not block the server."""
    first, size = 0, 0
    for index, item in enumerate(items):
        size += len(item.body) if isinstance(item, NewPosting) else 0
        if index > first and (index - first == CHUNK or size > CHUNK_BYTES):
            yield items[first:index]
            first, size = index, len(item.body) if isinstance(item, NewPosting) else 0
    if items:
        yield items[first:]


def rows(flat: Sequence[Any]) -> Iterator[tuple[bytes, bytes | None, bytes | None, bytes | None]]:
    """Return key, score, state and body of each posting in a reply."""
    parts = iter(flat)
    return zip(parts, parts, parts, parts, strict=True)


def pairs(flat: Sequence[bytes]) -> dict[bytes, bytes]:
    """Return a reply of names and values as a mapping."""
    return dict(zip(flat[::2], flat[1::2], strict=True))


def change(fields: Sequence[bytes]) -> Change | None:
    """Return an entry of the feed; None for one that only wakes readers."""
    entry = pairs(fields)
    kind = _KINDS.get(entry.get(b"k", b""))
    if kind is None:
        return None
    token = entry.get(b"t", b"")
    return Change(kind, decoded(entry.get(b"j", b"")), int(token) if token.isdigit() else None)


def posting(
    row: tuple[bytes, bytes | None, bytes | None, bytes | None],
    now: int,
    dead: Mapping[bytes, bytes],
    *,
    entity: bool = False,
) -> Posting | None:
    """Return a posting as of ``now``; None for an entity whose session is dead.

    ``dead`` maps each dead session to its deadline. A lease that is over, by its own end or by
    its session, is shown as it will be once it is reaped.

    Raises: ``ValueError`` where the record is damaged, saying why.
    """
    key, score, state, body = row
    if score is None or state is None or body is None:
        raise ValueError("a part of the posting is missing")
    fields = state.split(b" ", 11)
    if len(fields) != 12:
        raise ValueError("the state can't be read")
    try:
        place = float(score)
        size, _, *numbers = fields[:11]
        created, attempts, deaths, modified, due, token, ends, session, width = map(int, numbers)
        name = key.decode("ascii")
    except ValueError:
        raise ValueError("the state can't be read") from None
    if not place.is_integer() or not 0 <= place < 100 * SERIALS:
        raise ValueError("its place is not one of the board's")
    if int(size) != len(body):
        raise ValueError(f"the body has {len(body)} bytes instead of {int(size)}")
    number = fields[9]
    lease = None
    if entity:
        if number in dead:
            return None
    elif session or ends:
        if session and number in dead:
            deaths += 1
            modified = min(int(float(dead[number] or now)), now)
        elif ends and ends <= now:
            deaths += 1
            modified = ends
        else:
            rest = fields[11]
            lease = Lease(
                name,
                decoded(rest[width:]),
                decoded(rest[:width]),
                token,
                number.decode() if session else None,
                (ends - now) / 1e6 if ends else None,
            )
    rank, serial = divmod(int(place), SERIALS)
    return Posting(
        name,
        rank,
        serial,
        body,
        attempts,
        deaths,
        created / 1e6,
        modified / 1e6,
        max(0.0, (due - now) / 1e6),
        lease,
    )
