# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""How a board lies in ZooKeeper: its nodes, what is in them, and what they mean together.

::

    ROOT/board:NAME             {"incarnation": I}; '/' in the name is ':', so boards never nest
      /I/                       a board that was made anew has other paths: no old client meets it
        live/KEY                a posting; never written again; its czxid is the serial
        states/KEY              what changes: token, attempts, deaths; made by the first claim
        states/KEY/BORN         an id of the state, for the claims after the first
        leases/KEY~TOKEN~CLAIM~KIND   the lease is current as long as this node is there
        trash/KEY, entities/KEY
        slots/SESSION-N         commit markers of what a session wrote (ephemeral)
        clock                   written to read the server's time

How that fences stands at the top of :mod:`multiboard.backends.zookeeper.leases`. The kind is
``s``, an ephemeral node of the holder's session, or ``t``, a persistent one that ends by the
server's clock. A state that names a lease whose node is gone shows a death.

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

from multiboard import primitives
from multiboard.primitives import Lease, Posting

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


# -- records ---------------------------------------------------------------------------------


def _split(data: bytes) -> tuple[dict[str, Any], bytes]:
    """Split a record into its header, one line of JSON, and the body behind it."""
    head, _, body = data.partition(b"\n")
    try:
        header = json.loads(head)
    except (ValueError, RecursionError):  # the latter for a thousand brackets
        raise ValueError("it is no record of multiboard") from None
    if not isinstance(header, dict) or header.get("v") != 1:
        raise ValueError("it is no record of a version that is known here")
    return header, body


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

    def encode(self) -> bytes:
        """Return the node's data."""
        header: dict[str, Any] = {"rank": self.rank}
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
        return cls(_number(header, "rank"), body, delay, created)


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


# -- what the nodes mean together --------------------------------------------------------------


class Now(NamedTuple):
    """What the server's clock shows: milliseconds between which it surely is."""

    earliest: float
    latest: float


#: For what does not depend on the time.
NO_MATTER = Now(0.0, 0.0)


@dataclass(slots=True)
class Seen:
    """All that the store holds of one live posting, as of one instant."""

    key: str
    job: Job
    stat: Any
    #: None where nobody ever claimed it; ``state_stat`` may still be there, of an earlier posting.
    state: State | None = None
    state_stat: Any = None
    #: None where it is unleased, or where the lease node is gone.
    hold: Hold | None = None
    hold_stat: Any = None

    @property
    def lease_name(self) -> str | None:
        """The name of the node of the lease that was given last and not released."""
        if self.state is None or self.state.lease is None:
            return None
        return f"{self.key}~{self.state.token}~{self.state.lease}"

    @property
    def ends(self) -> float | None:
        """When a timed lease ends: milliseconds by the server's clock."""
        if self.hold is None or self.hold.expires_in is None:
            return None
        return float(self.hold_stat.mtime) + self.hold.expires_in * 1000.0

    @property
    def due(self) -> float:
        """When it may be handed out: milliseconds by the server's clock; 0 for at once."""
        state = self.state
        if state is not None and state.delay is not None:
            return state.delay and float(self.state_stat.mtime) + state.delay * 1000.0
        if state is not None and state.due is not None:
            return float(state.due)
        return self.job.delay and float(self.stat.ctime) + self.job.delay * 1000.0

    def _due_in(self, now: Now) -> float:
        """Return the seconds until it may be handed out, never more than were requested."""
        if not self.due:
            return 0.0
        asked = self.job.delay if self.state is None else self.state.delay
        left = max(0.0, (self.due - now.earliest) / 1000.0)
        return left if asked is None else min(left, asked)

    @property
    def needs_time(self) -> bool:
        """Whether what it is depends on the time."""
        return self.due > 0 or self.ends is not None

    def held(self, now: Now, *, by_holder: bool = False) -> bool:
        """Return whether there is a lease that has not ended.

        While the time leaves it open, a lease is there for others and is over for its holder, so
        that nobody acts on it while somebody else may have it.
        """
        if self.hold is None:
            return False
        ends = self.ends
        return ends is None or ends > (now.latest if by_holder else now.earliest)

    def lease(self, now: Now) -> Lease | None:
        """Return the lease that has not ended."""
        if not self.held(now):
            return None
        assert self.hold is not None
        assert self.state is not None
        ends = self.ends
        session = format(self.hold_stat.ephemeralOwner & (2**64 - 1), "x")
        return Lease(
            self.key,
            self.hold.holder,
            self.hold.claim_id,
            self.state.token,
            session if ends is None else None,
            None if ends is None else max(0.0, (ends - now.latest) / 1000.0),
        )

    @property
    def tallies(self) -> tuple[int, int, int]:
        """Token, attempts and deaths, were the lease over that was given last.

        Tokens begin above the posting's serial. Each claim is a transaction of its own, so the
        serial of a posting of the same key that is made later is above all of them.
        """
        if self.state is None:
            return int(self.stat.czxid), 0, 0
        died = self.state.lease is not None
        return self.state.token, self.state.attempts, self.state.deaths + died

    def posting(self, now: Now) -> Posting:
        """Return the posting as of ``now``."""
        lease = self.lease(now)
        _, attempts, deaths = self.tallies
        if lease is not None:
            deaths -= 1
        created = self.job.created or self.stat.ctime
        changed: float = self.stat.ctime if self.state is None else self.state_stat.mtime
        if self.hold is not None and lease is None:
            changed = max(changed, self.ends or 0.0)
        return Posting(
            self.key,
            self.job.rank,
            self.stat.czxid,
            self.job.body,
            attempts,
            deaths,
            created / 1000.0,
            changed / 1000.0,
            self._due_in(now),
            lease,
        )

    def claimed(self, mark_and_kind: str, born: str) -> State:
        """Return the state that a claim leaves behind."""
        token, attempts, deaths = self.tallies
        return State(
            token + 1,
            attempts + 1,
            deaths,
            self.state.born if self.state is not None else born,
            mark_and_kind,
            due=int(self.due),
        )


def loses_transactions(version: str) -> bool:
    """Return whether members of an ensemble of this version may come to hold different data.

    After ZOOKEEPER-4785, mended in 3.8.4 and 3.9.2, and ZOOKEEPER-4925, of 3.9.3 alone.
    """
    numbers = tuple(map(int, re.findall(r"[0-9]+", version)))
    return bool(numbers) and (
        numbers < (3, 8, 4) or (3, 9) <= numbers < (3, 9, 2) or numbers[:3] == (3, 9, 3)
    )


def is_unclaimed(posting: primitives.Posting) -> bool:
    """Return whether nobody ever claimed the posting."""
    return posting.attempts == 0 and posting.lease is None


def was_released(lease: Lease, seen: Any) -> bool:
    """Return whether the state shows that this very lease was released."""
    state = seen.state if isinstance(seen, Seen) else None
    return state is not None and state.token == lease.token and state.lease is None


def died(lease: Lease, seen: Any) -> bool:
    """Return whether the state shows that this very lease ended by itself."""
    state = seen.state if isinstance(seen, Seen) else None
    return state is not None and state.token == lease.token and state.lease is not None
