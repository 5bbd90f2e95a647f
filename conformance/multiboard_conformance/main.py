# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The command ``multiboard-conformance``: run the suite on a backend, wherever one stands.

It calls pytest with the suite's own ini file and plugin: no ini file, conftest.py, plugin or
environment variable of the place where it is run can change or empty it. Exit status: 0 all that
ran holds, 1 something does not, 2 nothing was run.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Sequence

from multiboard import errors, loading
from multiboard_conformance.guarantees import GUARANTEES

_HERE = os.path.dirname(os.path.abspath(__file__))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="multiboard-conformance",
        description="Check that a multiboard backend keeps what the primitives promise.",
    )
    parser.add_argument("backend", nargs="?", help="a URL, a backend's name, or module:Class")
    parser.add_argument("--quick", action="store_true", help="fewer rounds, not fewer guarantees")
    parser.add_argument("-k", metavar="EXPR", help="only the checks whose names match, as pytest")
    parser.add_argument(
        "--waive",
        action="append",
        default=[],
        metavar="ID=REASON",
        help="expect this guarantee, or this check, to fail: the result is partial",
    )
    parser.add_argument("--report", metavar="FILE", help="write the report as JSON")
    parser.add_argument("--harness", metavar="MODULE:CLASS", help="what the suite can't guess")
    parser.add_argument("--seed", type=int, help="repeat the random schedules of a run")
    parser.add_argument("--list", action="store_true", help="print the guarantees and stop")
    parser.add_argument("-v", "--verbose", action="store_true", help="name every check")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = _parser()
    options = parser.parse_args(argv)
    if options.list:
        for promise in GUARANTEES.values():
            print(f"{promise.id:<8} {promise.sentence}")
        return 0
    if options.backend is None:
        parser.error("which backend? Give a URL, a name, or module:Class")
    for waiver in options.waive:
        name, equals, reason = waiver.partition("=")
        if not (equals and reason.strip()):
            parser.error(f"--waive {waiver}: it needs a reason, as in LEASE-5='no timed leases'")
        if name not in GUARANTEES and not name.startswith("check_"):
            parser.error(f"--waive {name}: no such guarantee; --list prints them")
    if "://" not in options.backend or options.harness:
        # Where a module is named, the folder that the command is run in counts, last of all.
        sys.path.append(os.getcwd())
    wrong = _unusable(options.backend)
    if wrong:
        print(f"multiboard-conformance: {wrong}\nNothing was run.", file=sys.stderr)
        return 2
    return _run(options, sys.argv[1:] if argv is None else argv)


def _unusable(target: str) -> str | None:
    """Return why nothing can be judged here; a backend that is merely broken is judged."""
    try:
        backend = loading.load(target)
        backend.open()
    except (errors.ConfigError, errors.Unavailable, errors.AccessDenied) as error:
        return f"{type(error).__name__}: {error}"
    except Exception:
        return None
    try:
        backend.close()
    except Exception:
        return None
    return None


def _run(options: argparse.Namespace, argv: Sequence[str]) -> int:
    for name in ("PYTEST_ADDOPTS", "PYTEST_PLUGINS", "PYTEST_DEBUG"):
        os.environ.pop(name, None)
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    import pytest  # here, so that it sees the environment as it is now

    arguments = [
        "-c", os.path.join(_HERE, "conformance.ini"), "--rootdir", _HERE,
        "--confcutdir", _HERE, "--noconftest",
        "-p", "no:cacheprovider", "-p", "pytest_timeout", "-p", "multiboard_conformance.plugin",
        "--tb=short", "-v" if options.verbose else "-q",
        "--board", options.backend,
        "--reproduce", shlex.join(["multiboard-conformance", *map(loading.redact, argv)]),
    ]  # fmt: skip
    if options.quick:
        arguments.append("--quick")
    if options.k is not None:
        arguments += ["-k", options.k]
    for waiver in options.waive:
        arguments += ["--waive", waiver]
    if options.report:
        arguments += ["--report", os.path.abspath(options.report)]
    if options.harness:
        arguments += ["--harness", options.harness]
    if options.seed is not None:
        arguments += ["--seed", str(options.seed)]
    status = int(pytest.main([*arguments, _HERE]))
    return status if status in (0, 1) else 2


if __name__ == "__main__":
    sys.exit(main())
