# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The etcd backend where something fails: credentials, certificates, a dying leader."""

from __future__ import annotations

import pathlib
import time
from typing import Any

import pytest
import servers
from multiboard_conformance.machinery.proxy import Mode, Proxy
from servers import clusters

from multiboard import errors
from multiboard.backends.etcd import EtcdBackend, EtcdSettings
from multiboard.primitives import ChangeKind, NewPosting
from multiboard.runtime.retry import RetryingGuard
from tests.backends.etcd.boards import Maker, boards_on, write
from tests.certificates import Authority
from tests.waiting import eventually

# -- certificates ------------------------------------------------------------------------------


def test_tls_with_certificates_of_both_sides(tmp_path: pathlib.Path) -> None:
    authority, other = Authority(tmp_path / "a"), Authority(tmp_path / "b")
    cert = authority.issue("server", "IP:127.0.0.1")
    mine, foreign = authority.issue("client"), other.issue("stranger")
    tls = servers.Tls(cert.path, cert.key, authority.path)
    with servers.etcd_server(tls=tls) as running:
        right = {
            "tls": True, "tls_ca": authority.path, "tls_cert": mine.path, "tls_key": mine.key,
        }  # fmt: skip
        with boards_on(running, **right) as make:
            board = make()
            board.add([NewPosting("k", bytes(500_000))])
            assert board.list().postings[0].body == bytes(500_000)
            cursor = board.changes(None, 1.0).cursor
            board.acquire("k", "me", "c")
            assert [c.kind for c in board.changes(cursor, 5.0).events] == [ChangeKind.CLAIMED]
        hosts = (f"127.0.0.1:{running.port}",)
        for wrong in (
            {**right, "tls_ca": other.path},
            {**right, "tls_cert": foreign.path, "tls_key": foreign.key},
            {"tls": True, "tls_ca": authority.path},
            {},
        ):
            settings = EtcdSettings(hosts=hosts, connect_timeout=2.0, **wrong)
            with pytest.raises(errors.Unavailable, match=r"127\.0\.0\.1"):
                EtcdBackend(settings).open()
        unsure = {**right, "tls_ca": other.path, "tls_verify": False}
        with boards_on(running, **unsure) as make:
            make()


# -- the past is gone --------------------------------------------------------------------------


def test_reader_behind_a_compaction_receives_a_reset(make: Maker, server: Any) -> None:
    other = make()
    with Proxy("127.0.0.1", server.port) as proxy:
        host, port = proxy.address
        board = make(hosts=(f"{host}:{port}",))
        cursor = board.changes(None, 1.0).cursor
        proxy.set(Mode.REFUSE)
        other.add([NewPosting(f"k{number}", b"") for number in range(5)])
        write(other, "unrelated", b"")
        revision = other._session.client.revision
        assert "error" not in server.ask("POST", "/v3/kv/compaction", {"revision": revision})
        with pytest.raises(errors.Unavailable):
            board.changes(cursor, 0.5)
        proxy.heal()
        assert eventually(lambda: _reset(board, cursor))
        assert [p.key for p, _ in board.acquire_next("me", ["c"])] == ["k0"]


def _reset(board: EtcdBackend, cursor: str) -> bool:
    try:
        return board.changes(cursor, 1.0).reset
    except errors.Unavailable:
        return False


# -- a dying leader ----------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["leader killed", "leader frozen", "follower killed"])
def test_a_board_goes_on_when_a_member_is_lost(fault: str) -> None:
    with clusters.running(clusters.EtcdCluster()) as cluster:
        hosts = tuple(f"{member.host}:{member.port}" for member in cluster.members)
        settings = EtcdSettings(
            hosts=hosts, connect_timeout=2.0, operation_timeout=20.0, session_timeout=10.0
        )
        board, other = RetryingGuard(EtcdBackend(settings)), RetryingGuard(EtcdBackend(settings))
        board.open()
        other.open()
        board.add([NewPosting("before", b"")])
        lease = board.acquire("before", "me", "c")
        cursor = other.changes(None, 5.0).cursor
        began = time.monotonic()
        cluster.faults()[fault]()
        board.add([NewPosting("after", b"")])
        outage = time.monotonic() - began
        received: list[str] = []
        while "after" not in received:
            assert time.monotonic() < began + 40.0
            try:
                answer = other.changes(cursor, 2.0)
            except errors.Unavailable:
                continue
            assert not answer.reset
            cursor = answer.cursor
            received += [change.key for change in answer.events]
        assert board.remove([lease]) == [None]
        assert [posting.key for posting in other.list().postings] == ["after"]
        assert outage < 20.0
        cluster.heal()
        board.close()
        other.close()
