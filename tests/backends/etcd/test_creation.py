# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Boards are found and named without a walk over what is in them. Real servers."""

from __future__ import annotations

import pytest

from multiboard.backends.etcd import creation
from multiboard.backends.etcd.client import Client
from tests.backends.etcd.boards import Maker, post, write


def test_boards_are_named_in_few_requests(make: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    names = sorted(f"in-{number}" for number in range(20))
    boards = {name: make(namespace=name) for name in names}
    post(boards["in-12"], *(f"k-{number}" for number in range(creation._PAGE)))
    write(boards["in-7"], "meta", None)  # what is left is no board
    asked: list[str] = []
    call = Client.call

    def counted(self: Client, name: str, *given: object, **more: object) -> object:
        asked.append(name)
        return call(self, name, *given, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(Client, "call", counted)
    named = boards["in-0"].boards()
    assert [name for name in named if name.startswith("in-")] == [n for n in names if n != "in-7"]
    assert asked.count("Txn") <= 4
