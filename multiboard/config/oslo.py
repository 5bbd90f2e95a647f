# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The oslo.config options of a board, made from the backends' settings. The only importer of it.

The group ``[multiboard]`` chooses the store by its URL; a group for each backend
(``[multiboard_redis]``) holds that backend's options, which the URL's own options override.
"""

from __future__ import annotations

import copy
import dataclasses
import re
import typing
from collections.abc import Sequence
from typing import Any

from oslo_config import cfg

from multiboard import errors
from multiboard.config import loading
from multiboard.primitives import Backend

GROUP = "multiboard"

_URL = cfg.StrOpt(
    "backend_url",
    default="sqlite://",
    secret=True,
    help="The store that holds the job board: sqlite:///path, redis://host:6379/0,"
    " zookeeper://host1,host2,host3/path, or memory:// for tests. Options of the backend may"
    " follow after a '?' and override its group's.",
)

_PERSISTENCE = cfg.StrOpt(
    "persistence_connection",
    secret=True,
    help="Where 'multiboard conductor run' finds the logbooks of the flows that it runs:"
    " TaskFlow's persistence, as in mysql+pymysql://user:password@host/database, sqlite:////path or"
    " dir:///path. It is the one that the services that post the jobs use.",
)


def group_name(cls: type[Backend]) -> str:
    """Return the name of the option group of a backend class."""
    return f"{GROUP}_{cls.__name__.removesuffix('Backend').lower()}"


def backend_options(cls: type[Backend]) -> list[cfg.Opt]:
    """Return a backend's settings as oslo.config options."""
    hints = typing.get_type_hints(cls.settings_class)
    return [_option(field, hints[field.name]) for field in dataclasses.fields(cls.settings_class)]


def _option(field: dataclasses.Field[Any], hint: Any) -> cfg.Opt:
    wanted, _ = loading.field_type(hint)
    declared = field.metadata
    bounds = {"min": declared["minimum"], "max": declared["maximum"]}
    common = {"default": field.default, "help": declared["help"], "secret": declared["secret"]}
    if wanted is bool:
        return cfg.BoolOpt(field.name, **common)
    if wanted is int:
        return cfg.IntOpt(field.name, **bounds, **common)
    if wanted is float:
        return cfg.FloatOpt(field.name, **bounds, **common)
    if typing.get_origin(wanted) is tuple:
        return cfg.ListOpt(field.name, **{**common, "default": _plain(field.default)})
    return cfg.StrOpt(field.name, choices=declared["choices"], **common)


def _classes() -> dict[str, type[Backend]]:
    """Return the backends whose client libraries are installed, by group."""
    classes: dict[str, type[Backend]] = {}
    for name in loading.names():
        try:
            cls = loading.backend_class(name)
        except errors.ConfigError:
            continue  # its client library is not installed here, so nobody can choose it
        classes.setdefault(group_name(cls), cls)
    return classes


def list_opts() -> list[tuple[str, list[cfg.Opt]]]:
    """Return all options by group, for ``oslo-config-generator --namespace multiboard``."""
    groups = [(group, backend_options(cls)) for group, cls in sorted(_classes().items())]
    return [(GROUP, [copy.deepcopy(_URL), copy.deepcopy(_PERSISTENCE)]), *groups]


def register(conf: cfg.ConfigOpts) -> None:
    """Register the options of a service's configuration; may be called again."""
    for group, options in list_opts():
        conf.register_opts(options, group=group)


def load(paths: Sequence[str], url: str | None = None) -> cfg.ConfigOpts:
    """Return the configuration in these files; ``url`` takes the place of their ``backend_url``.

    Raises: ``ConfigError`` for a file that can't be read, naming the line, without its text.
    """
    conf = cfg.ConfigOpts()
    try:
        conf(args=[], project=GROUP, default_config_files=list(paths), default_config_dirs=[])
    except (cfg.ConfigFilesNotFoundError, cfg.ConfigFilesPermissionDeniedError) as error:
        missing = ", ".join(error.config_files)
        raise errors.ConfigError(f"can't read the configuration file {missing}") from None
    except cfg.ConfigFileParseError as error:
        line = re.search(r":(\d+), ", str(error))  # behind it the line stands, and secrets in it
        where = f"{error.config_file}, line {line[1]}" if line else error.config_file
        raise errors.ConfigError(f"{where}: this is no line of a configuration file") from None
    except (UnicodeDecodeError, OSError) as error:
        raise errors.ConfigError(f"the configuration can't be read: {error}") from None
    conf.register_opts([copy.deepcopy(_URL)], group=GROUP)
    if url is not None:
        conf.set_override(_URL.name, url, group=GROUP)
    return conf


def persistence_connection(conf: cfg.ConfigOpts) -> str:
    """Return where TaskFlow's logbooks are, by a configuration.

    Raises: ``ConfigError`` where it says nothing of them.
    """
    conf.register_opts([copy.deepcopy(_PERSISTENCE)], group=GROUP)
    found = _value(conf, GROUP, _PERSISTENCE.name, secret=True)
    if not found:
        raise errors.ConfigError(
            f"[{GROUP}] {_PERSISTENCE.name} names TaskFlow's logbooks, without which no flow can be"
            " run; the configuration does not have it"
        )
    return str(found)


def read(conf: cfg.ConfigOpts) -> dict[str, Any]:
    """Return a board's configuration from a service's: a ``url``, and options by name.

    Options that are left at their defaults are left out, so that the URL decides. The options
    are registered where the service did not do it.

    Raises: ``ConfigError`` for an unknown backend or a value that can't be used.
    """
    if not isinstance(conf, cfg.ConfigOpts):
        raise errors.ConfigError(f"conf is {type(conf).__name__}; it should be oslo.config's CONF")
    conf.register_opts([copy.deepcopy(_URL)], group=GROUP)
    url = _value(conf, GROUP, _URL.name, secret=True)
    cls = loading.spec_class(url)
    group = group_name(cls)
    conf.register_opts(backend_options(cls), group=group)
    conf_of_board: dict[str, Any] = {"url": url}
    given = loading.given_options(url)
    for field in dataclasses.fields(cls.settings_class):
        value = _value(conf, group, field.name, secret=field.metadata["secret"])
        if field.name not in given and value != _plain(field.default):
            conf_of_board[field.name] = value
    return conf_of_board


def _value(conf: cfg.ConfigOpts, group: str, name: str, *, secret: bool) -> Any:
    """Return an option's value.

    Raises: ``ConfigError``; where the option is secret, without oslo.config's text about it.
    """
    try:
        return getattr(conf[group], name)
    except cfg.ConfigFileValueError as error:
        why = "the value can't be used" if secret else str(error)
    except (cfg.NoSuchOptError, cfg.TemplateSubstitutionError):
        # The rest of the value is what was looked for in vain, and it may be half a password.
        why = "a '$' stands before the name of another option, and there is none: write '$$'"
    except ValueError as error:
        why = "the value can't be used" if secret else str(error)
    raise errors.ConfigError(f"[{group}] {name}: {why}")


def _plain(default: Any) -> Any:
    """Return a default as oslo.config hands it out."""
    return list(default) if isinstance(default, tuple) else default
