# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""From a URL to a backend, and what a wrong one gets."""

from __future__ import annotations

import builtins
import importlib
import sys
from typing import Any

import pytest

from multiboard.backends.memory import MemoryBackend, MemorySettings
from multiboard.config import loading
from multiboard.errors import ConfigError
from multiboard.primitives import Url


@pytest.mark.parametrize(
    ("text", "url", "query"),
    [
        ("memory://", Url("memory", None, None, (), ""), {}),
        ("memory://Name?a=b&c=", Url("memory", None, None, (("Name", None),), ""),
         {"a": "b", "c": ""}),
        ("redis://u:p%40%2F@h:1/2", Url("redis", "u", "p@/", (("h", 1),), "/2"), {}),
        ("redis://:p@[::1]:6379", Url("redis", None, "p", (("::1", 6379),), ""), {}),
        ("zookeeper://a:1,b,c:3/x/y", Url("zookeeper", None, None,
         (("a", 1), ("b", None), ("c", 3)), "/x/y"), {}),
        ("redis+sentinel://a,b/main", Url("redis+sentinel", None, None,
         (("a", None), ("b", None)), "/main"), {}),
        ("sqlite:///var/lib/a%20b.db", Url("sqlite", None, None, (), "/var/lib/a b.db"), {}),
    ],
)  # fmt: skip
def test_a_url_is_split(text: str, url: Url, query: dict[str, str]) -> None:
    assert loading.parse_url(text) == (url, query)


@pytest.mark.parametrize(
    ("spec", "complaint"),
    [
        ("", "as a URL, a name or module:Class"),
        (7, "as a URL, a name or module:Class"),
        ("nosuch://h", "unknown backend 'nosuch'; installed are: .*memory"),
        ("memry://h", "did you mean 'memory'"),
        ("redis://h:0", "port is not a number"),
        ("redis://h:x", "port is not a number"),
        ("redis://a,,b", "a host is empty"),
        ("redis://[::1", "can't read the URL"),
        ("redis://h#frag", "'#'"),
        ("memory://h?session_timeout", "name=value"),
        ("memory://h?a=1&a=2", "given twice: a"),
        ("memory://h?sesion_timeout=3", "did you mean 'session_timeout'"),
        ("memory://h?session_timeout=soon", "'session_timeout': 'soon' is not a valid float"),
        ("memory://h?session_timeout=0", "not between 0.5 and 3600"),
        ("memory://h?session_timeout=nan", "not a valid float"),
        ("memory://user@h", "no user"),
        ("memory://h/path", "no user, port or path"),
        ("memory://h?namespace=", "is not a namespace"),
        ("memory://h?namespace=a//b", "is not a namespace"),
        ("memory://h?namespace=..", "is not a namespace"),
        ("memory://h?namespace=%C3%A9", "is not a namespace"),
        ("nosuch.module:Class", "can't load the backend"),
        ("os:nothing", "can't load the backend"),
        ("os:getcwd", "not a subclass of"),
    ],
)
def test_a_wrong_spec_is_told_what_is_wrong(spec: Any, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        loading.load(spec)


def test_every_way_to_name_a_backend() -> None:
    for spec in ("memory://", "memory", "multiboard.backends.memory:MemoryBackend"):
        backend = loading.load(spec, namespace="a/b", session_timeout="2.5")
        assert isinstance(backend, MemoryBackend)
        assert backend.settings == MemorySettings(namespace="a/b", session_timeout=2.5)
    backend = loading.load("multiboard.backends.memory:MemoryBackend?namespace=x", namespace="y")
    assert backend.settings.namespace == "y"


def test_the_known_names() -> None:
    assert {
        "memory",
        "sqlite",
        "redis",
        "rediss",
        "unix",
        "zookeeper",
        "etcd",
        "etcd+https",
    } <= set(loading.names())


@pytest.mark.parametrize(
    ("scheme", "library"), [("redis", "redis"), ("zookeeper", "kazoo"), ("etcd", "h2")]
)
def test_a_missing_client_library_names_the_extra(
    scheme: str, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def absent(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.partition(".")[0] == library and not args[3:] == (1,):
            raise ModuleNotFoundError(f"No module named {library!r}", name=library)
        return real(name, *args, **kwargs)

    folder = f"multiboard.backends.{scheme}"
    for module in [m for m in sys.modules if f"{m}.".startswith(f"{folder}.")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(ConfigError, match=rf"install multiboard\[{scheme}\]"):
        loading.load(f"{scheme}://h")
    monkeypatch.undo()
    importlib.import_module(folder)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("redis://u:secret@h:1/0?password=secret", "redis://***@h:1/0"),
        ("redis://:se@cret@h/0", "redis://***@h/0"),
        ("redis://:se/cret@h/0", "redis://..."),
        ("redis:/u:secret@h", "..."),
        ("memory", "memory"),
        ("a.b:B?password=secret", "a.b:..."),
    ],
)
def test_no_password_is_shown(text: str, shown: str) -> None:
    assert loading.redact(text) == shown


def test_no_error_repeats_a_password() -> None:
    for spec in ("redis://u:s3cret@h:x/", "redis://u:s3cret@h#", "nosuch://u:s3cret@h",
                 "redis://u:s3cret@h?sesion_timeout=1", "redis://u:s3#cret@h"):  # fmt: skip
        with pytest.raises(ConfigError) as caught:
            loading.load(spec)
        assert "s3" not in str(caught.value)


def test_a_secret_setting_is_not_in_the_repr() -> None:
    assert "s3cret" not in repr(loading.load("redis://:s3cret@h").settings)
