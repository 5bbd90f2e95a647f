# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The servers that the other tests rely on: they start, die, come back and leave nothing behind."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import pathlib
import shutil
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Callable

import pytest
import redis as redis_client
import servers
from kazoo.client import KazooClient
from redis.backoff import NoBackoff
from redis.retry import Retry
from servers import ports, process

from tests.processes import lives, state
from tests.waiting import eventually

PROGRAM = str(pathlib.Path(servers.__file__).parent)
NAMES = tuple(servers.SERVERS)
NO_RETRY = Retry(NoBackoff(), 0)


def _refused(server: servers.Server) -> bool:
    with socket.socket() as client:
        return client.connect_ex((server.host, server.port)) != 0


@pytest.mark.parametrize("name", NAMES)
def test_a_killed_server_comes_back_on_its_port(name: str) -> None:
    with servers.server(name) as server:
        port, pid = server.port, server.pid
        assert server.version[0].isdigit()
        server.kill()
        assert not server.running
        assert not lives(pid)
        assert _refused(server)
        server.start()
        assert server.running
        assert server.port == port
        assert server.pid != pid
        assert not _refused(server)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_left_after_the_block(name: str) -> None:
    with servers.server(name) as server:
        folder = pathlib.Path(server.folder)
        assert folder.is_dir()
        pid = server.pid
    assert not lives(pid)
    assert not folder.exists()


def test_redis_keeps_its_data_over_a_kill_unless_it_is_wiped() -> None:
    with servers.redis_server(options=("--appendfsync", "always")) as server:
        with redis_client.Redis.from_url(server.url) as client:
            client.set("a", "1")
        server.kill()
        server.start()
        with redis_client.Redis.from_url(server.url) as client:
            assert client.get("a") == b"1"
        server.restart(wipe=True)
        with redis_client.Redis.from_url(server.url) as client:
            assert client.get("a") is None


def test_redis_without_its_file_comes_back_empty() -> None:
    with servers.redis_server(appendonly=False) as server:
        with redis_client.Redis.from_url(server.url) as client:
            client.set("a", "1")
        server.restart()
        with redis_client.Redis.from_url(server.url) as client:
            assert client.get("a") is None


def test_redis_asks_for_its_password() -> None:
    with servers.redis_server(password="s3cret") as server:
        with redis_client.Redis.from_url(server.url) as client:
            assert client.ping()
        with redis_client.Redis(port=server.port) as client, pytest.raises(redis_client.RedisError):
            client.ping()


def test_zookeeper_keeps_its_data_unless_it_is_wiped() -> None:
    def client() -> KazooClient:
        made = KazooClient(f"{server.host}:{server.port}")
        made.start(30)
        return made

    with servers.zookeeper_server() as server:
        first = client()
        first.create("/a", b"1")
        first.stop()
        first.close()
        server.restart()
        second = client()
        assert second.get("/a")[0] == b"1"
        second.stop()
        second.close()
        server.restart(wipe=True)
        third = client()
        assert third.exists("/a") is None
        third.stop()
        third.close()


def _granted(server: servers.Server, asked_ms: int) -> int:
    """Open a ZooKeeper session and return the time-out that the server grants, in ms."""
    with socket.create_connection((server.host, server.port), 5.0) as client:
        client.sendall(struct.pack(">iiqiqi16s", 44, 0, 0, asked_ms, 0, 16, b""))
        answer = client.makefile("rb").read(12)
    return int(struct.unpack(">iii", answer)[2])


def test_zookeeper_takes_a_tick_and_options() -> None:
    with servers.zookeeper_server(tick_ms=100, options={"maxSessionTimeout": "1500"}) as server:
        assert [_granted(server, asked) for asked in (1, 700, 30_000)] == [200, 700, 1500]


def test_a_paused_server_answers_after_it_was_resumed() -> None:
    with servers.redis_server() as server:
        server.pause()
        try:
            with (
                redis_client.Redis(port=server.port, socket_timeout=0.2, retry=NO_RETRY) as client,
                pytest.raises(redis_client.TimeoutError),
            ):
                client.ping()
        finally:
            server.resume()
        with redis_client.Redis.from_url(server.url) as client:
            assert client.ping()


def test_no_thread_of_a_paused_server_runs_on() -> None:
    """Each of them has to be given a processor to stop, and a JVM has many."""
    with servers.zookeeper_server() as server:
        tasks = pathlib.Path(f"/proc/{server.pid}/task")
        for _ in range(50):
            server.pause()
            states = {state(int(task.name)) for task in tasks.iterdir()}
            server.resume()
            assert states == {"T"}


def test_a_server_outlives_the_thread_that_started_it() -> None:
    server = servers.RedisServer()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        pool.submit(server.start).result()
    try:
        with redis_client.Redis.from_url(server.url) as client:
            assert client.ping()
    finally:
        server.close()


def test_a_forked_child_does_not_stop_its_parents_server() -> None:
    with servers.redis_server() as server:
        child = os.fork()
        if child == 0:
            server.close()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        with redis_client.Redis.from_url(server.url) as client:
            assert client.ping()


@pytest.mark.parametrize("name", NAMES)
def test_a_server_dies_with_the_process_that_started_it(name: str) -> None:
    script = (
        f"import sys, time; sys.path.insert(0, {str(pathlib.Path(PROGRAM).parent)!r})\n"
        f"import servers\n"
        f"with servers.server({name!r}) as s: print(s.pid, s.folder, flush=True); time.sleep(600)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout is not None
        pid, folder = owner.stdout.readline().split()
        assert lives(int(pid))
        owner.kill()
    eventually(lambda: not lives(int(pid)))
    eventually(lambda: not pathlib.Path(folder).exists())


def test_a_server_dies_with_its_supervisor() -> None:
    with servers.redis_server() as server:
        supervisor = server._supervisor
        assert supervisor is not None
        supervisor.kill()
        eventually(lambda: not lives(server.pid))


def test_a_taken_port_is_given_up_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    with servers.redis_server() as first:
        offered = iter([first.port, first.port, ports.free_port()])
        monkeypatch.setattr(process, "free_port", lambda: next(offered))
        with servers.redis_server() as second:
            assert second.port != first.port


def test_a_taken_port_is_given_up_for_another_by_zookeeper(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with servers.zookeeper_server() as first:
        offered = iter([first.port, ports.free_port()])
        monkeypatch.setattr(process, "free_port", lambda: next(offered))
        with servers.zookeeper_server() as second:
            assert second.port != first.port


def test_no_two_processes_are_given_the_same_port() -> None:
    """A fork neither: it would go on where its parent was."""
    script = (
        f"import os, sys; sys.path.insert(0, {PROGRAM!r} + '/..')\n"
        "from servers import ports\n"
        "given = [ports.free_ports(120)]\n"
        "child = os.fork()\n"
        "given += [ports.free_ports(120)]\n"
        "words = map(str, sum(given[1 if child == 0 else 0:], []))\n"
        "os.write(1, ' '.join(words).encode() + b'\\n')\n"  # at once: both write to one pipe
        "sys.stdin.read()"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with contextlib.ExitStack() as stack:
        others = [
            stack.enter_context(subprocess.Popen([sys.executable, "-c", script], **pipes))
            for _ in range(3)
        ]
        given = ports.free_ports(120)
        for other in others:
            assert other.stdout is not None
            for _ in range(2):  # it and its fork
                given += [int(word) for word in other.stdout.readline().split()]
    assert len(given) == len(set(given)) == 120 + 3 * 360


def test_a_server_that_does_not_start_shows_its_log() -> None:
    with (
        pytest.raises(RuntimeError, match="no-such-option"),
        servers.redis_server(options=("--no-such-option", "1")),
    ):
        pass


@pytest.mark.parametrize(
    ("make", "package"),
    [
        (servers.RedisServer, "redis-server"),
        (servers.ZooKeeperServer, "default-jre-headless"),
        (servers.EtcdServer, "etcd-server"),
    ],
)
def test_a_missing_program_names_its_package(
    make: Callable[[], servers.Server], package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    with pytest.raises(RuntimeError, match=rf"tools/install-servers.* {package}\b"):
        make()


def test_an_unknown_server_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match="etcd, redis, zookeeper"):
        servers.server("mongodb")


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, PROGRAM, *arguments], capture_output=True, text=True, timeout=90
    )


def test_the_command_runs_with_urls_and_its_status_is_kept() -> None:
    done = _run("redis", "--", "sh", "-c", "echo $MULTIBOARD_REDIS_URL; exit 7")
    assert done.returncode == 7
    assert done.stdout.startswith("redis://127.0.0.1:")
    assert "[servers] redis " in done.stderr


@pytest.mark.parametrize("arguments", [(), ("redis",), ("redis", "--"), ("nothing", "--", "true")])
def test_the_command_says_how_it_is_used(arguments: tuple[str, ...]) -> None:
    done = _run(*arguments)
    assert done.returncode == 2
    assert "usage:" in done.stderr


def test_a_terminated_command_leaves_nothing() -> None:
    with subprocess.Popen(
        [sys.executable, PROGRAM, "redis", "--", "sh", "-c", "echo up; sleep 600"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as command:
        assert command.stdout is not None
        assert command.stderr is not None
        assert command.stdout.readline() == "up\n"
        pid = int(command.stderr.readline().rpartition("pid ")[2].rstrip(")\n"))
        os.killpg(command.pid, signal.SIGTERM)
    eventually(lambda: not lives(pid))
