# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The board in etcd, 3.4 or newer: every verb one transaction, every lease a key.

The keys are described in :mod:`multiboard.backends.etcd.records`. This module imports the
primitives, the errors and its own siblings.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from multiboard import errors, primitives
from multiboard.backends.etcd import directory, messages, records
from multiboard.backends.etcd.board import Board, LeaseGone, Outcome, Step, wall
from multiboard.backends.etcd.client import Access
from multiboard.backends.etcd.leases import TRIES, Leases, Recent
from multiboard.backends.etcd.messages import M
from multiboard.backends.etcd.records import PLACES, Head, Seen
from multiboard.backends.etcd.session import LEAST_SESSION
from multiboard.primitives import Changes, NewPosting, Page, Place, Posting, Shelf, Url, boottime

#: etcd takes requests of 1.5 MiB by default.
MAX_BODY = 1_250_000
#: Seconds for which a repeated posting is told from a new one.
REPEAT_WINDOW = 300.0


@dataclass(frozen=True, kw_only=True)
class EtcdSettings(primitives.TlsSettings):
    """The options of ``etcd://`` and ``etcd+https://``."""

    tls_url = "etcd+https://"

    hosts: tuple[str, ...] = primitives.setting(
        ("localhost:2379",),
        help="The members of the cluster, each as host:port; an IPv6 address as [address]:port.",
    )
    root: str = primitives.setting(
        "/multiboard", help="What the name of every key in the cluster begins with."
    )
    username: str | None = primitives.setting(
        None, help="The user, where the cluster asks for one."
    )
    password: str | None = primitives.setting(None, help="The user's password.", secret=True)


@dataclass(frozen=True, slots=True)
class _Added:
    """A posting that this backend added or tried to, without its body."""

    rank: int
    digest: bytes
    at: float
    #: None while no answer told.
    posting: Posting | None = None
    #: Nothing was added before this revision.
    since: int = 0

    def matches(self, new: NewPosting) -> bool:
        return (self.rank, self.digest) == (new.rank, _digest(new))


class EtcdBackend(Leases):
    """The primitives over an etcd cluster. See :class:`multiboard.primitives.Backend`."""

    settings_class = EtcdSettings
    settings: EtcdSettings

    def __init__(self, settings: EtcdSettings) -> None:
        super().__init__(settings)
        if not re.fullmatch(r"(/[^/\0\s]+)*/?", settings.root):
            raise errors.ConfigError(
                f"etcd: the root {settings.root!r} is not like /path/to/boards"
            )
        if (settings.username is None) != (settings.password is None):
            raise errors.ConfigError("etcd: username and password go together")
        access = Access(
            tuple(primitives.parse_address(text, None) for text in settings.hosts),
            settings.username,
            settings.password,
            settings.tls,
            settings.tls_ca,
            settings.tls_cert,
            settings.tls_key,
            settings.tls_verify,
        )
        if not access.hosts:
            raise errors.ConfigError("etcd: at least one host is needed")
        self._board = Board(
            access,
            root=settings.root,
            namespace=settings.namespace,
            session_timeout=settings.session_timeout,
            # A call waits for half of what an operation may take: a lost answer gets a second try.
            patience=min(settings.connect_timeout, settings.operation_timeout / 2),
            forked=self._start_over,
        )
        self._start_over()

    @classmethod
    def from_url(cls, url: Url) -> Mapping[str, Any]:
        found: dict[str, Any] = {"username": url.username or None, "password": url.password}
        if url.hosts:
            found["hosts"] = url.addresses(2379)
        if url.path not in ("", "/"):
            found["root"] = url.node()
        return {**found, "tls": url.scheme.endswith("https")}

    @property
    def traits(self) -> primitives.Traits:
        return primitives.Traits(
            durable=True,
            cross_process=True,
            cross_host=True,
            max_body=MAX_BODY,
            # The leader looks for leases that are over twice a second. A new leader begins the
            # time of every lease anew: then it is one session's time more.
            lease_slack=1.5,
            native_claim_next=True,
            fencing_survives_failover=True,
        )

    @property
    def incarnation(self) -> str:
        return self._board.incarnation

    @property
    def position(self) -> int:
        return self._board.position

    def open(self) -> None:
        self.settings.check_tls_files()
        self._board.open(self.settings.create)
        self._start_over()

    def boards(self) -> Sequence[str]:
        return self._board.namespaces(self.settings.connect_timeout)

    def _start_over(self) -> None:
        self._forget()
        self._added = Recent()
        self._entry_in_doubt = False

    def close(self) -> None:
        self._board.close()
        self._feed.close()
        self._warden.close()

    def server_info(self) -> Mapping[str, str]:
        status = self._board.client.call("Status", M["StatusRequest"](), write=False)
        facts = {"store": "etcd", "version": status.version, "address": str(self._board.access)}
        if self.settings.session_timeout < LEAST_SESSION:
            facts["warning_session_timeout"] = (
                f"etcd grants no session below {LEAST_SESSION} s; "
                f"{self.settings.session_timeout:g} s were asked for"
            )
        return facts

    # -- adding ----------------------------------------------------------------------------------

    def add(
        self, postings: Sequence[NewPosting], shelf: Shelf = Shelf.LIVE
    ) -> Sequence[Posting | errors.MultiboardError]:
        if shelf is Shelf.ENTITIES:
            return self._enter(postings)
        board = self._board
        answers: dict[int, Posting | errors.MultiboardError] = {}
        known: list[int] = []
        new_ones: list[int] = []
        doubts: list[int] = []
        fresh: set[str] = set()
        for index, new in enumerate(postings):
            before = self._added.get(new.key)
            if before is not None and before.at < boottime() - REPEAT_WINDOW:
                before = None
            if before is not None and before.matches(new) and new.key not in fresh:
                (known if before.posting is not None else doubts).append(index)
            else:
                fresh.add(new.key)
                new_ones.append(index)
        if doubts:
            fence = board.close_fence()  # what was sent and not answered is there by now, or never
            since = min(self._added[postings[index].key].since for index in doubts)
            keys = [postings[index].key for index in doubts]
            there = directory.added_since(board, keys, since, fence)
            for index in doubts:
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
        board, left, now = self._board, list(indexes), wall()
        while left:
            part = left[:PLACES]
            steps, heads = [], []
            for place, index in enumerate(part):
                head, step = self._add_step(postings[index], place, now)
                heads.append(head)
                steps.append(step)
                self._note_added(postings[index], None, board.client.revision)
            outcomes = board.commit(steps, news=True, fence=True)
            for index, head, outcome in zip(part, heads, outcomes, strict=False):
                new = postings[index]
                if outcome.done:
                    serial = outcome.revision * PLACES + head.place
                    posting = dataclasses.replace(
                        head.posting(new.key, serial, new.body), due_in=new.delay
                    )
                    self._note_added(new, posting, outcome.revision)
                    self._known.note(new.key, Seen(new.key, head, serial, outcome.revision))
                    if head.since is not None:
                        board.clock.witness(new.key, head.since)
                    answers[index] = posting
                else:
                    known.append(index)
                    self._added.pop(new.key, None)
            left = left[len(outcomes) :]

    def _add_step(self, new: NewPosting, place: int, now: float) -> tuple[Head, Step]:
        since = self._board.clock.stamp() if new.delay > 0 else None
        head = Head(new.rank, place, now, now, delay=new.delay, since=since)
        of = self._board.keys.of
        live, trash, body = of("live", new.key), of("trash", new.key), of("bodies", new.key)
        return head, Step(
            [messages.created(raw, 0) for raw in (live, trash, body)],
            [messages.put(live, head.encode()), messages.put(body, new.body)],
        )

    def _note_added(self, new: NewPosting, posting: Posting | None, since: int) -> None:
        if posting is not None:
            posting = dataclasses.replace(posting, body=b"")
        self._added.pop(new.key, None)
        self._added.note(new.key, _Added(new.rank, _digest(new), boottime(), posting, since))
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
        live, trash = self._board.look(keys, bodies=True), directory.trashed(self._board, keys)
        answers: list[Posting | errors.MultiboardError] = []
        for new, (seen, body), trashed in zip(postings, live, trash, strict=True):
            found: Posting | None = None if trashed is None else trashed[0]
            if isinstance(seen, Seen):
                found = self._posting(seen, body)
            elif seen is None and trashed is None:
                answers.append(self._gone(new))
                continue
            same = found is not None and (found.rank, found.body) == (new.rank, new.body)
            answers.append(found if found and same else errors.PostingExists(new.key))
        return answers

    def _gone(self, new: NewPosting) -> Posting | errors.MultiboardError:
        """Return what a repeat of an addition hears of a posting that was consumed since."""
        added: _Added | None = self._added.get(new.key)
        if added is None or added.posting is None:
            return errors.PostingNotFound(new.key)
        return dataclasses.replace(added.posting, body=new.body)

    def _enter(self, postings: Sequence[NewPosting]) -> list[Posting | errors.MultiboardError]:
        board, now = self._board, wall()
        if self._entry_in_doubt:
            self._entry_in_doubt = False
            try:
                board.close_fence()  # what was sent and not answered is there by now, or never
            except BaseException:
                self._entry_in_doubt = True
                raise
        session = board.session()
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
                outcomes += board.commit(steps[len(outcomes) :], fence=True)
        except LeaseGone:
            raise board.session_over(session) from None
        except errors.Indeterminate:
            self._entry_in_doubt = True
            raise
        return [
            head.posting(new.key, outcome.revision * PLACES + head.place, new.body)
            for new, head, outcome in zip(postings, heads, outcomes, strict=True)
        ]

    # -- reading ---------------------------------------------------------------------------------

    def get(self, keys: Sequence[str]) -> Sequence[Posting | None]:
        return [
            self._posting(seen, body) if isinstance(seen, Seen) else None
            for seen, body in self._board.look(keys, bodies=True)
        ]

    def list(
        self, shelf: Shelf = Shelf.LIVE, *, after: Place | None = None, limit: int | None = None
    ) -> Page:
        return directory.page(self._board, shelf, after, limit, self._posting)

    def count(self, shelf: Shelf = Shelf.LIVE) -> int:
        folder = self._board.keys.of(shelf.value)
        count = messages.read(folder, messages.prefix_end(folder), count_only=True)
        return int(self._board.ask([count]).responses[0].response_range.count)

    def restore(self, key: str) -> Posting:
        board, of = self._board, self._board.keys.of
        live, trash = of("live", key), of("trash", key)
        for _ in range(TRIES):
            ((seen, body),) = board.look([key], bodies=True)
            if isinstance(seen, Seen):
                return self._posting(seen, body)
            (found,) = directory.trashed(board, [key])
            if found is None or seen is not None:
                raise errors.PostingNotFound(key, f"no posting {key!r} in the trash")
            posting, revision = found
            modified = max(wall(), posting.modified_on + 1e-6)
            head = Head(
                posting.rank, 0, posting.created_on, modified, posting.attempts, posting.deaths
            )
            step = Step(
                [messages.unchanged(trash, revision), messages.created(live, 0)],
                [messages.delete(trash), messages.put(live, head.encode())],
            )
            (outcome,) = board.commit([step], news=True)
            if outcome.done:
                return head.posting(key, outcome.revision * PLACES, posting.body)
        raise errors.Unavailable(f"posting {key!r} changes too fast")

    def purge(self, keys: Sequence[str], shelf: Shelf = Shelf.TRASH) -> Sequence[bool]:
        board, of = self._board, self._board.keys.of
        folder = shelf.value
        if shelf is Shelf.TRASH:
            sound = [0 if found is None else found[1] for found in directory.trashed(board, keys)]
        else:
            sound = directory.entered(board, keys)
        steps: dict[int, Step] = {}
        for index, (key, revision) in enumerate(zip(keys, sound, strict=True)):
            if revision:  # what is not the board's is not deleted
                operations = [messages.delete(of(folder, key))]
                if shelf is Shelf.TRASH:
                    operations.append(messages.delete(of("bodies", key)))
                condition = messages.unchanged(of(folder, key), revision)
                steps[index] = Step([condition], operations)
        outcomes: Sequence[Outcome] = board.commit(list(steps.values()))
        done = dict(zip(steps, (outcome.done for outcome in outcomes), strict=True))
        return [done.get(index, False) for index in range(len(keys))]

    # -- feed ------------------------------------------------------------------------------------

    def changes(self, cursor: str | None, timeout: float) -> Changes:
        give_up = boottime() + timeout
        self._feed.ensure(max(timeout, self._board.client.patience if cursor is None else 0.0))
        return self._feed.read(cursor, max(0.0, give_up - boottime()))


def _digest(new: NewPosting) -> bytes:
    return hashlib.sha256(new.body).digest()
