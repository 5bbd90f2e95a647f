# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""What goes into a posting's body comes back, or is refused before it goes in."""

from __future__ import annotations

import contextlib
import datetime
import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from leaks import shown_by

from multiboard import codec, errors

_plain = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
    | st.binary()
    | st.uuids()
    | st.datetimes()
    | st.dates()
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


def test_what_an_entity_says_comes_back() -> None:
    said = {"kind": "conductor", "metadata": {"pid": 1}}
    assert codec.decode_plain(codec.encode_plain(said)) == said
    with pytest.raises(codec.Undecodable):
        codec.decode_plain(b"\x00")
    with pytest.raises(errors.InvalidArgument):
        codec.encode_plain({"x": object()})
