# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The directives that show what a backend declares: ``backend-options`` and ``backend-traits``.

``.. backend-options:: redis`` is a table of the options that only this backend has;
``.. backend-options::`` of those that all have. ``.. backend-traits:: memory redis`` compares the
traits of backends. Both ask the code, so that the page can't be out of date.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from multiboard import errors, primitives
from multiboard.config import loading


def _plain(text: str) -> str:
    """Return ``text`` so that reStructuredText shows it as it is."""
    return re.sub(r"([\\*_`|<>])", r"\\\1", text)


def _limits(metadata: Any) -> str:
    low, high, choices = (metadata.get(name) for name in ("minimum", "maximum", "choices"))
    if choices:
        return ", ".join(f"``{choice}``" for choice in choices)
    if low is None and high is None:
        return ""
    if low is None or high is None:
        return f"at least {low:g}" if high is None else f"at most {high:g}"
    return f"{low:g} to {high:g}"


def _default(field: dataclasses.Field[Any]) -> str:
    if field.metadata.get("secret"):
        return "(secret)"
    if field.default is None or field.default in ("", ()):
        return "none"
    shown = ",".join(field.default) if isinstance(field.default, tuple) else str(field.default)
    return f"``{shown}``"


def option_rows(name: str | None) -> Iterator[Sequence[str]]:
    """Yield (option, type, default, allowed, meaning) of a backend's own options."""
    common = dataclasses.fields(primitives.Settings)
    shown = common if name is None else dataclasses.fields(_settings_class(name))
    for field in shown:
        if name is not None and field.name in {other.name for other in common}:
            continue
        yield (
            f"``{field.name}``",
            _plain(str(field.type)),
            _default(field),
            _limits(field.metadata),
            _plain(str(field.metadata.get("help", ""))),
        )


def _settings_class(name: str) -> type[primitives.Settings]:
    return loading.backend_class(name).settings_class


def trait_rows(names: Sequence[str]) -> Iterator[Sequence[str]]:
    """Yield (trait, value on each backend)."""
    backends = [loading.backend_class(name) for name in names]
    traits = [cls(cls.settings_class()).traits for cls in backends]
    for field in dataclasses.fields(primitives.Traits):
        values = [getattr(each, field.name) for each in traits]
        words = [("yes" if v else "no") if isinstance(v, bool) else f"{v:,}" for v in values]
        yield (f"``{field.name}``", *words)


class _Table(SphinxDirective):
    optional_arguments = 20
    has_content = False

    def _table(self, head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[nodes.Node]:
        lines = [".. list-table::", "   :header-rows: 1", ""]
        for row in [head, *rows]:
            lines += [
                f"   {'*' if not number else ' '} - {cell}" for number, cell in enumerate(row)
            ]
        box = nodes.container()
        self.state.nested_parse(StringList([*lines, ""], source=__file__), 0, box)
        return list(box.children)


class BackendOptions(_Table):
    """Show the options of one backend, or those that all backends have."""

    def run(self) -> list[nodes.Node]:
        try:
            rows = list(option_rows(self.arguments[0] if self.arguments else None))
        except errors.ConfigError as error:
            raise self.error(str(error)) from error
        if not rows:
            return [nodes.paragraph(text="None of its own.")]
        return self._table(("Option", "Type", "Default", "Allowed", "Meaning"), rows)


class BackendTraits(_Table):
    """Compare what backends declare about themselves."""

    def run(self) -> list[nodes.Node]:
        try:
            rows = list(trait_rows(self.arguments))
        except errors.ConfigError as error:
            raise self.error(str(error)) from error
        return self._table(("Trait", *self.arguments), rows)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directives."""
    app.add_directive("backend-options", BackendOptions)
    app.add_directive("backend-traits", BackendTraits)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
