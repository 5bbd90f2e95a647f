# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""How a board lies in etcd: its keys, what is in them, and what they mean together.

::

    ROOT/board:NAME/            '/' in the name is ':', so boards never nest
      meta                      {"incarnation": I}; every transaction compares it
      bodies/KEY                a posting's body, live or in the trash; written once
      live/KEY                  all else of a live posting; written by each claim and release
      leases/KEY                the lease is current as long as this key is there
      trash/KEY                 all but the body of a posting in the trash
      entities/KEY              an entry, with its body, under the etcd lease of its session
      fences/ID                 makes void what a backend sent and got no reply to
      news                      written whenever a posting becomes one that can be claimed

A **serial** is the revision that made ``live/KEY``, with the place in the batch behind it. A
**token** is the revision that made ``leases/KEY``: revisions only rise, over everything. Whoever
removes or releases compares it. The key of a session lease hangs on the etcd lease of its session
and goes with it, that of a timed lease is deleted by whoever finds that it is over. Either way
nothing else is written: a live record that is marked as leased, and no lease, means a death.

All that a watch has to receive stands between ``leases/`` and ``trash/``, without the bodies. This
module imports the primitives and its own siblings.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from multiboard.backends.etcd.clock import Stamp
from multiboard.primitives import Lease, Posting

#: Places in a batch: a serial is a revision times this, plus the place.
PLACES = 128
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}\Z")


def is_key(name: str) -> bool:
    """Return whether a name may be a posting's key."""
    return _KEY.match(name) is not None


class Keys:
    """The keys of one board."""

    FOLDERS = ("bodies/", "entities/", "fences/", "leases/", "live/", "trash/")

    def __init__(self, root: str, namespace: str) -> None:
        name = namespace.replace("/", ":")
        self.namespace = namespace
        self._root = root
        #: What the keys of all boards under the root begin with.
        self.all = f"{root.rstrip('/')}/board:".encode()
        self.top = self.all + f"{name}/".encode()
        self.meta = self.top + b"meta"
        self.news = self.top + b"news"
        #: The range of the watch: from the leases to the end of the trash.
        self.watched = (self.top + b"leases/", self.top + b"trash0")

    def of(self, folder: str, key: str = "") -> bytes:
        """Return the key of a record in a folder; without ``key``, what they all begin with."""
        return self.top + f"{folder}/{key}".encode()

    def around(self, raw: bytes) -> Keys:
        """Return the keys of the board that a key belongs to, which is any under the root."""
        name = raw[len(self.all) :].partition(b"/")[0].decode("utf-8", "backslashreplace")
        return Keys(self._root, name.replace(":", "/"))

    def meta_beside(self, raw: bytes) -> bytes:
        """Return the key by which the board that a key belongs to is one; its name may be any."""
        return self.all + raw[len(self.all) :].partition(b"/")[0] + b"/meta"

    def part(self, raw: bytes) -> tuple[str, str]:
        """Return the folder and the name of a record."""
        folder, _, name = raw[len(self.top) :].decode("utf-8", "backslashreplace").partition("/")
        return folder, name


# -- records ---------------------------------------------------------------------------------


def _decode(data: bytes) -> dict[str, Any]:
    try:
        record = json.loads(data)
    except (ValueError, RecursionError):  # the latter for a thousand brackets
        record = None
    if not isinstance(record, dict):
        raise ValueError("it is no record of multiboard")
    if record.get("v") != 1:
        raise ValueError("it is no record of a known version")
    return record


#: Made once: ``json.dumps`` makes one for each call that asks for other separators than its own.
_ENCODER = json.JSONEncoder(separators=(",", ":"))


def _encode(**fields: Any) -> bytes:
    known = {name: value for name, value in fields.items() if value is not None}
    return _ENCODER.encode({"v": 1, **known}).encode()


def _number(record: Mapping[str, Any], name: str, kind: type = int) -> Any:
    value = record.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float) if kind is float else int):
        raise ValueError(f"its {name} is {value!r}")
    if not 0 <= value < 2**63:  # which a NaN is not, nor infinity
        raise ValueError(f"its {name} is {value!r}")
    return value


def _stamp(record: Mapping[str, Any], name: str) -> Stamp | None:
    value = record.get(name)
    if value is None:
        return None
    if not (
        isinstance(value, list)
        and len(value) == 2
        and isinstance(value[0], int)
        and isinstance(value[1], (int, float))
    ):
        raise ValueError(f"its {name} is {value!r}")
    return Stamp(value[0], float(value[1]))


def encode_meta(incarnation: str) -> bytes:
    """Return what ``meta`` holds."""
    return _encode(incarnation=incarnation)


def decode_meta(data: bytes) -> str:
    """Return the incarnation; ``ValueError`` where there is none to be read."""
    incarnation = _decode(data).get("incarnation")
    if not isinstance(incarnation, str) or not re.fullmatch("[0-9a-f]{32}", incarnation):
        raise ValueError("it names no incarnation")
    return incarnation


@dataclass(frozen=True, slots=True)
class Head:
    """A record of ``live`` or ``trash``, or the first line of one of ``entities``."""

    rank: int
    #: The posting's place in the batch that added it.
    place: int
    #: Seconds since the epoch, by the clock of whoever wrote it: for people.
    created: float
    modified: float
    attempts: int = 0
    deaths: int = 0
    #: Whether a lease was given and not given back.
    leased: bool = False
    #: Seconds for which it is held back, since this record was written or since the stamp.
    delay: float = 0.0
    since: Stamp | None = None
    #: In the trash only.
    serial: int | None = None

    def encode(self) -> bytes:
        """Return the record's bytes."""
        fields = {name: getattr(self, name) for name in self.__slots__}
        return _encode(**{**fields, "leased": self.leased or None, "delay": self.delay or None})

    @classmethod
    def decode(cls, data: bytes) -> Head:
        """Read a record; ``ValueError`` where it is damaged."""
        record = _decode(data)
        return cls(
            _number(record, "rank"),
            _number(record, "place"),
            _number(record, "created", float),
            _number(record, "modified", float),
            _number(record, "attempts"),
            _number(record, "deaths"),
            record.get("leased") is True,
            _number(record, "delay", float) if "delay" in record else 0.0,
            _stamp(record, "since"),
            _number(record, "serial") if "serial" in record else None,
        )

    def posting(self, key: str, serial: int, body: bytes) -> Posting:
        """Return the posting, as far as this record has it."""
        return Posting(
            key, self.rank, serial, body, self.attempts, self.deaths, self.created, self.modified
        )


@dataclass(frozen=True, slots=True)
class Hold:
    """A record of ``leases``."""

    holder: str
    claim_id: str
    #: None for a session lease.
    expires_in: float | None = None
    since: Stamp | None = None

    def encode(self) -> bytes:
        """Return the record's bytes."""
        return _encode(
            holder=self.holder, claim=self.claim_id, expires_in=self.expires_in, since=self.since
        )

    @classmethod
    def decode(cls, data: bytes) -> Hold:
        """Read a record; ``ValueError`` where it is damaged."""
        record = _decode(data)
        holder, claim_id = record.get("holder"), record.get("claim")
        if not isinstance(holder, str) or not isinstance(claim_id, str):
            raise ValueError("it names no holder")
        expires_in = _number(record, "expires_in", float) if "expires_in" in record else None
        return cls(holder, claim_id, expires_in, _stamp(record, "since"))


# -- what the records mean together --------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Held:
    """A lease as the store holds it."""

    key: str
    hold: Hold
    token: int
    #: The revision of its last renewal.
    revision: int
    #: The etcd lease of its session, 0 for a timed lease.
    lease: int

    @classmethod
    def read(cls, key: str, kv: Any) -> Held:
        """Return a lease. One that can't be read keeps others away all the same."""
        try:
            hold = Hold.decode(kv.value)
        except ValueError:
            hold = Hold("", "")
        if kv.lease:
            hold = replace(hold, expires_in=None)
        return cls(key, hold, kv.create_revision, kv.mod_revision, kv.lease)

    @property
    def timed(self) -> bool:
        """Whether it ends by the clock."""
        return not self.lease and self.hold.expires_in is not None

    def shown(self, left: float | None) -> Lease:
        """Return it as a lease that ends in so many seconds."""
        hold = self.hold
        session = format(self.lease, "x") if not self.timed else None
        return Lease(self.key, hold.holder, hold.claim_id, self.token, session, left)


@dataclass(frozen=True, slots=True)
class Seen:
    """All but the body of one live posting, as of one revision."""

    key: str
    head: Head
    serial: int
    #: The revision of the head's last writing.
    revision: int
    held: Held | None = None

    @classmethod
    def read(cls, key: str, kv: Any, lease: Any = None) -> Seen:
        """Return a posting; ``ValueError`` where it is damaged."""
        head = Head.decode(kv.value)
        if not head.rank < 100 or not head.place < PLACES:
            raise ValueError(f"its rank is {head.rank} and its place {head.place}")
        return cls(
            key,
            head,
            kv.create_revision * PLACES + head.place,
            kv.mod_revision,
            None if lease is None else Held.read(key, lease),
        )

    @property
    def place(self) -> tuple[int, int]:
        """Its place in the order."""
        return (self.head.rank, self.serial)

    @property
    def deaths(self) -> int:
        """How many leases ended by themselves."""
        return self.head.deaths + (self.head.leased and self.held is None)

    def posting(self, body: bytes, due_in: float, left: float | None) -> Posting:
        """Return the posting as it is to be shown."""
        head = self.head
        return Posting(
            self.key,
            head.rank,
            self.serial,
            body,
            head.attempts,
            self.deaths,
            head.created,
            head.modified,
            due_in,
            None if self.held is None else self.held.shown(left),
        )

    def claimed(self, now: float) -> Head:
        """Return the record that a claim leaves behind."""
        head = self.head
        return replace(
            head,
            attempts=head.attempts + 1,
            deaths=self.deaths,
            leased=True,
            modified=max(now, head.modified + 1e-6),
        )


def encode_entity(head: Head, body: bytes) -> bytes:
    """Return a record of ``entities``: a line, and the body behind it."""
    return head.encode() + b"\n" + body


def decode_entity(key: str, kv: Any) -> Posting:
    """Return an entry; ``ValueError`` where it is damaged."""
    line, _, body = kv.value.partition(b"\n")
    head = Head.decode(line)
    return head.posting(key, kv.mod_revision * PLACES + head.place, body)
