# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Locating the server of a board in Redis: sentinels, nodes, what their URLs mean, failures."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest
import servers
from servers.clusters.redis_sentinel import SentinelServer

from multiboard import errors
from multiboard.backends.redis import RedisBackend
from multiboard.config import loading
from multiboard.primitives import NewPosting

PASSWORD, SENTINELS = "s3cret-of-the-server", "s3cret-of-the-sentinels"


@contextlib.contextmanager
def watched(
    password: str | None = None, sentinels: str | None = None
) -> Iterator[tuple[servers.Server, SentinelServer]]:
    """Run one master, and one sentinel that watches it."""
    with servers.redis_server(appendonly=False, password=password) as master:
        assert isinstance(master, servers.RedisServer)
        with servers.running(SentinelServer(master, password=sentinels)) as sentinel:
            assert isinstance(sentinel, SentinelServer)
            yield master, sentinel


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[servers.Server, SentinelServer]]:
    with watched() as found:
        yield found


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of a program that accepts connections and sends nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture
def closed() -> str:
    """An address at which no program listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"127.0.0.1:{listener.getsockname()[1]}"


def opened(url: str, **options: Any) -> RedisBackend:
    backend = loading.load(url, **options)
    assert isinstance(backend, RedisBackend)
    backend.open()
    return backend


# -- sentinels ------------------------------------------------------------------------------------


def test_any_sentinel_that_replies_will_do(
    pair: tuple[servers.Server, SentinelServer], silent: str, closed: str
) -> None:
    _, sentinel = pair
    url = f"redis+sentinel://{closed},{silent},127.0.0.1:{sentinel.port}/mymaster"
    began = time.monotonic()
    board = opened(url, connect_timeout=3.0)
    assert time.monotonic() - began < 3.0
    assert [posting.key for posting in board.add([NewPosting("a", b"")])] == ["a"]  # type: ignore[union-attr]
    facts = board.server_info()
    assert facts["address"] == url
    assert facts["server"] == f"redis://127.0.0.1:{pair[0].port}"
    board.close()


@pytest.mark.parametrize(
    ("url", "match"),
    [
        ("redis+sentinel://{hosts}/mymaster", "mymaster: found no master"),
        ("redis+cluster://{hosts}", "found no node"),
    ],
)
def test_that_no_server_replies_is_reported_with_hosts_and_causes(
    silent: str, closed: str, url: str, match: str
) -> None:
    began = time.monotonic()
    with pytest.raises(errors.Unavailable, match=match) as raised:
        opened(url.format(hosts=f"{closed},{silent}"), connect_timeout=1.0)
    assert time.monotonic() - began < 3.0
    for cause in (f"{closed}.*refused", f"{silent}.*(?i:time|reply)"):
        assert raised.match(cause)


def test_a_master_that_no_sentinel_has_is_named(
    pair: tuple[servers.Server, SentinelServer],
) -> None:
    with pytest.raises(errors.Unavailable, match="has no master called 'another'"):
        opened(f"redis+sentinel://127.0.0.1:{pair[1].port}/another")


def test_a_server_that_is_no_sentinel_is_reported(
    pair: tuple[servers.Server, SentinelServer],
) -> None:
    with pytest.raises(errors.Unavailable, match=f"{pair[0].port}.*unknown command.*(?i:sentinel)"):
        opened(f"redis+sentinel://127.0.0.1:{pair[0].port}/mymaster")


def test_a_replica_that_sentinels_take_for_the_master_is_refused(
    pair: tuple[servers.Server, SentinelServer],
) -> None:
    """A sentinel that missed a failover names the old master, which follows another one now."""
    master, _ = pair
    options = ("--replicaof", f"127.0.0.1 {master.port}")
    with servers.redis_server(appendonly=False, options=options) as replica:
        assert isinstance(replica, servers.RedisServer)
        with servers.running(SentinelServer(replica, quorum=9)) as mistaken:
            with pytest.raises(errors.Unavailable, match=f"{replica.port}: is a slave, not the ma"):
                opened(f"redis+sentinel://127.0.0.1:{mistaken.port}/mymaster")
            # Where there is another sentinel, it is asked.
            hosts = f"127.0.0.1:{mistaken.port},127.0.0.1:{pair[1].port}"
            board = opened(f"redis+sentinel://{hosts}/mymaster")
            assert board.server_info()["server"] == f"redis://127.0.0.1:{master.port}"
            board.close()


def test_sentinels_that_are_gone_do_not_take_the_board_with_them() -> None:
    with watched() as (_, sentinel):
        board = opened(f"redis+sentinel://127.0.0.1:{sentinel.port}/mymaster")
        board.add([NewPosting("a", b"")])
        sentinel.kill()
        board._board._process().pool.locator._check_at = 0.0  # type: ignore[attr-defined]
        assert board.count() == 1
        sentinel.start()
        board._board._process().pool.locator._check_at = 0.0  # type: ignore[attr-defined]
        assert board.count() == 1
        board.close()


def test_a_forked_child_has_a_locator_of_its_own(
    pair: tuple[servers.Server, SentinelServer],
) -> None:
    board = opened(f"redis+sentinel://127.0.0.1:{pair[1].port}/mymaster", namespace="fork")
    board.add([NewPosting("a", b"")])
    locator = board._board._process().pool.locator
    locator._check_at = 0.0  # type: ignore[attr-defined]
    assert board.count() == 1
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            assert board._board._process().pool.locator is not locator
            os.write(writing, b"%d" % board.count())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        assert pipe.read() == b"1"
    os.waitpid(child, 0)
    locator._check_at = 0.0  # type: ignore[attr-defined]
    assert board.count() == 1
    board.close()


@pytest.mark.parametrize(
    ("password", "sentinels", "match"),
    [
        (PASSWORD, "wr0ng-password", "found no master"),
        (PASSWORD, None, "found no master"),
        ("wr0ng-password", SENTINELS, "(?i:password|auth)"),
    ],
)
def test_servers_and_sentinels_have_passwords_of_their_own(
    password: str, sentinels: str | None, match: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with watched(PASSWORD, SENTINELS) as (_, sentinel):
        url = f"redis+sentinel://:{password}@127.0.0.1:{sentinel.port}/mymaster"
        options = {} if sentinels is None else {"sentinel_password": sentinels}
        with pytest.raises(errors.AccessDenied, match=match) as raised:
            opened(url, **options)
        url = f"redis+sentinel://:{PASSWORD}@127.0.0.1:{sentinel.port}/mymaster"
        board = opened(url, sentinel_password=SENTINELS)
        board.add([NewPosting("a", b"")])
        shown = [str(raised.value), repr(raised.value), repr(raised.value.__cause__), caplog.text]
        shown += [repr(board), repr(board.settings), str(board.server_info())]
        shown += [str(board._board.address), repr(board._board._process().pool.locator.server)]
        board.close()
    for secret in (PASSWORD, SENTINELS, "wr0ng-password"):
        assert not [text for text in shown if secret in text]


# -- clusters -------------------------------------------------------------------------------------


def test_a_server_that_is_no_node_of_a_cluster_is_reported(
    pair: tuple[servers.Server, SentinelServer],
) -> None:
    with pytest.raises(errors.Unavailable, match=f"{pair[0].port}.*cluster support disabled"):
        opened(f"redis+cluster://127.0.0.1:{pair[0].port}")


# -- URLs and options -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "settings"),
    [
        (
            "redis+sentinel://u:p@a,b:7,[::1]/mymaster?db=2&sentinel_password=q",
            {
                "hosts": ("a:26379", "b:7", "[::1]:26379"),
                **{"master": "mymaster", "db": 2, "username": "u", "password": "p"},
                **{"sentinel_password": "q", "tls": False, "cluster": False},
            },
        ),
        ("rediss+sentinel://a/main", {"tls": True, "master": "main"}),
        ("redis+sentinel://a/main?tls=true", {"tls": True}),
        (
            "redis+cluster://a,b:7",
            {"hosts": ("a:6379", "b:7"), "cluster": True, "master": None, "tls": False},
        ),
        ("rediss+cluster://a", {"tls": True, "cluster": True}),
    ],
)
def test_urls(url: str, settings: dict[str, Any]) -> None:
    found = loading.load(url).settings
    assert {name: getattr(found, name) for name in settings} == settings
    assert "sentinel_password" not in repr(found)


@pytest.mark.parametrize(
    ("url", "match"),
    [
        ("redis+sentinel://a,b", "name of the master.*/mymaster"),
        ("redis+sentinel://a/x/y", "name of the master"),
        ("redis+sentinel:///mymaster", "names hosts"),
        ("redis+cluster://", "names hosts"),
        ("redis+cluster://a/1", "no path"),
        ("redis+cluster://a?db=1", "only database 0"),
        ("redis+cluster://a?master=m", "not both"),
        ("unix:///run/r.sock?cluster=yes", "no cluster"),
        ("redis://a,b", r"redis\+sentinel://.*redis\+cluster://"),
        ("redis://?hosts=b,c", "'master'.*'cluster'"),
        ("redis://?cluster=yes&hosts=b:c:d", "is not host:port"),
        ("redis://a?durability=wait", "'wait:1', not 'wait'"),
        ("redis://a?durability=wait:0", "wait:N"),
        ("redis://a?durability=2", "wait:N"),
    ],
)
def test_urls_and_options_that_mean_nothing(url: str, match: str) -> None:
    with pytest.raises(errors.ConfigError, match=match):
        loading.load(url)
