# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The values that pass between a board and its backend: postings, leases, changes, traits.

They are plain and frozen. Import them from :mod:`multiboard.primitives`, which explains their
use. This module imports the standard library only.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field

#: A place in the order of a shelf: rank, then serial.
Place = tuple[int, int]


class Shelf(enum.Enum):
    """A part of a board."""

    #: The postings that wait or are being worked on.
    LIVE = "live"
    #: The postings that were set aside, kept until they are restored or purged.
    TRASH = "trash"
    #: Who is present: each entry lives by the session that added it.
    ENTITIES = "entities"


class ChangeKind(enum.Enum):
    """What happened to a posting on the live shelf."""

    #: It was added.
    POSTED = "posted"
    #: It was leased.
    CLAIMED = "claimed"
    #: Its holder gave the lease back.
    RELEASED = "released"
    #: Its lease ended without being given back: the session died, or the time ran out.
    EXPIRED = "expired"
    #: It was removed for good: consumed.
    REMOVED = "removed"
    #: It was set aside on the trash shelf.
    TRASHED = "trashed"
    #: It came back from the trash shelf.
    RESTORED = "restored"


@dataclass(frozen=True, slots=True)
class NewPosting:
    """What a poster hands to :meth:`PostingDirectory.add`."""

    #: Chosen by the poster, unique on the board; 1 to 128 characters of ``A-Z a-z 0-9 . _ -``,
    #: the first one a letter or a digit. It is the identity that makes posting repeatable.
    key: str
    #: Left out of ``repr``: services keep secrets in their jobs.
    body: bytes = field(repr=False)
    #: 0 to 99; a lower rank is handed out first.
    rank: int = 0
    #: Seconds until the posting may be handed out, from the instant the store adds it.
    delay: float = 0.0


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to work on one posting; the token is the proof."""

    key: str
    #: A label for people: names may be shared and reused.
    holder: str
    #: The client-chosen id of the attempt that won the lease.
    claim_id: str
    #: The fencing token: rises with every lease on this posting, whatever happens in between.
    token: int
    #: The id of the session by which the lease lives; None for a timed lease.
    session: str | None
    #: Seconds until a timed lease ends, as of the store's answer; None for a session lease.
    ends_in: float | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Posting:
    """A job as the store holds it."""

    key: str
    rank: int
    #: Given by the store: of two postings of one rank the older has the lower serial.
    serial: int
    body: bytes = field(repr=False)
    #: How often it was leased.
    attempts: int
    #: How many of those leases ended without being given back.
    deaths: int
    #: Seconds since the epoch, by the store's clock. Stays the same over trash and restore.
    created_on: float
    #: Seconds since the epoch, by the store's clock: the last add, acquire, release, expiry,
    #: trash or restore. A renewal does not count.
    modified_on: float
    #: Seconds until it may be handed out, as of the store's answer; 0.0 when due. A lease that was
    #: acquired early does not change it, and neither does its expiry; a release does, and so does
    #: a removal to the trash: what is restored is due.
    due_in: float = field(default=0.0, compare=False)
    lease: Lease | None = None

    @property
    def place(self) -> Place:
        """The posting's place in the order of its shelf: rank, then serial."""
        return (self.rank, self.serial)


@dataclass(frozen=True, slots=True)
class Damage:
    """Something in the board's space that is not the board's, or that can't be read."""

    #: Names the record for an operator, in the store's own terms (a key, a path, a row).
    where: str
    why: str


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a shelf, in order."""

    postings: Sequence[Posting]
    #: Pass it as ``after`` to go on; None at the end.
    after: Place | None = None
    #: What was met and skipped on the way. It is left where it is.
    damaged: Sequence[Damage] = ()


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that happened on the live shelf."""

    kind: ChangeKind
    key: str
    #: The token of the lease concerned, for CLAIMED, RELEASED and EXPIRED and for a REMOVED or
    #: TRASHED that ended a lease, where the store reports it; None otherwise.
    token: int | None = None


@dataclass(frozen=True, slots=True)
class Changes:
    """The answer of :meth:`ChangeFeed.changes`."""

    events: Sequence[Change]
    #: Pass it to the next call.
    cursor: str
    #: True: something may have been missed between the cursor given and ``events``; list again.
    reset: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """What a backend declares about itself. The suite tests each both ways.

    Exclusion, atomicity, fencing, order and an honest feed are no traits: nothing opts out.
    """

    #: An acknowledged posting survives ``kill -9`` of every process that serves the store.
    durable: bool
    #: Processes of one machine can share a board.
    cross_process: bool
    #: Machines can share a board.
    cross_host: bool
    #: The largest body, in bytes.
    max_body: int
    #: Seconds by which the end of a dead session's leases may be later than its time-out.
    lease_slack: float
    #: The store itself finds what to hand out. Where it does not, ``acquire_next`` asks it for more
    #: than it hands out, and a board tries first what its own picture shows.
    native_claim_next: bool = False
    #: ``changes``, asked with a time-out of 0 until it has no more, reports every change that was
    #: acknowledged before the first question: a picture is brought up to date without listing.
    linearizable_feed: bool = False
    #: Tokens keep rising when a replica that missed writes takes over.
    fencing_survives_failover: bool = False
