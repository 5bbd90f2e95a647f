# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The table of what each error of an etcd server means."""

from __future__ import annotations

import pytest

from multiboard.backends.etcd.errors import (
    TEXTS,
    Compacted,
    LeaseGone,
    Meaning,
    NativeError,
    TokenExpired,
    meaning,
    translate_error,
)

#: Every error that etcd 3.4 to 3.8 may send to a caller of ours, with its gRPC status.
SENT = (
    (3, "key is not provided", "BackendError"),
    (3, "key not found", "BackendError"),
    (3, "value is provided", "BackendError"),
    (3, "lease is provided", "BackendError"),
    (3, "too many operations in txn request", "BackendError"),
    (3, "duplicate key given in txn request", "BackendError"),
    (3, "invalid client api version", "BackendError"),
    (3, "invalid sort option", "BackendError"),
    (11, "mvcc: required revision has been compacted", "Compacted"),
    (11, "mvcc: required revision is a future revision", "Unavailable"),
    (8, "mvcc: database space exceeded", "Indeterminate"),
    (5, "requested lease not found", "LeaseGone"),
    (9, "lease already exists", "BackendError"),
    (11, "too large lease TTL", "BackendError"),
    (1, "watch canceled", "Unavailable"),
    (5, "member not found", "BackendError"),
    (9, "cluster ID mismatch", "BackendError"),
    (3, "request is too large", "BackendError"),
    (8, "too many requests", "Unavailable"),
    (3, "user name is empty", "TokenExpired"),
    (9, "user name not found", "AccessDenied"),
    (3, "authentication failed, invalid user ID or password", "AccessDenied"),
    (7, "permission denied", "AccessDenied"),
    (9, "authentication is not enabled", "BackendError"),
    (16, "invalid auth token", "TokenExpired"),
    (3, "invalid auth management", "BackendError"),
    (3, "revision of auth store is old", "TokenExpired"),
    (14, "no leader", "Unavailable"),
    (9, "not leader", "Unavailable"),
    (14, "leader changed", "Indeterminate"),
    (9, "not capable", "Unavailable"),
    (14, "not capable", "Unavailable"),
    (14, "server stopped", "Indeterminate"),
    (14, "request timed out", "Indeterminate"),
    (14, "request timed out, possibly due to previous leader failure", "Indeterminate"),
    (14, "request timed out, possibly due to connection lost", "Indeterminate"),
    (14, "request timed out, waiting for the applied index took too long", "Indeterminate"),
    (14, "unhealthy cluster", "Indeterminate"),
    (15, "corrupt cluster", "BackendError"),
    (9, "rpc not supported for learner", "Unavailable"),
    (14, "rpc not supported for learner", "Unavailable"),
    (1, "request canceled", "Indeterminate"),
    (4, "context deadline exceeded", "Indeterminate"),
)
#: What is not etcd's own word: older etcd, gRPC, raft, a proxy before it, a later etcd.
OTHERS = (
    (2, "auth: revision in header is old", "TokenExpired"),
    (2, "raft proposal dropped", "Unavailable"),
    (8, "grpc: received message larger than max (4 vs. 2)", "BackendError"),
    (8, "grpc: trying to send message larger than max (4 vs. 2)", "Indeterminate"),
    (12, "unknown service etcdserverpb.KV", "BackendError"),
    (None, "Bad gateway", "Indeterminate"),
    (2, "something new", "Indeterminate"),
    (3, "something new", "BackendError"),
    (7, "something new", "AccessDenied"),
    (8, "something new", "Indeterminate"),
    (14, "something new", "Indeterminate"),
    (16, "something new", "AccessDenied"),
)
CASES = [*((status, f"etcdserver: {text}", kind) for status, text, kind in SENT), *OTHERS]


@pytest.mark.parametrize(("status", "text", "kind"), CASES)
def test_each_error_of_the_server_has_its_meaning(status: int | None, text: str, kind: str) -> None:
    def made(**options: bool) -> Exception:
        return translate_error(status, text, "etcd at h:1", **{"named": True, **options})

    written, read, nameless = made(write=True), made(write=False), made(write=True, named=False)
    assert type(written).__name__ == kind
    assert type(read).__name__ == ("Unavailable" if kind == "Indeterminate" else kind)
    assert type(nameless).__name__ == ("AccessDenied" if kind == "TokenExpired" else kind)
    for error in (written, read, nameless):
        assert isinstance(error.__cause__, NativeError)
        if not isinstance(error, (Compacted, LeaseGone, TokenExpired)):
            assert text in str(error)
            assert "etcd at h:1" in str(error)


def test_every_text_of_the_table_is_tried() -> None:
    assert [text for text in TEXTS if not any(text in case[1] for case in CASES)] == []
    assert {meaning(status, text) for status, text, _ in CASES} == set(Meaning)
