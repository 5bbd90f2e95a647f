# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""From a URL, a name or ``module:Class`` to a backend. The only importer of stevedore.

It knows no backend: names come from the entry point group ``multiboard.backends``, options from
the backend's settings class. A backend made here is neither opened nor guarded.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import importlib
import math
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from urllib.parse import parse_qsl, unquote

import stevedore
from stevedore import exception as stevedore_errors

from multiboard import errors
from multiboard.primitives import Backend, Settings, Url, format_address

#: The entry point group of backends, ours and third parties': one name for each URL scheme.
ENTRY_POINTS = "multiboard.backends"

#: What may be shown of a text that names a store before it is understood: a name or a scheme. Of
#: everything else nothing is, since a password may be anywhere in a URL that was mistyped.
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9+._-]*", re.ASCII)
_CLASS = re.compile(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):([A-Za-z_]\w*)", re.ASCII)
#: Authority, path and query of a URL, behind its ``://``.
_PARTS = re.compile(r"([^/?]*)([^?]*)(?:\?(.*))?", re.DOTALL)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")

_TRUE = {"1", "true", "yes", "on"}
_FALSE = {"0", "false", "no", "off"}


def load(spec: str, **overrides: Any) -> Backend:
    """Make the backend that ``spec`` names; it is not opened.

    ``spec`` is a URL (``redis://host/0?namespace=x``), the name of a backend (``redis``), or
    ``module:Class`` for a class that is not registered, with a query of options if need be.
    ``overrides`` are settings by name and win over the URL's; strings are converted.

    Raises: ``ConfigError`` for a name that is not known, a client library that is not installed,
    a URL that can't be read, an option that does not exist or has a wrong value, or options that
    contradict each other or the URL.
    """
    cls, meant, query = _read(spec)
    settings = make_settings(cls, {**meant, **query, **overrides})
    if meant.get("tls") and not getattr(settings, "tls", True):
        raise errors.ConfigError(
            "the URL's scheme means TLS, and the option tls=false takes it back: leave one out"
        )
    return cls(settings)


def backend_maker(conf: Mapping[str, Any], client: Backend | None) -> Callable[[], Backend]:
    """Return what makes a backend for each connection of a board.

    ``conf`` holds ``url`` and options by name; ``client`` is a backend whose settings to use in
    its place. The key ``board``, by which TaskFlow finds the jobboard, is passed over.

    Raises: ``ConfigError`` where there is no ``url``; for anything else, when it is called.
    """
    if client is not None:
        if not isinstance(client, Backend):
            raise errors.ConfigError(
                f"client is {type(client).__name__}; it should be a multiboard backend, or None"
            )
        return lambda: type(client)(client.settings)
    options = {name: value for name, value in conf.items() if name not in ("board", "url")}
    if "url" not in conf:
        raise errors.ConfigError(
            "the configuration of a board names its store: {'url': 'sqlite:///path'}, for example"
        )
    return lambda: load(conf["url"], **options)


def _read(spec: str) -> tuple[type[Backend], dict[str, Any], dict[str, str]]:
    """Return the class, and the settings that the URL means before and behind its '?'."""
    if not isinstance(spec, str) or not spec.strip():
        raise errors.ConfigError(
            "a backend is given as a URL, a name or module:Class, not as"
            f" {'an empty text' if isinstance(spec, str) else type(spec).__name__}"
        )
    spec = spec.strip()
    if "://" in spec:
        url, query = parse_url(spec)
        cls = backend_class(url.scheme)
        return cls, _meant(cls, url, query), query
    name, _, options = spec.partition("?")
    if not _NAME.fullmatch(name) and not _CLASS.fullmatch(name):
        scheme = re.split("[:/]", spec)[0]
        like = scheme if scheme in names() else "redis"
        raise errors.ConfigError(
            "what names the store is no URL, no name and no module:Class; a URL looks like"
            f" {like}://..., with '://' behind its scheme (the text is not shown: it may hold a"
            " password)"
        )
    return _import_class(name) if ":" in name else backend_class(name), {}, _parse_query(options)


def _meant(cls: type[Backend], url: Url, query: Mapping[str, str]) -> dict[str, Any]:
    """Return the settings that the URL means before its '?'; what it leaves open is not among them.

    Raises: ``ConfigError`` where an option behind the '?' says otherwise.
    """
    fields = {field.name: field for field in dataclasses.fields(cls.settings_class)}
    hints = typing.get_type_hints(cls.settings_class)
    meant = {
        name: value
        for name, value in cls.from_url(url).items()
        if not (value is None or value is False or value == "")
        or (name in fields and value != fields[name].default)
    }
    for name in sorted(meant.keys() & query.keys() & fields.keys()):
        field, hint = fields[name], hints[name]
        if _convert(field, hint, query[name]) != _convert(field, hint, meant[name]):
            raise errors.ConfigError(
                f"the URL contradicts itself: the option {name!r} behind its '?' is not what its"
                f" scheme {url.scheme!r}, its hosts, its user or its path mean: leave one out"
            )
    return meant


def spec_class(spec: str) -> type[Backend]:
    """Return the backend class that a URL, a name or ``module:Class`` names.

    Raises: as :func:`load`.
    """
    return _read(spec)[0]


def given_options(spec: str) -> set[str]:
    """Return the names of the settings that a URL gives by itself.

    Raises: as :func:`load`.
    """
    _, meant, query = _read(spec)
    return {*meant, *query}


def parse_url(text: str) -> tuple[Url, dict[str, str]]:
    """Split a URL into its parts and its query.

    Several hosts are separated by commas; an IPv6 address stands in brackets.

    Raises: ``ConfigError``; its message repeats nothing of the URL but its scheme.
    """
    scheme, _, rest = text.partition("://")
    if not _NAME.fullmatch(scheme):
        raise errors.ConfigError(
            "what stands before the '://' of a URL is its scheme, as in redis://host; here it is"
            " not (the text is not shown: it may hold a password)"
        )
    shown = f"the URL {scheme}://..."
    if "#" in rest:  # before anything else: what follows it would be missing from the password
        raise errors.ConfigError(
            f"{shown} has a '#': write %23 where a password or a name contains one"
        )
    if _CONTROL.search(rest):
        raise errors.ConfigError(f"{shown} has a control character: write it as %0A, for example")
    found = _PARTS.fullmatch(rest)
    assert found is not None
    authority, path, query = found[1], found[2], found[3] or ""
    before = path.partition("@")[0]
    if "@" in query or ("@" in path and (authority or ":" in before)):
        # A password with a '/' or a '?' looks like this, and its first half like a host.
        raise errors.ConfigError(
            f"{shown} has an '@' behind a '/' or a '?': in a user's name or password write %2F for"
            " '/' and %3F for '?'; anywhere else write %40 for '@'"
        )
    userinfo, _, hosts = authority.rpartition("@")
    username, _, password = userinfo.partition(":")
    try:
        url = Url(
            scheme=scheme.lower(),
            username=_unquoted(username) or None,
            password=_unquoted(password) or None,
            hosts=tuple(_parse_host(host) for host in hosts.split(",")) if hosts else (),
            path=_unquoted(path),
        )
    except _Malformed as error:
        why = str(error)
    else:
        return url, _parse_query(query)
    raise errors.ConfigError(
        f"can't read {shown}: {why}; it should look like"
        " scheme://user:password@host:port,host:port/path?option=value"
    )


class _Malformed(Exception):
    """What is wrong with a part of a URL, without that part."""


def _unquoted(text: str) -> str:
    if "\ufffd" in unquote(text) and "\ufffd" not in text:
        raise _Malformed("what is written with '%' is not UTF-8")
    return unquote(text)


def _parse_host(text: str) -> tuple[str, int | None]:
    if text.startswith("["):
        host, bracket, port = text[1:].partition("]")
        if not bracket or (port and not port.startswith(":")):
            raise _Malformed("an IPv6 address should look like [::1]:6379")
        port = port[1:]
    else:
        host, _, port = text.partition(":")
    if not host:
        raise _Malformed("a host is empty")
    if port and not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise _Malformed("a port is not a number from 1 to 65535")
    return _unquoted(host), int(port) if port else None


def _parse_query(query: str) -> dict[str, str]:
    pairs: list[tuple[str, str]] | None = None
    if "@" not in query:
        with contextlib.suppress(ValueError):
            pairs = parse_qsl(query, True, strict_parsing=bool(query), errors="strict")
    if pairs is None:
        raise errors.ConfigError(
            "the options after '?' should be name=value&name=value, in UTF-8, with %40 for '@'"
        )
    values = dict(pairs)
    if len(values) != len(pairs):
        given = [name for name, _ in pairs]
        twice = sorted({_shown(name) for name in given if given.count(name) > 1})
        raise errors.ConfigError(f"options given twice: {', '.join(twice)}")
    return values


def _shown(name: Any) -> str:
    """Return the name of an option for an error; what is no name is not shown."""
    return name if isinstance(name, str) and name.isidentifier() else "(not a name)"


def redact(text: str) -> str:
    """Return a URL without what stands before the '@' and without its options.

    Of a text that can't be parsed nothing is left but its scheme.
    """
    if "://" not in text:
        name = text.partition("?")[0]
        found = _CLASS.fullmatch(name)
        return name if _NAME.fullmatch(name) else f"{found[1]}:..." if found else "..."
    try:
        url, _ = parse_url(text)
    except errors.ConfigError:
        scheme = text.partition("://")[0]
        return f"{scheme if _NAME.fullmatch(scheme) else ''}://..."
    hosts = ",".join(
        format_address(host, port) if port else f"[{host}]" if ":" in host else host
        for host, port in url.hosts
    )
    user = "***@" if url.username or url.password else ""
    return f"{url.scheme}://{user}{hosts}{url.path}"


# -- names -----------------------------------------------------------------------------------


def names() -> list[str]:
    """Return the names of the backends that are installed, sorted."""
    manager: stevedore.NamedExtensionManager[Any] = stevedore.NamedExtensionManager(
        ENTRY_POINTS, names=[]
    )
    return sorted({entry_point.name for entry_point in manager.list_entry_points()})


def backend_class(name: str) -> type[Backend]:
    """Return the backend class that is registered under a name, which is a URL's scheme.

    Raises: ``ConfigError`` naming the backends that are known, or what has to be installed.
    """
    found: stevedore.DriverManager[Any] | None = None
    several = False
    if isinstance(name, str) and _NAME.fullmatch(name):
        try:
            found = stevedore.DriverManager(
                ENTRY_POINTS, name, on_load_failure_callback=_explain_load_failure
            )
        except stevedore_errors.NoMatches:
            pass
        except stevedore_errors.MultipleMatches:
            several = True
        shown = f" {name!r}{_did_you_mean(name, names())}"
    else:  # a URL, perhaps, with a password in it
        shown = ": what was given is not the name of one, and is not shown"
    if several:
        raise errors.ConfigError(
            f"several installed packages provide a backend named {name!r}: remove all but one"
        )
    if found is None:
        raise errors.ConfigError(f"unknown backend{shown}; installed are: {', '.join(names())}")
    return _checked(found.driver, name)


def _explain_load_failure(_manager: Any, entry_point: Any, error: BaseException) -> None:
    if isinstance(error, ImportError):
        missing = getattr(error, "name", None) or str(error)
        extras = list(getattr(entry_point, "extras", ()))
        distribution = getattr(getattr(entry_point, "dist", None), "name", "multiboard")
        remedy = f"{distribution}[{','.join(extras)}]" if extras else missing
        raise errors.ConfigError(
            f"the backend {entry_point.name!r} needs the package {missing!r}, which is not"
            f" installed: install {remedy}"
        ) from error
    raise error


def _import_class(name: str) -> type[Backend]:
    module_name, _, class_name = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except (ImportError, ValueError) as error:
        raise errors.ConfigError(
            f"can't load the backend from the module {module_name!r}: {error}"
        ) from error
    found = getattr(module, class_name, None)
    if found is None:  # the name is not shown: it may be the password of redis:password
        raise errors.ConfigError(
            f"can't load the backend from the module {module_name!r}: it has no class of that name"
        )
    return _checked(found, name)


def _checked(found: Any, name: str) -> type[Backend]:
    if not (isinstance(found, type) and issubclass(found, Backend)):
        raise errors.ConfigError(
            f"the backend {name!r} is a {type(found).__name__}, which is not a subclass of"
            " multiboard.primitives.Backend"
        )
    return found


# -- settings --------------------------------------------------------------------------------


def make_settings(cls: type[Backend], values: Mapping[str, Any]) -> Settings:
    """Make a backend's settings from values of any origin: a URL, a dict of strings, oslo.config.

    Raises: ``ConfigError`` naming the option, and what would be right; never a secret value.
    """
    fields = {field.name: field for field in dataclasses.fields(cls.settings_class)}
    hints = typing.get_type_hints(cls.settings_class)
    unknown = [name for name in values if name not in fields]
    if unknown:
        shown, hint = repr(_shown(unknown[0])), _did_you_mean(str(unknown[0]), fields)
        if not hint and any(fields[name].metadata["secret"] for name in values if name in fields):
            shown = "of a name that was given (a '&' in a password is written %26)"
        raise errors.ConfigError(
            f"{cls.__name__} has no option {shown}{hint};"
            f" its options are: {', '.join(sorted(fields))}"
        )
    converted = {
        name: _checked_value(fields[name], _convert(fields[name], hints[name], value))
        for name, value in values.items()
    }
    settings = cls.settings_class(**converted)
    check_namespace(settings.namespace)
    return settings


def field_type(hint: Any) -> tuple[Any, bool]:
    """Return a settings field's type without its None, and whether None is allowed."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        inner = [arg for arg in typing.get_args(hint) if arg is not type(None)]
        return inner[0], True
    return hint, False


def _convert(field: dataclasses.Field[Any], hint: Any, value: Any) -> Any:
    """Return ``value`` as the field's type; strings are read as a person writes them."""
    wanted, optional = field_type(hint)
    if value is None and optional:
        return None
    try:
        if wanted is bool:
            return _convert_bool(value)
        if wanted is str and isinstance(value, str):
            value.encode()  # no store takes half a surrogate pair, nor bytes that are not UTF-8
            return value
        if wanted in (int, float) and not isinstance(value, bool):
            number = wanted(value)
            if wanted is int and isinstance(value, float) and number != value:
                raise ValueError(value)
            if not math.isfinite(number):
                raise ValueError(value)
            return number
        if typing.get_origin(wanted) is tuple and not isinstance(value, (bytes, Mapping)):
            parts = value.split(",") if isinstance(value, str) else list(value)
            return tuple(str(part).strip() for part in parts)
    except (TypeError, ValueError):
        pass
    label = "text in UTF-8" if wanted is str else getattr(wanted, "__name__", str(wanted))
    plain = isinstance(value, (str, int, float)) and typing.get_origin(wanted) is not tuple
    hidden = field.metadata.get("secret") or not plain
    shown = f"the value given, a {type(value).__name__}," if hidden else repr(value)
    raise errors.ConfigError(f"option {field.name!r}: {shown} is not a valid {label}")


def _convert_bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in _TRUE | _FALSE:
        return value.lower() in _TRUE
    raise ValueError(value)


def _checked_value(field: dataclasses.Field[Any], value: Any) -> Any:
    minimum, maximum = field.metadata.get("minimum"), field.metadata.get("maximum")
    choices = field.metadata.get("choices")
    if value is None:
        return value
    if (minimum is not None and value < minimum) or (maximum is not None and value > maximum):
        raise errors.ConfigError(
            f"option {field.name!r}: {value!r} is not between {minimum} and {maximum}"
        )
    if choices is not None and value not in choices:
        raise errors.ConfigError(
            f"option {field.name!r}: {value!r} is not one of: {', '.join(choices)}"
        )
    return value


def check_namespace(namespace: str) -> None:
    """Refuse a namespace that not every store could tell from another one's.

    Raises: ``ConfigError``.
    """
    segments = namespace.split("/")
    legal = all(
        segment.isascii()
        and segment.strip(".") != ""
        and all(character.isalnum() or character in "._-" for character in segment)
        for segment in segments
    )
    if not legal or len(namespace) > 200:
        raise errors.ConfigError(
            f"{namespace!r} is not a namespace: it should be segments of letters, digits, '.', '_'"
            " and '-', joined by '/', at most 200 characters in all"
        )


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
