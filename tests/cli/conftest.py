# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The command run in the test's process, where a board in memory can be seen."""

from __future__ import annotations

import io
import json
import logging
import uuid
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest

import multiboard
from multiboard.cli import opening
from multiboard.cli.main import MultiboardApp


class Answer(NamedTuple):
    """What a command gave."""

    status: int
    out: str
    err: str

    @property
    def rows(self) -> Any:
        """The rows of a listing in JSON."""
        assert (self.status, self.err) == (0, "")
        return json.loads(self.out)


class Terminal(io.StringIO):
    """An input at which a person types; ``before`` happens before the answer is read."""

    def __init__(self, text: str, before: Callable[[], Any] = lambda: None) -> None:
        super().__init__(text)
        self._before = before

    def isatty(self) -> bool:
        """Be a terminal."""
        return True

    def readline(self, *size: Any) -> str:
        """Return the answer."""
        self._before()
        return super().readline(*size)


Command = Callable[..., Answer]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Iterator[Command]:
    """Run a command; ``stdin`` is its input, by default one at which nobody types."""
    monkeypatch.delenv(opening.URL_VARIABLE, raising=False)
    monkeypatch.delenv("COLUMNS", raising=False)
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level

    def run(*words: str, stdin: Any = None, out: io.StringIO | None = None) -> Answer:
        out, err = out or io.StringIO(), io.StringIO()
        try:
            app = MultiboardApp(stdin=stdin or io.StringIO(), stdout=out, stderr=err)
            status = app.run(list(words))
        except SystemExit as exit_:
            status = int(exit_.code or 0)
        return Answer(status, out.getvalue(), err.getvalue())

    yield run
    root.handlers[:], root.level = handlers, level


@pytest.fixture
def url() -> str:
    """The URL of a board in memory."""
    return f"memory://{uuid.uuid4().hex}"


@pytest.fixture
def here(url: str) -> Iterator[Any]:
    """The board in memory."""
    with multiboard.backend("holder", url) as connected:
        yield connected
