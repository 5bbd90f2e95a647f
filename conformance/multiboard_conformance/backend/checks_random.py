# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Random programs of operations, on the backend under test and on the model at once.

Hypothesis makes up programs for two backends on one board, and shortens one that fails. The model
is no backend of ours: it is a specification of its own (:mod:`machinery.model`), so that memory is
judged as any other. What the contract leaves open is not compared: serials, tokens and sessions
count by their order only, and times roughly.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from multiboard.primitives import Backend, boottime
from multiboard_conformance.backend import side_by_side, steps
from multiboard_conformance.backend.fixtures import Board, Store
from multiboard_conformance.backend.guarantees import guarantee
from multiboard_conformance.machinery.model import Board as Model
from multiboard_conformance.machinery.model import ModelBackend
from multiboard_conformance.machinery.plugin import Effort, measure, show

#: Seconds for which a program that fails is shortened.
SHORTENING = 15.0

_actors = st.integers(0, 1)
_keys = st.sampled_from(["a", "b"])
_spans = st.sampled_from([None, 60.0])
_bodies = st.sampled_from([b"x", b"x", b"x", b"y"])
_picks = st.integers(0, 5)
_ranks = st.sampled_from([0, 9, 10])

_STEPS: dict[str, st.SearchStrategy[Any]] = {
    "add": st.builds(
        steps.Add, _actors, st.lists(st.tuples(_keys, _bodies, _ranks), max_size=3),
        st.sampled_from([0.0, 0.0, 60.0]),
    ),
    "enter": st.builds(steps.Enter, _actors, _keys),
    "read": st.builds(steps.Read, _actors, st.lists(_keys, max_size=4)),
    "acquire": st.builds(steps.Acquire, _actors, _keys, _spans),
    "acquire next": st.builds(steps.AcquireNext, _actors, st.integers(0, 3), _spans),
    "expire": st.builds(steps.Expire, _actors, _keys),
    "renew": st.builds(steps.Renew, _actors, _picks),
    "release": st.builds(steps.Release, _actors, _picks, st.sampled_from([0.0, 0.0, 60.0])),
    "remove": st.builds(steps.Remove, _actors, st.lists(_picks, max_size=2), st.booleans()),
    "restore": st.builds(steps.Restore, _actors, _keys),
    "purge": st.builds(steps.Purge, _actors, st.lists(_keys, max_size=2), st.booleans()),
    "repeat": st.just(steps.Again()),
    "leave": st.builds(steps.Leave, _actors),
}  # fmt: skip
#: What makes programs worth running comes more often than what ends them.
_OFTEN = ("add", "acquire", "acquire", "acquire next", "release", "remove", "repeat", "repeat")
_PROGRAM = st.lists(
    st.one_of([_STEPS[name] for name in (*_OFTEN, *_STEPS)]), min_size=6, max_size=30
)


class _Runs:
    """The runs of one check: as many as time allows, never fewer than must be, and what failed."""

    def __init__(self, store: Store, board: Board, seconds: float, least: tuple[int, int]) -> None:
        self._store = store
        self._board = board
        self._seconds = seconds
        #: So many programs and steps are run however long they take: else a slow store, or a busy
        #: machine, is judged by next to nothing.
        self._least = least
        #: Begins with the first run: to draw the first program may take longer than all the time.
        self._give_up: float | None = None
        self._failed: dict[str, AssertionError] = {}
        self.number = 0
        self.steps = 0

    def enough(self) -> bool:
        """Tell whether as much was run as a verdict needs."""
        return self.number >= self._least[0] and self.steps >= self._least[1]

    def run(self, program: Sequence[side_by_side.Step]) -> None:
        """Run a program on both, unless the time is over."""
        name = repr(program)
        if self._give_up is None:
            self._give_up = boottime() + self._seconds
        if boottime() > self._give_up and (self._failed or self.enough()):
            if name in self._failed:  # the shortest one is run again, to be shown
                raise self._failed[name]
            return
        try:
            self._compare(program)
        except AssertionError as error:
            if not self._failed:
                self._give_up = boottime() + SHORTENING
            self._failed[name] = error
            raise

    def _compare(self, program: Sequence[side_by_side.Step]) -> None:
        # A board of its own for each program: the table of a failure shows that one alone.
        self._board.close()
        board = Board(self._store, session_timeout=60.0)
        board.history.resets = self._board.history.resets
        self._board.history, self._board.namespace = board.history, board.namespace
        model = Model()

        def open_model() -> Backend:
            return ModelBackend(model)

        both = side_by_side.SideBySide(board.open, open_model)
        try:
            both.run(program)
            self.number += 1
            self.steps += both.steps
        finally:
            both.close()
            board.close()


@guarantee("RUN-1")
def check_random_programs_agree_with_the_model(
    request: pytest.FixtureRequest, store: Store, board: Board, effort: Effort
) -> None:
    """Whatever two backends do, their answers, the board and the feed are those of the model."""
    show(request, board)
    least = effort.rounds(6, 60), effort.rounds(60, 600)
    runs = _Runs(store, board, float(effort.rounds(3, 30)), least)
    judged = hypothesis.given(_PROGRAM)(runs.run)
    judged = hypothesis.settings(
        max_examples=effort.rounds(60, 600),
        deadline=None,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
        print_blob=False,
        report_multiple_bugs=False,
        phases=(hypothesis.Phase.generate, hypothesis.Phase.shrink),
    )(judged)
    hypothesis.seed(effort.seed)(judged)()
    measure(request, programs=runs.number, steps=runs.steps)
    assert runs.enough(), f"{runs.number} programs of {runs.steps} steps ran, not {least}"
