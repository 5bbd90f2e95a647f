# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Choosing and tuning a store by oslo.config."""

from __future__ import annotations

import pathlib
import subprocess
import sys

import pytest
from oslo_config import cfg

import multiboard
from multiboard.config import oslo
from multiboard.errors import ConfigError


def configured(text: str, tmp_path: pathlib.Path) -> cfg.ConfigOpts:
    """Return a service's configuration as read from a file."""
    path = tmp_path / "service.conf"
    path.write_text(text)
    conf = cfg.ConfigOpts()
    conf([], project="service", default_config_files=[str(path)])
    return conf


def test_a_board_from_a_service_configuration(tmp_path: pathlib.Path) -> None:
    conf = configured(
        "[multiboard]\nbackend_url = memory://shop?namespace=x\n"
        "[multiboard_memory]\nsession_timeout = 3\nnamespace = y\n",
        tmp_path,
    )
    board = multiboard.from_config(conf, "jobs")
    assert board.name == "jobs"
    assert board.settings.session_timeout == 3.0
    assert board.settings.namespace == "x"  # the URL has the last word
    board.connect()
    assert board.post("a").state == "UNCLAIMED"
    board.close()
    multiboard.from_config(conf)  # the options may be registered again
    oslo.register(conf)


def test_the_default_is_the_embedded_store(tmp_path: pathlib.Path) -> None:
    board = multiboard.from_config(configured("", tmp_path))
    assert type(board.settings).__name__ == "SQLiteSettings"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[multiboard]\nbackend_url = nosuch://\n", "unknown backend 'nosuch'"),
        ("[multiboard]\nbackend_url = memory://?nope=1\n", "has no option 'nope'"),
        (
            "[multiboard]\nbackend_url = memory://\n[multiboard_memory]\nsession_timeout = x\n",
            r"\[multiboard_memory\] session_timeout",
        ),
        (
            "[multiboard]\nbackend_url = memory://\n[multiboard_memory]\nsession_timeout = 0\n",
            "session_timeout",
        ),
        (
            "[multiboard]\nbackend_url = memory://\n[multiboard_memory]\nnamespace = a b\n",
            "not a namespace",
        ),
    ],
)
def test_a_wrong_configuration_is_told_what_is_wrong(
    text: str, complaint: str, tmp_path: pathlib.Path
) -> None:
    with pytest.raises(ConfigError, match=complaint):
        multiboard.from_config(configured(text, tmp_path))


def test_the_sample_configuration_is_usable(tmp_path: pathlib.Path) -> None:
    generator = pathlib.Path(sys.executable).with_name("oslo-config-generator")
    sample = tmp_path / "sample.conf"
    subprocess.run([generator, "--namespace", "multiboard", "--output-file", sample], check=True)
    text = sample.read_text()
    for group in (
        "multiboard",
        "multiboard_redis",
        "multiboard_sqlite",
        "multiboard_zookeeper",
        "multiboard_etcd",
    ):
        assert f"[{group}]\n" in text
    assert "#session_timeout = 10.0" in text
    conf = configured(text.replace("#session_timeout = 10.0", "session_timeout = 7.0"), tmp_path)
    assert multiboard.from_config(conf).settings.session_timeout == 7.0
    assert multiboard.from_config(configured(text, tmp_path)).settings.session_timeout == 10.0
