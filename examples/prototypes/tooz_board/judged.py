# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""How the conformance suite makes and damages this board.

``multiboard-conformance --taskflow-board tooz_board.judged:ToozMaker --conf url=redis://HOST:PORT``
"""

from __future__ import annotations

import contextlib
import importlib
import uuid
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from multiboard_conformance.jobboard.fetch import Maker

from tooz_board.board import PATIENCE, ToozJobBoard

#: For each store the scheme of tooz, the store's port, and the module of tooz's driver.
SCHEMES = {
    "redis": ("redis", 6379, "redis"),
    "zookeeper": ("zookeeper", 2181, "zookeeper"),
    "etcd": ("etcd3+http", 2379, "etcd3gw"),
}


class ToozMaker(Maker):
    """The prototype on tooz."""

    kind = "tooz_board.judged:ToozMaker"
    client = "tooz"
    rubbish = (b"rubbish",)

    def __init__(self, conf: Mapping[str, str]) -> None:
        self._store = urlsplit(conf["url"]).scheme
        self._scheme, self.default_port, driver = SCHEMES[self._store]
        importlib.import_module(f"tooz.drivers.{driver}")  # once, not in each check's process
        super().__init__(conf)

    def at(self, place: str, address: tuple[str, int] | None) -> dict[str, Any]:
        host, port = address or self.address or ("", 0)
        return {**self.conf, "url": f"{self._scheme}://{host}:{port}", "namespace": place}

    def fetch(self, place: str, address: tuple[str, int] | None = None, **more: Any) -> Any:
        return ToozJobBoard("board", {**self.at(place, address), **more})

    def store_version(self, board: Any) -> str:
        return self._store  # tooz does not tell

    def _record(self, board: Any, job: Any) -> bytes:
        group: bytes = job.group
        return group.split(b".", 3)[3]

    def _put(self, board: Any, *records: bytes) -> Callable[[], object]:
        names = [board.group("job", uuid.uuid4().hex, record.decode()) for record in records]
        for name in names:
            board._create(name)
        return lambda: [name in board.groups() for name in names]

    def sweep(self, place: str) -> None:
        board = self.fetch(place)
        board.connect()
        for group in board.groups():
            with contextlib.suppress(Exception):
                board._coordinator.delete_group(group).get(timeout=PATIENCE)
