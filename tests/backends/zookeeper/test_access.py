# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Who may touch a board in ZooKeeper: passwords, SASL and TLS, with real servers."""

from __future__ import annotations

import contextlib
import logging
import pathlib
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import servers
from kazoo import exceptions as kz
from kazoo import security
from kazoo.client import KazooClient
from servers.ports import free_port

from multiboard import errors
from multiboard.backends.zookeeper import ZooKeeperBackend
from multiboard.config import loading
from multiboard.primitives import Change, ChangeKind, NewPosting, Shelf
from tests.backends.zookeeper.boards import A, eventually, follow, post
from tests.certificates import Authority, Certificate
from tests.leaks import all_logs, shown_by

GUESSED = "gue55ed"
US = {"username": "us", "password": "s3cret"}
#: Long enough to distinguish a refusal from a slow start.
PATIENT = {"connect_timeout": 8.0, "operation_timeout": 16.0}

Opener = Callable[..., ZooKeeperBackend]


@pytest.fixture
def make() -> Iterator[Opener]:
    """Open backends by their URL, closed at the end."""
    with contextlib.ExitStack() as stack:

        def opened(url: str, **options: Any) -> ZooKeeperBackend:
            backend = loading.load(url, **{**PATIENT, **options})
            assert isinstance(backend, ZooKeeperBackend)
            stack.callback(backend.close)
            backend.open()
            return backend

        yield opened


def use(board: ZooKeeperBackend) -> None:
    """Do everything that a board can do."""
    cursor = board.changes(None, 0.0).cursor
    post(board, "a")
    post(board, "b")
    board.add([NewPosting("e", b"")], Shelf.ENTITIES)
    board.release(board.acquire("a", "me", "c1"))
    board.renew(board.acquire("b", "me", "c2", 9.0), 10.0)
    [(posting, lease)] = board.acquire_next("me", ["c3"])
    assert board.remove([lease], Shelf.TRASH) == [None]
    assert board.restore(posting.key).body == A
    lease = board.acquire(posting.key, "me", "c4")
    assert board.remove([lease]) == [None]
    assert board.purge(["e"], Shelf.ENTITIES) == [True]
    assert follow(board, cursor, Change(ChangeKind.REMOVED, "a", lease.token))
    assert board.keepalive() > 0


# -- digest ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server() -> Iterator[servers.Server]:
    with servers.zookeeper_server(tick_ms=200) as running:
        yield running


@pytest.fixture
def place(server: servers.Server) -> str:
    """The URL of a root that nobody used before."""
    return f"{server.url}/closed-{uuid.uuid4().hex[:8]}"


def nodes_of(client: KazooClient, top: str) -> list[str]:
    return [top] + [
        path for name in client.get_children(top) for path in nodes_of(client, f"{top}/{name}")
    ]


def acts(client: KazooClient, node: str) -> list[Callable[[], Any]]:
    """Return what may be done to a node."""
    return [
        lambda: client.get(node),
        lambda: client.get_children(node),
        lambda: client.set(node, b""),
        lambda: client.create(f"{node}/x"),
        lambda: client.set_acls(node, security.OPEN_ACL_UNSAFE),
    ]


@pytest.mark.parametrize("credentials", [None, "us:wrong", "them:s3cret"])
def test_other_users_are_denied_every_node_of_a_closed_board(
    server: servers.Server, make: Opener, place: str, credentials: str | None
) -> None:
    board = make(place, acl="digest", **US)
    use(board)
    post(board, "held")
    board.acquire("held", "me", "c")
    board.add([NewPosting("e", b"")], Shelf.ENTITIES)
    address = f"{server.host}:{server.port}"
    friend = KazooClient(address, auth_data=[("digest", "us:s3cret")])
    foe = KazooClient(address, auth_data=[("digest", credentials)] if credentials else None)
    for client in (friend, foe):
        client.start()
    try:
        nodes = nodes_of(friend, board.settings.root)
        assert len(nodes) > 12
        for node in nodes:
            for act in acts(foe, node):
                with pytest.raises((kz.NoAuthError, kz.NoChildrenForEphemeralsError)):
                    act()
            if node != board.settings.root:  # its parent is the server's, and open to all
                with pytest.raises(kz.NoAuthError):
                    foe.delete(node)
    finally:
        for client in (friend, foe):
            client.stop()
            client.close()
    assert board.get(["held"])[0] is not None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "for users with a password, and none was given"),
        ({"username": "us", "password": "wrong"}, "denied to the user 'us': the password is wrong"),
        ({"username": "them", "password": "s3cret"}, "denied to the user 'them'"),
    ],
)
def test_denied_access_names_its_cause(
    make: Opener, place: str, options: dict[str, str], words: str
) -> None:
    make(place, **US)  # with a username, 'digest' is the default
    with all_logs() as lines, pytest.raises(errors.AccessDenied, match=words) as caught:
        make(place, **options)
    assert isinstance(caught.value.__cause__, kz.NoAuthError)
    assert "s3cret" not in shown_by(caught.value) + "".join(lines)


def test_an_open_board_of_a_user_is_open_to_all(make: Opener, place: str) -> None:
    board = make(place, acl="open", **US)
    use(board)
    post(make(place), "k")
    assert board.get(["k"])[0].body == A


def test_the_user_in_a_url_is_used(make: Opener, place: str) -> None:
    board = make(place.replace("://", "://us:s3cret@"))
    use(board)
    with pytest.raises(errors.AccessDenied):
        make(place)
    shown = repr(board.settings) + repr(board._session.client()._access) + str(board.server_info())
    assert "s3cret" not in shown


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"acl": "digest"}, "acl=digest needs a username and a password"),
        ({"acl": "sasl"}, "acl=sasl needs a username and a password"),
        ({"acl": "kerberos"}, "'kerberos' is not one of: open, digest, sasl"),
        ({"username": "us"}, "username and password go together"),
        ({"username": "a:b", "password": "x"}, "a username has no ':'"),
        ({"tls_ca": "/ca.pem"}, "use zookeeper\\+tls:// or tls=true"),
        ({"tls": True, "tls_cert": "/c.pem"}, "tls_cert and tls_key go together"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(errors.ConfigError, match=words):
        loading.load("zookeeper://localhost", **options)


def test_sasl_without_its_library_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(errors.ConfigError, match=r"install multiboard\[zookeeper-sasl\]"):
        loading.load("zookeeper://localhost", acl="sasl", **US)


# -- SASL ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sasl_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Server]:
    """A server with two SASL users."""
    jaas = tmp_path_factory.mktemp("sasl") / "jaas.conf"
    jaas.write_text(
        "Server { org.apache.zookeeper.server.auth.DigestLoginModule required"
        ' user_us="s3cret" user_them="other"; };\n'
    )
    provider = "org.apache.zookeeper.server.auth.SASLAuthenticationProvider"
    with servers.zookeeper_server(
        tick_ms=200,
        options={"authProvider.sasl": provider},
        flags=[f"-Djava.security.auth.login.config={jaas}"],
    ) as running:
        yield running


def test_a_sasl_user_has_a_board(sasl_server: servers.Server, make: Opener) -> None:
    board = make(f"{sasl_server.url}/sasl", acl="sasl", session_timeout=4.0, **US)
    use(board)
    post(board, "held")
    lease = board.acquire("held", "me", "c")
    sasl_server.restart()  # it proves who it is to each server anew
    assert eventually(lambda: board.get(["held"]))[0].lease == lease
    for options in ({}, {"acl": "sasl", "username": "them", "password": "other"}, US):
        with pytest.raises(errors.AccessDenied, match="access denied"):
            make(f"{sasl_server.url}/sasl", **options)


def test_a_wrong_sasl_password_is_refused(sasl_server: servers.Server, make: Opener) -> None:
    with (
        all_logs() as lines,
        pytest.raises(errors.AccessDenied, match="denied to the user 'us'") as caught,
    ):
        make(f"{sasl_server.url}/any", acl="sasl", username="us", password=GUESSED)
    assert GUESSED not in shown_by(caught.value) + "".join(lines)


# -- TLS -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@contextlib.contextmanager
def secure(authority: Authority, own: Certificate, client_auth: str) -> Iterator[str]:
    """Run a server with a port for TLS beside the plain one; serve the address of the first."""
    folder = pathlib.Path(authority.path).parent
    joint = folder / f"{pathlib.Path(own.path).stem}-joint.pem"
    joint.write_text(pathlib.Path(own.key).read_text() + pathlib.Path(own.path).read_text())
    port = free_port()
    options = {
        "secureClientPort": str(port),
        "secureClientPortAddress": "127.0.0.1",
        "serverCnxnFactory": "org.apache.zookeeper.server.NettyServerCnxnFactory",
        "ssl.keyStore.location": str(joint),
        "ssl.keyStore.type": "PEM",
        "ssl.trustStore.location": authority.path,
        "ssl.trustStore.type": "PEM",
        "ssl.clientAuth": client_auth,
    }
    with servers.zookeeper_server(tick_ms=200, options=options):
        yield f"127.0.0.1:{port}"


@pytest.fixture(scope="module")
def encrypted(authority: Authority) -> Iterator[str]:
    own = authority.issue("server", "IP:127.0.0.1", "DNS:localhost")
    with secure(authority, own, "none") as address:
        yield address


def test_a_board_is_used_over_tls(
    encrypted: str, authority: Authority, make: Opener, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    board = make(f"zookeeper+tls://us:s3cret@{encrypted}/tls", tls_ca=authority.path)
    use(board)
    board.add([NewPosting("large", b"x" * 900_000)])
    assert [len(one.body) for one in board.list().postings if one.key == "large"] == [900_000]
    assert make(f"zookeeper://{encrypted}/other", tls=True, tls_ca=authority.path).count() == 0
    assert "s3cret" not in caplog.text


def test_a_server_of_an_untrusted_authority_is_refused(
    encrypted: str, make: Opener, tmp_path: pathlib.Path
) -> None:
    untrusted = Authority(tmp_path)
    for options in ({}, {"tls_ca": untrusted.path}):
        with pytest.raises(errors.Unavailable, match="certificate verify failed"):
            make(f"zookeeper+tls://{encrypted}", connect_timeout=2.0, **options)
    assert make(f"zookeeper+tls://{encrypted}/any", tls_verify=False).count() == 0


def test_a_certificate_for_another_host_is_refused(authority: Authority, make: Opener) -> None:
    own = authority.issue("elsewhere", "DNS:elsewhere.example.org")
    with (
        secure(authority, own, "none") as address,
        pytest.raises(errors.Unavailable, match="not valid for"),
    ):
        make(f"zookeeper+tls://{address}", tls_ca=authority.path, connect_timeout=2.0)


def test_a_server_may_require_the_clients_certificate(authority: Authority, make: Opener) -> None:
    own = authority.issue("asking", "IP:127.0.0.1")
    client = authority.issue("client")
    with secure(authority, own, "need") as address:
        url = f"zookeeper+tls://{address}"
        proof = {"tls_cert": client.path, "tls_key": client.key}
        use(make(url, tls_ca=authority.path, **proof))
        with pytest.raises(errors.Unavailable):
            make(url, tls_ca=authority.path, connect_timeout=2.0)


def test_plain_text_to_a_port_for_tls_fails_in_time(encrypted: str, make: Opener) -> None:
    with pytest.raises(errors.Unavailable):
        make(f"zookeeper://{encrypted}", connect_timeout=1.0)
