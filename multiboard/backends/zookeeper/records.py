# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""How a board lies in ZooKeeper: its nodes, and what is in them.

::

    ROOT/board:NAME             {"incarnation": I}; '/' in the name is ':', so boards never nest
      /I/                       a board that was made anew has other paths: no old client meets it
        live/KEY                a posting; never written again; its czxid begins the serial
        states/KEY              what changes: token, attempts, deaths; made by the first claim
        states/KEY/BORN         an id of the state, for the claims after the first
        leases/KEY~TOKEN~CLAIM~KIND   the lease is current as long as this node is there
        trash/KEY, entities/KEY
        slots/SESSION-N         commit markers of what a session wrote (ephemeral)
        clock                   written to read the server's time

What they mean together is in :mod:`multiboard.backends.zookeeper.seen`; how a lease fences stands
at the top of :mod:`multiboard.backends.zookeeper.leases`. A lease's kind is ``s``, an ephemeral
node of the holder's session, or ``t``, a persistent one that ends by the server's clock. A state
that names a lease whose node is gone shows a death.

The data of ``live`` and ``leases`` themselves mean nothing; they are written in a transaction so
that a watcher can distinguish a release from a death (``leases``), and a move between the shelves
from a posting or a removal (``live``). This module imports the primitives only.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any, NamedTuple

from multiboard.primitives import Lease, Posting

#: Postings that are made in one transaction: a serial is its number times this, plus the place.
PLACES = 512
#: What takes the place of a node's data where the node itself can't be deleted, because somebody
#: put nodes of their own under it.
GONE = b"gone"
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}\Z")
_LEASE = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]{0,127})~([1-9][0-9]*)~([0-9a-f]{16})~([st])\Z")


def is_key(name: str) -> bool:
    """Return whether a node's name may be a posting's key."""
    return _KEY.match(name) is not None


class LeaseName(NamedTuple):
    """The parts of a lease node's name."""

    key: str
    token: int
    mark: str
    timed: bool


def claim_mark(claim_id: str) -> str:
    """Return what stands for a claim id in node names: not every claim id may be in one."""
    return hashlib.sha256(claim_id.encode()).hexdigest()[:16]


def lease_name(lease: Lease) -> str:
    """Return the name of a lease's node."""
    kind = "t" if lease.session is None else "s"
    return f"{lease.key}~{lease.token}~{claim_mark(lease.claim_id)}~{kind}"


def parse_lease_name(name: str) -> LeaseName | None:
    """Return the parts of a lease node's name; None where it is none of ours."""
    match = _LEASE.match(name)
    if match is None:
        return None
    return LeaseName(match[1], int(match[2]), match[3], match[4] == "t")


class Paths:
    """The paths of one board's nodes."""

    BOARD = "board:"
    FOLDERS = ("live", "states", "leases", "trash", "entities", "slots", "clock")

    def __init__(self, top: str, incarnation: str) -> None:
        self.top = top
        self.incarnation = incarnation
        self.base = f"{top}/{incarnation}"
        self.live = f"{self.base}/live"
        self.states = f"{self.base}/states"
        self.leases = f"{self.base}/leases"
        self.trash = f"{self.base}/trash"
        self.entities = f"{self.base}/entities"
        self.slots = f"{self.base}/slots"
        self.clock = f"{self.base}/clock"

    @staticmethod
    def board(root: str, namespace: str) -> str:
        """Return the path of a board's uppermost node."""
        return f"{root.rstrip('/')}/{Paths.BOARD}{namespace.replace('/', ':')}"

    @staticmethod
    def namespace(name: str) -> str:
        """Return the board's name of its uppermost node's."""
        return name.removeprefix(Paths.BOARD).replace(":", "/")


#: The paths of a board that has not been found yet.
NOWHERE = Paths("", "")


def _split(data: bytes) -> tuple[dict[str, Any], bytes]:
    """Split a record into its header, one line of JSON, and the body behind it."""
    head, _, body = data.partition(b"\n")
    try:
        header = json.loads(head)
    # The latter for a thousand brackets.
    except (ValueError, RecursionError):
        raise ValueError("it is no record of multiboard") from None
    if isinstance(header, dict) and header.get("v") == 1:
        return header, body
    raise ValueError("it is no record of a version that is known here")


def _join(header: dict[str, Any], body: bytes = b"") -> bytes:
    return json.dumps({"v": 1, **header}, separators=(",", ":")).encode() + b"\n" + body


def _number(header: dict[str, Any], name: str, *, low: float = 0, kind: type = int) -> Any:
    value = header.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float) if kind is float else int):
        raise ValueError(f"its {name} is {value!r}")
    if not low <= value < 2**63:  # which a NaN is not, nor infinity
        raise ValueError(f"its {name} is {value!r}")
    return value


@dataclass(frozen=True, slots=True)
class Job:
    """A node of ``live`` or ``entities``."""

    rank: int
    body: bytes
    delay: float = 0.0
    #: Milliseconds by the server's clock, where the node is not as old as the posting.
    created: int | None = None
    #: Its place among those that were made in the same transaction.
    place: int = 0

    def encode(self) -> bytes:
        """Return the node's data."""
        header: dict[str, Any] = {"rank": self.rank}
        if self.place:
            header["place"] = self.place
        if self.delay > 0:
            header["delay"] = self.delay
        if self.created is not None:
            header["created"] = self.created
        return _join(header, self.body)

    @classmethod
    def decode(cls, data: bytes) -> Job:
        """Read the node's data; ``ValueError`` where it is damaged."""
        header, body = _split(data)
        created = _number(header, "created") if "created" in header else None
        delay = _number(header, "delay", kind=float) if "delay" in header else 0.0
        place = _number(header, "place") if "place" in header else 0
        if place >= PLACES:
            raise ValueError(f"its place is {place!r}")
        return cls(_number(header, "rank"), body, delay, created, place)

    def serial(self, zxid: int) -> int:
        """Return the posting's serial, by the transaction that made its node."""
        return zxid * PLACES + self.place


@dataclass(frozen=True, slots=True)
class State:
    """A node of ``states``."""

    token: int
    attempts: int
    deaths: int
    #: The name of the child that distinguishes this state from a later one of the same key.
    born: str
    #: The mark and the kind of the lease given last, None where it was released.
    lease: str | None = None
    #: Seconds from the node's last write, or milliseconds by the server's clock; at most one.
    delay: float | None = None
    due: int | None = None

    def encode(self) -> bytes:
        """Return the node's data."""
        names = ("token", "attempts", "deaths", "born", "lease", "delay", "due")
        header = {name: getattr(self, name) for name in names}
        return _join({name: value for name, value in header.items() if value is not None})

    @classmethod
    def decode(cls, data: bytes) -> State:
        """Read the node's data; ``ValueError`` where it is damaged."""
        header, _ = _split(data)
        born, lease = header.get("born"), header.get("lease")
        if not isinstance(born, str) or not (lease is None or isinstance(lease, str)):
            raise ValueError("it names no lease")
        return cls(
            _number(header, "token"),
            _number(header, "attempts"),
            _number(header, "deaths"),
            born,
            lease,
            _number(header, "delay", kind=float) if "delay" in header else None,
            _number(header, "due") if "due" in header else None,
        )


@dataclass(frozen=True, slots=True)
class Hold:
    """A node of ``leases``."""

    holder: str
    claim_id: str
    expires_in: float | None

    def encode(self) -> bytes:
        """Return the node's data."""
        return _join({"holder": self.holder, "claim": self.claim_id, "expires_in": self.expires_in})

    @classmethod
    def decode(cls, data: bytes) -> Hold:
        """Read the node's data; ``ValueError`` where it is damaged."""
        header, _ = _split(data)
        holder, claim_id = header.get("holder"), header.get("claim")
        if not isinstance(holder, str) or not isinstance(claim_id, str):
            raise ValueError("it names no holder")
        expires_in = header.get("expires_in")
        if expires_in is not None:
            _number(header, "expires_in", kind=float)
        return cls(holder, claim_id, expires_in)


@dataclass(frozen=True, slots=True)
class Trashed:
    """A node of ``trash``."""

    rank: int
    body: bytes
    created: int
    serial: int
    attempts: int
    deaths: int
    token: int

    def encode(self) -> bytes:
        """Return the node's data."""
        names = ("rank", "created", "serial", "attempts", "deaths", "token")
        return _join({name: getattr(self, name) for name in names}, self.body)

    @classmethod
    def decode(cls, data: bytes) -> Trashed:
        """Read the node's data; ``ValueError`` where it is damaged."""
        header, body = _split(data)
        names = ("created", "serial", "attempts", "deaths", "token")
        return cls(_number(header, "rank"), body, *(int(_number(header, name)) for name in names))

    def posting(self, key: str, stat: Any) -> Posting:
        """Return the posting as the trash shelf shows it."""
        return Posting(
            key,
            self.rank,
            self.serial,
            self.body,
            self.attempts,
            self.deaths,
            self.created / 1000.0,
            stat.ctime / 1000.0,
        )
