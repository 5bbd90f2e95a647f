# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The settings of the etcd backend, and its URLs."""

from __future__ import annotations

from typing import Any

import pytest

from multiboard import errors
from multiboard.backends.etcd import EtcdBackend, EtcdSettings
from multiboard.config import loading


def test_a_url_names_members_user_and_root() -> None:
    made = loading.load("etcd+https://me:secret@a,b:1,[::1]/x/y?namespace=n&tls_verify=no")
    settings = made.settings
    assert isinstance(settings, EtcdSettings)
    assert settings.hosts == ("a:2379", "b:1", "[::1]:2379")
    assert (settings.username, settings.root, settings.tls) == ("me", "/x/y", True)
    assert "secret" not in repr(made._session.settings)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"root": "no slash"}, "root"),
        ({"username": "u"}, "together"),
        ({"hosts": ("nonsense",)}, "host:port"),
        ({"hosts": ()}, "at least one"),
        ({"tls_ca": "/x"}, "tls_"),
        ({"tls": True, "tls_key": "/x"}, "tls_cert"),
    ],
)
def test_bad_settings_are_named(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(errors.ConfigError, match=complaint):
        EtcdBackend(EtcdSettings(**options))


def test_a_file_that_is_not_there_is_named_when_the_board_is_opened() -> None:
    board = EtcdBackend(EtcdSettings(tls=True, tls_ca="/nowhere"))
    with pytest.raises(errors.ConfigError, match="TLS files"):
        board.open()
