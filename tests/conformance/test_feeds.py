# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The time limits of the suite begin when the thing that they limit begins."""

from __future__ import annotations

import pathlib
import time

import pytest
from multiboard_conformance.backend.feeds import Limit, Reader, Start, beside

from multiboard.backends.memory import MemoryBackend
from multiboard.primitives import NewPosting
from tests.conformance.test_conformance import report


def test_a_limit_begins_when_it_is_told_to() -> None:
    since = Start()
    limit = Limit(0.2, since)
    time.sleep(0.3)
    assert limit.left() == 0.2
    since.set()
    assert 0.0 < limit.left() <= 0.2
    time.sleep(0.3)
    assert limit.left() < 0.0
    assert Limit(0.2).left() <= 0.2


def test_a_limit_begins_at_its_start_though_nobody_looked_then() -> None:
    since = Start()
    limit = Limit(0.2, since)
    since.set()
    time.sleep(0.3)
    since.set()  # the first time counts
    assert limit.left() < 0.0


def test_a_reader_waits_for_what_is_done_beside_it_however_long_that_takes() -> None:
    backend = _memory("feeds")
    reader = Reader(backend).start()
    reader.call = 0.05
    with beside(lambda over: reader.until(lambda: reader.received, 0.3, over)) as ([waiting], over):
        time.sleep(0.6)
        assert not waiting.done()
        backend.add([NewPosting("k", b"")])
        over.set()
        assert waiting.result()
    with beside(lambda over: reader.until(lambda: False, 0.1, over)) as ([waiting], over):
        over.set()
        assert not waiting.result()
    backend.close()


def test_a_body_that_fails_leaves_nobody_waiting() -> None:
    backend = _memory("feeds too")
    reader = Reader(backend).start()
    reader.call = 0.05
    with (
        pytest.raises(RuntimeError),
        beside(lambda over: reader.until(lambda: False, 0.1, over)),
    ):
        raise RuntimeError
    backend.close()


def _memory(namespace: str) -> MemoryBackend:
    backend = MemoryBackend(MemoryBackend.settings_class(namespace=namespace))
    backend.open()
    return backend


@pytest.mark.full
def test_a_store_may_take_its_time_to_be_wiped(tmp_path: pathlib.Path) -> None:
    status, judged, printed = report(
        tmp_path, f"sqlite://{tmp_path / 'board.db'}", "--quick", "-k", "wiped",
        "--harness", "tests.conformance.harnesses:UnhurriedHarness",
    )  # fmt: skip
    assert (status, judged["result"]) == (0, "partial"), printed
    assert judged["guarantees"]["FEED-4"]["verdict"] == "passed"
