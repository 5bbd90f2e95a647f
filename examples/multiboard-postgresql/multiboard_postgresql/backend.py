# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The backend: what the three primitives are in PostgreSQL.

Each verb is one call of a function in ``verbs.sql``, which does it in one transaction. This module
turns arguments into parameters and rows into values. It imports public names of multiboard only.
"""

from __future__ import annotations

import importlib.resources
import os
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from multiboard import errors
from multiboard.primitives import (
    Backend,
    Change,
    ChangeKind,
    Changes,
    Damage,
    Lease,
    NewPosting,
    Page,
    Place,
    Posting,
    Settings,
    Shelf,
    SpentClaims,
    Traits,
    Url,
    setting,
)

from multiboard_postgresql import wire
from multiboard_postgresql.ear import Ear
from multiboard_postgresql.rows import Row, added, failure_of, in_parts, posting_of, raise_any

OLDEST = 130000  # PostgreSQL 13: gen_random_uuid() without an extension
#: Any number will do, as long as nobody else uses it for something else.
INSTALLING = 0x6D62_7067
KINDS = {kind.value for kind in ChangeKind}


@dataclass(frozen=True, kw_only=True)
class PostgreSQLSettings(Settings):
    """Where the server is, and as whom to speak to it."""

    host: str = setting("localhost", help="The server's host, or the folder of its socket.")
    port: int = setting(5432, help="The server's port.", minimum=1, maximum=65535)
    user: str | None = setting(None, help="The role; by default that of this process.")
    password: str | None = setting(None, help="The role's password.", secret=True)
    dbname: str = setting("postgres", help="The database; its schema 'multiboard' is used.")
    sslmode: str = setting(
        "prefer",
        help="Whether to encrypt and what to verify, as in libpq.",
        choices=("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
    )


@dataclass
class _Session:
    """The session of a backend in one process; its id is chosen before the store knows of it."""

    id: str
    #: None: the store was never told of it; False: it may know it; True: it has confirmed it, and
    #: only then is its absence a loss.
    begun: bool | None = None


class _Here:
    """What a backend has in one process: a forked child begins with nothing."""

    def __init__(self, settings: PostgreSQLSettings) -> None:
        words: dict[str, str | int | None] = {
            "host": settings.host,
            "port": settings.port,
            "user": settings.user,
            "password": settings.password,
            "dbname": settings.dbname,
            "sslmode": settings.sslmode,
            "application_name": "multiboard",
            "client_encoding": "UTF8",
            # What we gave up waiting for must not be applied long after. Nobody's schema may come
            # before the server's own functions. And each of our statements has its index, but
            # plans are kept that were made when the table was empty.
            "options": f"-c statement_timeout={max(1, int(settings.operation_timeout * 1000))}"
            " -c search_path=pg_catalog -c enable_seqscan=off",
        }
        self.pool = wire.Pool(words, settings.connect_timeout, settings.operation_timeout)
        self.ear = Ear(self.pool.dial, settings.namespace, settings.operation_timeout / 2)
        self.session = _Session(uuid.uuid4().hex)
        self.name = uuid.uuid4().hex
        #: How many answers were lost: with the next request, what was sent before is void.
        self.losses = 0


class PostgreSQLBackend(Backend):
    """A board in a PostgreSQL database."""

    settings_class = PostgreSQLSettings
    settings: PostgreSQLSettings

    def __init__(self, settings: PostgreSQLSettings) -> None:
        super().__init__(settings)
        self._incarnation: str | None = None
        # By process id. What was inherited over a fork stays here: it is neither used nor closed.
        self._parts: dict[int, _Here] = {}
        self._spent = SpentClaims()

    @classmethod
    def from_url(cls, url: Url) -> Mapping[str, Any]:
        """``postgresql://user:password@host:port/dbname``; each part may be left out."""
        if len(url.hosts) > 1:
            raise errors.ConfigError(f"{url.scheme}: takes one host")
        host, port = url.hosts[0] if url.hosts else (None, None)
        found = {
            "host": host,
            "port": port,
            "user": url.username,
            "password": url.password,
            "dbname": url.path.strip("/"),
        }
        return {name: value for name, value in found.items() if value}

    @property
    def traits(self) -> Traits:
        return Traits(
            durable=True,
            cross_process=True,
            cross_host=True,
            max_body=16 * 1024 * 1024,
            lease_slack=0.5,
            native_claim_next=True,
            linearizable_feed=True,
        )

    @property
    def incarnation(self) -> str:
        return self._known()

    # -- life ------------------------------------------------------------------------------------

    def open(self) -> None:
        here = _Here(self.settings)
        try:
            with here.pool.connection(self.settings.connect_timeout) as connection:
                if connection.info.server_version < OLDEST:
                    raise errors.Unsupported("PostgreSQL 13 or later is needed")
                if self.settings.create:
                    self._install(connection)
                elif self.settings.namespace not in self._listed(connection):
                    at = f"PostgreSQL at {self.settings.host}:{self.settings.port}"
                    raise errors.BoardNotFound(self.settings.namespace, at)
            (row,) = here.pool.ask(
                "open", self.settings.namespace, timeout=self.settings.connect_timeout
            )
        except BaseException as error:
            here.pool.close()
            if isinstance(error, errors.Indeterminate):  # a board that was made is found again
                raise wire.reading(error) from error
            raise
        self._parts[os.getpid()] = here
        self._incarnation = row[0]

    def _install(self, connection: wire.Connection) -> None:
        """Make the tables and functions where there are none, once, whoever comes together."""
        # A query of the catalogue, for to_regproc() answers from a cache that is not told of what
        # another one committed while we waited for the lock.
        there = (
            "SELECT EXISTS (SELECT FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace "
            "WHERE (n.nspname, p.proname) = ('multiboard', 'changes'))"
        )
        if connection.execute(there).fetchone() == (True,):
            return
        with connection.transaction():
            connection.execute("SELECT pg_advisory_xact_lock(%s)", [INSTALLING])
            if connection.execute(there).fetchone() == (False,):
                folder = importlib.resources.files(__package__)
                for name in ("tables.sql", "steps.sql", "verbs.sql"):
                    connection.execute(folder.joinpath(name).read_bytes())

    def boards(self) -> Sequence[str]:
        here = _Here(self.settings)
        try:
            with here.pool.connection(self.settings.connect_timeout) as connection:
                return self._listed(connection)
        except errors.Indeterminate as error:
            raise wire.reading(error) from error
        finally:
            here.pool.close()

    def _listed(self, connection: wire.Connection) -> list[str]:
        """Return the names of the boards, in whose database there may be no table of ours."""
        there = (
            "SELECT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
            "WHERE (n.nspname, c.relname) = ('multiboard', 'boards'))"
        )
        if connection.execute(there).fetchone() != (True,):
            return []
        rows = connection.execute("SELECT namespace FROM multiboard.boards ORDER BY namespace")
        return [name for (name,) in rows]

    def close(self) -> None:
        known, self._incarnation = self._incarnation, None
        here = self._parts.pop(os.getpid(), None)
        if known is None or here is None:
            return
        here.ear.close()
        if here.session.begun is not None:
            try:
                at_most = min(1.0, self.settings.operation_timeout)
                known = f"{known} {here.name} {here.losses}"
                here.pool.ask(
                    "leave", self.settings.namespace, known, here.session.id, timeout=at_most
                )
            except errors.MultiboardError:
                pass  # then it ends by its time-out
        here.pool.close()

    def keepalive(self, within: float | None = None) -> float:
        at_most = self.settings.operation_timeout
        self._ask_in_session(
            "keepalive", timeout=at_most if within is None else min(within, at_most)
        )
        return self.settings.session_timeout

    def server_info(self) -> Mapping[str, str]:
        ((version, switches),) = self._read("facts")
        facts = {"store": "postgresql", "version": version}
        for name in switches or ():
            facts[f"warning_{name}"] = f"{name} is off: a crash may lose acknowledged postings"
        return facts

    def _here(self) -> _Here:
        pid = os.getpid()
        # setdefault is one step: of threads that come together, all get the same.
        return self._parts.get(pid) or self._parts.setdefault(pid, _Here(self.settings))

    def _known(self) -> str:
        if self._incarnation is None:
            raise errors.Closed("the backend is not open")
        return self._incarnation

    def _ask(self, verb: str, *arguments: Any, timeout: float | None = None) -> Sequence[Row]:
        here, losses = self._here(), self._here().losses
        known = f"{self._known()} {here.name} {losses}"
        try:
            return here.pool.ask(verb, self.settings.namespace, known, *arguments, timeout=timeout)
        except errors.Indeterminate:
            here.losses = losses + 1
            raise

    def _read(self, verb: str, *arguments: Any) -> Sequence[Row]:
        try:
            return self._ask(verb, *arguments)
        except errors.Indeterminate as error:
            raise wire.reading(error) from error

    def _ask_in_session(
        self, verb: str, *arguments: Any, timeout: float | None = None
    ) -> tuple[str, Sequence[Row]]:
        """Call a verb that may begin or renew the session; return the session and the rows."""
        self._known()
        here = self._here()
        session = here.session
        begun, session.begun = session.begun, session.begun or False
        try:
            rows = self._ask(
                verb,
                session.id,
                bool(begun),
                self.settings.session_timeout,
                *arguments,
                timeout=timeout,
            )
        except errors.SessionLost:
            if here.session is session:
                here.session = _Session(uuid.uuid4().hex)
            raise
        if any(session.id in row for row in rows):  # an answer that names the session confirms it
            session.begun = True
        return session.id, rows

    # -- the directory ---------------------------------------------------------------------------

    def add(
        self, postings: Sequence[NewPosting], shelf: Shelf = Shelf.LIVE
    ) -> Sequence[Posting | errors.MultiboardError]:
        self._known()
        answers: list[Posting | errors.MultiboardError] = []
        for part in in_parts(postings):
            columns = (
                [posting.key for posting in part],
                [posting.rank for posting in part],
                [posting.body for posting in part],
                [float(posting.delay) for posting in part],
            )
            if shelf is Shelf.ENTITIES:
                _, rows = self._ask_in_session("add_entities", *columns)
            else:
                rows = self._ask("add", *columns)
            answers += [added(posting, row) for posting, row in zip(part, rows, strict=True)]
        return answers

    def get(self, keys: Sequence[str]) -> Sequence[Posting | None]:
        found = {row[1]: posting_of(row) for row in self._read("get", list(keys))}
        return [found.get(key) for key in keys]

    def list(
        self, shelf: Shelf = Shelf.LIVE, *, after: Place | None = None, limit: int | None = None
    ) -> Page:
        rank, serial = after or (None, None)
        more = None if limit is None else limit + 1  # one more tells whether it is the end
        rows = self._read("list", shelf.value, rank, serial, more)
        postings = [posting_of(row) for row in rows if row[0] is None]
        damaged = [
            Damage(f"multiboard.postings, key {row[1]!r}", "a column is empty or out of range")
            for row in rows
            if row[0] is not None
        ]
        if limit is None or len(postings) <= limit:
            return Page(postings, None, damaged)
        return Page(postings[:limit], postings[limit - 1].place, damaged)

    def count(self, shelf: Shelf = Shelf.LIVE) -> int:
        ((number,),) = self._read("count", shelf.value)
        return int(number)

    def remove(
        self, leases: Sequence[Lease], to: Shelf | None = None
    ) -> Sequence[errors.MultiboardError | None]:
        self._known()
        answers: list[errors.MultiboardError | None] = []
        for part in in_parts(leases):
            keys, tokens = [lease.key for lease in part], [lease.token for lease in part]
            rows = self._ask("remove", keys, tokens, to is Shelf.TRASH)
            for lease, row in zip(part, rows, strict=True):
                answers.append(failure_of(lease, row))
                if answers[-1] is None:
                    self._spent.note(lease.claim_id)
        return answers

    def restore(self, key: str) -> Posting:
        restored = self._whole(self._ask("restore", key))
        if not restored:
            raise errors.PostingNotFound(key)
        return restored[0]

    def purge(self, keys: Sequence[str], shelf: Shelf = Shelf.TRASH) -> Sequence[bool]:
        self._known()
        rows = [
            row for part in in_parts(keys) for row in self._ask("purge", list(part), shelf.value)
        ]
        return [row[0] for row in rows]

    def _whole(self, rows: Sequence[Row]) -> Sequence[Posting]:
        """Return postings that a verb which writes has answered with, and read their bodies.

        Who has gone meanwhile is left out.
        """
        postings = [posting_of(row) for row in rows]
        try:
            found = self.get([posting.key for posting in postings]) if postings else []
        except errors.Unavailable as error:  # for the reading; but the verb was applied
            raise errors.Indeterminate(str(error)) from error
        bodies = {posting.key: posting.body for posting in found if posting is not None}
        return [replace(p, body=bodies[p.key]) for p in postings if p.key in bodies]

    # -- the leases ------------------------------------------------------------------------------

    def acquire(
        self, key: str, holder: str, claim_id: str, expires_in: float | None = None
    ) -> Lease:
        if claim_id in self._spent:
            raise errors.LeaseLost(key, 0, f"claim id {claim_id!r} had its lease")
        session, rows = self._ask_in_session("acquire", key, holder, claim_id, expires_in)
        if not rows:
            raise errors.PostingNotFound(key)
        lease = posting_of(rows[0]).lease
        assert lease is not None  # if it was free, it is ours now
        if lease.claim_id != claim_id or lease.session not in (None, session):
            raise errors.LeaseHeld(key, lease.holder)
        return lease

    def acquire_next(
        self, holder: str, claim_ids: Sequence[str], expires_in: float | None = None
    ) -> Sequence[tuple[Posting, Lease]]:
        unspent = [claim_id for claim_id in claim_ids if claim_id not in self._spent]
        _, rows = self._ask_in_session("acquire_next", holder, unspent, expires_in)
        won = self._whole(rows)
        return [(posting, posting.lease) for posting in won if posting.lease is not None]

    def renew(self, lease: Lease, expires_in: float) -> Lease:
        raise_any(
            failure_of(lease, self._ask("renew", lease.key, lease.token, float(expires_in))[0])
        )
        return lease if lease.session is not None else replace(lease, ends_in=float(expires_in))

    def release(self, lease: Lease, delay: float = 0.0) -> None:
        (row,) = self._ask("release", lease.key, lease.token, float(delay))
        raise_any(failure_of(lease, row))
        self._spent.note(lease.claim_id)

    # -- the feed --------------------------------------------------------------------------------

    def changes(self, cursor: str | None, timeout: float) -> Changes:
        give_up = time.monotonic() + timeout
        since = self._position(cursor)
        ear = self._here().ear
        while True:
            seen = ear.heard
            ((is_reset, upto, told, rest),) = self._read("changes", since)
            left = give_up - time.monotonic()
            if is_reset or told or left <= 0:
                events = [
                    Change(ChangeKind(kind), key, token)
                    for kind, key, token in told or ()
                    if kind in KINDS
                ]
                return Changes(events, f"{self._known()}:{upto}", is_reset)
            if rest is not None and rest <= 0:
                self._read("enter")  # a lease has ended: say so, and look again
            elif not ear.listen():  # else it began to listen now, after we looked
                ear.wait(seen, left if rest is None else min(left, rest + 0.001))

    def _position(self, cursor: str | None) -> int | None:
        """Return the event behind which a cursor stands; None if it is none of this board."""
        board, _, number = (cursor or "").rpartition(":")
        known = self._known()
        return int(number) if board == known and number.isascii() and number.isdigit() else None
