# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The report of a run: what was judged, where, and how it came out, as JSON and as Markdown.

``conformance/README.md`` describes the two schemas, of a backend and of a jobboard. A report names
no machine: hosts and paths are placeholders, in the command that reproduces it too. Imports the
loader, the store under test and the suite's results only.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import platform
import re
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from multiboard.config import loading
from multiboard_conformance import results as v
from multiboard_conformance.backend.fixtures import Store

#: The name and the version of a schema; the number rises when a reader would misread a report.
SCHEMA = "multiboard-conformance/1"
BOARD_SCHEMA = "multiboard-board-conformance/1"

#: Options of the command that are no part of what was judged.
_LOCAL_OPTIONS = ("--report", "--seed")
_COUNTED = (v.PASSED, v.FAILED, v.WAIVED, v.NOT_EXERCISED)


def of_backend(
    results: v.Results,
    store: Store,
    *,
    result: str,
    facts: Mapping[str, str],
    argv: Sequence[str],
    effort: str,
    seed: int,
    seconds: float,
) -> dict[str, Any]:
    """Return the report of a run on a backend, to be written as JSON."""
    cls = loading.spec_class(store.target)
    return {
        "schema": SCHEMA,
        "result": result,
        "suite": {
            "version": _version("multiboard_conformance"),
            "guarantees": len(results.promises),
        },
        "backend": {
            "target": anonymous(store.target, store),
            "class": _public_name(cls),
            "version": _version(cls.__module__.partition(".")[0]),
        },
        "store": {name: _without_places(text) for name, text in facts.items()},
        "python": platform.python_version(),
        "traits": dataclasses.asdict(store.traits),
        "effort": effort,
        "seed": seed,
        "seconds": seconds,
        "reproduce": reproduce(argv, store, seed),
        "counts": _counts(results.outcomes.values()),
        "guarantees": {name: _guarantee(results, name) for name in results.promises},
        "checks": _checks(results.outcomes.values()),
        "failures": {o.check: o.why for o in results.all(v.FAILED)},
        "waived": {o.check: o.why for o in results.all(v.WAIVED)},
        "not_exercised": _reasons(results.all(v.NOT_EXERCISED)),
        "needless_waivers": results.needless_waivers(),
        "measured": _measured(results.outcomes.values()),
        "resets": sum(int(o.measured.get("resets", 0)) for o in results.outcomes.values()),
    }


def of_board(
    results: v.Results, *, facts: Mapping[str, str], seconds: float, reproduce: str
) -> dict[str, Any]:
    """Return the report of a run on a jobboard, to be written as JSON."""
    return {
        "schema": BOARD_SCHEMA,
        "result": results.result(),
        "facts": dict(facts),
        "seconds": seconds,
        "reproduce": reproduce,
        "promises": {
            name: {
                "verdict": results.of(name),
                "checks": {o.check: o.verdict for o in results.on(name)},
            }
            for name in results.promises
        },
        "why": {o.check: o.why for o in results.outcomes.values() if o.verdict != v.PASSED},
    }


def _guarantee(results: v.Results, name: str) -> dict[str, Any]:
    outcomes = results.on(name)
    return {
        "verdict": results.of(name),
        **_counts(outcomes),
        "seconds": round(sum(o.seconds for o in outcomes), 2),
        "sentence": results.promises[name].sentence,
    }


def _counts(outcomes: Iterable[v.Outcome]) -> dict[str, int]:
    verdicts = [o.verdict for o in outcomes]
    return {verdict.replace(" ", "_"): verdicts.count(verdict) for verdict in _COUNTED}


def _checks(outcomes: Iterable[v.Outcome]) -> dict[str, dict[str, Any]]:
    """Return what became of each check, its variants together: the worst verdict counts."""
    order = (v.NOT_EXERCISED, v.PASSED, v.WAIVED, v.FAILED)
    checks: dict[str, dict[str, Any]] = {}
    for outcome in sorted(outcomes, key=lambda o: o.check):
        name = outcome.check.partition("[")[0]
        known = checks.setdefault(
            name, {"verdict": v.NOT_EXERCISED, "variants": 0, "seconds": 0.0, "ids": []}
        )
        known["verdict"] = max(known["verdict"], outcome.verdict, key=order.index)
        known["variants"] += 1
        known["seconds"] = round(known["seconds"] + outcome.seconds, 2)
        known["ids"] += [one for one in outcome.ids if one not in known["ids"]]
    return checks


def _measured(outcomes: Iterable[v.Outcome]) -> dict[str, dict[str, float]]:
    """Return what the checks counted, their variants together."""
    measured: dict[str, dict[str, float]] = {}
    for outcome in sorted(outcomes, key=lambda o: o.check):
        for name, value in outcome.measured.items():
            known = measured.setdefault(outcome.check.partition("[")[0], {})
            known[name] = known.get(name, 0) + value
    return measured


def _reasons(outcomes: Iterable[v.Outcome]) -> dict[str, str]:
    return {o.check.partition("[")[0]: o.why for o in sorted(outcomes, key=lambda o: o.check)}


# -- no places -------------------------------------------------------------------------------


def reproduce(argv: Sequence[str], store: Store, seed: int) -> str:
    """Return the command that repeats a run, its seed included, with placeholders for places."""
    words: list[str] = []
    skip = False
    for word in argv:
        option = word.partition("=")[0]
        if skip or option in _LOCAL_OPTIONS:
            skip = not skip and "=" not in word
            continue
        words.append(anonymous(word, store) if word == store.target else word)
    return shlex.join(["multiboard-conformance", *words, "--seed", str(seed)])


def anonymous(target: str, store: Store) -> str:
    """Return a target without the user, the host, the path and the options in it."""
    if "://" not in target:
        return target.partition("?")[0]
    text = loading.redact(target)
    fields = {field.name for field in dataclasses.fields(store.load().settings)}
    scheme, _, rest = text.partition("://")
    hosts, slash, path = rest.partition("/")
    if hosts and fields & {"host", "hosts"}:
        hosts = "HOST:PORT"
    if path and "path" in fields:
        path = "PATH"
    return f"{scheme}://{hosts}{slash}{path}"


def _without_places(text: str) -> str:
    text = re.sub(r"(?<![\w/])/[\w.-]+(?:/[\w.-]+)+", "/PATH", text)
    return re.sub(r"\b(?:\d{1,3}\.){3}\d{1,3}(?::\d+)?", "HOST:PORT", text)


def _public_name(cls: type[Any]) -> str:
    """Return ``module:Class``, by the outermost package from which the class can be imported."""
    words = cls.__module__.split(".")
    for length in range(1, len(words)):
        package = sys.modules.get(".".join(words[:length]))
        if getattr(package, cls.__qualname__, None) is cls:
            return f"{'.'.join(words[:length])}:{cls.__qualname__}"
    return f"{cls.__module__}:{cls.__qualname__}"


def _version(package: str) -> str:
    for distribution in importlib.metadata.packages_distributions().get(package, ()):
        return importlib.metadata.version(distribution)
    # An editable installation or a bare source tree lists no packages.
    for name in (package, package.replace("_conformance", "")):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "unknown"


# -- writing ---------------------------------------------------------------------------------


def write(path: str, report: Mapping[str, Any], results: v.Results) -> None:
    """Write a report: as Markdown where the name ends in ``.md``, else as JSON."""
    text = markdown(report, results) if path.endswith(".md") else as_json(report)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def as_json(report: Mapping[str, Any]) -> str:
    """Return the JSON of a report, one line for each promise and check, to be compared well."""
    parts = []
    for name, value in report.items():
        if name in ("guarantees", "promises", "checks") and value:
            lines = [f"    {json.dumps(key)}: {json.dumps(item)}" for key, item in value.items()]
            parts.append(f"  {json.dumps(name)}: {{\n" + ",\n".join(lines) + "\n  }")
        else:
            shown = json.dumps(value, indent=2).replace("\n", "\n  ")
            parts.append(f"  {json.dumps(name)}: {shown}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def markdown(report: Mapping[str, Any], results: v.Results) -> str:
    """Return a report for people to read."""
    of_a_board = report["schema"] == BOARD_SCHEMA
    lines = _of_board(report, results) if of_a_board else _of_backend(report, results)
    return "\n".join(lines) + "\n"


def _of_backend(report: Mapping[str, Any], results: v.Results) -> list[str]:
    backend, store = report["backend"], report["store"]
    lines = [
        f"# Conformance of {backend['class']}",
        "",
        f"**{results.headline(report['result'])}**: "
        + _spelled(report["counts"])
        + f", in {report['seconds']} s.",
        "",
        "| | |",
        "|---|---|",
        f"| store | {_cell(store.get('store', '?'))} {_cell(store.get('version', ''))} |",
        f"| backend | `{backend['class']}` {backend['version']} |",
        f"| suite | {report['suite']['version']}, {report['effort']} |",
        f"| schema | `{report['schema']}` |",
        f"| Python | {report['python']} |",
        f"| seed | {report['seed']} |",
        f"| reproduce | `{report['reproduce']}` |",
        *[f"| {name} | {_cell(text)} |" for name, text in store.items() if "warning" in name],
        "",
        "| trait | declared |",
        "|---|---|",
        *[f"| {name} | {_cell(value)} |" for name, value in report["traits"].items()],
        "",
        "| id | verdict | passed | not exercised | seconds | promise |",
        "|---|---|---:|---:|---:|---|",
    ]
    for name, one in report["guarantees"].items():
        ran = one["passed"] + one["failed"] + one["waived"]
        lines.append(
            f"| {name} | {one['verdict']} | {one['passed']}/{ran} | {one['not_exercised']} "
            f"| {one['seconds']} | {one['sentence']} |"
        )
    for title in ("failures", "waived", "not_exercised"):
        if report[title]:
            lines += ["", f"## {title.replace('_', ' ').capitalize()}", ""]
            lines += [f"- `{name}`: {_cell(why)}" for name, why in report[title].items()]
    return lines


def _of_board(report: Mapping[str, Any], results: v.Results) -> list[str]:
    lines = [f"# Conformance of a jobboard: {report['result']}", "", v.spelled(report["facts"]), ""]
    lines += [f"    {report['reproduce']}", "", "| id | verdict | promise |", "|---|---|---|"]
    for name, entry in report["promises"].items():
        lines.append(f"| {name} | {entry['verdict']} | {results.promises[name].sentence} |")
    if report["why"]:
        lines += ["", "| check | what was seen |", "|---|---|"]
        lines += [f"| `{check}` | {_cell(why)} |" for check, why in report["why"].items()]
    return lines


def _spelled(counts: Mapping[str, int]) -> str:
    counted = [f"{count} {name.replace('_', ' ')}" for name, count in counts.items() if count]
    return ", ".join(counted) or "no check was run"


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = " ".join(str(value).split()).replace("|", "\\|").replace("<", "&lt;")
    return text if len(text) < 300 else f"{text[:300]}..."
