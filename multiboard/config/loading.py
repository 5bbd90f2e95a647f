# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""From a URL, a name or ``module:Class`` to a backend. The only importer of stevedore.

It knows no backend: names come from the entry point group ``multiboard.backends``, options from
the backend's settings class. A backend made here is neither opened nor guarded.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import math
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import stevedore
from stevedore import exception as stevedore_errors

from multiboard import errors
from multiboard.config.urls import CLASS, NAME, parse_query, parse_url, redact, shown_option
from multiboard.primitives import Backend, Settings, Url, arguments

__all__ = [
    "ENTRY_POINTS",
    "backend_class",
    "backend_maker",
    "check_namespace",
    "field_type",
    "given_options",
    "load",
    "make_settings",
    "names",
    "parse_url",
    "redact",
    "spec_class",
]

#: The entry point group of backends, ours and third parties': one name for each URL scheme.
ENTRY_POINTS = "multiboard.backends"

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
    if not isinstance(conf, Mapping) or not all(isinstance(name, str) for name in conf):
        raise errors.ConfigError(
            f"a {type(conf).__name__} that does not hold options by their names is no board's"
            " configuration: that is a URL, or a dict with 'url' and options"
        )
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
    if not NAME.fullmatch(name) and not CLASS.fullmatch(name):
        scheme = re.split("[:/]", spec)[0]
        like = scheme if scheme in names() else "redis"
        raise errors.ConfigError(
            "what names the store is no URL, no name and no module:Class; a URL looks like"
            f" {like}://..., with '://' behind its scheme (the text is not shown: it may hold a"
            " password)"
        )
    return _import_class(name) if ":" in name else backend_class(name), {}, parse_query(options)


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
    if isinstance(name, str) and NAME.fullmatch(name):
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
        shown, hint = repr(shown_option(unknown[0])), _did_you_mean(str(unknown[0]), fields)
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
            secret = field.metadata.get("secret")
            _check_text(f"option {field.name!r}", value.replace("\t", " ") if secret else value)
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
            if not all(isinstance(part, str) for part in parts):
                raise ValueError(value)
            for part in parts:
                _check_text(f"option {field.name!r}", part)
            return tuple(part.strip() for part in parts)
    except errors.ConfigError:
        raise
    except (TypeError, ValueError, OverflowError):  # 10**400 is not even infinite
        pass
    label = "text in UTF-8" if wanted is str else getattr(wanted, "__name__", str(wanted))
    plain = isinstance(value, (str, int, float)) and typing.get_origin(wanted) is not tuple
    hidden = field.metadata.get("secret") or not plain
    shown = f"the value given, a {type(value).__name__}," if hidden else arguments.shown(value)
    raise errors.ConfigError(f"option {field.name!r}: {shown} is not a valid {label}")


def _check_text(name: str, text: str) -> None:
    try:
        arguments.check_plain(name, text)
    except errors.InvalidArgument as error:
        raise errors.ConfigError(str(error)) from None


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
