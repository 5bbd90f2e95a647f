# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Who looks at a board that is not there makes nothing: the store's bytes before and after."""

from __future__ import annotations

import logging
import os
import pathlib
import sqlite3
import uuid
from collections.abc import Callable
from typing import Any

import etcd3gw
import kazoo.client
import pytest
import redis
import servers

import multiboard
from multiboard import errors
from multiboard.backends import memory
from multiboard.cli.main import main
from multiboard.config import loading
from multiboard.runtime.retry import RetryingGuard

Look = Callable[[], Any]


def _tree(client: Any, path: str) -> list[str]:
    inner = [f"{path.rstrip('/')}/{name}" for name in client.get_children(path)]
    return [path, *(one for child in inner for one in _tree(client, child))]


def _files(folder: pathlib.Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


@pytest.fixture(params=("memory", "sqlite", "redis", "zookeeper", "etcd"))
def place(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> tuple[str, Look]:
    """A place in each store where no board was ever made, and what shows all that is there."""
    name, store = f"look-{uuid.uuid4().hex[:12]}", request.param
    if store == "memory":
        return f"memory://{name}", lambda: list(memory._boards)
    if store == "sqlite":
        return f"sqlite://{tmp_path}/not/there/b.db", lambda: _files(tmp_path)
    url = request.getfixturevalue(f"{store}_url")
    settings: Any = loading.load(url).settings
    if store == "redis":
        host, _, port = settings.hosts[0].partition(":")
        return f"{url}?prefix={name}", lambda: sorted(redis.Redis(host, int(port)).keys(f"{name}*"))
    if store == "zookeeper":

        def nodes() -> list[str]:
            client = kazoo.client.KazooClient(hosts=",".join(settings.hosts))
            client.start(timeout=10.0)
            try:
                return _tree(client, f"/{name}") if client.exists(f"/{name}") else []
            finally:
                client.stop()
                client.close()

        return f"{url.rstrip('/')}/{name}", nodes
    host, _, port = settings.hosts[0].partition(":")

    def keys() -> list[Any]:
        client = etcd3gw.Etcd3Client(host, int(port), api_path="/v3/")
        return [found["key"] for _, found in client.get_prefix(f"/{name}")]

    return f"{url.rstrip('/')}/{name}", keys


def _with(url: str, namespace: str) -> str:
    return f"{url}{'&' if '?' in url else '?'}namespace={namespace}"


def test_looking_at_a_store_that_nobody_used_makes_nothing(
    place: tuple[str, Look], capsys: pytest.CaptureFixture[str]
) -> None:
    url, shows = place
    before = shows()
    with pytest.raises(errors.BoardNotFound, match=r"no board 'typo' at .*; there are none$"):
        RetryingGuard(loading.load(_with(url, "typo"), create=False)).open()
    words = ["jobs", "trash", "health", "entities", "watch", "show", "restore", "purge"]
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    for word in words:
        last = [str(uuid.UUID(int=1))] if word in ("show", "restore", "purge") else []
        status = main([word, _with(url, "typo"), *last])
        root.handlers[:], root.level = handlers, level  # the command adds one each time
        told = capsys.readouterr()
        assert (status, told.out, told.err.count("\n")) == (1, "", 1)
        assert "no board 'typo' at " in told.err
    assert shows() == before


def test_looking_beside_other_boards_makes_nothing_and_names_them(
    place: tuple[str, Look], tmp_path: pathlib.Path
) -> None:
    url, shows = place
    (tmp_path / "not" / "there").mkdir(parents=True)
    for name in ("b", "a/x", "a"):
        with multiboard.backend("cli", _with(url, name)) as board:
            board.post("one")
    before = shows()
    assert before
    guard = RetryingGuard(loading.load(_with(url, "typo"), create=False))
    for _ in range(2):
        with pytest.raises(errors.BoardNotFound) as raised:
            guard.open()
        assert str(raised.value).endswith("; there are: a, a/x, b")
        assert raised.value.boards == ["a", "a/x", "b"]
    assert shows() == before
    assert guard.boards() == ["a", "a/x", "b"]


def test_a_board_says_what_is_there_instead(place: tuple[str, Look], tmp_path: Any) -> None:
    url, _ = place
    (tmp_path / "not" / "there").mkdir(parents=True)
    with multiboard.backend("cli", _with(url, "a")) as made:
        made.post("one")
        with multiboard.backend("cli", {"url": _with(url, "a"), "create": "false"}) as found:
            assert [job.name for job in found.iterjobs()] == ["one"]
        strange = multiboard.fetch("cli", {"url": _with(url, "b"), "create": "false"})
        with pytest.raises(Exception, match=r"no board 'b' at .*; there are: a$"):
            strange.connect()
        assert not strange.connected


def test_a_long_list_of_boards_is_cut() -> None:
    names = [f"b{n:02}" for n in range(25)]
    assert str(errors.BoardNotFound("x", "y", names)).endswith("b18, b19, and 5 more")
    assert str(errors.BoardNotFound("x", "y")) == "no board 'x' at y"


# -- SQLite ----------------------------------------------------------------------------------------


def test_the_default_folder_is_not_made(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    backend = loading.load("sqlite://", create=False)
    with pytest.raises(errors.BoardNotFound):
        backend.open()
    assert backend.boards() == []
    assert list(tmp_path.iterdir()) == []
    loading.load("sqlite://").open()
    assert list(tmp_path.iterdir()) != []


def test_another_applications_file_is_left_as_it_is(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "app.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE theirs (x)")
    connection.close()
    (tmp_path / "empty.db").touch()
    before = _files(tmp_path)
    for name in ("app.db", "empty.db"):
        backend = loading.load(f"sqlite://{tmp_path / name}", create=False)
        with pytest.raises(errors.BoardNotFound):
            backend.open()
        assert backend.boards() == []
    assert _files(tmp_path) == before


def test_a_board_is_found_after_a_reboot(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "b.db"
    with multiboard.backend("cli", f"sqlite://{path}") as board:
        board.post("one")
    connection = sqlite3.connect(path)
    connection.execute("UPDATE multiboard_meta SET value = 'before' WHERE name = 'boot'")
    connection.commit()
    connection.close()
    with multiboard.backend("cli", {"url": f"sqlite://{path}", "create": False}) as found:
        assert [job.name for job in found.iterjobs()] == ["one"]
    with pytest.raises(errors.BoardNotFound):
        loading.load(f"sqlite://{path}?namespace=x", create=False).open()


# -- Redis -----------------------------------------------------------------------------------------


def test_who_may_not_scan_is_not_told_what_is_there() -> None:
    with servers.redis_server() as server:
        host, port = servers.HOST, server.port
        client = redis.Redis(host, port)
        client.execute_command(
            "ACL", "SETUSER", "clerk", "on", ">s3cret", "~multiboard:*", "+@all", "-scan"
        )
        url = f"redis://clerk:s3cret@{host}:{port}?namespace=typo"
        with pytest.raises(errors.BoardNotFound) as raised:
            RetryingGuard(loading.load(url, create=False)).open()
        assert str(raised.value) == f"no board 'typo' at redis://{host}:{port}"
        assert client.keys() == []


def test_names_are_found_among_many_keys_and_foreign_ones(redis_url: str) -> None:
    prefix = f"look*[a-c]?-{uuid.uuid4().hex[:8]}"
    settings: Any = loading.load(redis_url).settings
    host, _, port = settings.hosts[0].partition(":")
    client = redis.Redis(host, int(port))
    pipeline = client.pipeline()
    for n in range(3000):
        pipeline.set(f"{prefix}:filler:{n}", b"")
    pipeline.set(f"{prefix}:{{bad\x1b name}}:meta", b"")
    pipeline.set(f"{prefix.replace('*', 'x')}:{{other}}:meta", b"")
    pipeline.execute()
    try:
        backend = loading.load(redis_url, prefix=prefix, namespace="mine")
        backend.open()
        backend.close()
        assert RetryingGuard(loading.load(redis_url, prefix=prefix)).boards() == ["mine"]
    finally:
        for key in client.scan_iter("look*"):
            client.delete(key)


def test_the_process_holds_no_descriptor_after_looking(place: tuple[str, Look]) -> None:
    url, _ = place
    folder = "/proc/self/fd"

    def looked() -> int:
        with pytest.raises(errors.BoardNotFound):
            RetryingGuard(loading.load(_with(url, "typo"), create=False)).open()
        return len(os.listdir(folder))

    looked()
    first = looked()
    assert max(looked() for _ in range(5)) <= first + 1
