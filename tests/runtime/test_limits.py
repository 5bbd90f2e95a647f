# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""No body harms who reads it, and what no reader would read is refused to its poster.

What may crash is run in a process of its own: the test fails then, and not the run.
"""

from __future__ import annotations

import json
import pathlib
import re
import struct
import subprocess
import sys
import uuid
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from multiboard import errors
from multiboard.runtime import codec, limits
from tests import hostile

TESTS = pathlib.Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def answers() -> Any:
    """How a process took each of the hostile bodies."""
    run = subprocess.run(
        [sys.executable, TESTS / "hostile.py"], capture_output=True, text=True, timeout=100
    )
    assert run.returncode == 0, f"the reader died: {run.returncode} {run.stderr[-1000:]}"
    return json.loads(run.stdout)


@pytest.mark.parametrize("name", hostile.BODIES)
def test_a_hostile_body_is_refused_before_anything_is_built(answers: Any, name: str) -> None:
    assert re.search(hostile.BODIES[name][1], answers[name]), answers[name]
    assert "slowly" not in answers[name]


POSTER = """
import sys
from multiboard import errors
from multiboard.runtime import codec

def nest(make, levels):
    value = make([])
    for _ in range(levels):
        value = make([value])
    return value

loop = [0] * 10_000
loop.append(loop)
again = {}
again["a"], again["b"] = again, again
values = [nest(frozenset, n) for n in (9, 50, 200, 400, 20_000)]
values += [nest(tuple, n) for n in (200, 20_000)] + [nest(list, n) for n in (200, 20_000)]
values += [loop, again, {nest(frozenset, 200): 1}, [[]] * 600_000, {nest(tuple, 5)}]
for value in values:
    try:
        codec.encode(codec.Body("u", "n", {"deep": value}, {}))
    except errors.InvalidArgument as error:
        assert "details[key 0]" in str(error) or "nested too deep" in str(error), error
    else:
        sys.exit("it was taken")
"""


@pytest.mark.long
def test_what_no_reader_would_read_is_refused_to_its_poster_and_named() -> None:
    run = subprocess.run(
        [sys.executable, "-c", POSTER], capture_output=True, text=True, timeout=100
    )
    assert run.returncode == 0, f"the poster died: {run.returncode} {run.stderr[-1000:]}"


def _nested(make: Any, levels: int) -> Any:
    value = make([])
    for _ in range(levels - 1):
        value = make([value])
    return value


def _uuids(count: int) -> set[uuid.UUID]:
    return {uuid.UUID(int=number) for number in range(count)}


@pytest.mark.parametrize(
    ("fits", "too_much", "complaint"),
    [
        # The body and its details are two levels themselves.
        (_nested(list, 98), _nested(list, 99), "100 levels"),
        (_nested(frozenset, 8), _nested(frozenset, 9), "8 levels"),
        ([0] * 499_900, [0] * 500_001, r"details\[key 0\] is a list: it holds more than 500000"),
        (_uuids(2_000), _uuids(2_001), r"details\[key 0\] is a set: it holds more than 2000 UUIDs"),
        (dict.fromkeys(_uuids(2_000)), dict.fromkeys(_uuids(2_001)), "more than 2000 UUIDs"),
        (list(_uuids(10_000)), _nested(tuple, 600), "100 levels"),
    ],
)
def test_the_limits_are_where_they_are_said_to_be(fits: Any, too_much: Any, complaint: str) -> None:
    body = codec.Body("u", "n", {"x": fits}, {})
    assert codec.decode(codec.encode(body)) == body
    with pytest.raises(errors.InvalidArgument, match=complaint):
        codec.encode(codec.Body("u", "n", {"x": too_much}, {}))


# -- by chance ---------------------------------------------------------------------------------


def _reads(data: bytes) -> bool:
    """Return whether msgpack makes anything of the bytes; ask only of what is small."""
    known = range(1, 8)

    def read_extension(code: int, inner: bytes) -> None:
        if code in known:
            read(inner)
        elif code != 0:
            raise ValueError(code)

    def read(inner: bytes) -> None:
        msgpack.unpackb(
            inner,
            raw=True,
            strict_map_key=False,
            object_pairs_hook=list,
            ext_hook=read_extension,
        )

    try:
        read(data)
    except Exception:  # whatever it is, it was not read
        return False
    return True


def _fragments(inner: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """Draw values of msgpack that hold others, some of which say the wrong length."""
    wrong = st.sampled_from([0, 0, 0, 0, 1, -1, 7])
    parts = st.lists(inner, max_size=4)

    def array(parts: list[bytes], wrong: int, header: str) -> bytes:
        count = max(0, len(parts) + wrong)
        return {
            "array": bytes([0x90 | count & 15]),
            "array 16": struct.pack(">BH", 0xDC, count),
            "array 32": struct.pack(">BI", 0xDD, count),
            "map": bytes([0x80 | (count // 2) & 15]),
            "map 16": struct.pack(">BH", 0xDE, count // 2),
            "map 32": struct.pack(">BI", 0xDF, count // 2),
        }[header] + b"".join(parts)

    def extension(data: bytes, wrong: int, code: int, width: str) -> bytes:
        size = max(0, len(data) + wrong)
        first = {"B": 0xC7, "H": 0xC8, "I": 0xC9}[width]
        return struct.pack(f">B{width}b", first, size % 256, code) + data

    kinds = [f"{kind}{size}" for kind in ("array", "map") for size in ("", " 16", " 32")]
    codes = st.integers(0, 8) | st.just(33)
    return st.builds(array, parts, wrong, st.sampled_from(kinds)) | st.builds(
        extension, inner, wrong, codes, st.sampled_from("BHI")
    )


_values = st.recursive(
    st.binary(max_size=6)
    | st.integers(-(2**63), 2**64 - 1).map(msgpack.packb)
    | st.binary(max_size=40).map(msgpack.packb)
    | st.text(max_size=40).map(lambda text: msgpack.packb(text, unicode_errors="surrogatepass"))
    | st.floats().map(msgpack.packb),
    _fragments,
)


@given(_values)
def test_what_is_let_through_is_what_msgpack_can_read(data: bytes) -> None:
    try:
        limits.check(data)
    except limits.LimitExceeded:
        return  # it may be sound, and is too deep
    except limits.Malformed:
        assert not _reads(data)
    else:
        assert _reads(data)


@given(_values)
def test_bytes_that_look_like_a_body_are_read_or_undecodable(value: bytes) -> None:
    data = hostile.body(value)
    try:
        body = codec.decode(data)
    except codec.Undecodable:
        return
    try:
        again = codec.encode(body)
    except errors.InvalidArgument:
        return  # a time with a name for its zone that only this machine lacks, and the like
    assert codec.encode(codec.decode(again)) is not None
