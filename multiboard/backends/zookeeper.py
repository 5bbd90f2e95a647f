# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The board in ZooKeeper: every verb one transaction, every lease a node.

The nodes are described in :mod:`multiboard.backends._zookeeper.layout`. This module imports the
primitives, the errors and its own siblings; of kazoo it knows the operations on the wire only.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kazoo.protocol import serialization as wire

from multiboard import errors, primitives
from multiboard.backends._zookeeper import layout
from multiboard.backends._zookeeper.access import DIGEST, OPEN, SASL, Access
from multiboard.backends._zookeeper.board import Added, Board, NodeExists, NoNode
from multiboard.backends._zookeeper.client import Link
from multiboard.backends._zookeeper.feed import Feed
from multiboard.backends._zookeeper.layout import Seen
from multiboard.backends._zookeeper.leases import TRIES, Leases
from multiboard.primitives import Changes, Damage, NewPosting, Posting, Shelf, Url, boottime

#: ZooKeeper's own limit is 1 MiB for a request, and it drops the connection of whoever exceeds it.
MAX_BODY = 1_000_000
_FOREIGN = "it is not the board's"


@dataclass(frozen=True, kw_only=True)
class ZooKeeperSettings(primitives.Settings):
    """The options of ``zookeeper://`` and ``zookeeper+tls://``."""

    hosts: tuple[str, ...] = primitives.setting(
        ("localhost:2181",), help="The servers of the ensemble, each as host:port."
    )
    root: str = primitives.setting(
        "/multiboard", help="The path of the node under which the boards are."
    )
    username: str | None = primitives.setting(None, help="The user, for 'acl'.")
    password: str | None = primitives.setting(None, help="The user's password.", secret=True)
    acl: str | None = primitives.setting(
        None,
        help="Who may touch the boards made here: 'open' is anybody; 'digest' is whoever gives "
        "this username and password; 'sasl' is this user, whom the servers know (DIGEST-MD5). "
        "By default 'digest' where there is a username, and 'open' otherwise.",
        choices=(OPEN, DIGEST, SASL),
    )
    tls: bool = primitives.setting(False, help="Whether to connect with TLS.")
    tls_ca: str | None = primitives.setting(
        None, help="File with the certificates of the authorities to trust; none: the system's."
    )
    tls_cert: str | None = primitives.setting(None, help="File with the client's certificate.")
    tls_key: str | None = primitives.setting(None, help="File with the client's private key.")
    tls_verify: bool = primitives.setting(
        True, help="Whether the server's certificate must be trusted and name the host."
    )


class ZooKeeperBackend(Leases):
    """The primitives over a ZooKeeper ensemble. See :class:`multiboard.primitives.Backend`."""

    settings_class = ZooKeeperSettings
    settings: ZooKeeperSettings

    def __init__(self, settings: ZooKeeperSettings) -> None:
        super().__init__(settings)
        if not re.fullmatch(r"/|(/[^/\0\s]+)+", settings.root) or re.search(
            r"/\.\.?(/|$)", settings.root
        ):
            raise errors.ConfigError(f"zookeeper: the root {settings.root!r} is no path")
        if not settings.hosts:
            raise errors.ConfigError("zookeeper: at least one host is needed")
        access = _access(settings)
        # A call waits for half of what a whole operation may take: a lost answer gets a second try.
        patience = min(settings.connect_timeout, settings.operation_timeout / 2)
        self._board = Board(
            dial=lambda: Link(
                hosts=settings.hosts,
                session_timeout=settings.session_timeout,
                patience=patience,
                access=access,
                woken=self._wake,
                gone=layout.GONE,
            ),
            root=settings.root,
            namespace=settings.namespace,
            patience=patience,
            name=f"ZooKeeper at {','.join(settings.hosts)}",
            forked=self._start_over,
        )
        self._feed = None
        self._forget()

    def _wake(self) -> None:
        feed = self._feed
        if feed is not None:
            feed.wake()

    @classmethod
    def from_url(cls, url: Url) -> Mapping[str, Any]:
        found: dict[str, Any] = {"username": url.username or None, "password": url.password}
        if url.hosts:
            found["hosts"] = tuple(
                f"{f'[{host}]' if ':' in host else host}:{port or 2181}" for host, port in url.hosts
            )
        if url.scheme == "zookeeper+tls":
            found["tls"] = True
        if url.path not in ("", "/"):
            found["root"] = url.path.rstrip("/")
        return found

    @property
    def traits(self) -> primitives.Traits:
        return primitives.Traits(
            durable=True,
            cross_process=True,
            cross_host=True,
            max_body=MAX_BODY,
            # The server looks for dead sessions once a tick, which is two seconds by default.
            lease_slack=3.0,
            native_claim_next=False,
            fencing_survives_failover=True,
        )

    @property
    def incarnation(self) -> str:
        return self._board.incarnation

    def open(self) -> None:
        self._board.open()
        self._start_over()

    def _start_over(self) -> None:
        """Begin without anything known of the postings, and with nothing that another may lock."""
        board = self._board
        self._feed = Feed(board.paths, recursive=board.modern) if board.incarnation else None
        self._forget()

    def close(self) -> None:
        self._board.close()
        self._wake()

    def keepalive(self) -> float:
        link = self._board.session()
        try:
            self._board.confirm(link)
        except errors.Unavailable:
            self._board.session_over(link)
            raise
        return link.granted

    def facts(self) -> Mapping[str, str]:
        link = self._board.link()
        version, alone = link.version()
        facts = {
            "store": "zookeeper",
            "version": version or "unknown",
            "session_timeout": f"{link.granted:g} s",
        }
        if not alone and layout.loses_transactions(version):
            facts["warning_version"] = (
                f"ZooKeeper {version} is known to lose transactions of an ensemble whose members "
                "are killed (ZOOKEEPER-4785, ZOOKEEPER-4925): 3.8.4, 3.9.4 and later do not"
            )
        if link.granted > self.settings.session_timeout:
            facts["warning_session_timeout"] = (
                f"the server grants no session time-out below {link.granted:g} s; "
                f"{self.settings.session_timeout:g} s were asked for"
            )
        return facts

    # -- adding ----------------------------------------------------------------------------------

    def add(
        self, postings: Sequence[NewPosting], shelf: Shelf = Shelf.LIVE
    ) -> Sequence[Posting | errors.MultiboardError]:
        if shelf is Shelf.ENTITIES:
            return [self._enter(new) for new in postings]
        board, paths = self._board, self._board.paths
        link = board.link()
        answers: dict[int, Posting | errors.MultiboardError] = {}
        known: list[int] = []
        writes: dict[int, tuple[Sequence[Any], bytes]] = {}
        for index, new in enumerate(postings):
            added = board.memory.done(("add", new.key))
            if len(new.body) > MAX_BODY:
                answers[index] = errors.PostingTooLarge(new.key, len(new.body), MAX_BODY)
            elif added is not None and added.matches(new):
                known.append(index)
            elif board.memory.resolve(("add", new.key), link):
                # Its place is not known, but its presence is: the look below tells the rest.
                digest = hashlib.sha256(new.body).digest()
                board.memory.note(("add", new.key), Added(new.rank, digest, 0, 0.0))
                known.append(index)
            else:
                job = layout.Job(new.rank, new.body, new.delay)
                trashed = f"{paths.trash}/{new.key}"
                operations = [
                    # Made and deleted at once: it is refused where the key is in the trash.
                    link.create(trashed, b""),
                    wire.Delete(trashed, -1),
                    link.create(f"{paths.live}/{new.key}", job.encode()),
                ]
                writes[index] = (operations, board.memory.evidence("add", new.key))
        troubles: list[errors.MultiboardError] = []
        for index, outcome in zip(writes, link.commit(writes.values()), strict=True):
            new = postings[index]
            if outcome.stat is not None:
                answers[index] = self._added(new, outcome.stat)
            elif outcome.refused is not None and isinstance(outcome.refused[1], NodeExists):
                known.append(index)
            else:
                self._trouble(link, outcome, ("add", new.key), troubles)
        self._raise(troubles)
        answers.update(
            zip(known, self._existing(link, [postings[index] for index in known]), strict=True)
        )
        return [answers[index] for index in range(len(postings))]

    def _added(self, new: NewPosting, stat: Any) -> Posting:
        # The evidence was written in the same transaction: what it shows holds for the posting.
        when = stat.mtime / 1000.0
        digest = hashlib.sha256(new.body).digest()
        self._board.memory.note(("add", new.key), Added(new.rank, digest, stat.mzxid, when))
        posting = Posting(new.key, new.rank, stat.mzxid, new.body, 0, 0, when, when, new.delay)
        self._note_fresh([posting])
        return posting

    def _existing(
        self, link: Link, postings: Sequence[NewPosting]
    ) -> list[Posting | errors.MultiboardError]:
        """Return what the store holds of postings that are, or were, in it."""
        if not postings:
            return []
        seen = self._board.look(link, [new.key for new in postings], fresh=True)
        trash = link.read([f"{self._board.paths.trash}/{new.key}" for new in postings])
        now = self._board.time_for(link, seen)
        answers: list[Posting | errors.MultiboardError] = []
        for new, live, trashed in zip(postings, seen, trash, strict=True):
            found: Posting | None = None
            if isinstance(live, Seen):
                found = live.posting(now)
            elif not isinstance(trashed, Exception):
                found = _trashed(new.key, trashed)
            elif live is None:
                added = self._board.memory.done(("add", new.key))
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
        link = self._board.session()
        path = f"{self._board.paths.entities}/{new.key}"
        create = link.create(path, layout.Job(new.rank, new.body).encode(), ephemeral=True)
        operations: list[Any] = [create]
        for _ in range(TRIES):
            evidence = self._board.memory.evidence("enter", new.key)
            outcome = link.commit([(operations, evidence)])[0]
            if outcome.stat is not None:
                when = outcome.stat.mtime / 1000.0
                return Posting(new.key, new.rank, outcome.stat.mzxid, new.body, 0, 0, when, when)
            if outcome.error is not None:
                self._board.session_over(link)
                raise outcome.error
            self._board.confirm(link)
            missing = outcome.refused is not None and isinstance(outcome.refused[1], NoNode)
            operations = [create] if missing else [wire.Delete(path, -1), create]
        raise errors.Unavailable(f"the entry {new.key!r} changes too fast")

    # -- reading ---------------------------------------------------------------------------------

    def get(self, keys: Sequence[str]) -> Sequence[Posting | None]:
        link = self._board.link()
        seen = self._board.look(link, keys, fresh=True)
        return [found if isinstance(found, Posting) else None for found in self._shown(link, seen)]

    def _shown(self, link: Link, seen: Sequence[Seen | Damage | None]) -> list[Any]:
        """Return what was seen as postings, and remember which of them were never claimed."""
        now = self._board.time_for(link, seen)
        shown = [found.posting(now) if isinstance(found, Seen) else found for found in seen]
        self._note_fresh(
            found for found in shown if isinstance(found, Posting) and layout.is_fresh(found)
        )
        return shown

    def list(
        self,
        shelf: Shelf = Shelf.LIVE,
        *,
        after: tuple[int, int] | None = None,
        limit: int | None = None,
    ) -> primitives.Page:
        link, paths = self._board.link(), self._board.paths
        if shelf is Shelf.LIVE and after is not None and limit is not None:
            page = self._next_page(link, after, limit)
            if page is not None:
                return page
        folder = f"{paths.base}/{shelf.value}"
        watched = [paths.base, folder, paths.states, paths.leases]
        names = self._board.truth(link, [wire.GetChildren(path, None) for path in watched])
        if any(isinstance(answer, Exception) for answer in names):
            self._board.lose()
        base, keys, states, leases = names
        damaged = [Damage(f"{paths.base}/{n}", _FOREIGN) for n in base if n not in paths.FOLDERS]
        damaged += [Damage(f"{folder}/{n}", _FOREIGN) for n in keys if not layout.is_key(n)]
        if shelf is Shelf.LIVE:
            damaged += [
                Damage(f"{paths.states}/{n}", _FOREIGN) for n in states if not layout.is_key(n)
            ]
            odd = [name for name in leases if layout.parse_lease_name(name) is None]
            damaged += [Damage(f"{paths.leases}/{name}", _FOREIGN) for name in odd]
        own = [name for name in keys if layout.is_key(name)]
        found = self._on_shelf(link, shelf, own, set(states))
        damaged += [one for one in found if isinstance(one, Damage)]
        postings = [one for one in found if isinstance(one, Posting)]
        postings = [one for one in postings if after is None or one.place > after]
        postings.sort(key=lambda posting: posting.place)
        if limit is None or len(postings) <= limit:
            return primitives.Page(postings, damaged=damaged)
        return primitives.Page(postings[:limit], postings[limit - 1].place, damaged)

    def _next_page(self, link: Link, after: tuple[int, int], limit: int) -> primitives.Page | None:
        """Read a page that is not the first, without the bodies of the others.

        The places do not stand in the nodes' names: they are learned once and kept by the feed.
        None where that can't be. What is foreign, or can't be read, was named on the first page.
        """
        feed = self._open_feed()
        feed.ensure(link, ordered=True)
        if not feed.recursive:
            return None
        # Every change before the answer has been told to the feed by then.
        self._board.confirm(link)
        self._learn(link, feed.unknown(again=True))
        if not feed.ordered:
            return None
        found = feed.page(after, limit + 1)
        shown = found[:limit]
        seen = self._shown(link, self._board.look(link, [key for key, _ in shown]))
        # One that went and came back since has another place, further on.
        postings = [
            posting
            for (_, place), posting in zip(shown, seen, strict=True)
            if isinstance(posting, Posting) and posting.place == place.place
        ]
        damaged = [one for one in seen if isinstance(one, Damage)]
        more = len(found) > limit
        return primitives.Page(postings, shown[-1][1].place if more else None, damaged)

    def _on_shelf(
        self, link: Link, shelf: Shelf, keys: Sequence[str], claimed: set[str]
    ) -> Sequence[Any]:
        if shelf is Shelf.LIVE:
            seen = self._board.look(link, keys, claimed)
            foreign = [
                Damage(f"{self._board.paths.live}/{one.key}", "there are foreign nodes under it")
                for one in seen
                if isinstance(one, Seen) and one.stat.numChildren
            ]
            return [*self._shown(link, seen), *foreign]
        folder = f"{self._board.paths.base}/{shelf.value}"
        answers = link.read([f"{folder}/{key}" for key in keys])
        read = _trashed if shelf is Shelf.TRASH else _entity
        found: list[Any] = []
        for key, answer in zip(keys, answers, strict=True):
            if not isinstance(answer, Exception):
                record = read(key, answer)
                found.append(record or Damage(f"{folder}/{key}", "it can't be read"))
        return found

    def count(self, shelf: Shelf = Shelf.LIVE) -> int:
        link = self._board.link()
        folder = f"{self._board.paths.base}/{shelf.value}"
        stat = self._board.truth(link, [wire.Exists(folder, None)])[0]
        if stat is None:
            self._board.lose()
        return int(stat.numChildren)

    def restore(self, key: str) -> Posting:
        link, paths = self._board.link(), self._board.paths
        for _ in range(TRIES):
            live = self._board.look(link, [key], fresh=True)[0]
            if isinstance(live, Seen):
                return live.posting(self._board.time_for(link, [live]))
            path = f"{paths.trash}/{key}"
            requests = [wire.GetData(path, None), wire.Exists(f"{paths.states}/{key}", None)]
            record, litter = link.ask(requests)
            found = _trashed(key, record)
            if found is None or live is not None:
                raise errors.PostingNotFound(key, f"no posting {key!r} in the trash")
            trashed = layout.Trashed.decode(record[0])
            job = layout.Job(found.rank, found.body, created=trashed.created)
            state = layout.State(
                trashed.token, found.attempts, found.deaths, uuid.uuid4().hex[:16], delay=0.0
            )
            state_path = f"{paths.states}/{key}"
            operations = [
                wire.SetData(paths.live, b"", -1),  # tells the watchers: a move, no posting
                wire.Delete(path, record[1].version),
                link.create(f"{paths.live}/{key}", job.encode()),
                link.create(state_path, state.encode())
                if litter is None
                else wire.SetData(state_path, state.encode(), litter.version),
                link.create(f"{state_path}/{state.born}", b""),
            ]
            outcome = link.commit([(operations, None)])[0]
            if outcome.error is not None:
                raise outcome.error
            if outcome.results is not None:
                stat = outcome.results[0]
                when = float(stat.mtime) / 1000.0
                return dataclasses.replace(found, serial=int(stat.mzxid), modified_on=when)
        raise errors.Unavailable(f"posting {key!r} changes too fast")

    def purge(self, keys: Sequence[str], shelf: Shelf = Shelf.TRASH) -> Sequence[bool]:
        link = self._board.link()
        folder = f"{self._board.paths.base}/{shelf.value}"
        read = _trashed if shelf is Shelf.TRASH else _entity
        found = self._board.read(link, [f"{folder}/{key}" for key in keys], fresh=True)
        writes: dict[int, tuple[Sequence[Any], None]] = {}
        for index, (key, answer) in enumerate(zip(keys, found, strict=True)):
            if read(key, answer) is not None:  # what is not the board's is not deleted
                writes[index] = ([wire.Delete(f"{folder}/{key}", answer[1].version)], None)
        done: dict[int, bool] = {}
        troubles: list[errors.MultiboardError] = []
        for index, outcome in zip(writes, link.commit(writes.values()), strict=True):
            if outcome.error is not None:
                troubles.append(outcome.error)
            done[index] = outcome.results is not None
        self._raise(troubles)
        return [done.get(index, False) for index in range(len(keys))]

    # -- feed ------------------------------------------------------------------------------------

    def changes(self, cursor: str | None, timeout: float) -> Changes:
        give_up = boottime() + timeout
        feed, board = self._open_feed(), self._board
        while True:
            link = board.link(max(0.0, give_up - boottime()))
            feed.ensure(link)
            feed.look_after(link, board.now)
            answer = feed.read(cursor, give_up)
            if answer is not None:
                return answer


def _access(settings: ZooKeeperSettings) -> Access:
    return Access(
        username=settings.username,
        password=settings.password,
        acl=settings.acl or (OPEN if settings.username is None else DIGEST),
        tls=settings.tls,
        tls_ca=settings.tls_ca,
        tls_cert=settings.tls_cert,
        tls_key=settings.tls_key,
        tls_verify=settings.tls_verify,
    )


def _trashed(key: str, answer: Any) -> Posting | None:
    """Return a trashed posting as it was read; None where there is none that can be read."""
    try:
        return layout.Trashed.decode(answer[0]).posting(key, answer[1])
    except (ValueError, TypeError):
        return None


def _entity(key: str, answer: Any) -> Posting | None:
    """Return an entity as it was read; None where there is none that can be read."""
    try:
        job, stat = layout.Job.decode(answer[0]), answer[1]
    except (ValueError, TypeError):
        return None
    when = stat.ctime / 1000.0
    return Posting(key, job.rank, stat.czxid, job.body, 0, 0, when, when)
