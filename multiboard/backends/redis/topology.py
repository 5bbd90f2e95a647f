# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Who knows where the server of a board is. It imports the errors and the server."""

from __future__ import annotations

import abc
import threading
import time
from collections.abc import Iterator

from multiboard import errors
from multiboard.backends.redis.server import Address, Elsewhere, Line

#: Seconds after which a call asks somebody whether its connection leads to the master still, ...
CHECKED_FOR = 1.0
#: ... and how many it has for that: those who are away must not take the board with them.
CHECKED_WITHIN = 0.25


class Finder(abc.ABC):
    """Where the server of a board is, now. Thread-safe; of one process."""

    #: The server that was found last.
    server: Address | None = None

    @abc.abstractmethod
    def connect(self, within: float) -> Line:
        """Return a new connection to the server that has the board, within so many seconds.

        Raises: ``Unavailable``, ``AccessDenied``.
        """

    def connect_all(self, within: float) -> Iterator[Line]:
        """Yield a connection to each server that may have a board, whatever its name; drop it then.

        Raises: as :meth:`connect`.
        """
        line = self.connect(within)
        try:
            yield line
        finally:
            line.drop()

    def serves(self, line: Line, now: float) -> bool:
        """Whether a connection, idle till now or slow to answer, leads to the right server."""
        return True

    def failed(self, line: Line) -> None:  # noqa: B027 - for those to whom it matters
        """Hear that a connection broke, or that its server said that it is not the right one."""

    def follow(self, error: Elsewhere) -> bool:
        """Hear where the board is; return whether to go there."""
        return False

    def close(self) -> None:  # noqa: B027 - for those who hold something
        """Drop what was needed for finding."""


class Server(Finder):
    """One server, which is where it is."""

    def __init__(self, address: Address) -> None:
        self.server: Address = address

    def __str__(self) -> str:
        return str(self.server)

    def connect(self, within: float) -> Line:
        return Line(self.server, within)


class Doubting(Finder):
    """Asks a witness, once a second, whether the server is the one still.

    A master that was frozen or cut off while another one took its place believes in itself until
    it hears of it.
    """

    def __init__(self) -> None:
        self.server = None
        self._lock = threading.Lock()
        self._check_at = 0.0
        #: Of the thread that has it: so an interrupted one can tell whether it has it.
        self._checking = threading.RLock()
        self._told_by: Line | None = None
        self._closed = False

    @abc.abstractmethod
    def _witness(self) -> Address | None:
        """Return whom to ask, who is not the server itself; None where there is nobody."""

    @abc.abstractmethod
    def _hear(self, line: Line, within: float) -> None:
        """Ask a witness, and believe it or not.

        Raises: ``Unavailable``, ``AccessDenied``.
        """

    @abc.abstractmethod
    def _pass_over(self, witness: Address) -> None:
        """Have somebody else asked next time."""

    def serves(self, line: Line, now: float) -> bool:
        if now >= self._check_at:
            try:
                if self._checking.acquire(blocking=False):
                    self._check()
            finally:
                try:  # noqa: SIM105 - nothing may come between
                    self._checking.release()
                except RuntimeError:  # another one checks just now
                    pass
            if self._closed:
                self.close()
        return line.address == self.server

    def failed(self, line: Line) -> None:
        with self._lock:
            if self.server == line.address:
                self.server = None  # other idle connections to it are dropped

    def close(self) -> None:
        self._closed = True
        try:
            if self._checking.acquire(blocking=False):  # or whoever asks just now does it
                told_by, self._told_by = self._told_by, None
                if told_by is not None:
                    told_by.drop()
        finally:
            try:  # noqa: SIM105 - nothing may come between
                self._checking.release()
            except RuntimeError:  # another one has it
                pass

    def _check(self) -> None:
        self._check_at = time.monotonic() + CHECKED_FOR
        witness = self._witness()
        if witness is None:
            return
        line = self._told_by
        try:
            if line is None or line.address != witness or not line.usable():
                if line is not None:
                    line.drop()
                line = self._told_by = Line(witness, CHECKED_WITHIN)
            self._hear(line, CHECKED_WITHIN)
        except errors.BackendError:
            if line is not None:
                line.drop()
            self._told_by = None
            self._pass_over(witness)
