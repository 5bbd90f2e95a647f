# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""What goes into a posting's body comes back, or is refused before it goes in."""

from __future__ import annotations

import contextlib
import datetime
import signal
import uuid
import zoneinfo
from typing import Any

import netaddr
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oslo_serialization import msgpackutils

from multiboard import errors
from multiboard.runtime import codec, limits
from tests.leaks import shown_by

_offsets = st.timedeltas(
    datetime.timedelta(hours=-24, microseconds=1), datetime.timedelta(hours=24, microseconds=-1)
).map(datetime.timezone)
_plain = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
    | st.binary()
    | st.uuids()
    | st.datetimes(timezones=st.none() | st.timezones() | st.just(datetime.timezone.utc) | _offsets)
    | st.dates()
    | st.ip_addresses().map(lambda address: netaddr.IPAddress(str(address)))
)
_keys = st.text(st.characters(exclude_categories=["Cs"])) | st.integers(-(2**63), 2**64 - 1)
_values = st.recursive(
    _plain | st.sets(st.integers(0, 9)) | st.frozensets(st.text("abc")),
    lambda inner: st.lists(inner) | st.dictionaries(_keys, inner),
    max_leaves=20,
)


@given(st.dictionaries(_keys, _values), st.text("abc"))
def test_a_body_comes_back(details: dict[Any, Any], name: str) -> None:
    body = codec.Body("the-uuid", name, details, {"name": "book", "uuid": "its-uuid"})
    assert codec.decode(codec.encode(body)) == body


@given(st.binary())
def test_bytes_of_any_kind_are_undecodable_and_nothing_worse(data: bytes) -> None:
    for candidate in (data, b"multiboard\x01" + data):
        with contextlib.suppress(codec.Undecodable):
            codec.decode(candidate)


def test_a_newer_format_is_named() -> None:
    with pytest.raises(codec.Undecodable, match="0x02"):
        codec.decode(b"multiboard\x02whatever")


_loop: dict[str, Any] = {}
_loop["again"] = _loop


@pytest.mark.parametrize(
    ("details", "complaint"),
    [
        ({"a": [1, {"b": object()}]}, r"details\[key 0\]\[1\]\[key 0\] is a object"),
        ({(1, 2): 3}, "a key of details is a tuple"),
        ({"n": 2**70}, r"details\[key 0\] is an integer of more than 64 bits"),
        ({"s": "\udce9"}, r"details\[key 0\] is a string that is not valid Unicode"),
        (_loop, "nested too deep, or contains itself"),
    ],
)
def test_what_can_not_be_encoded_is_named_by_its_place(
    details: dict[Any, Any], complaint: str
) -> None:
    with pytest.raises(errors.InvalidArgument, match=complaint):
        codec.encode(codec.Body("u", "n", details, {}))


def test_neither_a_body_nor_its_errors_show_the_details() -> None:
    for details in (
        {"password": "hunter2", "bad": object()},
        {"hunter2": {"hunter2": [object()]}},
        {"a": {"hunter2": {("hunter2",): 1}}},
        {b"hunter2": 2**70},
    ):
        body = codec.Body("u", "n", details, {})
        assert "hunter2" not in repr(body)
        with pytest.raises(errors.InvalidArgument) as caught:
            codec.encode(body)
        assert "hunter2" not in shown_by(caught.value)


def test_times_keep_their_zone() -> None:
    now = datetime.datetime.now(datetime.timezone.utc)
    body = codec.Body("u", "n", {"now": now, "id": uuid.UUID(int=1)}, {})
    assert codec.decode(codec.encode(body)).details["now"].utcoffset() == datetime.timedelta(0)


class Summer(datetime.tzinfo):
    """A zone of somebody's own, which has no name that anybody else knows."""

    def utcoffset(self, _when: Any) -> datetime.timedelta:
        """Return two hours."""
        return datetime.timedelta(hours=2)

    def dst(self, _when: Any) -> None:
        """Return that it is not known."""

    def __str__(self) -> str:
        return "Europe/London"  # which has another offset


@pytest.mark.parametrize(
    "zone",
    [
        datetime.timezone(datetime.timedelta(hours=-3, minutes=-30)),
        datetime.timezone(datetime.timedelta(hours=2), "CEST"),
        datetime.timezone(datetime.timedelta(hours=2), "EST"),
        Summer(),
        zoneinfo.ZoneInfo("Europe/Paris"),
    ],
    ids=str,
)
@pytest.mark.parametrize("fold", [0, 1])
def test_a_time_stays_the_same_instant(zone: datetime.tzinfo, fold: int) -> None:
    then = datetime.datetime(2026, 10, 25, 2, 30, tzinfo=zone, fold=fold)  # twice, in Paris
    got = codec.decode(codec.encode(codec.Body("u", "n", {"then": then}, {}))).details["then"]
    assert (got, got.utcoffset()) == (then, then.utcoffset())


def test_a_time_that_oslo_serialization_wrote_is_read() -> None:
    then = datetime.datetime(2026, 7, 1, tzinfo=zoneinfo.ZoneInfo("Asia/Tokyo"))
    data = msgpackutils.dumps({"uuid": "u", "name": "n", "details": {"then": then}, "book": {}})
    assert codec.decode(b"multiboard\x01" + data).details == {"then": then}


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        (codec.Body("u", "\udce9", {}, {}), "the name of job .* is a string that is not valid Uni"),
        (codec.Body("u", "n", {}, {"name": "\udce9"}), r"book\[key 0\] is a string that is not v"),
        (codec.Body("u", "n", {"a": {"b": {frozenset({1}) for _ in "x"}, "c": {(1, 2)}}}, {}),
         r"details\[key 0\]\[key 1\] is a set"),
    ],
)  # fmt: skip
def test_the_part_that_is_refused_is_the_part_that_is_named(
    body: codec.Body, complaint: str
) -> None:
    with pytest.raises(errors.InvalidArgument, match=complaint):
        codec.encode(body)


@pytest.mark.parametrize("book", [{"name": 7}, {"uuid": ["x"]}, []])
def test_a_book_is_told_in_strings(book: Any) -> None:
    data = msgpackutils.dumps({"uuid": "u", "name": "n", "details": {}, "book": book})
    with pytest.raises(codec.Undecodable, match="types"):
        codec.decode(b"multiboard\x01" + data)


def test_what_an_entity_says_comes_back() -> None:
    said = {"kind": "conductor", "metadata": {"pid": 1}}
    assert codec.decode_plain(codec.encode_plain(said)) == said
    with pytest.raises(codec.Undecodable):
        codec.decode_plain(b"\x00")
    with pytest.raises(errors.InvalidArgument):
        codec.encode_plain({"x": object()})


class _TimeIsUp(Exception):
    pass


def _raise_time_is_up(_number: int, _frame: Any) -> None:
    raise _TimeIsUp


@pytest.mark.parametrize("where", ["check_shape", "check"])
def test_an_interrupt_is_neither_a_refused_value_nor_a_damaged_body(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = codec.Body("u", "n", {}, {})
    data = codec.encode(body)
    before = signal.signal(signal.SIGUSR1, _raise_time_is_up)
    monkeypatch.setattr(limits, where, lambda _: signal.raise_signal(signal.SIGUSR1))
    try:
        with pytest.raises(_TimeIsUp):
            codec.encode(body) if where == "check_shape" else codec.decode(data)
    finally:
        signal.signal(signal.SIGUSR1, before)
