# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Every public callable refuses what it can't use, in words of ours, before anything is sent.

The board under test is one whose store counts what reaches it. A row is a call and the values of
one of its arguments that are refused; what is common to a kind of argument is said once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import math
import typing
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from oslo_config import cfg
from taskflow import exceptions as excp
from taskflow.persistence import models
from taskflow.types import entity as entities

import multiboard
from multiboard import errors
from multiboard.backends.memory import MemoryBackend
from multiboard.config import loading, oslo
from multiboard.jobboard.board import JobBoard
from multiboard.jobboard.conductor import Conductor
from multiboard.jobboard.exceptions import RefusedJob
from multiboard.jobboard.job import Job, JobSpec
from multiboard.primitives import NewPosting


class Counting(MemoryBackend):
    """A store that counts what reaches it."""

    reached = 0

    def __getattribute__(self, name: str) -> Any:
        if name in _VERBS:
            type(self).reached += 1
        return super().__getattribute__(name)


_VERBS = {"add", "get", "list", "count", "remove", "restore", "purge", "acquire", "acquire_next"}
_VERBS |= {"renew", "release"}


class Unspeakable:
    """An object whose every representation fails."""

    def __repr__(self) -> str:
        raise RuntimeError("not even its name")


class Loud(str):
    """A string of a class of one's own, with an escape sequence in it."""


HUGE = 10**5000  # of more digits than Python prints
NOT_A_NUMBER = ["1", b"1", None, [1], {}, 1j, object(), Unspeakable(), True, datetime.timedelta(1)]
NOT_SECONDS = [*NOT_A_NUMBER, math.nan, math.inf, -math.inf, -1, -0.001, HUGE, -HUGE, 1e300]
NOT_A_WAIT = [value for value in NOT_SECONDS if value is not None]
NOT_AN_EXPIRY = [*NOT_A_WAIT, 0, 0.0, 5e-324]
NOT_A_COUNT = [*NOT_A_NUMBER, math.nan, math.inf, 1.0, 0, -1, 10**9, HUGE]
NOT_TEXT = [None, 7, b"x", ["x"], {}, object(), Unspeakable(), 1.5]
NOT_WHO = ["\0", "a\nb", "a\x1b[2Jb", "\x9b31m", "a\u2028b", "\udce9", "x" * 256, Loud("\x07")]
NOT_A_JOB = [None, 7, "uuid", b"x", {}, [], object(), Unspeakable(), uuid.uuid4(), JobSpec("x")]
NOT_JOBS = [None, 7, "uuid", b"x", {"a": 1}, object(), ["uuid"], [None], [[]], [Unspeakable()]]


def nested(levels: int) -> Any:
    """Return frozensets within each other."""
    value: Any = frozenset()
    for _ in range(levels):
        value = frozenset([value])
    return value


NOT_DETAILS = [7, "x", b"x", ["x"], {1}, object(), Unspeakable(), {"x": object()}, {"x": 2**64}]
NOT_DETAILS += [{"x": nested(200)}, {"x": "\ud800"}, {"\ud800": 1}, {(1, 2): 3}, {"x": {(1, 2)}}]
NOT_DETAILS += [{"x": Unspeakable()}, {Unspeakable(): 1}, {"x": [[]] * 600_000}, {"x": HUGE}]

Calls = Mapping[str, tuple[Callable[[JobBoard, Job, Any], Any], list[Any]]]

#: Refused with an error that is a ``JobFailure`` and a ``ValueError``.
REFUSED: Calls = {
    "post name": (lambda b, _, v: b.post(v), [*NOT_TEXT, "\ud800", "a\udfffb"]),
    "post details": (lambda b, _, v: b.post("x", details=v), NOT_DETAILS),
    "post book": (lambda b, _, v: b.post("x", book=v), [7, "x", b"x", {}, [], object()]),
    "post odd book": (lambda b, _, v: b.post("x", book=models.LogBook(v)), [7, b"x", "\ud800"]),
    "post priority": (
        lambda b, _, v: b.post("x", priority=v),
        [None, 7, "URGENT", "", b"HIGH", [], math.nan, object()],
    ),
    "post delay": (lambda b, _, v: b.post("x", delay=v), NOT_SECONDS),
    "post_many": (lambda b, _, v: b.post_many(v), [*NOT_JOBS, [JobSpec("fine"), "x"]]),
    "post_many delay": (
        lambda b, _, v: b.post_many([JobSpec("fine"), JobSpec("x", delay=v)]),
        NOT_SECONDS,
    ),
    "claim job": (lambda b, _, v: b.claim(v, "me"), NOT_A_JOB),
    "claim who": (lambda b, j, v: b.claim(j, v), NOT_WHO),
    "claim all": (lambda b, _, v: b.claim(v, "\0", math.nan), NOT_A_JOB),
    "claim expiry": (lambda b, j, v: b.claim(j, "me", v), NOT_AN_EXPIRY),
    "claim_next who": (lambda b, _, v: b.claim_next(v), NOT_WHO),
    "claim_next limit": (lambda b, _, v: b.claim_next("me", limit=v), NOT_A_COUNT),
    "claim_next timeout": (lambda b, _, v: b.claim_next("me", timeout=v), NOT_A_WAIT),
    "claim_next expiry": (lambda b, _, v: b.claim_next("me", expiry=v), NOT_AN_EXPIRY),
    "consume job": (lambda b, _, v: b.consume(v, "me"), NOT_A_JOB),
    "consume who": (lambda b, j, v: b.consume(j, v), NOT_WHO),
    "consume_many jobs": (lambda b, _, v: b.consume_many(v, "me"), NOT_JOBS),
    "consume_many who": (lambda b, j, v: b.consume_many([j], v), NOT_WHO),
    "trash job": (lambda b, _, v: b.trash(v, "me"), NOT_A_JOB),
    "trash who": (lambda b, j, v: b.trash(j, v), NOT_WHO),
    "abandon job": (lambda b, _, v: b.abandon(v, "me"), NOT_A_JOB),
    "abandon who": (lambda b, j, v: b.abandon(j, v), NOT_WHO),
    "abandon delay": (lambda b, j, v: b.abandon(j, "me", v), NOT_SECONDS),
    "wait": (lambda b, _, v: b.wait(v), NOT_A_WAIT),
    "find_owner": (lambda b, _, v: b.find_owner(v), NOT_A_JOB),
    "look": (lambda b, _, v: b.look(v), NOT_A_JOB),
    "seen_leased": (lambda b, _, v: b.seen_leased(v), NOT_A_JOB),
    "lease_of": (lambda b, _, v: b.lease_of(v), NOT_A_JOB),
    "extend job": (lambda b, _, v: b.extend(v, 1.0), NOT_A_JOB),
    "wait_complete job": (lambda b, _, v: b.wait_complete(v, 0.0), NOT_A_JOB),
    "restore": (lambda b, _, v: b.restore(v), NOT_A_JOB),
    "purge": (lambda b, _, v: b.purge(v), NOT_JOBS),
    "register_entity": (lambda b, _, v: b.register_entity(v), NOT_A_JOB),
    "register_entity name": (
        lambda b, _, v: b.register_entity(entities.Entity("conductor", v, {})),
        [None, 7, b"x", "\ud800"],
    ),
    "register_entity metadata": (
        lambda b, _, v: b.register_entity(entities.Entity("conductor", "x", v)),
        [None, 7, "x", {"x": object()}, {"x": nested(200)}],
    ),
    "job.extend_expiry": (lambda _, j, v: j.extend_expiry(v), [*NOT_AN_EXPIRY, None]),
    "job.wait": (lambda _, j, v: j.wait(v), NOT_A_WAIT),
}

#: Whose kinds of errors are TaskFlow's.
WHO = ["claim", "consume", "trash", "abandon"]


@pytest.fixture
def counted() -> Iterator[tuple[JobBoard, Job]]:
    """A board that counts, with a job on it."""
    url = f"{__name__}:Counting?name={uuid.uuid4().hex}&operation_timeout=1"
    with multiboard.backend("b", url) as board:
        yield board, board.post("a job")


@pytest.mark.parametrize("call", REFUSED)
def test_what_a_board_can_not_use_is_refused_before_anything_is_sent(
    counted: tuple[JobBoard, Job], call: str
) -> None:
    board, job = counted
    ask, values = REFUSED[call]
    for value in values:
        before = Counting.reached
        with pytest.raises(RefusedJob) as caught:
            ask(board, job, value)
        assert Counting.reached == before
        text = str(caught.value)
        assert text.isprintable(), text
        assert len(text) < 500, text


@pytest.mark.parametrize("verb", [*WHO, "claim_next", "consume_many"])
def test_an_owner_of_the_wrong_kind_is_refused_as_taskflow_does(
    counted: tuple[JobBoard, Job], verb: str
) -> None:
    board, job = counted
    calls: dict[str, Callable[[Any], Any]] = {
        "claim_next": board.claim_next,
        "consume_many": lambda who: board.consume_many([job], who),
        **{name: lambda who: getattr(board, verb)(job, who) for name in WHO},
    }
    before = Counting.reached
    for who in NOT_TEXT:
        with pytest.raises(TypeError, match="string"):
            calls[verb](who)
    with pytest.raises(ValueError, match="non-empty"):
        calls[verb]("")
    assert Counting.reached == before


def test_other_entities_are_refused_as_taskflow_does(counted: tuple[JobBoard, Job]) -> None:
    for kind in ("worker", None, 7):
        with pytest.raises(excp.NotImplementedError):
            counted[0].register_entity(entities.Entity(kind, "x", {}))


def test_a_wait_of_none_is_for_ever_and_of_nothing_is_over(counted: tuple[JobBoard, Job]) -> None:
    board, job = counted
    assert [found.uuid for found in board.wait(None)] == [job.uuid]
    assert board.claim_next("me", timeout=None) == [job]
    assert job.wait(0) is False
    board.consume(job, "me")
    assert job.wait(None) is True
    with pytest.raises(excp.NotFound):
        board.wait(0)


NOT_A_URL = [None, 1, b"", b"memory://", [], (), object(), Unspeakable(), "", "\0", "x\0://"]
NOT_A_URL += [
    "memory://a%00b",
    "memory://x?name=a%0Ab",
    "memory://a\x1b[2J",
    "nothing://",
    "\udce9",
]
NOT_A_URL += [
    {},
    {"url": None},
    {"url": 7},
    {7: "x", "url": "memory://"},
    {"url": "memory://", "y": 1},
]

#: Refused with a ``ConfigError``, which is a ``ValueError``.
MISCONFIGURED: Mapping[str, tuple[Callable[[Any], Any], list[Any]]] = {
    "fetch name": (lambda v: multiboard.fetch(v, "memory://"), NOT_TEXT),
    "fetch url": (lambda v: multiboard.fetch("b", v), NOT_A_URL),
    "backend name": (lambda v: multiboard.backend(v, "memory://").__enter__(), NOT_TEXT),
    "backend url": (lambda v: multiboard.backend("b", v).__enter__(), NOT_A_URL),
    "from_config": (multiboard.from_config, [None, 7, "x", {}, object()]),
    "options.read": (oslo.read, [None, 7, "x", {}, object()]),
    "from_config name": (lambda v: multiboard.from_config(cfg.ConfigOpts(), v), NOT_TEXT),
    "JobBoard client": (
        lambda v: JobBoard("b", {"url": "memory://"}, client=v),
        [7, "x", object(), MemoryBackend],
    ),
    "load": (loading.load, [value for value in NOT_A_URL if not isinstance(value, dict)]),
    "backend_class": (loading.backend_class, [None, 7, b"x", "", "x", "\0", []]),
}


@pytest.mark.parametrize("call", MISCONFIGURED)
def test_what_can_not_be_a_board_is_refused(call: str) -> None:
    ask, values = MISCONFIGURED[call]
    for value in values:
        with pytest.raises(errors.ConfigError) as caught:
            ask(value)
        assert str(caught.value).isprintable(), str(caught.value)


NOT_OPTIONS: Mapping[type, list[Any]] = {
    str: [7, 1.5, b"x", [], {}, object(), "\0", "a\nb", "\udce9", Unspeakable()],
    bool: [None, 7, "maybe", "", b"x", [], 1.5, Unspeakable()],
    int: [
        "x",
        "",
        "1.5",
        1.5,
        math.nan,
        math.inf,
        True,
        [],
        HUGE,
        -HUGE,
        "9" * 5000,
        Unspeakable(),
    ],
    float: [
        "x",
        "",
        "nan",
        "inf",
        "-inf",
        "1e999",
        math.nan,
        math.inf,
        True,
        [],
        HUGE,
        Unspeakable(),
    ],
    tuple: [7, 1.5, object(), [7], [None], ["a\nb"], "\0", Unspeakable()],
}


@pytest.mark.parametrize("name", loading.names())
def test_every_option_of_every_backend_refuses_what_it_can_not_be(name: str) -> None:
    cls = loading.backend_class(name)
    hints = typing.get_type_hints(cls.settings_class)
    for field in dataclasses.fields(cls.settings_class):
        wanted, optional = loading.field_type(hints[field.name])
        kind = tuple if typing.get_origin(wanted) is tuple else wanted
        for value in NOT_OPTIONS[kind] + ([] if optional else [None]):
            with pytest.raises(errors.ConfigError, match=field.name) as caught:
                cls(loading.make_settings(cls, {field.name: value}))
            assert str(caught.value).isprintable(), str(caught.value)


@pytest.mark.parametrize(
    ("argument", "values"),
    [
        ("name", [*NOT_TEXT, *NOT_WHO, ""]),
        ("expiry", NOT_AN_EXPIRY),
        ("max_simultaneous_jobs", [value for value in NOT_A_COUNT if value is not None]),
        (
            "wait_timeout",
            [v for v in NOT_AN_EXPIRY if not isinstance(v, str)] + ["nan", "x", "inf"],
        ),
    ],
)
def test_a_conductor_refuses_what_it_can_not_use(
    counted: tuple[JobBoard, Job], argument: str, values: list[Any]
) -> None:
    for value in values:
        given = {"name": "c", "jobboard": counted[0], argument: value}
        with pytest.raises(ValueError, match=r".") as caught:
            Conductor(**given)
        assert str(caught.value).isprintable(), str(caught.value)


@pytest.mark.parametrize("jobboard", [None, 7, "x", object()])
def test_a_conductor_works_on_a_board_of_ours(jobboard: Any) -> None:
    with pytest.raises(TypeError, match="JobBoard"):
        Conductor("c", jobboard)


def test_a_conductor_refuses_what_it_can_not_wait_or_run_for(
    counted: tuple[JobBoard, Job],
) -> None:
    conductor = Conductor("c", counted[0])
    for value in NOT_A_WAIT:
        with pytest.raises(errors.InvalidArgument, match="timeout"):
            conductor.wait(value)
    for value in [*NOT_A_NUMBER, math.nan, math.inf, 1.0, HUGE]:
        if value is not None:
            with pytest.raises(errors.InvalidArgument, match="max_dispatches"):
                conductor.run(value)


def test_an_owner_of_any_language_is_taken(counted: tuple[JobBoard, Job]) -> None:
    board, job = counted
    for who in ("Zoë", "作业", "worker 1", "a\u200db", "x" * 255):
        board.claim(job, who)
        assert board.find_owner(job) == who
        board.abandon(job, who)
    with contextlib.suppress(StopIteration):
        next(iter(board.iterjobs()))
    assert board._here.guard.add([NewPosting("k", b"x")])
