# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Feed the codec bytes that reach ever more of its branches: ``fuzz_codec.py SECONDS CORPUS``.

It runs until the time is over or the first failure: a crash, an error that is not ``Undecodable``,
bytes that are let through and can't be read, five seconds or half a gigabyte for a few kilobytes.
With ``--without-limits`` what is tested is put out of action, and a failure must be found.

Where there is no atheris for this Python or machine, Hypothesis draws bytes instead, and no branch
guides it.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import pathlib
import sys
import uuid

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

try:
    import atheris
except ImportError:
    atheris = None

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1])]

_WATCHED = [
    "multiboard.runtime.codec",
    "multiboard.runtime.limits",
    "oslo_serialization.msgpackutils",
]
with atheris.instrument_imports(include=_WATCHED) if atheris else contextlib.nullcontext():
    from multiboard import errors
    from multiboard.runtime import codec, limits

from tests import hostile  # noqa: E402 - after what it imports was instrumented

_SOUND = [
    {"server": 42, "name": "Zoë", "ratio": 0.5, "none": None, "yes": True, "raw": b"\x00\xff"},
    {"ids": {uuid.UUID(int=1)}, "sets": frozenset({frozenset({1}), 2}), 7: [[1], [2, [3]]]},
    {"utc": datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc), "day": datetime.date.max},
    {"big": [2**64 - 1, -(2**63)], "long": "x" * 300, "many": list(range(20)), "nested": {"a": {}}},
]


def check(data: bytes) -> None:
    """Decode bytes as a body, and what was decoded once more."""
    for candidate in (codec._MARK + data, hostile.body(data)):
        try:
            body = codec.decode(candidate)
        except codec.Undecodable:
            continue
        with contextlib.suppress(errors.InvalidArgument):
            codec.decode(codec.encode(body))
    with contextlib.suppress(codec.Undecodable):
        codec.decode_plain(codec._MARK + data)


def main() -> None:
    """Fuzz."""
    parser = argparse.ArgumentParser()
    parser.add_argument("seconds", type=int)
    parser.add_argument("corpus", type=pathlib.Path)
    parser.add_argument("--without-limits", action="store_true")
    given_words = parser.parse_args()
    sound = [codec.encode(codec.Body("u", "n", details, {})) for details in _SOUND]
    seeds = [*sound, *(body for body, _ in hostile.BODIES.values() if len(body) < 20_000)]
    for number, seed in enumerate(seeds):
        (given_words.corpus / f"seed-{number}").write_bytes(seed[len(codec._MARK) :])
    if given_words.without_limits:
        limits.check = lambda *_: None
    if atheris is None:
        _draw(seeds, 500 * given_words.seconds)
        return
    flags = [f"-max_total_time={given_words.seconds}", "-timeout=5", "-rss_limit_mb=512"]
    flags += ["-max_len=20000", f"-artifact_prefix={given_words.corpus}/failure-"]
    atheris.Setup([sys.argv[0], *flags, str(given_words.corpus)], check)
    atheris.Fuzz()


def _draw(seeds: list[bytes], count: int) -> None:
    cuts = st.sampled_from(seeds).flatmap(
        lambda seed: st.builds(
            lambda at, new: seed[:at] + new + seed[at + len(new) :],
            st.integers(0, len(seed)),
            st.binary(max_size=8),
        )
    )
    fast = settings(max_examples=count, deadline=None, suppress_health_check=list(HealthCheck))
    fast(given(st.binary() | cuts)(check))()
    print(f"Done {count} runs", file=sys.stderr)


if __name__ == "__main__":
    main()
