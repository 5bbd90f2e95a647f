# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The account that operators are to make, as it stands in the documentation."""

from __future__ import annotations

import pathlib
import shlex

PASSWORD = "s3cret-of-the-server"
ACCOUNT = {"username": "multiboard", "password": PASSWORD}
PAGE = pathlib.Path(__file__).resolve().parents[3] / "doc" / "source" / "operations.rst"


def documented() -> list[str]:
    """Return the words of the command that operators are to use."""
    _, found, rest = PAGE.read_text().partition("$ redis-cli ACL SETUSER")
    assert found
    lines = []
    for line in rest.splitlines():
        lines.append(line.strip().removesuffix("\\"))
        if not line.endswith("\\"):
            break
    name, *words = shlex.split(" ".join(lines))
    assert (name, words[0]) == ("multiboard", "reset")
    return [word.replace("PASSWORD", PASSWORD) for word in words]
