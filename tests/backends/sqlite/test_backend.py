# Licensed under the Apache License, Version 2.0; see the file LICENSE.
# ruff: noqa: F811 - fixtures are imported by name, and shadowed by the tests that use them
"""What is special to the SQLite backend: processes, forks, reboots and resources."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import pathlib
import resource
import signal
import sqlite3
import threading
import time
from collections.abc import Callable

import pytest

from multiboard import errors
from multiboard.backends.sqlite import SQLiteBackend, SQLiteSettings
from multiboard.primitives import ChangeKind, NewPosting, Shelf, boottime
from tests.backends.sqlite.boards import (  # noqa: F401
    Child,
    board,
    child,
    in_child,
    make,
    path,
    post,
    sql,
    wait_for,
)

# -- deaths ----------------------------------------------------------------------------------


def test_a_killed_process_is_seen_by_a_waiting_reader(
    board: SQLiteBackend, child: Callable[..., Child]
) -> None:
    """The lease of a killed process ends at once, long before its session's time-out."""
    post(board, "job")
    victim = child(session_timeout=600)
    assert victim.ask("b.acquire('job', 'victim', 'c1').token") == "2"
    cursor = board.changes(None, 0).cursor
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(wait_for, board, cursor, ChangeKind.EXPIRED)
        victim.kill()
        assert waiting.result() == "job"
    (posting,) = board.get(["job"])
    assert posting is not None
    assert (posting.lease, posting.attempts, posting.deaths) == (None, 1, 1)


def test_a_killed_process_is_seen_without_a_waiting_reader(
    board: SQLiteBackend, child: Callable[..., Child]
) -> None:
    """Reads do not show the lease of a dead process, and every way of acquiring takes it over."""
    post(board, "a", "b")
    victim = child(session_timeout=600)
    victim.ask("b.acquire_next('victim', ['c1', 'c2'])")
    victim.ask("b.add([NewPosting('presence', b'')], Shelf.ENTITIES)")
    assert [posting.key for posting in board.list(Shelf.ENTITIES).postings] == ["presence"]
    with pytest.raises(errors.LeaseHeld):
        board.acquire("a", "heir", "c3")
    victim.kill()
    assert [posting.lease for posting in board.list().postings] == [None, None]
    assert board.list(Shelf.ENTITIES).postings == []
    ((posting, lease),) = board.acquire_next("heir", ["c4"])
    assert (posting.key, posting.deaths, lease.token > 4) == ("a", 1, True)
    assert board.acquire("b", "heir", "c5").holder == "heir"


def test_a_frozen_process_loses_its_session_when_it_is_over(
    board: SQLiteBackend, child: Callable[..., Child]
) -> None:
    """A stopped process keeps its lock file, so that its time-out decides; it learns of it."""
    post(board, "job")
    frozen = child(session_timeout=1.0)
    before = boottime()
    frozen.ask("globals().update(lease=b.acquire('job', 'frozen', 'c1'))")
    cursor = board.changes(None, 0).cursor
    os.kill(frozen.process.pid, signal.SIGSTOP)
    assert wait_for(board, cursor, ChangeKind.EXPIRED) == "job"
    assert boottime() - before >= 1.0
    successor = board.acquire("job", "frozen", "c2")
    os.kill(frozen.process.pid, signal.SIGCONT)
    assert frozen.ask("[type(e).__name__ for e in b.remove([lease])]") == "['LeaseLost']"
    assert frozen.ask("b.keepalive()") == "SessionLost"
    assert frozen.ask("b.keepalive()") == "1.0"
    assert board.remove([successor]) == [None]


def test_probes_do_not_drop_the_locks_of_their_own_process(
    make: Callable[..., SQLiteBackend], child: Callable[..., Child]
) -> None:
    """Backends of one process look at each other's sessions and all of them stay alive."""
    first, second = make(), make()
    post(first, "job")
    lease = first.acquire("job", "first", "c1")
    second.keepalive()
    cursor = second.changes(None, 0).cursor
    second.changes(cursor, 0.1)
    second.list()
    make().close()
    with pytest.raises(errors.LeaseHeld):
        second.acquire("job", "second", "c2")
    other = child()
    assert other.ask("b.get(['job'])[0].lease.holder") == "'first'"
    assert other.ask("b.acquire('job', 'other', 'c3')") == "LeaseHeld"
    assert first.remove([lease]) == [None]


def test_lock_files_of_the_dead_are_cleared_away(
    board: SQLiteBackend, path: pathlib.Path, child: Callable[..., Child]
) -> None:
    """Every session leaves no file behind, however it ended."""
    post(board, "a")
    folder = pathlib.Path(f"{path}-sessions")
    victim = child()
    victim.ask("b.acquire('a', 'victim', 'c1')")
    assert len(os.listdir(folder)) == 1
    victim.kill()
    ((_, lease),) = board.acquire_next("heir", ["c2"])
    assert os.listdir(folder) == [lease.session]
    board.close()
    assert os.listdir(folder) == []


# -- forks -----------------------------------------------------------------------------------


def test_a_forked_child_is_like_newly_opened(board: SQLiteBackend) -> None:
    """It works on the board with a session of its own, and leaves its parent's alone."""
    post(board, "parents", "childs")
    lease = board.acquire("parents", "parent", "c1")

    def work() -> None:
        (held, _) = board.get(["parents", "childs"])
        assert held is not None
        assert held.lease == lease
        own = board.acquire("childs", "child", "c2")
        assert own.session != lease.session
        post(board, "from-child")
        board.close()

    in_child(work)
    childs, parents, new = board.get(["childs", "parents", "from-child"])
    assert childs is not None
    assert (childs.lease, childs.deaths) == (None, 1)
    assert parents is not None
    assert parents.lease == lease
    assert new is not None
    assert board.remove([lease]) == [None]


def test_a_fork_amid_waiting_and_working_threads(board: SQLiteBackend) -> None:
    """Threads that write and wait while the process forks harm neither side."""
    stop = threading.Event()

    def write() -> int:
        number = 0
        while not stop.is_set():
            post(board, f"t{number}")
            number += 1
        return number

    def read() -> tuple[list[str], str]:
        seen, cursor = [], first
        while not stop.is_set():
            changes = board.changes(cursor, 0.05)
            assert not changes.reset
            cursor = changes.cursor
            seen += [change.key for change in changes.events]
        return seen, cursor

    first = board.changes(None, 0).cursor
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        written, seen = pool.submit(write), pool.submit(read)
        try:
            for number in range(10):
                in_child(lambda number=number: post(board, f"child{number}"))  # type: ignore[misc]
        finally:
            stop.set()
        expected = {f"t{number}" for number in range(written.result())}
        expected |= {f"child{number}" for number in range(10)}
        told, cursor = seen.result()
    told += [change.key for change in board.changes(cursor, 0).events]
    assert {posting.key for posting in board.list().postings} == expected
    assert sorted(told) == sorted(expected)


def test_commits_of_a_child_survive_its_parents_close(
    board: SQLiteBackend, make: Callable[..., SQLiteBackend]
) -> None:
    """The parent's close does not take the write-ahead log away under its child.

    It would, if a connection were open during the fork: SQLite in the child would believe in
    locks that only the parent holds.
    """
    post(board, "before")
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            assert board.count() == 1
            os.read(read_end, 1)
            post(board, "after")
            status = 0
        finally:
            os._exit(status)
    board.close()
    os.write(write_end, b"x")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    os.close(read_end)
    os.close(write_end)
    assert make().count() == 2


def test_a_killed_parent_is_dead_though_its_child_lives(
    board: SQLiteBackend, child: Callable[..., Child]
) -> None:
    """A session is its process's alone: a child that was forked does not keep it alive."""
    post(board, "job")
    parent = child(session_timeout=600)
    parent.ask("b.acquire('job', 'parent', 'c1')")
    forked = parent.ask("os.fork() or os.execvp('sleep', ['sleep', '60'])")
    try:
        cursor = board.changes(None, 0).cursor
        parent.kill()
        assert wait_for(board, cursor, ChangeKind.EXPIRED) == "job"
    finally:
        os.kill(int(forked), signal.SIGKILL)


# -- time ------------------------------------------------------------------------------------


def test_a_reboot_ends_sessions_and_keeps_what_is_left_of_timed_leases(
    make: Callable[..., SQLiteBackend], path: pathlib.Path
) -> None:
    """The boottime clock began anew: the wall clock tells what is left, bounded by the grant."""
    before = make()
    post(before, "session", "timed", "over", "strange", "now")
    before.add([NewPosting("later", b"", delay=500)])
    before.acquire("session", "h", "c1")
    for key in ("timed", "over", "strange"):
        before.acquire(key, "h", f"c-{key}", 1000)
    sql(
        path,
        "UPDATE multiboard_meta SET value = 'an earlier boot' WHERE name = 'boot'",
        "UPDATE multiboard_postings SET ends_at = ends_at + 1e6, due_at = due_at + 1e6",
        "UPDATE multiboard_postings SET ends_on = ends_on - 400 WHERE key = 'timed'",
        "UPDATE multiboard_postings SET ends_on = ends_on - 2000 WHERE key = 'over'",
        "UPDATE multiboard_postings SET ends_on = ends_on + 1e9 WHERE key = 'strange'",
    )
    after = make()
    found = {posting.key: posting for posting in after.list().postings}
    assert found["session"].lease is None
    assert found["over"].lease is None
    left = {key: found[key].lease.ends_in for key in ("timed", "strange")}  # type: ignore[union-attr]
    assert 500 < left["timed"] <= 600  # type: ignore[operator]
    assert 900 < left["strange"] <= 1000  # type: ignore[operator]
    assert 400 < found["later"].due_in <= 500
    assert found["now"].due_in == 0.0
    assert len(after.acquire_next("h", ["n1", "n2", "n3", "n4"])) == 3


# -- resources -------------------------------------------------------------------------------


def test_many_opens_leak_nothing(make: Callable[..., SQLiteBackend], path: pathlib.Path) -> None:
    """Files, threads and lock files are gone after a close, with a long-lived board beside."""

    def use() -> None:
        backend = SQLiteBackend(SQLiteSettings(path=str(path)))
        backend.open()
        backend.keepalive()
        backend.changes(backend.changes(None, 0).cursor, 0)
        backend.close()

    beside = make()
    post(beside, "job")
    use()
    before = (len(os.listdir("/proc/self/fd")), threading.active_count())
    for _ in range(100):
        use()
    assert (len(os.listdir("/proc/self/fd")), threading.active_count()) == before
    assert os.listdir(f"{path}-sessions") == []
    assert beside.count() == 1


def test_close_wakes_those_who_wait(board: SQLiteBackend) -> None:
    """A waiting reader hears Closed; the backend can be opened again."""
    cursor = board.changes(None, 0).cursor
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(board.changes, cursor, 60) for _ in range(3)]
        time.sleep(0.1)
        board.close()
        for one in waiting:
            with pytest.raises(errors.Closed):
                one.result(timeout=10)
    with pytest.raises(errors.Closed):
        board.count()
    board.open()
    assert board.changes(cursor, 0).events == ()


@pytest.mark.parametrize(("name", "number"), [("FULL", 2), ("NORMAL", 1)])
def test_synchronous_is_set(make: Callable[..., SQLiteBackend], name: str, number: int) -> None:
    """FULL is the default, and NORMAL is warned about."""
    board = make(synchronous=name)
    assert board._opening is not None
    with board._opening.link.lock:
        connection = board._opening.link.opened()
        assert connection.execute("PRAGMA synchronous").fetchone() == (number,)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert ("warning_synchronous" in board.server_info()) == (name == "NORMAL")
    assert SQLiteSettings().synchronous == "FULL"


def test_a_busy_file_is_unavailable(make: Callable[..., SQLiteBackend], path: pathlib.Path) -> None:
    """Waiting for another writer is bounded; reading goes on; nothing was applied."""
    board = make(busy_timeout=0.1)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(errors.Unavailable, match="busy"):
            board.keepalive()
        assert board.count() == 0
        other.execute("ROLLBACK")
    assert board.keepalive() == 10.0


def test_a_full_disk_is_unavailable_and_changes_nothing(board: SQLiteBackend) -> None:
    """An addition that finds no room is rolled back, and works once there is some."""
    post(board, "small")
    assert board._opening is not None
    with board._opening.link.lock:
        connection = board._opening.link.opened()
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages + 5}")
    big = [NewPosting("big", b"x" * 100_000)]
    with pytest.raises(errors.Unavailable, match="full"):
        board.add(big)
    assert board.count() == 1
    with board._opening.link.lock:
        connection = board._opening.link.opened()
        connection.execute("PRAGMA max_page_count = 1000000")
    assert not isinstance(board.add(big)[0], Exception)


def test_a_failed_commit_is_told_and_may_be_repeated(board: SQLiteBackend) -> None:
    """A write that the operating system refuses amid the commit gives our error, and one effect."""
    post(board, "small")
    big = [NewPosting("big", b"x" * 300_000)]

    def work() -> None:
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
        with pytest.raises((errors.Indeterminate, errors.Unavailable)):
            board.add(big)
        assert board.get(["small"]) != [None]
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        (posting,) = board.add(big)
        assert not isinstance(posting, Exception)
        assert board.add(big) == [posting]

    in_child(work)
    assert board.count() == 2


def test_namespaces_share_a_file_and_nothing_else(make: Callable[..., SQLiteBackend]) -> None:
    """Postings, feeds, sessions and presence are each board's own."""
    one, other = make(namespace="jobs"), make(namespace="jobs/a")
    cursor = other.changes(None, 0).cursor
    post(one, "job")
    one.add([NewPosting("me", b"")], Shelf.ENTITIES)
    assert one.incarnation != other.incarnation
    assert (other.count(), other.get(["job"]), other.count(Shelf.ENTITIES)) == (0, [None], 0)
    assert other.changes(cursor, 0).events == ()
    assert other.acquire_next("h", ["c1"]) == []


def test_two_processes_hammering(board: SQLiteBackend, child: Callable[..., Child]) -> None:
    """Every posting is consumed by exactly one of them."""
    number = 300
    post(board, *(f"job{i}" for i in range(number)))
    cursor = board.changes(None, 0).cursor
    workers = [child(), child()]
    for name, worker in zip("ab", workers, strict=True):
        worker.tell(
            f"[b.remove([l]) and p.key for i in range({number})"
            f" for p, l in b.acquire_next('h', ['{name}%d' % i])]"
        )
    done = [key for worker in workers for key in eval(worker.answer())]
    assert sorted(done) == sorted(f"job{i}" for i in range(number))
    events = board.changes(cursor, 0).events
    assert len(events) == 2 * number
    assert board.count() == 0


def test_a_purged_key_that_is_forgotten_is_new_and_its_tokens_rise(
    make: Callable[..., SQLiteBackend], monkeypatch: pytest.MonkeyPatch
) -> None:
    board = make()
    post(board, "a")
    last = board.acquire("a", "h", "c1")
    board.remove([last], Shelf.TRASH)
    assert board.purge(["a"]) == [True]
    assert isinstance(board.add([NewPosting("a", b"another")])[0], errors.PostingExists)
    monkeypatch.setattr("multiboard.backends.sqlite.transactions.REPEAT_WINDOW", 0.0)
    board.add([NewPosting("a", b"another")])
    assert [(p.body, p.attempts) for p in board.list().postings] == [(b"another", 0)]
    assert board.acquire("a", "h", "c2").token > last.token


def test_what_is_over_is_tidied_up(
    make: Callable[..., SQLiteBackend], path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tombstones and the log are bounded by time and number, in small portions."""
    monkeypatch.setattr("multiboard.backends.sqlite.transactions.REPEAT_WINDOW", 0.0)
    monkeypatch.setattr("multiboard.backends.sqlite.transactions.HISTORY", 100)
    board = make(synchronous="NORMAL")
    for number in range(200):
        post(board, f"job{number}")
        board.release(board.acquire(f"job{number}", "h", f"r{number}"))
        board.remove([board.acquire(f"job{number}", "h", f"c{number}")])
    with contextlib.closing(sqlite3.connect(path)) as connection:
        for table, most in (("postings", 128), ("ended", 128), ("log", 164), ("bodies", 0)):
            (rows,) = connection.execute(f"SELECT count(*) FROM multiboard_{table}").fetchone()
            assert rows <= most, table
