# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Who takes part: how the board of each contestant is made, and how it is filled untimed.

Every board comes out of ``taskflow.jobs.backends.fetch``, ours too, so that everything after that
is the same code for all. It imports no module of multiboard but the job specification, which is
needed for what only our boards have.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from taskflow.jobs import backends, base

#: Requests under way at a time while a board is filled.
WINDOW = 500


@dataclass(frozen=True)
class Contestant:
    """One board class on one store."""

    side: str
    store: str
    #: Of the store. Where it names a file or this process's memory, each place has its own.
    url: str

    def __str__(self) -> str:
        return f"{self.side} on {self.store}"

    @property
    def ours(self) -> bool:
        """Whether it is multiboard."""
        return self.side == "multiboard"

    @property
    def cross_process(self) -> bool:
        """Whether several processes can share its boards."""
        return self.store != "memory"

    def conf(self, place: str) -> dict[str, Any]:
        """Return the configuration by which TaskFlow makes the board at a place."""
        if self.ours:
            return {"board": "multiboard", "url": self.url, "namespace": place}
        server = urlsplit(self.url)
        if self.store == "redis":
            # With redis-py 8 its client repeats what timed out, ten times; nothing times out here.
            host = {"host": server.hostname, "port": server.port}
            return {"board": "redis", "namespace": place, **host}
        if self.store == "etcd":
            host = {"host": server.hostname, "port": server.port}
            return {"board": "etcd", "path": f"/{place}", "api_path": "/v3/", **host}
        return {
            "board": "zookeeper",
            "hosts": server.netloc,
            # Its trash and its entities are siblings of its path.
            "path": f"/{place}/jobs",
            # It asks by the four-letter word ``envi``, to which a stock server does not answer.
            "check_compatible": False,
        }

    @contextlib.contextmanager
    def open(self, place: str) -> Iterator[Any]:
        """Connect a board at a place and close it in the end."""
        board = backends.fetch("bench", self.conf(place))
        board.connect()
        try:
            yield board
        finally:
            board.close()


def contestants(urls: dict[str, str]) -> list[Contestant]:
    """Return the contestants on some stores, those to be compared next to each other."""
    found = []
    for store, url in urls.items():
        if store in ("redis", "zookeeper", "etcd"):
            found.append(Contestant("taskflow", store, url))
        found.append(Contestant("multiboard", store, url))
    return found


def new_place() -> str:
    """Return the name of a board that nobody has used."""
    return f"bench-{uuid.uuid4().hex[:12]}"


def details(number: int) -> dict[str, Any]:
    """Return the details of the job of that number: what a small service puts there."""
    return {
        "number": number,
        "project": "5c0d7b9e4f0a4d0c8a7b",
        "flow": {"class": "deploy", "arguments": ["image", "network", 3], "retry": True},
    }


def specs(count: int) -> list[Any]:
    """Return so many jobs in the form in which our boards take many at once."""
    from multiboard.jobboard.job import JobSpec

    return [JobSpec(f"job-{n}", None, details(n)) for n in range(count)]


def post_all(board: Any, count: int) -> None:
    """Post jobs one by one, through TaskFlow's API."""
    for number in range(count):
        board.post(f"job-{number}", details=details(number))


def fill(contestant: Contestant, place: str, count: int) -> None:
    """Put jobs on a board as fast as its store takes them; nobody times this.

    TaskFlow has no bulk posting, and its ZooKeeper board lists all jobs again for each one that it
    posts. What its ``post`` would write is written here directly; whoever measures afterwards
    checks that its board sees all of them.
    """
    if contestant.ours:
        with contestant.open(place) as board:
            board.post_many(specs(count))
    elif contestant.store == "redis":
        _fill_redis(contestant, place, count)
    elif contestant.store == "etcd":
        with contestant.open(place) as board:
            for number in range(count):
                board.post(f"job-{number}", details=details(number))
    else:
        _fill_zookeeper(contestant, place, count)


def _fill_redis(contestant: Contestant, place: str, count: int) -> None:
    import redis
    from oslo_serialization import msgpackutils
    from oslo_utils import timeutils

    with contestant.open(place) as board, redis.from_url(contestant.url) as client:
        pipeline = client.pipeline(transaction=False)
        for number in range(count):
            key = str(uuid.uuid4())
            posting = base.format_posting(
                key,
                f"job-{number}",
                created_on=timeutils.utcnow(),
                details=details(number),
                priority=base.JobPriority.NORMAL,
            )
            packed = msgpackutils.dumps({**posting, "sequence": number + 1})
            pipeline.hsetnx(board.listings_key, key, packed)
        pipeline.incrby(board.sequence_key, count)
        pipeline.execute()


def _fill_zookeeper(contestant: Contestant, place: str, count: int) -> None:
    from kazoo.client import KazooClient
    from oslo_serialization import jsonutils

    client = KazooClient(hosts=urlsplit(contestant.url).netloc)
    client.start()
    try:
        path = contestant.conf(place)["path"]
        client.ensure_path(path)
        for first in range(0, count, WINDOW):
            numbers = range(first, min(first + WINDOW, count))
            postings = [
                base.format_posting(
                    str(uuid.uuid4()),
                    f"job-{number}",
                    details=details(number),
                    priority=base.JobPriority.NORMAL,
                )
                for number in numbers
            ]
            answers = [
                client.create_async(f"{path}/job", jsonutils.dump_as_bytes(p), sequence=True)
                for p in postings
            ]
            for answer in answers:
                answer.get()
    finally:
        client.stop()
        client.close()
