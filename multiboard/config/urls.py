# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The URL of a store, taken apart and shown without what is secret in it.

A password may be anywhere in a URL that was mistyped: an error repeats its scheme and nothing else.
"""

from __future__ import annotations

import contextlib
import re
from typing import Any
from urllib.parse import parse_qsl, unquote

from multiboard import errors
from multiboard.primitives import Url, arguments, format_address

#: What may be shown of a text that names a store before it is understood: a name or a scheme. Of
#: everything else nothing is, since a password may be anywhere in a URL that was mistyped.
NAME = re.compile(r"[A-Za-z][A-Za-z0-9+._-]*", re.ASCII)
CLASS = re.compile(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):([A-Za-z_]\w*)", re.ASCII)
#: Authority, path and query of a URL, behind its ``://``.
_PARTS = re.compile(r"([^/?]*)([^?]*)(?:\?(.*))?", re.DOTALL)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def parse_url(text: str) -> tuple[Url, dict[str, str]]:
    """Split a URL into its parts and its query.

    Several hosts are separated by commas; an IPv6 address stands in brackets.

    Raises: ``ConfigError``; its message repeats nothing of the URL but its scheme.
    """
    scheme, _, rest = text.partition("://")
    if not NAME.fullmatch(scheme):
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
        raise errors.ConfigError(f"{shown} has a control character; a password's tab is %09")
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
            password=_unquoted(password, tabs=True) or None,
            hosts=tuple(_parse_host(host) for host in hosts.split(",")) if hosts else (),
            path=_unquoted(path),
        )
    except _Malformed as error:
        why = str(error)
    else:
        return url, parse_query(query)
    raise errors.ConfigError(
        f"can't read {shown}: {why}; it should look like"
        " scheme://user:password@host:port,host:port/path?option=value"
    )


class _Malformed(Exception):
    """What is wrong with a part of a URL, without that part."""


def _unquoted(text: str, *, tabs: bool = False) -> str:
    found = unquote(text)
    if "\ufffd" in found and "\ufffd" not in text:
        raise _Malformed("what is written with '%' is not UTF-8")
    try:
        arguments.check_plain("a part of it", found.replace("\t", " ") if tabs else found)
    except errors.InvalidArgument as error:
        raise _Malformed(str(error)) from None
    return found


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


def parse_query(query: str) -> dict[str, str]:
    """Return the options behind the '?' of a URL.

    Raises: ``ConfigError``, which repeats no value.
    """
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
        twice = sorted({shown_option(name) for name in given if given.count(name) > 1})
        raise errors.ConfigError(f"options given twice: {', '.join(twice)}")
    return values


def shown_option(name: Any) -> str:
    """Return the name of an option for an error; what is no name is not shown."""
    return name if isinstance(name, str) and name.isidentifier() else "(not a name)"


def redact(text: str) -> str:
    """Return a URL without what stands before the '@' and without its options.

    Of a text that can't be parsed nothing is left but its scheme.
    """
    if "://" not in text:
        name = text.partition("?")[0]
        found = CLASS.fullmatch(name)
        return name if NAME.fullmatch(name) else f"{found[1]}:..." if found else "..."
    try:
        url, _ = parse_url(text)
    except errors.ConfigError:
        scheme = text.partition("://")[0]
        return f"{scheme if NAME.fullmatch(scheme) else ''}://..."
    hosts = ",".join(
        format_address(host, port) if port else f"[{host}]" if ":" in host else host
        for host, port in url.hosts
    )
    user = "***@" if url.username or url.password else ""
    return f"{url.scheme}://{user}{hosts}{url.path}"
