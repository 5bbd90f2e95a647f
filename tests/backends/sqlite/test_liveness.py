# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The files beside an SQLite board: whose they are, who may use them, and where they are."""

from __future__ import annotations

import concurrent.futures
import os
import pathlib
import pwd
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from multiboard import errors
from multiboard.backends.sqlite import SQLiteBackend, liveness
from multiboard.config import loading
from multiboard.primitives import boottime
from tests.backends.sqlite.boards import CHILD, ROOT, Child, post, sql

Maker = Callable[..., SQLiteBackend]
OLD = time.time() - liveness.STALE_AFTER - 60.0
OURS = "multiboard-" + "a" * 32


def aged(file: pathlib.Path) -> pathlib.Path:
    os.utime(file, (OLD, OLD), follow_symlinks=False)
    return file


def within(seconds: float, work: Callable[[], object]) -> None:
    """Fail, and do not hang, where something waits for ever."""
    pool = concurrent.futures.ThreadPoolExecutor(1)
    try:
        pool.submit(work).result(timeout=seconds)
    finally:
        pool.shutdown(wait=False)


# -- whose they are --------------------------------------------------------------------------


@pytest.fixture
def folder(path: pathlib.Path) -> pathlib.Path:
    """The folder of lock files, before any board makes it."""
    made = pathlib.Path(f"{path}-sessions")
    made.mkdir()
    return made


def test_only_old_lock_files_of_ours_are_cleared_away(
    make: Maker, folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """A file of others stays, whatever its name and its age, and so does what a link leads to."""
    outside = tmp_path / "outside"
    outside.touch()
    (folder / ("d" * 32)).touch()  # as a digest of 128 bits would be named
    (folder / f"{OURS}.bak").touch()
    (folder / f"multiboard-{'b' * 32}").write_text("somebody's")
    (folder / f"multiboard-{'c' * 32}").symlink_to(outside)
    (folder / f"multiboard-{'d' * 32}").mkdir()
    os.mkfifo(folder / f"multiboard-{'e' * 32}")
    theirs = sorted(os.listdir(folder))
    (folder / OURS).touch()
    young = f"multiboard-{'f' * 32}"
    for name in os.listdir(folder):
        aged(folder / name)
    (folder / young).touch()
    board = make()
    within(20.0, board.keepalive)
    assert board._board.current is not None
    assert sorted(os.listdir(folder)) == sorted([*theirs, young, str(board._board.current.session)])
    assert outside.exists()


@pytest.mark.parametrize("session", ["b" * 32, "multiboard-" + "b" * 32])
@pytest.mark.parametrize("kind", ["pipe", "link", "folder"])
def test_what_has_the_name_of_a_lock_and_is_none_stops_nobody(
    make: Maker, path: pathlib.Path, folder: pathlib.Path, session: str, kind: str
) -> None:
    """Such a session is judged by its time-out, as one without a lock file is."""
    board = make()
    post(board, "job")
    sql(
        path,
        f"INSERT INTO multiboard_sessions SELECT '{session}', id, {boottime() + 3600}"
        " FROM multiboard_boards",
    )
    file = folder / session
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "link":
        file.symlink_to(path)
    else:
        file.mkdir()

    def use() -> None:
        cursor = board.changes(None, 0).cursor
        board.keepalive()
        board.changes(cursor, 0.1)
        board.acquire_next("me", ["c1", "c2"])

    within(20.0, use)
    sql(path, f"UPDATE multiboard_sessions SET ends_at = 0 WHERE id = '{session}'")
    within(20.0, use)
    assert path.exists()


def test_a_damaged_session_names_no_file_elsewhere(
    make: Maker, path: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    pathlib.Path(f"{path}-sessions").mkdir()
    victim = tmp_path / "victim"
    victim.touch()
    board = make()
    sql(path, "INSERT INTO multiboard_sessions SELECT '../victim', id, 0.0 FROM multiboard_boards")
    board.keepalive()
    post(board, "job")
    assert victim.exists()


@pytest.mark.parametrize("kind", ["link", "file"])
def test_a_folder_that_is_none_is_refused(
    make: Maker, path: pathlib.Path, tmp_path: pathlib.Path, kind: str
) -> None:
    place = pathlib.Path(f"{path}-sessions")
    (tmp_path / "elsewhere").mkdir()
    if kind == "link":
        place.symlink_to(tmp_path / "elsewhere")
    else:
        place.touch()
    with pytest.raises(errors.Unavailable, match=f"{place}.* is not a directory"):
        make().keepalive()
    assert os.listdir(tmp_path / "elsewhere") == []
    assert not list(tmp_path.glob("*-sessions.*"))


def test_a_process_of_an_earlier_version_is_seen_to_live_and_to_die(
    make: Maker, path: pathlib.Path, folder: pathlib.Path
) -> None:
    """Its lock file has another name, which its row in the database gives."""
    board, old = make(session_timeout=60.0), "c" * 32
    post(board, "job")
    code = (
        "import fcntl, os, sys\n"
        "fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)\n"
        "fcntl.lockf(fd, fcntl.LOCK_EX)\n"
        "print('locked', flush=True)\n"
        "sys.stdin.read()\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(folder / old)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"locked\n"
        sql(
            path,
            f"INSERT INTO multiboard_sessions SELECT '{old}', id, {boottime() + 3600.0}"
            " FROM multiboard_boards",
            "UPDATE multiboard_postings SET claim_id = 'c', holder = 'old', token = 1,"
            f" ready = NULL, session = '{old}' WHERE key = 'job'",
        )
        assert board.acquire_next("heir", ["h"]) == []
    finally:
        holder.kill()
        holder.communicate()
    ((posting, _),) = board.acquire_next("heir", ["h"])
    assert posting.key == "job"
    assert not (folder / old).exists()


# -- who may use them ------------------------------------------------------------------------


def mode_of(file: pathlib.Path | str) -> int:
    return stat.S_IMODE(os.stat(file).st_mode)


@pytest.fixture
def umask() -> Iterator[Callable[[int], int]]:
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


@pytest.mark.parametrize(
    ("mask", "file", "folder"),
    [(0o022, 0o644, 0o755), (0o002, 0o664, 0o775), (0o007, 0o660, 0o770), (0o077, 0o600, 0o700)],
)
def test_modes_follow_the_umask_and_the_folder_follows_the_file(
    make: Maker, path: pathlib.Path, umask: Callable[[int], int], mask: int, file: int, folder: int
) -> None:
    umask(mask)
    board = make()
    umask(0o077)  # of whoever begins a session later
    board.keepalive()
    assert board._board.current is not None
    place = f"{path}-sessions"
    assert [mode_of(f"{path}{end}") for end in ("", "-wal", "-shm")] == [file] * 3
    assert mode_of(place) == folder
    assert mode_of(f"{place}/{board._board.current.session}") == file


@pytest.fixture
def nobody(tmp_path: pathlib.Path) -> int:
    """The id of another user, who may reach the folder of the test; only root has another one."""
    if os.geteuid() != 0:
        return os.geteuid()
    for parent in tmp_path.parents:
        if parent.owner() == tmp_path.owner() and not os.stat(parent).st_mode & 0o001:
            parent.chmod(0o755)
    return pwd.getpwnam("nobody").pw_uid


def test_a_first_look_by_root_shuts_no_service_out(
    make: Maker, path: pathlib.Path, tmp_path: pathlib.Path, nobody: int
) -> None:
    """Folder and lock files belong to whom the database belongs to, whoever makes them."""
    os.chown(tmp_path, nobody, -1)
    service = _as(nobody, path)
    try:
        assert service.ask("b.count()") == "0"
        board = make()  # root's, with the first session of all
        board.keepalive()
        post(board, "job")
        assert os.stat(f"{path}-sessions").st_uid == nobody
        assert service.ask("b.acquire('job', 'service', 'c').holder") == "'service'"
        assert {os.stat(entry).st_uid for entry in os.scandir(f"{path}-sessions")} == {nobody}
        assert board.get(["job"])[0].lease.holder == "service"  # type: ignore[union-attr]
        service.kill()
        ((posting, _),) = board.acquire_next("heir", ["h"])  # its death is seen at once
        assert posting.key == "job"
    finally:
        service.kill()


def _as(user: int, path: pathlib.Path) -> Child:
    """Start another process on the same file, of another user."""
    started = Child.__new__(Child)
    # Imported as the user who may read it; the files are opened as the other one.
    imports = "import encodings.ascii, os, multiboard.backends.sqlite, multiboard.errors"
    change = f"os.setgroups([])\nos.setgid(65534)\nos.setuid({user})"
    code = "\n".join([imports, change if os.geteuid() == 0 else "", CHILD])
    started.process = subprocess.Popen(
        [sys.executable, "-c", code, str(path), "60.0"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    return started


# -- where they are --------------------------------------------------------------------------


def test_without_a_home_nothing_is_made(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    """A user who is in no list, in a container for example, has no '~'."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 2**31 - 7)  # whom nobody knows
    for home in (None, "", "relative"):
        monkeypatch.delenv("HOME", raising=False)
        if home is not None:
            monkeypatch.setenv("HOME", home)
        with pytest.raises(errors.ConfigError, match="XDG_STATE_HOME or HOME"):
            loading.load("sqlite:///").open()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("spec", "options"),
    [
        ("sqlite:///:memory:", {}),
        ("sqlite://:memory:", {}),
        ("sqlite:///{folder}/:memory:", {}),
        ("sqlite://", {"path": ":memory:"}),
        ("sqlite://", {"path": "./:memory:"}),
        ("sqlite://", {"path": "file::memory:?cache=shared"}),
        ("sqlite://", {"path": "file:board.db"}),
    ],
)
def test_what_sqlite_would_take_for_memory_makes_no_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path, spec: str, options: dict[str, str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(errors.ConfigError):
        loading.load(spec.format(folder=tmp_path), **options).open()
    assert os.listdir(tmp_path) == []


def test_a_path_that_is_not_utf_8_is_refused(
    make: Maker, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")
    os.mkdir(odd)
    for spec, options in (
        (f"sqlite://{tmp_path}/caf%E9/board.db", {}),
        (f"sqlite://{odd}/board.db", {}),
        ("sqlite://", {"path": f"{odd}/board.db"}),
    ):
        with pytest.raises(errors.ConfigError, match="UTF-8") as raised:
            loading.load(spec, **options).open()
        str(raised.value).encode()
    for place in (f"{odd}/board.db", str(tmp_path / "link")):
        (tmp_path / "link").unlink(missing_ok=True)
        (tmp_path / "link").symlink_to(f"{odd}/board.db")
        with pytest.raises(errors.ConfigError, match=r"caf\\xe9.* is not UTF-8"):
            make(path=place)
    monkeypatch.setenv("XDG_STATE_HOME", odd)
    with pytest.raises(errors.ConfigError, match=r"caf\\xe9.* is not UTF-8"):
        make(path="")
    assert os.listdir(odd) == []


@pytest.mark.parametrize("end", ["", "-wal", "-shm", "-journal"])
def test_a_pipe_in_place_of_the_file_stops_nobody(
    make: Maker, path: pathlib.Path, end: str
) -> None:
    os.mkfifo(f"{path}{end}")

    def use() -> None:
        with pytest.raises(errors.Unavailable, match=f"{path}{end} is not a regular file"):
            make()

    within(20.0, use)
