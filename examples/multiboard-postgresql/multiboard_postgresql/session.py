# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""A backend's way to its board: opening it, the session, and what each process has for itself."""

from __future__ import annotations

import contextlib
import importlib.resources
import os
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from multiboard import errors

from multiboard_postgresql.client import Connection, ConnectionPool
from multiboard_postgresql.errors import of_a_read
from multiboard_postgresql.listener import Listener
from multiboard_postgresql.records import Row
from multiboard_postgresql.settings import PostgreSQLSettings

OLDEST = 130000  # PostgreSQL 13: gen_random_uuid() without an extension
#: Any number will do, as long as nobody else uses it for something else.
INSTALLING = 0x6D62_7067


@dataclass
class _Session:
    """The session of a backend in one process; its id is chosen before it is in the store."""

    id: str
    #: None: no request has named it; False: one has, and the reply may be lost; True: the store has
    #: confirmed it, and only then is its absence a loss.
    begun: bool | None = None


class ProcessState:
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
        self.pool = ConnectionPool(words, settings.connect_timeout, settings.operation_timeout)
        self.listener = Listener(
            self.pool.connect, settings.namespace, settings.operation_timeout / 2
        )
        self.session = _Session(uuid.uuid4().hex)
        self.name = uuid.uuid4().hex
        #: With the next request, what was sent before a lost reply is void.
        self.lost_replies = 0


class Board:
    """The board of one backend."""

    def __init__(self, settings: PostgreSQLSettings) -> None:
        self._settings = settings
        self._incarnation: str | None = None
        # By process id. What was inherited over a fork stays here: it is neither used nor closed.
        self._states: dict[int, ProcessState] = {}

    @property
    def incarnation(self) -> str:
        return self.check_open()

    def check_open(self) -> str:
        """Return the incarnation.

        Raises: ``Closed``.
        """
        if self._incarnation is None:
            raise errors.Closed("the backend is not open")
        return self._incarnation

    def state(self) -> ProcessState:
        """Return what this process has."""
        pid = os.getpid()
        # setdefault is one step: of threads that come together, all get the same.
        return self._states.get(pid) or self._states.setdefault(pid, ProcessState(self._settings))

    # -- opening and closing ---------------------------------------------------------------------

    def open(self) -> None:
        settings, state = self._settings, ProcessState(self._settings)
        try:
            with state.pool.connection(settings.connect_timeout) as connection:
                if connection.info.server_version < OLDEST:
                    raise errors.Unsupported("PostgreSQL 13 or later is needed")
                if settings.create:
                    _install(connection)
                elif settings.namespace not in _listed(connection):
                    at = f"PostgreSQL at {settings.host}:{settings.port}"
                    raise errors.BoardNotFound(settings.namespace, at)
            (row,) = state.pool.call("open", settings.namespace, timeout=settings.connect_timeout)
        except BaseException as error:
            state.pool.close()
            if isinstance(error, errors.Indeterminate):  # a board that was made is found again
                raise of_a_read(error) from error
            raise
        self._states[os.getpid()] = state
        self._incarnation = row[0]

    def namespaces(self) -> Sequence[str]:
        """Return the names of the boards in the database."""
        state = ProcessState(self._settings)
        try:
            with state.pool.connection(self._settings.connect_timeout) as connection:
                return _listed(connection)
        except errors.Indeterminate as error:
            raise of_a_read(error) from error
        finally:
            state.pool.close()

    def close(self) -> None:
        incarnation, self._incarnation = self._incarnation, None
        state = self._states.pop(os.getpid(), None)
        if incarnation is None or state is None:
            return
        state.listener.close()
        if state.session.begun is not None:
            settings = self._settings
            known = f"{incarnation} {state.name} {state.lost_replies}"
            arguments = (settings.namespace, known, state.session.id)
            with contextlib.suppress(errors.MultiboardError):  # then it ends by its time-out
                state.pool.call("leave", *arguments, timeout=min(1.0, settings.operation_timeout))
        state.pool.close()

    # -- verbs -----------------------------------------------------------------------------------

    def run(self, verb: str, *arguments: Any, timeout: float | None = None) -> Sequence[Row]:
        """Call a verb on this board."""
        state, lost = self.state(), self.state().lost_replies
        first = (self._settings.namespace, f"{self.incarnation} {state.name} {lost}")
        try:
            return state.pool.call(verb, *first, *arguments, timeout=timeout)
        except errors.Indeterminate:
            state.lost_replies = lost + 1
            raise

    def read(self, verb: str, *arguments: Any) -> Sequence[Row]:
        """Call a verb that changes nothing, or nothing that the caller has to repeat."""
        try:
            return self.run(verb, *arguments)
        except errors.Indeterminate as error:
            raise of_a_read(error) from error

    def run_in_session(
        self, verb: str, *arguments: Any, timeout: float | None = None
    ) -> tuple[str, Sequence[Row]]:
        """Call a verb that may begin or renew the session; return the session and the rows."""
        self.check_open()
        state = self.state()
        session = state.session
        begun, session.begun = session.begun, session.begun or False
        first = (session.id, bool(begun), self._settings.session_timeout)
        try:
            rows = self.run(verb, *first, *arguments, timeout=timeout)
        except errors.SessionLost:
            if state.session is session:
                state.session = _Session(uuid.uuid4().hex)
            raise
        if any(session.id in row for row in rows):  # a reply that names the session confirms it
            session.begun = True
        return session.id, rows


def _install(connection: Connection) -> None:
    """Make the tables and functions where there are none, once where several open together."""
    # A query of the catalogue, for to_regproc() answers from a cache, which does not show what
    # another client committed while we waited for the lock.
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


def _listed(connection: Connection) -> list[str]:
    """Return the names of the boards; the database may have no table of ours yet."""
    there = (
        "SELECT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
        "WHERE (n.nspname, c.relname) = ('multiboard', 'boards'))"
    )
    if connection.execute(there).fetchone() != (True,):
        return []
    rows = connection.execute("SELECT namespace FROM multiboard.boards ORDER BY namespace")
    return [name for (name,) in rows]
