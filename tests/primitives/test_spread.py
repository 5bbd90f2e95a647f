# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Where workers that meet try next."""

from __future__ import annotations

from multiboard.primitives import Spread, spread


def test_worker_that_meets_nobody_takes_the_first() -> None:
    keys = list("abcd")
    assert list(Spread().over(iter(keys), str)) == keys


def test_worker_that_meets_others_tries_elsewhere_and_leaves_nothing_out() -> None:
    choices = Spread()
    for _ in range(6):
        choices.met()
    keys = [f"k{number:03}" for number in range(500)]
    walked = list(choices.over(iter(keys), str))
    assert walked != keys
    assert sorted(walked) == keys


def test_no_candidate_is_passed_over_for_long() -> None:
    choices = Spread()
    window = [f"k{number}" for number in range(64)]
    for waited in range(1, 1000):
        if choices.pick(window) == 0:
            break
    assert waited <= spread.PASSES + spread.DRAWN


def test_worker_that_meets_nobody_any_more_takes_the_first_again() -> None:
    choices = Spread()
    choices.met()
    assert choices.width > 1
    for _ in range(100):
        choices.pick(["a", "b"][: choices.width])
    assert choices.width == 1
