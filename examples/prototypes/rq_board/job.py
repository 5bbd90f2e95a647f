# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""A job of the board on RQ, and how errors of Redis become TaskFlow's."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

import redis
from rq.job import Job
from taskflow import exceptions as excp
from taskflow.jobs import base

#: Seconds between two looks at the board.
PAUSE = 0.1


def raising_job_failures(call: Callable[..., Any]) -> Callable[..., Any]:
    """Raise JobFailure where Redis fails, or the board is not connected."""

    @functools.wraps(call)
    def wrapper(self: Any, *arguments: Any, **more: Any) -> Any:
        board = getattr(self, "board", self)
        if not board.connected:
            raise excp.JobFailure(f"the board {board.name!r} is not connected")
        try:
            return call(self, *arguments, **more)
        except redis.RedisError as error:
            raise excp.JobFailure(f"{call.__name__}: {error}") from error

    return wrapper


class RQJob(base.Job):
    """One job; two objects of one job are equal."""

    def __init__(self, board: Any, stored: Job) -> None:
        meta = stored.meta
        super().__init__(
            board,
            meta["name"],
            uuid=stored.id,
            details=meta["details"],
            backend=board.persistence,
            book_data=meta["book"],
        )
        self._priority = base.JobPriority.convert(meta["priority"])
        self._created_on = stored.created_at

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RQJob) and self.uuid == other.uuid

    def __hash__(self) -> int:
        return hash(self.uuid)

    @property
    def priority(self) -> base.JobPriority:
        """The priority as it was posted."""
        return self._priority

    @property
    def created_on(self) -> datetime:
        """When it was posted, by the clock of the poster."""
        return self._created_on

    @property
    @raising_job_failures
    def last_modified(self) -> datetime:
        """When it was posted, claimed or abandoned, by the clock of who did it."""
        return datetime.fromisoformat(self.board.read(self).meta["modified"])

    @property
    @raising_job_failures
    def state(self) -> str:
        """The state, read from Redis."""
        return self.board.state_of(self)

    @raising_job_failures
    def expires_in(self) -> float:
        """Return the seconds until the claim ends, by Redis's clock; 0 where there is none."""
        return self.board.seconds_left(self)

    @raising_job_failures
    def extend_expiry(self, expiry: float) -> bool:
        """Let the claim end so many whole seconds from now; tell whether there was one."""
        return self.board.extend(self, expiry)

    def wait(
        self,
        timeout: float | None = None,
        delay: float = PAUSE,
        delay_multiplier: float = 1.0,
        max_delay: float = PAUSE,
        sleep_func: Callable[[float], None] = time.sleep,
    ) -> bool:
        """Look ten times a second whether the job is complete, however long it takes."""
        return super().wait(timeout, delay, delay_multiplier, max_delay, sleep_func)


def now() -> str:
    """Return the time by this machine's clock, as RQ's records can hold it."""
    return datetime.now(timezone.utc).isoformat()
