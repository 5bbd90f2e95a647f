# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""What the tests of the SQLite backend call: other processes on its file, and SQL."""

from __future__ import annotations

import contextlib
import os
import pathlib
import sqlite3
import subprocess
import sys
from collections.abc import Callable

from multiboard.backends.sqlite import SQLiteBackend
from multiboard.primitives import ChangeKind, NewPosting, boottime

ROOT = pathlib.Path(__file__).resolve().parents[3]

#: Answers each line with the value of the expression in it.
CHILD = """
import os, sys
from multiboard import errors
from multiboard.backends.sqlite import SQLiteBackend, SQLiteSettings
from multiboard.primitives import *
b = SQLiteBackend(SQLiteSettings(path=sys.argv[1], session_timeout=float(sys.argv[2])))
b.open()
for line in sys.stdin:
    try:
        print(repr(eval(line)), flush=True)
    except errors.MultiboardError as error:
        print(type(error).__name__, flush=True)
"""


class Child:
    """Another process with a backend ``b`` on the same file."""

    def __init__(self, path: pathlib.Path, session_timeout: float = 60.0) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(path), str(session_timeout)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )

    def send(self, expression: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(expression + "\n")
        self.process.stdin.flush()

    def receive(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def ask(self, expression: str) -> str:
        self.send(expression)
        return self.receive()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()


def post(backend: SQLiteBackend, *keys: str) -> None:
    for answer in backend.add([NewPosting(key, b"body of " + key.encode()) for key in keys]):
        assert not isinstance(answer, Exception)


def sql(path: pathlib.Path, *statements: str) -> None:
    """Do as another application would with the file."""
    with contextlib.closing(sqlite3.connect(path, timeout=10)) as connection, connection:
        for statement in statements:
            connection.execute(statement)


def wait_for(backend: SQLiteBackend, cursor: str, kind: ChangeKind, seconds: float = 20.0) -> str:
    """Wait for a change of this kind; return the key."""
    give_up = boottime() + seconds
    while boottime() < give_up:
        changes = backend.changes(cursor, give_up - boottime())
        cursor = changes.cursor
        for change in changes.events:
            if change.kind is kind:
                return change.key
    raise AssertionError(f"no {kind} within {seconds} s")


def in_child(work: Callable[[], object]) -> None:
    """Fork, do the work in the child, and fail here if it fails there."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        except BaseException as error:
            print(f"in the child: {error!r}", file=sys.stderr, flush=True)
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
