# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Certificates for tests, made by ``openssl``: an authority, and what it signs.

They say all that RFC 5280 wants said: Python 3.13 believes no others.
"""

from __future__ import annotations

import pathlib
import subprocess
from typing import NamedTuple

_KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]


class Certificate(NamedTuple):
    """Two files."""

    path: str
    key: str


class Authority:
    """Signs certificates; whoever trusts its file believes them."""

    def __init__(self, folder: pathlib.Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._own = Certificate(str(folder / "authority.pem"), str(folder / "authority.key"))
        _openssl(
            *("req", "-x509", *_KEY, "-days", "2", "-subj", "/CN=authority of a test"),
            *("-addext", "keyUsage=critical,keyCertSign,cRLSign"),
            *("-keyout", self._own.key, "-out", self._own.path),
        )

    @property
    def path(self) -> str:
        """The file of those who trust it."""
        return self._own.path

    def issue(self, name: str, *places: str) -> Certificate:
        """Return a certificate for places, as in ``DNS:localhost`` and ``IP:127.0.0.1``."""
        request, path, key, names = (
            str(self._folder / f"{name}.{end}") for end in ("request", "pem", "key", "names")
        )
        _openssl("req", *_KEY, "-subj", f"/CN={name}", "-keyout", key, "-out", request)
        pathlib.Path(names).write_text(
            f"subjectAltName={','.join(places or ('DNS:' + name,))}\n"
            "subjectKeyIdentifier=hash\n"
            "authorityKeyIdentifier=keyid\n"
        )
        _openssl(
            *("x509", "-req", "-days", "2", "-in", request, "-out", path, "-extfile", names),
            *("-CA", self._own.path, "-CAkey", self._own.key, "-CAcreateserial"),
        )
        return Certificate(path, key)


def _openssl(*words: str) -> None:
    done = subprocess.run(["openssl", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
