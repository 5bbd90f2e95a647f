# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The primitives that a backend implements: directory, lock, feed, and the backend that joins them.

This module speaks to the author of a backend, who needs no other: the values, the settings,
:class:`FailureLog`, for a thread that logs what fails, and the waiting for sockets are here by name
too. It imports the standard library, the errors and those.
``must`` binds the implementer, ``is guaranteed`` binds the caller (:mod:`multiboard.runtime.guard`
stands before every backend and checks arguments once for all).

**One indivisible step.** Each verb below is one indivisible step in the store for each of its
items: a script, a transaction, a conditional batch. Nobody sees half of it, and it survives the
death of the caller as a whole or not at all.

**Every verb may be repeated.** A caller that did not receive the answer calls again with the very
same arguments, and must find the effect there once. Each verb states what a repeat does.

**What arrives late is void.** A request may reach the store long after its caller gave it up: a
network or a server that stood still goes on. Once a repeat of it was answered it must change
nothing, whatever was done since. Where a request itself shows what it is for (the token of a lease,
the revision of a record) the store refuses it by that; where it does not, it carries what lets
the store tell: the session's connection, or how many answers its sender had lost by then.

**A backend never retries.** It raises :class:`~multiboard.errors.Unavailable` when the operation
was surely not applied and :class:`~multiboard.errors.Indeterminate` when it may have been, with the
store's own error as the ``__cause__``. The store client's own retries must be switched off, and one
attempt must end well within ``operation_timeout``, so that the guard can make another.

**Damage.** Foreign and damaged records are skipped, reported and left alone: a damaged posting is
``PostingExists`` to :meth:`~PostingDirectory.add` and not found by every other verb. Where the
board can't work at all because of one (its counters are gone, a key has the wrong type), every verb
raises a plain :class:`~multiboard.errors.BackendError` that names the record.

**Going back.** A board has a position, a number that rises with every change that the feed reports:
a counter, a revision. A backend remembers the highest that any answer has shown to it, since its
:meth:`~Backend.open`, and raises :class:`~multiboard.errors.BoardLost` where the store shows a
lower one: a backup was put back, or the store lost what it had acknowledged. It is compared in the
step that does the work, or once on each new connection where none outlives such a change, so that
no verb costs a round trip more. It must hold for good: the store goes on, and soon has come as far
by other changes. A server that merely lags behind the others is no such case, and must not be
taken for one. A forked child goes on from what was known; a backend that is opened anew knows
nothing. What was missed by a replica that took over is lost without this error, where the store's
contract states so and the backend can detect that another server answers.

**Time.** Durations are seconds as ``float``, measured by the store's clock unless stated otherwise.
What a store answers about the future (``ends_in``, ``due_in``) is relative to the instant of its
answer, so that nobody has to compare clocks. What it answers about the past (``created_on``) is
seconds since the epoch by the store's clock and is for people to read.

**Threads, processes and forks.** Every method may be called from any threads at once. In a forked
child a backend must behave like one newly opened: it uses no connection, session or lock that it
inherited, and it closes none of them.

**Interrupts.** A signal handler may raise between any two instructions of a caller's. Then no lock
may stay locked, no connection that owes a reply may serve the next call, and no state may stay half
changed; :mod:`multiboard.primitives.interrupts` has the rules, and what to use.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from multiboard import errors
from multiboard.primitives.settings import Settings, Url
from multiboard.primitives.values import (
    Changes,
    Lease,
    NewPosting,
    Page,
    Place,
    Posting,
    Shelf,
    Traits,
)


class PostingDirectory(abc.ABC):
    """The postings of one board, on their shelves."""

    @abc.abstractmethod
    def add(
        self, postings: Sequence[NewPosting], shelf: Shelf = Shelf.LIVE
    ) -> Sequence[Posting | errors.MultiboardError]:
        """Add postings, each in one step of its own, in the order given.

        The answers stand in the order of ``postings``: what the store holds now, or an error
        value (returned, not raised) for an item that could not be added. An error that concerns
        the whole call (the store is away) is raised, and then some of the items may have been
        added.

        ``shelf`` is LIVE or ENTITIES. On LIVE, in one step: the posting is stored with a serial
        higher than that of every posting acknowledged before the call, and the feed reports POSTED.
        On ENTITIES, in one step: the entry is stored, whatever had that key before is replaced,
        and it lives as long as this backend's session; the feed reports nothing.

        A repeat finds the posting and answers with it. Where the same backend adds the same
        posting again after it was consumed or purged, whether its first add made the posting or
        found it there, the answer must be the posting as it was added or
        :class:`~multiboard.errors.PostingNotFound`, and the posting must not come back, for at
        least 60 seconds or, where the store has no memory of what is gone, the life of the session.
        With another rank or body such a key is ``PostingExists``, where it is remembered. Where it
        is not remembered it is a new posting, with higher tokens.

        Errors as values: ``PostingExists`` (the key is on the live or trash shelf with another
        rank or body; nothing changed).

        Raises: ``Unavailable``, ``Indeterminate``, ``AccessDenied``, ``BoardLost``, ``Closed``;
        for ENTITIES also ``SessionLost`` (nothing changed).
        """

    @abc.abstractmethod
    def get(self, keys: Sequence[str]) -> Sequence[Posting | None]:
        """Read live postings by key, in the order of ``keys``; None where there is none.

        It is the truth of some instant during the call: every write acknowledged to anyone
        before the call is seen. A lease that is over is not shown. One round trip, or one
        pipeline, for any number of keys. A damaged posting reads as None.

        Raises: ``Unavailable``, ``AccessDenied``, ``BoardLost``, ``Closed``.
        """

    @abc.abstractmethod
    def list(
        self, shelf: Shelf = Shelf.LIVE, *, after: Place | None = None, limit: int | None = None
    ) -> Page:
        """Read a shelf in order of rank, then serial, from just behind the place ``after``.

        Every write acknowledged to anyone before the call is seen. Without ``limit``, all of it.
        A posting that is on the shelf during all the pages of a walk is in one of them. Foreign
        and damaged records are skipped, named in the page's ``damaged``, and left alone.

        Raises: ``Unavailable``, ``AccessDenied``, ``BoardLost``, ``Closed``.
        """

    @abc.abstractmethod
    def count(self, shelf: Shelf = Shelf.LIVE) -> int:
        """Count a shelf's postings; damaged ones may be counted.

        Raises: ``Unavailable``, ``AccessDenied``, ``BoardLost``, ``Closed``.
        """

    @abc.abstractmethod
    def remove(
        self, leases: Sequence[Lease], to: Shelf | None = None
    ) -> Sequence[errors.MultiboardError | None]:
        """Remove leased live postings, each in one step of its own, in the order given.

        In one step: the lease is current and has not ended, the posting leaves the live shelf,
        the lease ends, and the feed reports REMOVED; with ``to=Shelf.TRASH`` the posting is put on
        the trash shelf and the feed reports TRASHED. The answers are None where it was done and an
        error value where it was not.

        A repeat by the same backend answers None again where this very lease removed the posting
        before, for at least 60 seconds or, where the store has no memory of what is gone, the
        life of the session.

        Errors as values: ``LeaseLost`` (the posting is live and the lease is not current, or has
        ended; nothing changed), ``PostingNotFound`` (the posting is gone, and not by this lease).

        Raises: ``Unavailable``, ``Indeterminate``, ``AccessDenied``, ``BoardLost``, ``Closed``.
        """

    @abc.abstractmethod
    def restore(self, key: str) -> Posting:
        """Put a trashed posting back on the live shelf, unleased and due.

        In one step: it leaves the trash, gets a new serial (it is last of its rank), keeps its
        body, attempts, deaths and created_on, its tokens go on rising, and the feed reports
        RESTORED. A repeat finds it on the live shelf and answers with it.

        Raises: ``PostingNotFound`` (neither trashed nor live), ``Unavailable``,
        ``Indeterminate``, ``AccessDenied``, ``BoardLost``, ``Closed``.
        """

    @abc.abstractmethod
    def purge(self, keys: Sequence[str], shelf: Shelf = Shelf.TRASH) -> Sequence[bool]:
        """Delete postings from the trash, or entries from the entities, for good.

        Answers True where this call deleted one, False where there was none. ``shelf`` is TRASH
        or ENTITIES. A repeat deletes nothing more. A purged posting is as finished as a consumed
        one: :meth:`add` states what becomes of its key.

        Raises: ``Unavailable``, ``Indeterminate``, ``AccessDenied``, ``BoardLost``, ``Closed``.
        """


class LeaseLock(abc.ABC):
    """The leases on the postings of one board.

    A **session lease** (``expires_in=None``) lives as long as the session of the backend that
    acquired it; the step that acquires it also renews the session where less than half of its
    time is left, so that no lease begins with a session that is about to end. A **timed lease**
    (``expires_in=s``) outlives its process and ends ``s`` seconds after it was acquired or last
    renewed. Either ends when it is released or when its posting is removed. A lease that ended by
    itself counts a death, and the feed reports EXPIRED.

    Tokens rise for as long as a key is in use, over release, expiry, trash, restore, a restart of
    the store, and even where a purged key is added again.
    """

    @abc.abstractmethod
    def acquire(
        self, key: str, holder: str, claim_id: str, expires_in: float | None = None
    ) -> Lease:
        """Lease a live posting, due or not.

        In one step: the posting is live and has no lease, or one that has ended; it gets a lease
        with a token higher than any it had; ``attempts`` rises by one; the feed reports CLAIMED
        (after EXPIRED, for a lease that had ended unnoticed).

        A repeat with the same ``claim_id`` while that lease is current answers with it and
        changes nothing, ``expires_in`` included; a session lease is only found again within the
        same session. A ``claim_id`` is guaranteed to be unique to one attempt at one posting.

        A claim id is good for one lease. Where this backend has released or removed the posting by
        that lease, a repeat leases nothing, for at least 60 seconds (:class:`SpentClaims`).

        Raises: ``LeaseHeld`` (leased by another claim; nothing changed, that lease's end
        included), ``LeaseLost`` (the claim id is spent; nothing changed), ``PostingNotFound``,
        ``SessionLost`` (a session lease was asked for and the session has ended; nothing
        changed), ``Unavailable``, ``Indeterminate``, ``AccessDenied``, ``BoardLost``, ``Closed``.
        """

    def acquire_next(
        self, holder: str, claim_ids: Sequence[str], expires_in: float | None = None
    ) -> Sequence[tuple[Posting, Lease]]:
        """Lease the first postings of the order that are due and unleased, one for each claim id.

        Each is leased as by :meth:`acquire`, in one step of its own; fewer are answered when there
        are no more. The posting answered shows the lease. Callers that ask together get different
        postings, and none is left out.

        A repeat with the same claim ids answers first with the postings that they hold. A claim
        id whose lease has ended as :meth:`acquire` states leases nothing more: it is passed over.

        This fallback lists the shelf and acquires one by one: correct on every store, and as
        slow as the board is long. A store with an index overrides it and declares
        ``native_claim_next``; a backend that keeps an index itself may override it, and does not.

        Raises: ``SessionLost`` (nothing more was leased), ``Unavailable``, ``Indeterminate``,
        ``AccessDenied``, ``BoardLost``, ``Closed``.
        """
        assert isinstance(self, PostingDirectory)
        wanted = list(claim_ids)
        won: list[tuple[Posting, Lease]] = []
        postings = self.list(Shelf.LIVE).postings
        for posting in postings:  # what a lost answer left to us comes first
            if posting.lease is None or posting.lease.claim_id not in wanted:
                continue
            claim_id = posting.lease.claim_id
            try:
                lease = self.acquire(posting.key, holder, claim_id, expires_in)
            except (errors.LeaseHeld, errors.PostingNotFound):  # another session's: not ours
                continue
            except errors.LeaseLost:
                pass
            else:
                won.append((posting, lease))
            wanted.remove(claim_id)
        for posting in postings:
            if not wanted:
                break
            if posting.lease is not None or posting.due_in > 0:
                continue
            while wanted:
                try:
                    lease = self.acquire(posting.key, holder, wanted[0], expires_in)
                except (errors.LeaseHeld, errors.PostingNotFound):
                    break
                except errors.LeaseLost:  # the claim id is spent, the posting may be free
                    wanted.pop(0)
                    continue
                wanted.pop(0)
                won.append((posting, lease))
                break
        seen = self.get([posting.key for posting, _ in won])
        return [
            (now if now is not None and now.lease == lease else posting, lease)
            for (posting, lease), now in zip(won, seen, strict=True)
        ]

    @abc.abstractmethod
    def renew(self, lease: Lease, expires_in: float) -> Lease:
        """Let a timed lease end ``expires_in`` seconds from now, sooner or later than before.

        In one step: the lease is current and has not ended, and its end is moved. A session lease
        is checked and left as it is: its session is what keeps it. A repeat moves the end again.

        Raises: ``LeaseLost`` (not current, or ended; nothing changed), ``PostingNotFound``,
        ``Unavailable``, ``Indeterminate``, ``AccessDenied``, ``BoardLost``, ``Closed``.
        """

    @abc.abstractmethod
    def release(self, lease: Lease, delay: float = 0.0) -> None:
        """Give a lease back; the posting may be handed out again after ``delay`` seconds.

        In one step: the lease is current and has not ended, it ends, the posting is due ``delay``
        seconds from now, and the feed reports RELEASED.

        A repeat by the same backend does nothing where this very lease was released before, for
        at least 60 seconds or, where the store has no memory of it, the life of the session.

        Raises: ``LeaseLost`` (not current, or ended; nothing changed), ``PostingNotFound``,
        ``Unavailable``, ``Indeterminate``, ``AccessDenied``, ``BoardLost``, ``Closed``.
        """


class ChangeFeed(abc.ABC):
    """What happened on the live shelf of one board."""

    @abc.abstractmethod
    def changes(self, cursor: str | None, timeout: float) -> Changes:
        """Return what happened since ``cursor``, waiting up to ``timeout`` seconds for something.

        The first call passes None and is answered at once: no events, a cursor for "from now on",
        and ``reset=True``. What is listed after that call and what later calls report, together,
        leave nothing out. Every change is reported at least once, in the order of happening, or
        the answer has ``reset``: after a reconnect, a restart or a failover of the store, a
        history that was trimmed, or a reader that was too slow. A cursor that the backend does
        not know, or can't continue from, is a reset and no error.

        A change must not be reported before :meth:`PostingDirectory.list` can show it. A change
        must be reported within moments of happening, without the caller polling. Leases that end by
        themselves must be noticed while a reader waits here, whoever held them. The answer may
        hold fewer events than there are; the next call goes on.

        Any number of readers may wait at once, each with its own cursor, on one backend. A
        waiting call must return, with ``Closed``, within 100 ms of :meth:`Backend.close`.

        Raises: ``Unavailable`` (the same cursor may be used again), ``AccessDenied``,
        ``BoardLost``, ``Closed``.
        """


class Backend(PostingDirectory, LeaseLock, ChangeFeed):
    """The primitives of one store, connected to one board in it.

    A backend is made from its settings, opened once, closed once. Making one checks them
    (:meth:`Settings.check`) and does nothing else: no connection, no thread, no file. The class is
    registered under the entry point group ``multiboard.backends``, once for each URL scheme that
    it answers to.
    """

    #: The options: a frozen dataclass that extends :class:`Settings`.
    settings_class: ClassVar[type[Settings]] = Settings

    def __init__(self, settings: Settings) -> None:
        settings.check()
        self.settings = settings

    @classmethod
    def from_url(cls, url: Url) -> Mapping[str, Any]:
        """Return the settings that the scheme, the hosts, the user and the path of a URL mean.

        The query (``?namespace=x&session_timeout=5``) is not this method's matter. Values need
        not have their final type yet: strings are converted by the loader.

        Raises: ``ConfigError`` for a part that the backend has no use for.
        """
        if url.hosts or url.username or url.password or url.path not in ("", "/"):
            raise errors.ConfigError(f"{url.scheme}: takes no host, user or path")
        return {}

    @property
    @abc.abstractmethod
    def traits(self) -> Traits:
        """What the backend declares about itself. May be asked before :meth:`open`."""

    @property
    @abc.abstractmethod
    def incarnation(self) -> str:
        """The id that the board got when it was made in the store.

        A store that came back empty has another one, or none. From then on every verb raises
        ``BoardLost`` instead of answering from the new board.
        """

    @property
    def position(self) -> int:
        """How far the board has come, as far as this backend knows: a number that only rises.

        It is known from :meth:`open` on. Where the same board is opened again and shows a lower
        one, the store was put back to an earlier state meanwhile. 0 where the backend can't know.
        """
        return 0

    @abc.abstractmethod
    def open(self) -> None:
        """Connect to the store, within ``connect_timeout``, and make the board if there is none.

        With ``settings.create`` off nothing is made, not even what the first of all boards needs
        (a file, a folder, a schema, a key): where there is no board, ``BoardNotFound`` is raised.

        It starts no thread and no session that the store does not force on it: a board is opened
        for a single posting.

        Raises: ``Unavailable`` (naming host and cause, never a password), ``AccessDenied``,
        ``Unsupported`` (the server is too old; the message names the version needed),
        ``BoardNotFound`` (its ``boards`` may be left None).
        """

    def boards(self) -> Sequence[str]:
        """Return the namespaces of the boards that these settings lead to, sorted.

        They are those of the same file, root or prefix, whatever ``settings.namespace`` is. It may
        be called before :meth:`open`, makes nothing, and takes ``connect_timeout`` at the most.

        This default is for a store that can't list them.

        Raises: ``Unsupported``; ``Unavailable``, ``AccessDenied``.
        """
        raise errors.Unsupported(f"{type(self).__name__} can't list the boards of its store")

    @abc.abstractmethod
    def close(self) -> None:
        """End the session, drop the connection, and wake whoever waits in :meth:`changes`.

        Its session leases and entities end at once, as by death. It takes milliseconds, raises
        nothing, and may be called again. Timed leases go on. After it, every verb raises
        ``Closed``.
        """

    @abc.abstractmethod
    def keepalive(self, within: float | None = None) -> float:
        """Renew the session and return the seconds that it lasts from now without another renewal.

        Where ``within`` is given the call must end within so many seconds, if it would not end
        sooner: an answer that comes later is of no use to the caller, who tries again.

        It begins a session where there is none. One call renews all session leases and entities
        of this backend. The caller takes the time before the call as the beginning of those
        seconds. Where the store's client renews by itself, this asks the store all the same: the
        answer must be the store's, not a guess.

        Raises: ``SessionLost`` (once; the session had ended and all that lived by it; the next
        call begins a new one), ``Unavailable``, ``Indeterminate``, ``AccessDenied``,
        ``BoardLost``, ``Closed``.
        """

    @property
    def session_time(self) -> float:
        """The seconds that the store grants a session, as far as is known; it asks nobody.

        A store that may grant less than was asked for overrides it.
        """
        return self.settings.session_timeout

    def server_info(self) -> Mapping[str, str]:
        """Return what an operator wants to know of the store: its name, version and warnings.

        The key ``store`` names it, ``version`` is its version; a key that begins with ``warning``
        holds a sentence about a setting of the store that endangers what the board promises.
        Never a secret.
        """
        *_, folder, module = ["", *type(self).__module__.split(".")]
        return {"store": folder if module == "backend" else module}
