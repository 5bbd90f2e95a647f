# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The board in an SQLite file: the embedded backend, for the processes of one machine.

It imports the primitives, the errors, its sibling modules and the standard library's ``sqlite3``.
Its parts: :mod:`._sqlite.files` (connections, forks, errors), :mod:`._sqlite.schema` (tables,
rows, reboots), :mod:`._sqlite.sessions` (who lives), :mod:`._sqlite.step` (a writing transaction).

Each verb that writes is one ``BEGIN IMMEDIATE`` transaction; a read is one snapshot, and filters
what is over without writing. A backend has one connection, guarded by a lock: two writers of one
process could only wait for each other anyway, and a read lasts microseconds. Each reader that
waits in ``changes`` has a connection more, since it looks at SQLite's ``data_version``.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from multiboard import errors, primitives
from multiboard.backends.sqlite import feed, places, schema
from multiboard.backends.sqlite import files as files
from multiboard.backends.sqlite.liveness import SessionLocks
from multiboard.backends.sqlite.opening import Opening, read
from multiboard.backends.sqlite.transactions import Step, write
from multiboard.primitives import (
    ChangeKind,
    Changes,
    Damage,
    Lease,
    NewPosting,
    Posting,
    Shelf,
    Url,
    boottime,
)

#: Seconds between two looks of a waiting reader at the file.
LOOK_EVERY = 0.008

T = TypeVar("T")

_VERSION = "PRAGMA data_version"
_AFTER = " AND (p.rank, p.serial) > (?, ?)"


@dataclass(frozen=True, kw_only=True)
class SQLiteSettings(primitives.Settings):
    """The options of ``sqlite:///path``."""

    path: str = primitives.setting(
        "",
        help="The database file, on a local disk. Empty: multiboard/multiboard.sqlite3 in "
        "$XDG_STATE_HOME, or in ~/.local/state where that is not set.",
    )
    synchronous: str = primitives.setting(
        "FULL",
        help="FULL: what was acknowledged survives a power failure. NORMAL: it survives the death "
        "of every process, but a power failure may undo the last moments; faster.",
        choices=("FULL", "NORMAL"),
    )
    busy_timeout: float = primitives.setting(
        2.0,
        help="Seconds for which one attempt waits while other processes write to the file.",
        minimum=0.05,
        maximum=60.0,
    )


class SQLiteBackend(primitives.Backend):
    """The primitives over an SQLite file. See :class:`multiboard.primitives.Backend`."""

    settings_class = SQLiteSettings
    settings: SQLiteSettings

    def __init__(self, settings: primitives.Settings) -> None:
        super().__init__(settings)
        self._opening: Opening | None = None
        self._spent = primitives.SpentClaims()

    @classmethod
    def from_url(cls, url: Url) -> Mapping[str, Any]:
        if url.hosts == ((":memory:", None),) or url.path.startswith("/:memory:"):
            raise errors.ConfigError("for a board in memory use memory://")
        if url.hosts or url.username or url.password:
            raise errors.ConfigError(
                "an SQLite URL is sqlite:///absolute/path, with three slashes and no host or user"
            )
        return {"path": "" if url.path == "/" else url.path}

    @property
    def traits(self) -> primitives.Traits:
        return primitives.Traits(
            durable=True,
            cross_process=True,
            cross_host=False,
            max_body=16 * 1024 * 1024,
            lease_slack=0.2,
            native_claim_next=True,
            linearizable_feed=True,
            fencing_survives_failover=True,
        )

    @property
    def incarnation(self) -> str:
        return self._opened().incarnation

    @property
    def position(self) -> int:
        opening = self._opening
        return 0 if opening is None else opening.seen

    # -- opening -----------------------------------------------------------------------------

    def open(self) -> None:
        if self._opening is not None:
            return
        files.check_process()
        settings = self.settings
        path = places.locate(settings.path, settings.create)
        found, identity = schema.open_board(
            path, settings.namespace, settings.connect_timeout, settings.create
        )
        self._opening = Opening(
            path,
            identity,
            found.board,
            found.incarnation,
            settings.session_timeout,
            SessionLocks(f"{path}-sessions", path),
            files.hub_of(identity),
            self._link(path, identity),
            seen=found.told,
        )

    def boards(self) -> Sequence[str]:
        files.check_process()
        return schema.boards(places.locate(self.settings.path, create=False))

    def _link(self, path: str, identity: tuple[int, int]) -> files.Link:
        settings = self.settings
        return files.Link(path, identity, settings.synchronous, settings.busy_timeout)

    def close(self) -> None:
        opening, self._opening = self._opening, None
        if opening is None:
            return
        opening.hub.notify()
        if not files.usable():
            files.keep(opening)
            return
        ended = session_id = opening.session or ""
        if ended and opening.locks.owns(ended):
            try:
                write(opening, 0.1, lambda step: step.end_session(session_id))
            except errors.MultiboardError:
                ended = ""  # the row stays, and everybody sees that its lock is gone
        opening.link.close()  # from here on no verb that is under way can begin a session
        session, opening.session = opening.session, None
        if session is not None and opening.locks.owns(session):
            opening.locks.end(session, forget=session == ended)
        while opening.spare:
            opening.spare.pop().close()

    def _opened(self) -> Opening:
        opening = self._opening
        if opening is None:
            raise errors.Closed("the SQLite board is not open")
        files.check_process()
        if files.identify(opening.path) != opening.identity:
            raise errors.BoardLost(f"{opening.path} was deleted or replaced")
        return opening

    # -- transactions ------------------------------------------------------------------------

    def _write(self, opening: Opening, verb: Callable[[Step], T], within: float | None = None) -> T:
        """Do something in a writing transaction, which begins with the end of what is over."""

        def reaped(step: Step) -> T:
            step.reap()
            return verb(step)

        return write(opening, self.settings.busy_timeout, reaped, within)

    def _read(self, opening: Opening, look: Callable[[sqlite3.Connection, float], T]) -> T:
        return read(opening, self.settings.busy_timeout, look)

    # -- directory ---------------------------------------------------------------------------

    def add(
        self, postings: Sequence[NewPosting], shelf: Shelf = Shelf.LIVE
    ) -> Sequence[Posting | errors.MultiboardError]:
        def add(step: Step) -> Sequence[Posting | errors.MultiboardError]:
            if shelf is Shelf.ENTITIES:
                session = step.session()
                return [step.enter(new, session) for new in postings]
            return [step.add(new) for new in postings]

        return self._write(self._opened(), add)

    def get(self, keys: Sequence[str]) -> Sequence[Posting | None]:
        opening = self._opened()
        alive = opening.locks.memo()

        def look(connection: sqlite3.Connection, now: float) -> list[Posting | None]:
            found: list[Posting | None] = []
            for key in keys:
                row = connection.execute(
                    schema.POSTING + " WHERE p.board = ? AND p.key = ? AND p.shelf = 'live'",
                    (opening.board, key),
                ).fetchone()
                posting = None if row is None else schema.read_posting(row, now, alive)
                found.append(posting if isinstance(posting, Posting) else None)
            return found

        return self._read(opening, look)

    def list(
        self,
        shelf: Shelf = Shelf.LIVE,
        *,
        after: primitives.Place | None = None,
        limit: int | None = None,
    ) -> primitives.Page:
        opening = self._opened()
        alive = opening.locks.memo()
        postings: list[Posting] = []
        damaged: list[Damage] = []
        board = opening.board
        is_entities = shelf is Shelf.ENTITIES

        def look(connection: sqlite3.Connection, now: float) -> None:
            if is_entities:
                sql = schema.ENTITY + " WHERE e.board = ?" + ("" if after is None else _AFTER)
                sql = sql.replace("p.", "e.") + " ORDER BY e.rank, e.serial"
                rows = connection.execute(sql, (board, *(after or ())))
            else:
                sql = schema.POSTING + " WHERE p.board = ? AND p.shelf = ?"
                sql += ("" if after is None else _AFTER) + " ORDER BY p.rank, p.serial"
                rows = connection.execute(sql, (board, shelf.value, *(after or ())))
            for row in rows:
                read = schema.read_entity if is_entities else schema.read_posting
                item = read(row, now, alive)
                if isinstance(item, Damage):
                    damaged.append(item)
                elif item is not None:
                    postings.append(item)
                    if limit is not None and len(postings) > limit:
                        break
            rows.close()
            if shelf is Shelf.LIVE and after is None:
                damaged.extend(schema.strays(connection, board))

        self._read(opening, look)
        if limit is None or len(postings) <= limit:
            return primitives.Page(postings, damaged=tuple(damaged))
        return primitives.Page(
            postings[:limit], after=postings[limit - 1].place, damaged=tuple(damaged)
        )

    def count(self, shelf: Shelf = Shelf.LIVE) -> int:
        if shelf is Shelf.ENTITIES:
            return len(self.list(shelf).postings)
        opening = self._opened()

        def look(connection: sqlite3.Connection, _: float) -> int:
            (number,) = connection.execute(
                "SELECT count(*) FROM multiboard_postings WHERE board = ? AND shelf = ?",
                (opening.board, shelf.value),
            ).fetchone()
            return int(number)

        return self._read(opening, look)

    def remove(
        self, leases: Sequence[Lease], to: Shelf | None = None
    ) -> Sequence[errors.MultiboardError | None]:
        def remove(step: Step) -> Sequence[errors.MultiboardError | None]:
            answers: list[errors.MultiboardError | None] = []
            for lease in leases:
                try:
                    step.remove(lease, to)
                    self._spent.note(lease.claim_id)
                    answers.append(None)
                except (errors.PostingNotFound, errors.LeaseLost) as error:
                    repeated = (
                        step.removed_by(lease)
                        if to is None
                        else step.has_ended(lease, ChangeKind.TRASHED)
                    )
                    answers.append(None if repeated else error)
            return answers

        return self._write(self._opened(), remove)

    def restore(self, key: str) -> Posting:
        opening = self._opened()

        def restore(step: Step) -> Posting:
            row = step.execute(
                schema.POSTING + " WHERE p.board = ? AND p.key = ?", (opening.board, key)
            ).fetchone()
            posting = None if row is None else step.read(row)
            if not isinstance(posting, Posting):
                raise errors.PostingNotFound(key, f"no posting {key!r} in the trash")
            if row[2] == Shelf.TRASH.value:
                posting = replace(posting, serial=step.count(), modified_on=step.wall, due_in=0.0)
                step.execute(
                    "UPDATE multiboard_postings SET shelf = 'live', serial = ?, modified_on = ?,"
                    " ready = 1, due_at = ?, due_on = ?, delay = 0 WHERE id = ?",
                    (posting.serial, step.wall, step.now, step.wall, row[0]),
                )
                step.tell(ChangeKind.RESTORED, key)
            return posting

        return self._write(opening, restore)

    def purge(self, keys: Sequence[str], shelf: Shelf = Shelf.TRASH) -> Sequence[bool]:
        opening = self._opened()
        board = opening.board

        def purge(step: Step) -> Sequence[bool]:
            if shelf is Shelf.ENTITIES:
                sql = "DELETE FROM multiboard_entities WHERE board = ? AND key = ?"
                return [step.execute(sql, (board, key)).rowcount > 0 for key in keys]
            return [step.purge(key) for key in keys]

        return self._write(opening, purge)

    # -- lock --------------------------------------------------------------------------------

    def acquire(
        self, key: str, holder: str, claim_id: str, expires_in: float | None = None
    ) -> Lease:
        def acquire(step: Step) -> Lease:
            session = step.session() if expires_in is None else None
            row, posting = step.find(key)
            held = posting.lease
            if held is not None:
                if held.claim_id == claim_id and held.session == session:
                    return held
                raise errors.LeaseHeld(key, held.holder)
            if claim_id in self._spent:
                raise errors.LeaseLost(key, row[11], f"claim id {claim_id!r} had its lease")
            if row[13] is not None:  # a lease that is over and that nobody has taken down
                step.expire(row)
            leased = step.grant(row[0], posting, holder, claim_id, session, expires_in)
            assert leased.lease is not None
            return leased.lease

        return self._write(self._opened(), acquire)

    def acquire_next(
        self, holder: str, claim_ids: Sequence[str], expires_in: float | None = None
    ) -> Sequence[tuple[Posting, Lease]]:
        def acquire(step: Step) -> Sequence[tuple[Posting, Lease]]:
            won: list[tuple[Posting, Lease]] = []
            session = step.session() if expires_in is None else None
            unused = []
            for claim_id in claim_ids:
                held = step.held(claim_id, session)
                won += held
                if not held and claim_id not in self._spent:
                    unused.append(claim_id)
            won.sort(key=lambda pair: pair[0].place)
            if not unused:
                return won
            queue = step.first(len(unused))
            if len(queue) < len(unused) and step.reap(probe=True):
                queue = step.first(len(unused))
            for claim_id, (row_id, posting) in zip(unused, queue, strict=False):
                leased = step.grant(row_id, posting, holder, claim_id, session, expires_in)
                assert leased.lease is not None
                won.append((leased, leased.lease))
            return won

        return self._write(self._opened(), acquire)

    def renew(self, lease: Lease, expires_in: float) -> Lease:
        def renew(step: Step) -> Lease:
            row_id, _, current = step.leased(lease)
            if current.session is not None:
                return current
            span = float(expires_in)
            step.execute(
                "UPDATE multiboard_postings SET ends_at = ?, ends_on = ?, granted = ? WHERE id = ?",
                (step.now + span, step.wall + span, span, row_id),
            )
            return replace(current, ends_in=span)

        return self._write(self._opened(), renew)

    def release(self, lease: Lease, delay: float = 0.0) -> None:
        def release(step: Step) -> None:
            try:
                step.release(lease, float(delay))
                self._spent.note(lease.claim_id)
            except (errors.PostingNotFound, errors.LeaseLost):
                if not step.has_ended(lease, ChangeKind.RELEASED):
                    raise

        self._write(self._opened(), release)

    # -- feed --------------------------------------------------------------------------------

    def changes(self, cursor: str | None, timeout: float) -> Changes:
        opening = self._opened()
        try:
            link = opening.spare.pop()
        except IndexError:
            link = self._link(opening.path, opening.identity)
        alarm = opening.hub.alarm()
        try:
            return self._await_changes(opening, link, alarm, cursor, boottime() + timeout)
        except sqlite3.Error as error:
            raise files.translate(error, opening.path) from error
        finally:
            opening.hub.drop(alarm)
            if self._opening is opening:
                opening.spare.append(link)
            if self._opening is not opening:  # closed by now; who appended too late tidies up
                with contextlib.suppress(ValueError):
                    opening.spare.remove(link)
                link.close()

    def _await_changes(
        self,
        opening: Opening,
        link: files.Link,
        alarm: threading.Lock,
        cursor: str | None,
        give_up: float,
    ) -> Changes:
        seen: tuple[int, int] | None = None
        look_at_ends = end = 0.0
        patience = self.settings.busy_timeout
        in_vain = 0
        while True:
            if self._opening is not opening:
                raise errors.Closed("the SQLite board was closed")
            over = False
            with link.lock:
                connection = link.opened()
                (version,) = files.patiently(connection, _VERSION, (), patience).fetchone()
                if (link.epoch, version) != seen:
                    seen = (link.epoch, version)
                    answer = feed.read_log(connection, opening, cursor, patience)
                    if answer is not None:
                        return answer
                now = boottime()
                if now >= look_at_ends or now >= end:
                    self._opened()
                    over, end, pause = feed.look_at_ends(connection, opening, now, patience)
                    look_at_ends = now + pause
            if over:
                reaped = write(opening, patience, lambda step: step.reap(probe=True))
                in_vain = 0 if reaped else in_vain + 1
                if in_vain < 3:  # others may have been quicker
                    continue
                end = look_at_ends = now + 0.1  # somebody's garbage is over, and stays
            if now >= give_up:
                assert cursor is not None
                return Changes((), cursor)
            alarm.acquire(timeout=max(0.0, min(give_up, end, now + LOOK_EVERY) - now))

    # -- session -----------------------------------------------------------------------------

    def keepalive(self, within: float | None = None) -> float:
        self._write(self._opened(), lambda step: step.session(), within)
        return self.settings.session_timeout

    def server_info(self) -> Mapping[str, str]:
        facts = {"store": "sqlite", "version": sqlite3.sqlite_version}
        if self._opening is not None:
            facts["path"] = self._opening.path
        if self.settings.synchronous != "FULL":
            facts["warning_synchronous"] = (
                "synchronous is NORMAL: a power failure may undo the last acknowledged changes"
            )
        return facts
