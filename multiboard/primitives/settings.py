# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""What a backend can be configured with: its settings, declared once for every way of giving them.

Import them from :mod:`multiboard.primitives`. This module imports the errors only.
"""

from __future__ import annotations

import os
import re
import ssl
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from multiboard import errors


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

    def check(self) -> None:
        """Refuse options that contradict each other, or that have no effect beside the others.

        It is called when a backend is made. An extension calls its parent's first.

        Raises: ``ConfigError``, which names the options and repeats no secret.
        """


@dataclass(frozen=True, kw_only=True)
class TlsSettings(Settings):
    """The options of a backend that can be reached over TLS."""

    #: What to name in an error as the way to TLS by the URL.
    tls_url: ClassVar[str] = "a URL whose scheme means TLS"

    tls: bool = setting(False, help="Whether to connect with TLS.")
    tls_ca: str | None = setting(
        None, help="File with the certificates of the authorities to trust; none: the system's."
    )
    tls_cert: str | None = setting(None, help="File with the client's certificate.")
    tls_key: str | None = setting(None, help="File with the client's private key.")
    tls_verify: bool = setting(
        True, help="Whether the server's certificate must be trusted and name the host."
    )

    def check(self) -> None:
        super().check()
        idle = [name for name in ("tls_ca", "tls_cert", "tls_key") if getattr(self, name)]
        idle += [] if self.tls_verify else ["tls_verify"]
        if idle and not self.tls:
            raise errors.ConfigError(
                f"without TLS these options have no effect: {', '.join(idle)}; use {self.tls_url}"
                " or tls=true"
            )
        if self.tls_key and not self.tls_cert:
            raise errors.ConfigError("tls_key is the key of tls_cert, which is not given")

    def check_tls_files(self) -> None:
        """Read the files of certificates and keys, before anything is sent.

        A client library would find out later and say less, some as if the server were away.

        Raises: ``ConfigError`` naming the option and the file.
        """
        files = {name: getattr(self, name) for name in ("tls_ca", "tls_cert", "tls_key")}
        for name, path in files.items():
            if self.tls and path:
                try:
                    if not stat.S_ISREG(os.stat(path).st_mode):  # a pipe would block its reader
                        raise OSError("it is not a regular file")
                    os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
                except (OSError, ValueError) as error:
                    why = getattr(error, "strerror", None) or str(error)
                    raise errors.ConfigError(
                        f"the TLS files can't be used: {name}={path!r}: {why}"
                    ) from error
        if not self.tls:
            return
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        name = "tls_ca"
        try:
            if self.tls_ca:
                context.load_verify_locations(self.tls_ca)
            name = "tls_cert"
            if self.tls_cert:
                # Without a password the library would ask for it at the terminal.
                context.load_cert_chain(self.tls_cert, self.tls_key or None, password=lambda: "")
        except (OSError, ValueError) as error:
            raise errors.ConfigError(
                f"the TLS files can't be used: {name}={files[name]!r}: it should hold certificates"
                " as PEM, with a key that is theirs and is not encrypted"
                f" ({getattr(error, 'reason', None) or type(error).__name__})"
            ) from error


# -- URLs and addresses ----------------------------------------------------------------------


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

    def addresses(self, port: int) -> tuple[str, ...]:
        """Return each host as host:port, with this port where the URL names none."""
        return tuple(format_address(host, own or port) for host, own in self.hosts)

    def node(self) -> str:
        """Return the path as the name of a place in the store: no slash at its end."""
        return self.path.rstrip("/")


_ADDRESS = re.compile(r"(\[[0-9A-Za-z:.%_-]+\]|[^:\[\]@/?#%\s]+)(?::([0-9]{1,5}))?", re.ASCII)


def format_address(host: str, port: int) -> str:
    """Return host:port; an IPv6 address stands in brackets."""
    return f"{f'[{host}]' if ':' in host else host}:{port}"


def parse_address(text: str, default_port: int | None) -> tuple[str, int]:
    """Return the host and the port of ``host:port``, the inverse of :func:`format_address`.

    Raises: ``ConfigError``, which does not repeat the text: it may be a URL with a password.
    """
    found = _ADDRESS.fullmatch(text)
    port = default_port if found is None or found[2] is None else int(found[2])
    if found is None or port is None or not 0 < port < 65536:
        raise errors.ConfigError(
            "an entry of 'hosts' is not host:port (an IPv6 address: [address]:port), with a port"
            " from 1 to 65535 and neither scheme nor user; it is not shown, since it may hold a"
            " password"
        )
    return found[1].strip("[]"), port
