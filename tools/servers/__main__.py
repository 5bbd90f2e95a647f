# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""``python tools/servers NAME... -- COMMAND``: see the package."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import NoReturn

sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

import servers  # noqa: E402 - found through the line above


def _terminated(*_: object) -> NoReturn:
    sys.exit(128 + signal.SIGTERM)


def main(arguments: Sequence[str]) -> int:
    """Run a command with servers beside it; return its exit status."""
    names = list(arguments[: arguments.index("--")]) if "--" in arguments else []
    command = arguments[len(names) + 1 :]
    if not names or not command or set(names) - set(servers.SERVERS):
        known = " ".join(sorted(servers.SERVERS))
        print(f"usage: servers NAME... -- COMMAND...   names: {known}", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, _terminated)
    with contextlib.ExitStack() as stack:
        environment = dict(os.environ)
        try:
            for name in dict.fromkeys(names):
                url = stack.enter_context(servers.server(name)).url
                environment[f"MULTIBOARD_{name.upper()}_URL"] = url
        except RuntimeError as error:
            print(f"[servers] {error}", file=sys.stderr)
            return 1
        try:
            status = subprocess.call(command, env=environment)
        except OSError as error:
            print(f"[servers] {command[0]}: {error.strerror}", file=sys.stderr)
            return 127
        return status if status >= 0 else 128 - status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
