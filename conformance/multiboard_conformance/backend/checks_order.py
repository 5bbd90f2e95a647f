# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Checks of the order of the directory: rank, then age, over every connection."""

from __future__ import annotations

import random
import string

from multiboard.primitives import Shelf
from multiboard_conformance.backend.fixtures import Board, post, take
from multiboard_conformance.backend.guarantees import guarantee
from multiboard_conformance.backend.reading import listed
from multiboard_conformance.machinery.plugin import Effort


@guarantee("DIR-3")
def check_order_is_rank_then_age(board: Board, effort: Effort) -> None:
    """A list is ordered by rank as a number, and within a rank by age, whatever the keys are."""
    backend, other = board.open(), board.open()
    dice = effort.dice("order")
    ranks = [0, 1, 2, 9, 10, 11, 50, 98, 99] * 3
    dice.shuffle(ranks)
    posted = []
    for n, rank in enumerate(ranks):
        key = "".join(dice.choices(string.ascii_letters, k=6)) + f"-{n}"
        post(backend if n % 2 else other, key, rank=rank)
        posted.append((rank, n, key))
    assert listed(backend) == [key for _, _, key in sorted(posted)]


@guarantee("DIR-3")
def check_order_holds_over_many_postings(board: Board) -> None:
    """Age orders a rank also where the serials get another digit."""
    backend = board.open()
    names = [f"k{n}" for n in range(120)]
    random.Random(4).shuffle(names)
    for part in (names[:5], names[5:50], names[50:]):
        post(backend, *part)
    assert listed(backend) == names


@guarantee("DIR-3")
def check_serials_rise_over_all_connections(board: Board, effort: Effort) -> None:
    """The serial of a posting is higher than that of all that were acknowledged before."""
    backends = [board.open() for _ in range(3)]
    serials = [
        post(backends[n % 3], f"k{n}", rank=n % 2)[0].serial for n in range(effort.rounds(12, 60))
    ]
    assert serials == sorted(set(serials))


@guarantee("DIR-3")
def check_serial_stays_over_a_lease(board: Board) -> None:
    """A posting that was leased and released keeps its place."""
    backend = board.open()
    post(backend, "a", "b")
    backend.release(take(backend, "a"))
    assert listed(backend) == ["a", "b"]


@guarantee("DIR-3")
def check_restored_posting_is_last_of_its_rank(board: Board) -> None:
    """A restored posting gets a new serial: it is the last of its rank, and of no other."""
    backend = board.open()
    post(backend, "a", "b", rank=5)
    post(backend, "z", rank=6)
    backend.remove([take(backend, "a")], Shelf.TRASH)
    backend.restore("a")
    assert listed(backend) == ["b", "a", "z"]


@guarantee("DIR-3")
def check_emptied_board_does_not_start_anew(board: Board) -> None:
    """Serials go on rising when the board was empty, and every backend closed, in between."""
    backend = board.open()
    (old,) = post(backend, "old")
    backend.remove([take(backend, "old")])
    backend.close()
    (new,) = post(board.open(), "new")
    assert new.serial > old.serial
