# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""How the conformance suite makes and damages this board.

``multiboard-conformance --taskflow-board rq_board.judged:RQMaker --conf url=redis://HOST:PORT``
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable
from typing import Any

from multiboard_conformance.jobboard.fetch import Maker
from rq import Queue
from rq.job import Job
from taskflow.jobs import base

from rq_board.board import RQJobBoard


class RQMaker(Maker):
    """The prototype on RQ."""

    kind = "rq_board.judged:RQMaker"
    client = "rq"
    default_port = 6379

    def at(self, place: str, address: tuple[str, int] | None) -> dict[str, Any]:
        host, port = address or self.address or ("", 0)
        return {**self.conf, "host": host, "port": port, "namespace": place}

    def fetch(self, place: str, address: tuple[str, int] | None = None, **more: Any) -> Any:
        return RQJobBoard("board", {**self.at(place, address), **more})

    def store_version(self, board: Any) -> str:
        return f"redis {board.client.info('server')['redis_version']}"

    def _record(self, board: Any, job: Any) -> bytes:
        whole: bytes = board.client.hget(Job.key_for(job.uuid), "meta")
        return whole

    def _put(self, board: Any, *records: bytes) -> Callable[[], object]:
        queue = board.queue(base.JobPriority.NORMAL)
        keys = [str(uuid.uuid4()) for _ in records]
        for key, record in zip(keys, records, strict=True):
            fields = {"data": b"", "origin": queue.name, "status": "queued", "meta": record}
            board.client.hset(Job.key_for(key), mapping=fields)
            queue.push_job_id(key)
        return lambda: [board.client.hgetall(Job.key_for(key)) for key in keys]

    def sweep(self, place: str) -> None:
        board = self.fetch(place)
        board.connect()
        for queue in Queue.all(connection=board.client):
            if queue.name.startswith(place.partition("/")[0]):
                started = queue.started_job_registry.get_job_ids(cleanup=False)
                for key in [*queue.failed_job_registry.get_job_ids(cleanup=False), *started]:
                    with contextlib.suppress(Exception):
                        Job.fetch(key, connection=board.client).delete()
                queue.delete(delete_jobs=True)
