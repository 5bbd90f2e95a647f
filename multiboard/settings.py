# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""What a backend can be told: its settings, declared once for every way of giving them.

Import them from :mod:`multiboard.primitives`. This module imports the standard library only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


def setting(
    default: Any,
    *,
    help: str,  # noqa: A002 - the word that every option library uses
    secret: bool = False,
    minimum: float | None = None,
    maximum: float | None = None,
    choices: Sequence[str] | None = None,
) -> Any:
    """Declare one option of a :class:`Settings` class.

    The URL parser, the oslo.config options, the command line and the documentation are all made
    from this one declaration. A secret is left out of ``repr`` and of every log line and error.
    """
    return field(
        default=default,
        repr=not secret,
        metadata={
            "help": help,
            "secret": secret,
            "minimum": minimum,
            "maximum": maximum,
            "choices": None if choices is None else tuple(choices),
        },
    )


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The options that every backend has; a backend's own ``Settings`` extends this class.

    A field's type is one of ``str``, ``int``, ``float``, ``bool``, ``str | None``, ``int | None``,
    ``float | None`` or ``tuple[str, ...]``. Values are guaranteed to have that type, and to be
    within ``minimum``, ``maximum`` and ``choices``, when a backend is made.
    """

    namespace: str = setting(
        "default",
        help="The board's name in the store: segments of letters, digits, '.', '_' and '-', "
        "joined by '/'. Boards of different names share nothing.",
    )
    create: bool = setting(
        True,
        help="Whether to make the board where there is none. Without it, connecting to a board "
        "that is not there fails, and makes nothing.",
    )
    session_timeout: float = setting(
        10.0,
        help="Seconds without a sign of life after which the store ends a session and frees its "
        "leases.",
        minimum=0.5,
        maximum=3600.0,
    )
    connect_timeout: float = setting(
        5.0,
        help="Seconds within which connecting must succeed or fail, by this machine's clock.",
        minimum=0.05,
        maximum=600.0,
    )
    operation_timeout: float = setting(
        10.0,
        help="Seconds for which one operation is tried and repeated while the store is away, by "
        "this machine's clock.",
        minimum=0.05,
        maximum=600.0,
    )


@dataclass(frozen=True, slots=True)
class Url:
    """A backend URL, split and unquoted; the query is taken care of by the loader."""

    scheme: str
    username: str | None
    password: str | None = field(repr=False)
    #: Each host with its port, or None where the URL names no port.
    hosts: tuple[tuple[str, int | None], ...]
    #: Begins with '/' unless it is empty.
    path: str
