# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Who may use a board in Redis: accounts with few rights, TLS, passwords. Real servers only."""

from __future__ import annotations

import contextlib
import logging
import pathlib
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
import servers
from servers.clusters.redis_member import ask
from servers.clusters.redis_sentinel import SentinelServer
from servers.ports import free_port

from multiboard import errors
from multiboard.backends.redis import RedisBackend
from multiboard.config import loading
from multiboard.primitives import NewPosting, Shelf
from tests.backends.redis.accounts import ACCOUNT, PASSWORD, documented
from tests.backends.redis.boards import at, drained
from tests.certificates import Authority, Certificate
from tests.leaks import all_logs, shown_by
from tests.waiting import eventually

# -- rights ---------------------------------------------------------------------------------------


RIGHTS = [word for word in documented() if word.startswith("+")]


@pytest.fixture
def least(raw: Any) -> None:
    """The account as it is documented."""
    raw.execute_command("ACL", "SETUSER", "multiboard", *documented())


@pytest.mark.usefixtures("least")
def test_the_documented_account_can_do_all_that_a_board_does(server: Any) -> None:
    board = at(server, namespace="acl", **ACCOUNT)
    assert board.traits.durable is False  # INFO is refused, and so it can't be known
    assert dict(board.server_info())["version"] == server.version
    assert not [name for name in board.server_info() if name.startswith("warning")]
    cursor = board.changes(None, 0.0).cursor
    board.add([NewPosting("a", b""), NewPosting("b", b"", delay=0.01)])
    board.add([NewPosting("e", b"")], Shelf.ENTITIES)
    [(_, lease)] = board.acquire_next("me", ["c1"])
    board.release(lease)
    lease = board.renew(board.acquire("a", "me", "c2", 5.0), 6.0)
    assert board.remove([lease], Shelf.TRASH) == [None]
    board.restore("a")
    assert board.remove([board.acquire("a", "me", "c3")]) == [None]
    assert board.purge(["e"], Shelf.ENTITIES) == [True]
    assert len(drained(board, cursor)[0]) == 9
    assert not board.changes(drained(board, cursor)[1], 0.01).events
    board.close()
    with pytest.raises(errors.AccessDenied):
        at(server, prefix="others", namespace="acl", **ACCOUNT)


@pytest.mark.parametrize("right", sorted(set(RIGHTS) - {"+type"}))
@pytest.mark.usefixtures("least")
def test_a_right_that_is_missing_shows_at_once(server: Any, raw: Any, right: str) -> None:
    raw.execute_command("ACL", "SETUSER", "multiboard", f"-{right[1:]}")
    name = right[1:].partition("|")[0].upper()
    namespace = name.lower()
    with pytest.raises(errors.AccessDenied, match=f"right to {name} |permission.*'{name.lower()}'"):
        at(server, namespace=namespace, **ACCOUNT)
    assert raw.keys(f"multiboard:[{{]{namespace}[}}]*") == []


@pytest.mark.usefixtures("least")
def test_scripts_and_names_of_wrong_keys_take_rights(server: Any, raw: Any) -> None:
    board = at(server, namespace="wrong", **ACCOUNT)
    raw.set("multiboard:{wrong}:live", "a string")
    with pytest.raises(errors.BackendError, match="live' holds a string"):
        board.add([NewPosting("a", b"")])
    for right in ("eval", "evalsha"):
        raw.execute_command("ACL", "SETUSER", "multiboard", f"-{right}")
        raw.script_flush()
        with pytest.raises(errors.AccessDenied):
            board.count()
        raw.execute_command("ACL", "SETUSER", "multiboard", f"+{right}")
    board.close()


@pytest.mark.usefixtures("least")
def test_the_documented_account_conforms(server: Any) -> None:
    url = f"redis://multiboard:{PASSWORD}@127.0.0.1:{server.port}"
    only = ("BATCH-1", "DIR-2", "FEED-3", "LEASE-6", "NEXT-2")
    words = [word for name in only for word in ("--only", name)]
    done = subprocess.run(
        [sys.executable, "-m", "multiboard_conformance.main", url, "--quick", *words],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert PASSWORD not in done.stdout + done.stderr


@pytest.mark.usefixtures("least")
def test_durability_takes_the_right_to_wait(server: Any, raw: Any) -> None:
    options = {"namespace": "wait", "durability": "wait:1", "connect_timeout": 0.2, **ACCOUNT}
    with pytest.raises(errors.AccessDenied, match=r"(?i)wait"):
        at(server, **options)
    raw.execute_command("ACL", "SETUSER", "multiboard", "+wait")
    board = at(server, **options)
    with pytest.raises(errors.Indeterminate, match="0 of 1 replicas"):
        board.add([NewPosting("a", b"")])
    board.close()


@pytest.mark.usefixtures("least")
def test_sentinels_take_the_right_to_the_role(server: Any, raw: Any) -> None:
    with servers.running(SentinelServer(server)) as sentinel:
        words = ("reset", "on", "nopass", "+sentinel|get-master-addr-by-name")
        ask(sentinel, "ACL", "SETUSER", "asker", *words)
        url = f"redis+sentinel://127.0.0.1:{sentinel.port}/mymaster"
        options = {"sentinel_username": "asker", "sentinel_password": "any", **ACCOUNT}
        with pytest.raises(errors.AccessDenied, match=r"(?i)role"):
            opened(url, **options)
        raw.execute_command("ACL", "SETUSER", "multiboard", "+role")
        opened(url, **options).close()
        ask(sentinel, "ACL", "SETUSER", "asker", "-sentinel|get-master-addr-by-name")
        with pytest.raises(errors.AccessDenied, match=r"(?i)sentinel"):
            opened(url, **options)


@pytest.mark.parametrize("hidden", [("INFO",), ("CONFIG",), ("INFO", "CONFIG", "TYPE", "ACL")])
def test_a_managed_server_hides_commands(hidden: tuple[str, ...]) -> None:
    options = [word for name in hidden for word in ("--rename-command", name, '""')]
    words = [word.strip('"') for word in options]
    with _started(words) as running:
        board = at(running)
        board.add([NewPosting("a", b"")])
        facts = board.server_info()
        assert facts["store"] == "redis"
        assert ("warning_persistence" in facts) == ("INFO" not in hidden)
        board.close()


@contextlib.contextmanager
def _started(options: list[str]) -> Iterator[servers.Server]:
    class Hidden(servers.RedisServer):
        def _answers(self) -> bool:
            return bool(ask(self, "PING") == "PONG")

    with servers.running(Hidden(appendonly=False, options=options)) as running:
        yield running


# -- TLS ------------------------------------------------------------------------------------------


def opened(url: str, **options: Any) -> RedisBackend:
    backend = loading.load(url, **options)
    assert isinstance(backend, RedisBackend)
    backend.open()
    return backend


class Secured(NamedTuple):
    """A server that speaks TLS on a port of its own, and who trusts whom."""

    server: servers.Server
    port: int
    authority: Authority
    #: The folder of an authority that neither side trusts.
    theirs: str
    own: Certificate

    def options(self, **others: Any) -> dict[str, Any]:
        """Return the options that a client needs."""
        chosen = {"tls_ca": self.authority.path, "tls_cert": self.own.path, "tls_key": self.own.key}
        return {"password": PASSWORD, **chosen, **others}


def _tls(authority: Authority, name: str, *places: str) -> list[str]:
    own = authority.issue(name, *places)
    pairs = {"cert-file": own.path, "key-file": own.key, "ca-cert-file": authority.path}
    return [word for end, path in pairs.items() for word in (f"--tls-{end}", path)]


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    folder = tmp_path_factory.mktemp("certificates")
    authority = Authority(folder / "ours")
    Authority(folder / "theirs").issue("client")
    port = free_port()
    options = ["--tls-port", str(port), *_tls(authority, "server", "DNS:localhost")]
    with servers.redis_server(appendonly=False, password=PASSWORD, options=options) as running:
        theirs = str(folder / "theirs")
        yield Secured(running, port, authority, theirs, authority.issue("client"))


def test_tls_with_certificates_on_both_sides(secured: Secured) -> None:
    board = opened(f"rediss://localhost:{secured.port}", **secured.options())
    board.add([NewPosting("a", b"")])
    cursor = board.changes(None, 0.0).cursor
    failed: list[Exception] = []

    def wait() -> None:
        try:
            board.changes(cursor, 60.0)
        except Exception as error:
            failed.append(error)

    reader = threading.Thread(target=wait)
    reader.start()
    eventually(lambda: bool(board._board._process().pool._waiting))
    board.close()
    reader.join(20.0)
    assert [type(error) for error in failed] == [errors.Closed]


REFUSED = {
    "no authority": ("localhost", {"tls_ca": None}, "(?i)certificate"),
    "another authority": ("localhost", {"tls_ca": "{theirs}/authority.pem"}, "(?i)certificate"),
    "another host": ("127.0.0.1", {}, "(?i)certificate.*127.0.0.1"),
    "no client": ("localhost", {"tls_cert": None, "tls_key": None}, "client's certificate"),
    "another client": (
        "localhost",
        {"tls_cert": "{theirs}/client.pem", "tls_key": "{theirs}/client.key"},
        "client's certificate",
    ),
}


@pytest.mark.parametrize("why", REFUSED)
def test_tls_without_trust_is_refused(secured: Secured, why: str) -> None:
    host, change, match = REFUSED[why]
    changed = {
        name: value and value.replace("{theirs}", secured.theirs) for name, value in change.items()
    }
    with pytest.raises(errors.Unavailable, match=match) as raised:
        opened(f"rediss://{host}:{secured.port}", **secured.options(**changed))
    assert str(secured.port) in str(raised.value)
    assert PASSWORD not in str(raised.value)


def test_tls_is_not_verified_where_that_is_switched_off(secured: Secured) -> None:
    options = secured.options(tls_ca=None, tls_verify=False)
    opened(f"rediss://127.0.0.1:{secured.port}", **options).close()


@pytest.mark.parametrize("mixed", [("redis", True), ("rediss", False)])
def test_tls_on_one_side_only_is_reported(secured: Secured, mixed: tuple[str, bool]) -> None:
    scheme, to_tls = mixed
    port = secured.port if to_tls else secured.server.port
    options = secured.options(connect_timeout=1.0)
    if scheme == "redis":  # files for TLS without TLS would be a contradiction
        options = {"password": PASSWORD, "connect_timeout": 1.0}
    with pytest.raises(errors.Unavailable, match=str(port)):
        opened(f"{scheme}://localhost:{port}", **options)


def test_tls_to_sentinels_and_the_master_that_they_name(tmp_path: pathlib.Path) -> None:
    authority = Authority(tmp_path)
    server_port, sentinel_port = free_port(), free_port()
    words = [*_tls(authority, "server", "IP:127.0.0.1"), "--tls-auth-clients", "no"]
    pairs = zip(words[::2], words[1::2], strict=True)
    lines = [f"{name.removeprefix('--')} {value}" for name, value in pairs]
    lines += [f"tls-port {sentinel_port}", "tls-replication yes"]
    options = ["--tls-port", str(server_port), "--tls-replication", "yes", *words]
    with servers.redis_server(appendonly=False, password=PASSWORD, options=options) as running:
        watching = SentinelServer(running, port=server_port, lines=lines)  # type: ignore[arg-type]
        with servers.running(watching):
            url = f"rediss+sentinel://:{PASSWORD}@127.0.0.1:{sentinel_port}/mymaster"
            board = opened(url, tls_ca=authority.path)
            board.add([NewPosting("a", b"")])
            assert board.server_info()["server"] == f"rediss://127.0.0.1:{server_port}"
            board.close()
            with pytest.raises(errors.Unavailable, match=f"{sentinel_port}.*(?i:certificate)"):
                opened(url)


def test_tls_to_the_nodes_of_a_cluster(tmp_path: pathlib.Path) -> None:
    authority = Authority(tmp_path)
    port = free_port()
    options = [*_tls(authority, "server", "DNS:localhost"), "--tls-auth-clients", "no"]
    options += ["--tls-port", str(port), "--tls-cluster", "yes"]
    options += ["--cluster-enabled", "yes", "--cluster-port", str(free_port())]
    with servers.redis_server(appendonly=False, options=options) as running:
        ask(running, "CLUSTER", "ADDSLOTSRANGE", "0", "16383")
        eventually(lambda: "cluster_state:ok" in ask(running, "CLUSTER", "INFO"))
        board = opened(f"rediss+cluster://localhost:{port}", tls_ca=authority.path)
        board.add([NewPosting("a", b"")])
        assert board.server_info()["server"] == f"rediss://localhost:{port}"
        board.close()


# -- secrets --------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["rediss", "rediss+cluster"])
def test_no_secret_is_shown(
    secured: Secured, scheme: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    shown = []
    for password, url in (
        (PASSWORD, f"{scheme}://:{PASSWORD}@localhost:{secured.port}"),
        ("wr0ng-password", f"{scheme}://:wr0ng-password@localhost:{secured.port}"),
    ):
        backend = loading.load(url, **{**secured.options(), "password": password})
        shown += [repr(backend), repr(backend.settings)]
        try:
            backend.open()
            shown.append(repr(backend.server_info()))
        except errors.MultiboardError as error:
            shown += [str(error), repr(error), repr(error.__cause__)]
        backend.close()
    shown.append(caplog.text)
    assert not [text for text in shown if PASSWORD in text or "wr0ng-password" in text]


@pytest.mark.parametrize("password", ["pa", "invalid", "s"])
def test_the_error_of_a_refused_password_is_in_our_own_words(
    secured: Secured, password: str
) -> None:
    """A mask over the server's words would show which of them the password was."""
    port = secured.server.port
    for user in ("", "somebody"):
        with all_logs() as lines, pytest.raises(errors.AccessDenied) as raised:
            opened(f"redis://{user}:{password}@127.0.0.1:{port}")
        text = f"redis://127.0.0.1:{port}: it refused the user or the password"
        assert [str(raised.value), raised.value.__context__] == [text, None]
        assert "***" not in shown_by(raised.value) + "".join(lines)


def test_a_server_that_repeats_what_it_was_sent_is_not_quoted() -> None:
    """A reply like "unknown command AUTH, with args beginning with ..." holds the password."""
    with _started(["--rename-command", "AUTH", ""]) as running:
        for url in ("redis://u:zqbcdfgh@", "redis://:zqbcdfgh@", "redis+cluster://u:zqbcdfgh@"):
            with all_logs() as lines, pytest.raises(errors.Unavailable) as raised:
                opened(f"{url}127.0.0.1:{running.port}", connect_timeout=1.0)
            assert "it refused a command of the handshake as unknown" in str(raised.value)
            assert "zqbcdfgh" not in shown_by(raised.value) + "".join(lines)
