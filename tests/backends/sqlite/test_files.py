# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The SQLite backend and its file: what may befall it, and what is refused."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import pathlib
import sqlite3
from collections.abc import Callable

import pytest

from multiboard import errors
from multiboard.backends.sqlite import SQLiteBackend, places
from multiboard.primitives import NewPosting, Shelf, Url
from tests.backends.sqlite.boards import in_child, post, sql

# -- the file --------------------------------------------------------------------------------


@pytest.mark.parametrize("successor", ["nothing", "another file"])
def test_a_file_that_went_away_is_a_lost_board(
    board: SQLiteBackend, path: pathlib.Path, successor: str
) -> None:
    """No verb answers from a deleted file, or from another one in its place."""
    post(board, "job")
    cursor = board.changes(None, 0).cursor
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(board.changes, cursor, 20)
        os.rename(path, f"{path}.away")
        if successor != "nothing":
            path.touch()
        with pytest.raises(errors.BoardLost):
            waiting.result()
    for verb in (board.count, board.list, board.keepalive, lambda: board.get(["job"])):
        with pytest.raises(errors.BoardLost):
            verb()


def test_a_board_whose_row_is_gone_is_lost(
    board: SQLiteBackend, make: Callable[..., SQLiteBackend], path: pathlib.Path
) -> None:
    """A board that was made anew in the same file is another one."""
    post(board, "job")
    sql(path, "DELETE FROM multiboard_boards")
    renewed = make()
    assert renewed.count() == 0
    for verb in (board.count, board.keepalive, lambda: board.changes(None, 0)):
        with pytest.raises(errors.BoardLost):
            verb()


def test_garbage_is_reported_and_left_alone(board: SQLiteBackend, path: pathlib.Path) -> None:
    """Rows with wrong values are skipped by every verb, named in the listing, never deleted."""
    post(board, "good", "worse", "bad", "unknown", "bodiless", "text", "lease")
    board.add([NewPosting("someone", b"")], Shelf.ENTITIES)
    sql(
        path,
        "UPDATE multiboard_postings SET rank = NULL WHERE key = 'worse'",
        "UPDATE multiboard_postings SET rank = 'first' WHERE key = 'bad'",
        "UPDATE multiboard_postings SET shelf = 'attic' WHERE key = 'unknown'",
        "DELETE FROM multiboard_bodies WHERE posting ="
        " (SELECT id FROM multiboard_postings WHERE key = 'bodiless')",
        "UPDATE multiboard_postings SET holder = CAST(x'ff00ff' AS TEXT), claim_id = x'07',"
        " ends_at = 1 WHERE key = 'lease'",
        "UPDATE multiboard_postings SET key = CAST(x'fffe41' AS TEXT) WHERE key = 'text'",
        "INSERT INTO multiboard_postings (key, ready) SELECT 'nobodys', 1",
        "INSERT INTO multiboard_postings (board, key, shelf, rank, serial, ready)"
        " SELECT id, 'half', 'live', 0, 0, 1 FROM multiboard_boards",
        "INSERT INTO multiboard_entities (board, key, rank) SELECT id, 'x', 'y'"
        " FROM multiboard_boards",
        "INSERT INTO multiboard_sessions SELECT x'00', id, 'never' FROM multiboard_boards",
    )
    page = board.list()
    assert [posting.key for posting in page.postings] == ["good"]
    assert len(page.damaged) == 7
    assert [posting.key for posting in board.list(limit=1).postings] == ["good"]
    assert len(board.list(Shelf.ENTITIES).damaged) == 1
    assert board.get(["worse", "bad", "unknown", "half"]) == [None] * 4
    with pytest.raises(errors.PostingNotFound):
        board.acquire("bad", "me", "c0")
    assert isinstance(board.add([NewPosting("bad", b"")])[0], errors.PostingExists)
    won = board.acquire_next("me", ["c1", "c2"])
    assert [posting.key for posting, _ in won] == ["good"]
    cursor = board.changes(None, 0).cursor
    assert board.changes(cursor, 0.3).events == ()
    assert board.remove([lease for _, lease in won]) == [None]
    board.keepalive()
    assert len(board.list().damaged) == 7


def test_a_log_with_a_hole_is_a_reset(
    board: SQLiteBackend, make: Callable[..., SQLiteBackend], path: pathlib.Path
) -> None:
    """A reader whose place was trimmed, torn or rolled back hears of it."""
    start = board.changes(None, 0).cursor
    post(board, "a", "b", "c")
    assert [change.key for change in board.changes(start, 0).events] == ["a", "b", "c"]
    sql(path, "DELETE FROM multiboard_log WHERE seq = 2")
    assert board.changes(start, 0).reset
    sql(path, "UPDATE multiboard_boards SET told = 1")
    with pytest.raises(errors.BoardLost):
        board.changes(f"{board.incarnation}:3", 0)
    board = make()
    assert board.changes(f"{board.incarnation}:3", 0).reset
    assert board.changes("of another board:1", 0).reset
    assert board.changes("nonsense", 0).reset


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("UPDATE multiboard_meta SET value = '999' WHERE name = 'schema'", "schema '999'"),
        ("PRAGMA application_id = 1234", "another application"),
    ],
)
def test_a_file_of_others_is_refused(
    make: Callable[..., SQLiteBackend], path: pathlib.Path, statement: str, words: str
) -> None:
    """A newer schema and another application's database are refused, and not changed."""
    make().close()
    sql(path, statement)
    with pytest.raises(errors.Unsupported, match=words):
        make()


def test_tables_of_others_are_left_alone(
    make: Callable[..., SQLiteBackend], path: pathlib.Path
) -> None:
    """A database without an application id may be shared."""
    sql(path, "CREATE TABLE theirs (x)", "INSERT INTO theirs VALUES (42)")
    post(make(), "job")
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT x FROM theirs").fetchall() == [(42,)]
        assert connection.execute("PRAGMA application_id").fetchone() == (0,)


def test_what_is_no_database_is_refused(
    make: Callable[..., SQLiteBackend], tmp_path: pathlib.Path
) -> None:
    """Each refusal names the path and the cause."""
    text = tmp_path / "text"
    text.write_text("This is no database. " * 100)
    with pytest.raises(errors.Unavailable, match=f"{text} is damaged or is no SQLite database"):
        make(path=str(text))
    assert text.read_text().startswith("This is no database.")
    with pytest.raises(errors.Unavailable, match=f"no directory {tmp_path}/none"):
        make(path=str(tmp_path / "none" / "file"))
    with pytest.raises(errors.Unavailable, match="is a directory"):
        make(path=str(tmp_path))
    with pytest.raises(errors.ConfigError, match="memory://"):
        make(path=":memory:")


def test_a_file_that_may_not_be_written_is_refused(
    make: Callable[..., SQLiteBackend], path: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """A file, or for root's sake a directory, that may not be written is AccessDenied."""
    make().close()
    path.chmod(0o444)
    tmp_path.chmod(0o755)
    if os.geteuid() != 0:
        with pytest.raises(errors.AccessDenied):
            make()
        return

    def as_nobody() -> None:
        for parent in tmp_path.parents:
            assert os.access(parent, os.X_OK)
        os.setuid(65534)
        with pytest.raises(errors.AccessDenied, match="directory"):
            make()

    for parent in tmp_path.parents:  # pytest's own folders, closed to others
        if parent.owner() == tmp_path.owner() and not os.stat(parent).st_mode & 0o001:
            parent.chmod(0o755)
    in_child(as_nobody)


def test_a_damaged_file_is_unavailable_and_nothing_escapes(
    make: Callable[..., SQLiteBackend], path: pathlib.Path
) -> None:
    """Pages that were overwritten give our error, not SQLite's."""
    board = make()
    post(board, *(f"job{number}" for number in range(200)))
    board.close()
    with open(path, "r+b") as file:
        file.seek(4096)
        file.write(b"\xa5" * (os.path.getsize(path) - 4096))
    with pytest.raises((errors.BackendError, errors.Unsupported)):
        make().list()


@pytest.mark.parametrize(
    ("mounts", "expected"),
    [
        ("25 1 8:1 / / rw - ext4 /dev/vda rw", "ext4"),
        ("25 1 8:1 / / rw - ext4 x rw\n26 25 0:5 / {0} rw shared:1 - nfs4 host:/x rw", "nfs4"),
        ("26 25 0:5 / {0} rw - nfs4 h:/x rw\n27 26 8:2 / {0} rw - xfs /dev/b rw", "xfs"),
        ("25 1 8:1 / / rw - ext4 x rw\n26 25 0:5 / {0}x rw - nfs4 host:/x rw", "ext4"),
        ("26 25 0:5 / {0} rw - fuse.sshfs host: rw", "fuse.sshfs"),
        ("not a mount table", None),
    ],
)
def test_the_file_system_is_found(
    tmp_path: pathlib.Path, mounts: str, expected: str | None
) -> None:
    """It is that of the innermost and latest mount."""
    table = tmp_path / "mountinfo"
    table.write_text(mounts.format(str(tmp_path / "a b").replace(" ", "\\040")) + "\n")
    assert places.file_system(str(tmp_path / "a b" / "file"), str(table)) == expected
    assert places.is_network(expected) == (expected in ("nfs4", "fuse.sshfs"))


def test_a_network_file_system_is_refused(
    make: Callable[..., SQLiteBackend], monkeypatch: pytest.MonkeyPatch, path: pathlib.Path
) -> None:
    """Where the locks do not hold nobody gets a board."""
    monkeypatch.setattr(places, "file_system", lambda _: "cifs")
    with pytest.raises(errors.Unsupported, match="network file system \\(cifs\\)"):
        make()
    assert not path.exists()


def test_the_default_file(
    make: Callable[..., SQLiteBackend], monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    """``sqlite://`` is a file in the user's state directory, which is made."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    url = Url("sqlite", None, None, (), "")
    make(**SQLiteBackend.from_url(url))
    assert (tmp_path / "state" / "multiboard" / "multiboard.sqlite3").exists()
    assert SQLiteBackend.from_url(Url("sqlite", None, None, (), "/a/b")) == {"path": "/a/b"}
    with pytest.raises(errors.ConfigError, match="three slashes"):
        SQLiteBackend.from_url(Url("sqlite", None, None, (("a", None),), "/b"))
