# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""A password is shown nowhere, by whatever entry it came and however badly it was written.

A secret of these tests is two rare words with characters between them and behind them that mean
something in a URL: a parser that takes it apart must not show a part of it either.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import pathlib
import re
import tempfile
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import hypothesis
import pytest
from hypothesis import strategies as st
from oslo_config import cfg
from servers.ports import free_port
from taskflow import exceptions as excp

import multiboard
from multiboard import errors
from multiboard.cli import opening
from multiboard.cli.main import LIBRARIES, MultiboardApp
from multiboard.config import loading, oslo
from multiboard.runtime.guard import Guard
from tests.leaks import all_logs, shown_by

WORDS = st.text("bcdfghkmpqrtvwxz", min_size=6, max_size=10).map("zq".__add__)
SIGNS = st.text("/?#@:,[]%&=+;!$'\"\\ ~^|<>{}\u00e9\u2100\t", max_size=3)

#: Where a password may stand, or what a person writes who has the form of a URL wrong.
RAW = [
    "redis://user:{}@127.0.0.1:1",
    "redis://user:{}",
    "redis:/u:{}@h",
    "redis:u:{}@h",
    "redis:{}",
    "redis//u:{}@h",
    "redis/{}@h",
    "u:{}@h:6379/0",
    "://u:{}@h",
    "u:{}@redis://h",
    "nosuch://u:{}@h",
    "redis://[{}]@h",
    "redis://u:[{}@h",
    "redis://h:{}",
    "redis://u:12{}@h/0",
    "redis://u:12/{}@h",
    "redis://u:12?namespace={}@h",
    "redis:///u:{}@h",
    "redis://{}@h",
    "redis://h?password={}",
    "redis://h?sentinel_password={}",
    "redis?password={}",
    "redis?u:{}@h",
    "rediss://:{}@h/0?tls=false",
    "redis+sentinel://u:{}@h/m",
    "redis+cluster://u:{}@h/m",
    "unix://u:{}@/run/none.sock",
    "unix:///u:{}@h/run/none.sock",
    "zookeeper:///u:{}@h",
    "zookeeper://u:{}@h/..",
    "zookeeper+tls://u:{}@h?tls=false",
    "etcd:///u:{}@h",
    "etcd+https://u:{}@h/x?tls_key=/x",
    "sqlite://u:{}@h/x",
    "memory://u:{}@h",
    "multiboard.backends.redis:RedisBackend?password={}",
    "multiboard.backends.redis:{}",
]  # fmt: skip


@st.composite
def secrets(draw: st.DrawFn) -> tuple[str, list[str]]:
    """Draw a secret, and the words that must not be seen."""
    first, second = draw(WORDS), draw(WORDS)
    return f"{first}{draw(SIGNS)}{second}{draw(SIGNS)}", [first, second]


class Sight:
    """What could be seen of a use of the library."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []

    @contextlib.contextmanager
    def of(self, entry: str) -> Iterator[None]:
        """See an error of ours; any other one is a failure by itself."""
        with all_logs() as lines:
            try:
                yield
            except (errors.MultiboardError, excp.JobFailure) as error:
                self.note(entry, shown_by(error))
        self.note(entry, *lines)

    def note(self, entry: str, *texts: object) -> None:
        self.seen += [(entry, str(text)) for text in texts]

    def holds_none_of(self, words: list[str]) -> None:
        for entry, text in self.seen:
            for word in words:
                assert word not in text.lower(), f"{word} is shown by {entry}: {text}"


def look_at(sight: Sight, entry: str, conf: Any) -> None:
    """Make and connect a board and a backend, and note what they show."""
    with sight.of(entry):
        board = multiboard.fetch("name", conf)
        sight.note(entry, board, repr(board), board.settings, repr(board.settings))
        board.connect()
        raise AssertionError("nobody is there, and yet it connected")


def backend_of(sight: Sight, spec: str, **overrides: Any) -> None:
    with sight.of("load"):
        backend = loading.load(spec, **overrides)
        guard = Guard(backend)
        sight.note("load", backend, repr(backend), repr(backend.settings), guard, repr(guard))
        backend.open()
    with sight.of("redact"):
        sight.note("redact", loading.redact(spec))


def by_command(sight: Sight, words: list[str], url: str | None = None) -> None:
    """Run a command; with ``url`` in the environment."""
    levels = [(logging.getLogger(name), logging.getLogger(name).level) for name in LIBRARIES]
    before = os.environ.pop(opening.URL_VARIABLE, None)
    if url is not None:
        os.environ[opening.URL_VARIABLE] = url
    out = io.StringIO()
    try:
        with (
            all_logs() as lines,
            contextlib.redirect_stderr(out),
            contextlib.redirect_stdout(out),
            contextlib.suppress(SystemExit),
        ):
            MultiboardApp(stdout=out, stderr=out).run(words)
        sight.note(f"command {words[:2]}", out.getvalue(), *lines)
    finally:
        for logger, level in levels:  # a command silences them, and a process is one command
            logger.setLevel(level)
        os.environ.pop(opening.URL_VARIABLE, None)
        if before is not None:
            os.environ[opening.URL_VARIABLE] = before


def by_oslo(sight: Sight, url: str, group: str = "", **given: str) -> None:
    """Read a board from a file of oslo.config, which logs its options as services do."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "service.conf"
        lines = ["[multiboard]", f"backend_url = {url}", f"[{group or 'other'}]"]
        path.write_text("\n".join([*lines, *(f"{k} = {v}" for k, v in given.items())]) + "\n")
        with sight.of("oslo.config"):
            conf = cfg.ConfigOpts()
            conf([], project="service", default_config_files=[str(path)])
            oslo.register(conf)
            with contextlib.suppress(cfg.Error, ValueError):  # it may choke on a '$' by itself
                conf.log_opt_values(logging.getLogger("service"), logging.DEBUG)
            board = multiboard.from_config(conf)
            sight.note("oslo.config", board, repr(board.settings))


def connects(spec: str) -> bool:
    """Whether a text is a URL after all, though a strange one."""
    try:
        loading.load(spec)
    except errors.ConfigError:
        return False
    return True


#: As many examples as a run of every day has time for, and what the long run makes.
FEW = pytest.param(1, id="few")
MANY = pytest.param(60, id="many", marks=pytest.mark.full)


def misread(drawn: tuple[str, list[str]], form: str) -> str:
    secret, _ = drawn
    # A scheme is shown, and with '://' within it a password's first half may become one.
    hypothesis.assume(not (form.startswith("{}") and "://" in secret))
    # With an '@' in it, what follows that is a host, and its name is no secret either.
    hypothesis.assume(not (re.fullmatch(r"\w+://[a-z:]+{}", form) and "@" in secret))
    # With a colon in it, it is a user's name and a password, and a user's name is no secret.
    hypothesis.assume(not (re.fullmatch(r"\w+://\[?{}\]?@h", form) and ":" in secret))
    return form.format(secret)


@pytest.mark.parametrize("times", [FEW, MANY])
def test_a_url_that_can_not_be_read_shows_no_part_of_a_password(times: int) -> None:
    @hypothesis.settings(max_examples=40 * times)
    @hypothesis.given(drawn=secrets(), form=st.sampled_from(RAW))
    def run(drawn: tuple[str, list[str]], form: str) -> None:
        spec = misread(drawn, form)
        sight = Sight()
        sight.note("redact", loading.redact(spec))
        with sight.of("load"):
            backend = loading.load(spec)
            sight.note("load", repr(backend), repr(backend.settings))
        if not connects(spec):
            look_at(sight, "url", spec)
            look_at(sight, "dict", {"url": spec})
            look_at(sight, "bytes", {"url": spec.encode()})
        sight.holds_none_of(drawn[1])

    run()


@pytest.mark.parametrize("times", [FEW, MANY])
def test_neither_the_command_nor_a_configuration_shows_such_a_url(times: int) -> None:
    @hypothesis.settings(max_examples=6 * times)
    @hypothesis.given(drawn=secrets(), form=st.sampled_from(RAW))
    def run(drawn: tuple[str, list[str]], form: str) -> None:
        spec = misread(drawn, form)
        sight = Sight()
        by_oslo(sight, spec)
        hypothesis.assume(not connects(spec))
        for word in (["jobs", spec], ["show", spec, "x"], [spec], ["jobs", "redis://h", spec],
                     ["backends", spec], ["watch", f"--for={spec}"], ["help", spec]):  # fmt: skip
            by_command(sight, ["--debug", *word])
        by_command(sight, ["jobs"], url=spec)
        sight.holds_none_of(drawn[1])

    run()


SOUND = ["redis://u:{}@{}", "rediss://:{}@{}", "redis+sentinel://u:{}@{}/m",
         "redis+cluster://u:{}@{}", "redis://{1}?password={0}", "zookeeper://u:{}@{}",
         "zookeeper+tls://u:{}@{}/x", "etcd://u:{}@{}", "etcd+https://u:{}@{}"]  # fmt: skip
HASTE = {"connect_timeout": "0.05", "operation_timeout": "0.05"}


@pytest.fixture(scope="module")
def closed() -> str:
    """An address at which nobody listens."""
    return f"127.0.0.1:{free_port()}"


@hypothesis.settings(max_examples=1)
@hypothesis.given(drawn=secrets())
@pytest.mark.parametrize("form", SOUND)
def test_a_store_that_is_away_is_named_without_the_password(
    closed: str, form: str, drawn: tuple[str, list[str]]
) -> None:
    secret, words = drawn
    url = form.format(quote(secret, safe=""), closed)
    full = url + ("&" if "?" in url else "?") + "connect_timeout=0.05&operation_timeout=0.05"
    sight = Sight()
    assert connects(full)
    backend_of(sight, full)
    look_at(sight, "url", full)
    look_at(sight, "dict", {"url": url, **HASTE})
    by_oslo(sight, full.replace("$", "$$"))
    by_command(sight, ["--debug", "jobs", full])
    by_command(sight, ["-v", "health"], url=full)
    sight.holds_none_of(words)


@hypothesis.settings(max_examples=2)
@hypothesis.given(drawn=secrets())
def test_options_show_no_secret_of_a_wrong_type_or_in_a_wrong_place(
    closed: str, drawn: tuple[str, list[str]]
) -> None:
    secret, words = drawn
    wrong: list[dict[str, Any]] = [
        {"password": [secret]},
        {"password": secret.encode()},
        {"password": secret, "nope": 1},
        {"password": secret, "username": 5},
        {"password": secret + "\udce9"},
        {"hosts": f"u:{secret}@h:1"},
        {"hosts": [f"redis://u:{secret}@h:1"]},
        {"hosts": f"u:{secret}@h:1".encode()},
        {"hosts": {f"u:{secret}@h:1": 1}},
        {"username": "u", "password": secret, "sentinel_password": secret},
        {f"redis://u:{secret}@h": "x"},
    ]
    sight = Sight()
    for scheme in ("redis", "zookeeper", "etcd"):
        for given in wrong:
            look_at(
                sight, f"{scheme} {list(given)}", {"url": f"{scheme}://{closed}", **HASTE, **given}
            )
    for value in (secret, secret.replace("$", "$$")):
        by_oslo(sight, f"redis://{closed}", "multiboard_redis", password=value)
        by_oslo(sight, f"etcd://{closed}", "multiboard_etcd", username="u", password=value)
    sight.holds_none_of(words)
