# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Settings that contradict each other, or have no effect beside the others, are refused."""

from __future__ import annotations

import os
import pathlib
import subprocess
from typing import Any

import pytest
from oslo_config import cfg
from servers.ports import free_port
from taskflow import exceptions as excp

import multiboard
from multiboard import errors
from multiboard.config import loading
from tests.certificates import Authority, Certificate


@pytest.mark.parametrize(
    ("url", "match"),
    [
        # The scheme says one thing, an option another.
        ("rediss://h?tls=false", "contradicts itself.*'tls'"),
        ("rediss+sentinel://h/m?tls=no", "contradicts itself.*'tls'"),
        ("rediss+cluster://h?tls=0", "contradicts itself.*'tls'"),
        ("zookeeper+tls://h?tls=false", "contradicts itself.*'tls'"),
        ("etcd+https://h?tls=false", "contradicts itself.*'tls'"),
        ("redis+cluster://h?cluster=no", "contradicts itself.*'cluster'"),
        # So do hosts, user and path.
        ("redis://h:1?hosts=h:2", "contradicts itself.*'hosts'"),
        ("redis://h/0?db=1", "contradicts itself.*'db'"),
        ("redis://:a@h?password=b", "contradicts itself.*'password'"),
        ("redis+sentinel://h/m?master=n", "contradicts itself.*'master'"),
        ("unix:///a?socket=/b", "contradicts itself.*'socket'"),
        ("zookeeper://h/a?root=/b", "contradicts itself.*'root'"),
        ("etcd://u:p@h?username=v", "contradicts itself.*'username'"),
        ("sqlite:///a?path=/b", "contradicts itself.*'path'"),
        ("memory://a?name=b", "contradicts itself.*'name'"),
        # What has no effect without TLS.
        *[
            (f"{scheme}://h?{option}", f"without TLS.*{option.partition('=')[0]}")
            for scheme in ("redis", "redis+cluster", "zookeeper", "etcd")
            for option in ("tls_ca=/x", "tls_cert=/x", "tls_verify=no")
        ],
        ("redis://h?tls=yes&tls_key=/x", "tls_key is the key of tls_cert"),
        ("zookeeper+tls://h?tls_key=/x", "tls_key is the key of tls_cert"),
        ("etcd+https://h?tls_key=/x", "tls_key is the key of tls_cert"),
        # What has no effect in a form of Redis.
        ("redis://h?sentinel_password=x", "are for sentinels"),
        ("redis+cluster://h?sentinel_username=u&sentinel_password=x", "are for sentinels"),
        ("redis+sentinel://h/m?sentinel_username=u", "sentinel_username without"),
        ("redis://u@h", "username without password"),
        ("unix:///s?tls=true", "no TLS over a socket"),
        ("unix:///s?hosts=h:1", "a socket or a host"),
        ("redis+cluster://h?db=1", "only database 0"),
        ("zookeeper://u@h", "go together"),
        ("etcd://u@h", "go together"),
    ],
)  # fmt: skip
def test_a_contradiction_is_refused(url: str, match: str) -> None:
    with pytest.raises(errors.ConfigError, match=match):
        loading.load(url)


@pytest.mark.parametrize("scheme", ["rediss", "zookeeper+tls", "etcd+https"])
@pytest.mark.parametrize("off", [False, "false", "0"])
def test_tls_of_a_url_is_not_taken_back_by_an_option(scheme: str, off: Any) -> None:
    with pytest.raises(errors.ConfigError, match="takes it back"):
        multiboard.fetch("b", {"url": f"{scheme}://h", "tls": off})
    board = multiboard.fetch("b", {"url": f"{scheme}://h", "tls": "true"})
    assert board.settings.tls is True  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "url",
    ["rediss://h?tls=true", "etcd://h?tls=true", "redis://h/1?db=1", "redis://h:6379?hosts=h:6379",
     "sqlite://?path=/x", "sqlite:///?path=/x", "redis://?hosts=h:1", "rediss://h?tls_verify=no"],
)  # fmt: skip
def test_saying_the_same_twice_or_in_one_place_is_none(url: str) -> None:
    loading.load(url)


def test_options_win_over_the_rest_of_a_url() -> None:
    made = loading.load("redis://u:a@h:1/3", password="b", hosts="i:2", db=4).settings
    assert (made.password, made.hosts, made.db) == ("b", ("i:2",), 4)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("url", "group", "name", "given", "value"),
    [
        ("redis://h", "redis", "password", "x", "x"),
        ("redis://h", "redis", "tls", "true", True),
        ("etcd://h", "etcd", "tls", "true", True),
        ("sqlite://", "sqlite", "path", "/var/lib/x.db", "/var/lib/x.db"),
    ],
)
def test_what_a_url_leaves_open_is_read_from_the_configuration(
    tmp_path: pathlib.Path, url: str, group: str, name: str, given: str, value: Any
) -> None:
    """A URL without a password, a path or TLS says nothing of them: the group's option counts."""
    path = tmp_path / "service.conf"
    path.write_text(f"[multiboard]\nbackend_url = {url}\n[multiboard_{group}]\n{name} = {given}\n")
    conf = cfg.ConfigOpts()
    conf([], project="service", default_config_files=[str(path)])
    assert getattr(multiboard.from_config(conf).settings, name) == value


# -- files ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> tuple[Certificate, Certificate]:
    """Two certificates; the first one's key lies encrypted beside it."""
    folder = tmp_path_factory.mktemp("certificates")
    one, other = Authority(folder).issue("one"), Authority(folder).issue("other")
    words = ("pkcs8", "-topk8", "-in", one.key, "-passout", "pass:x", "-out", f"{one.key}.closed")
    subprocess.run(["openssl", *words], check=True)
    return one, other


@pytest.fixture(scope="module")
def closed() -> str:
    return f"127.0.0.1:{free_port()}"


@pytest.mark.parametrize("scheme", ["rediss", "rediss+cluster", "zookeeper+tls", "etcd+https"])
@pytest.mark.parametrize("what", ["none", "folder", "pipe", "text", "key of another", "encrypted"])
def test_a_file_for_tls_that_can_not_be_used_is_named_before_connecting(
    tmp_path: pathlib.Path,
    certificates: tuple[Certificate, Certificate],
    closed: str,
    scheme: str,
    what: str,
) -> None:
    """Nobody listens there: an attempt to connect would be ``Unavailable``."""
    one, other = certificates
    bad = tmp_path / "bad.pem"
    options = {"tls_ca": str(bad)}
    if what == "folder":
        bad.mkdir()
    elif what == "pipe":
        os.mkfifo(bad)
    elif what == "text":
        bad.write_text("This is no certificate.")
    elif what == "key of another":
        options = {"tls_cert": one.path, "tls_key": other.key}
    elif what == "encrypted":
        options = {"tls_cert": one.path, "tls_key": f"{one.key}.closed"}
    backend = loading.load(f"{scheme}://{closed}", **options)
    with pytest.raises(errors.ConfigError, match="TLS files can't be used: tls_") as raised:
        backend.open()
    named = [f"{name}={path!r}" for name, path in options.items()]
    assert [text for text in named if text in str(raised.value)]
    with pytest.raises(excp.JobFailure, match="TLS files can't be used: tls_"):
        multiboard.fetch("b", {"url": f"{scheme}://{closed}", **options}).connect()
