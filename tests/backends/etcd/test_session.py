# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Making a board, losing it, and forks. Real servers."""

from __future__ import annotations

import dataclasses
import os
import threading

import pytest

from multiboard import errors
from multiboard.backends.etcd import EtcdBackend
from tests.backends.etcd.boards import Maker, post, value, write


def test_an_overwritten_meta_is_named(make: Maker) -> None:
    board = make()
    post(board)
    before = value(board, "meta")
    write(board, "meta", b"rubbish")
    with pytest.raises(errors.BackendError, match="meta was overwritten") as caught:
        board.count()
    assert type(caught.value) is errors.BackendError
    write(board, "meta", before)
    assert board.count() == 1


def test_a_board_of_an_unknown_version_is_not_opened(make: Maker) -> None:
    board = make()
    write(board, "meta", b'{"v":9}')
    with pytest.raises(errors.Unsupported, match="version"):
        make()


def test_boards_that_are_made_at_once_are_one(make: Maker) -> None:
    made: list[EtcdBackend] = []
    threads = [threading.Thread(target=lambda: made.append(make())) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({board.incarnation for board in made}) == 1


def test_forked_child_connects_anew_while_the_parent_works(make: Maker) -> None:
    board = make()
    board.changes(None, 1.0)
    post(board, *[f"k{n}" for n in range(6)], rank=9)
    post(board, *[f"next{n}" for n in range(5)])
    lease = board.acquire("k0", "parent", "c")
    children = []
    for number in range(1, 6):
        child = os.fork()
        if not child:
            try:
                mine = board.acquire(f"k{number}", "child", f"c{number}")
                same = board.acquire_next("child", [f"d{number}"])
                board.remove([mine, same[0][1]])
                board.close()
                os._exit(0)
            except BaseException:
                os._exit(1)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 5
    assert board.renew(dataclasses.replace(lease), 5.0) == lease
    assert board.remove([lease]) == [None]
