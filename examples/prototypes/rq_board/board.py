# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""A TaskFlow jobboard on RQ: what can be had of it without changing RQ.

A job of the board is an RQ job that no RQ worker runs. Its details are in the RQ job's ``meta``;
its priority is the queue in which it stands. A claim is an RQ execution: the execution's id is the
proof, its key's time to live is the claim's, kept by a thread of this board as RQ's workers keep
theirs. RQ's methods take a pipeline; the board opens it with WATCH, so that a claim, a consume or
an abandonment is one transaction, which is undone where the claim has changed hands.

What RQ does not have, and this board does not pretend:

- a wait for a job that leaves it in the queue: ``wait()`` looks ten times a second;
- an event that a job was posted or is gone: there is no notifier;
- an order: an abandoned job can return to one end of its queue only. The listing is sorted by
  ``created_at``, by the clock of the poster;
- times to live of less than a second: ``claim(expiry=0.5)`` is not implemented;
- a memory of what is gone: a job without a record counts as complete;
- metadata of a worker: of an entity only the name is kept.

RQ writes pickles where it is not asked for anything else. Here it is asked for JSON, and what JSON
would change is refused.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from rq import Queue, Worker
from rq.exceptions import NoSuchJobError
from rq.executions import Execution
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer
from taskflow import exceptions as excp
from taskflow import states
from taskflow.jobs import base

from rq_board.job import PAUSE, RQJob, now, raising_job_failures

LOG = logging.getLogger(__name__)

#: Seconds for which a claim without an expiry outlives its board; a whole number.
SESSION = 6
#: The name of a function that is nowhere: no worker of RQ is meant to run these jobs.
FUNCTION = "taskflow.job"


class RQJobBoard(base.JobBoard):
    """A board; ``conf`` has ``namespace``, and may have ``host``, ``port`` and ``timeout`` (s)."""

    def __init__(self, name: str, conf: dict[str, Any], persistence: Any = None) -> None:
        super().__init__(name, conf)
        self.persistence = persistence
        self._client: redis.Redis | None = None
        self._claims: dict[str, tuple[Execution, bool]] = {}
        self._entities: dict[str, Worker] = {}
        self._stopped = threading.Event()

    # -- the connection ------------------------------------------------------------------------

    @property
    def connected(self) -> bool:
        """Whether connect() was called, and close() not since then."""
        return self._client is not None

    @property
    def client(self) -> redis.Redis:
        """The connection to Redis."""
        if self._client is None:
            raise excp.JobFailure(f"the board {self.name!r} is not connected")
        return self._client

    def connect(self) -> None:
        """Connect, and begin to keep the claims."""
        if self.connected:
            return
        timeout = float(self._conf.get("timeout", 5.0))
        client = redis.Redis(
            host=self._conf.get("host", "127.0.0.1"),
            port=int(self._conf.get("port", 6379)),
            socket_timeout=timeout,
            socket_connect_timeout=timeout,
            retry=Retry(NoBackoff(), 0),  # a post that is sent twice is in its queue twice
        )
        try:
            client.ping()
        except redis.RedisError as error:
            client.close()
            raise excp.JobFailure(f"connect: {error}") from error
        self._client = client
        self._stopped = threading.Event()
        threading.Thread(target=self._keep, args=(self._stopped,), daemon=True).start()

    def close(self) -> None:
        """Disconnect; claims without an expiry end by themselves soon after."""
        self._stopped.set()
        client, self._client = self._client, None
        with contextlib.suppress(redis.RedisError):
            for worker in self._entities.values():
                worker.register_death()
        self._entities.clear()
        self._claims.clear()
        if client is not None:
            client.close()

    def _keep(self, stopped: threading.Event) -> None:
        while not stopped.wait(SESSION / 3):
            for key, (execution, timed) in list(self._claims.items()):
                if not timed:
                    self._lengthen(key, execution, SESSION)
            with contextlib.suppress(redis.RedisError):
                for worker in list(self._entities.values()):
                    worker.heartbeat()

    def _lengthen(self, key: str, execution: Execution, seconds: int) -> bool:
        """Keep an execution that is there: ``heartbeat()`` would make one that has ended anew."""
        try:
            stored = self._fetch(key)
            with self.client.pipeline() as pipeline:
                pipeline.watch(execution.key)
                if not pipeline.exists(execution.key):
                    return False
                pipeline.multi()
                execution.heartbeat(stored.started_job_registry, seconds, pipeline)
                pipeline.execute()
        except (redis.RedisError, excp.NotFound, excp.JobFailure) as error:
            LOG.warning("the claim of %s was not kept: %s", key, error)
            return False
        return True

    # -- reading -------------------------------------------------------------------------------

    def queue(self, priority: base.JobPriority) -> Queue:
        """Return the queue of a priority."""
        name = f"{self._conf['namespace']}.{priority.value}"
        return Queue(name, connection=self.client, serializer=JSONSerializer)

    def _fetch(self, key: str) -> Job:
        try:
            stored = Job.fetch(key, connection=self.client, serializer=JSONSerializer)
        except NoSuchJobError as error:
            raise excp.NotFound(f"no job {key}") from error
        return stored

    def read(self, job: RQJob) -> Job:
        """Return the RQ job of a job.

        Raises: NotFound where it was consumed or trashed.
        """
        stored = self._fetch(job.uuid)
        if stored.get_status(refresh=False) == JobStatus.FAILED:
            raise excp.NotFound(f"the job {job.uuid} was trashed")
        return stored

    def _execution(self, stored: Job) -> Execution | None:
        """Return the execution that was the last to claim a job; it may have ended."""
        claim = stored.meta.get("claim")
        if claim is None:
            return None
        return Execution(claim["id"], stored.id, self.client, worker_name=claim["who"])

    def state_of(self, job: RQJob) -> str:
        """Return the state of a job; one that is not there is complete."""
        try:
            stored = self.read(job)
        except excp.NotFound:
            return str(states.COMPLETE)
        execution = self._execution(stored)
        claimed = execution is not None and self.client.exists(execution.key)
        return str(states.CLAIMED if claimed else states.UNCLAIMED)

    def seconds_left(self, job: RQJob) -> float:
        """Return the seconds that a claim lasts, or 0."""
        with contextlib.suppress(excp.NotFound):
            execution = self._execution(self.read(job))
            if execution is not None:
                return max(0.0, self.client.pttl(execution.key) / 1000)
        return 0.0

    def extend(self, job: RQJob, expiry: float) -> bool:
        """Extend a claim, where it is this board's or this board never claimed the job."""
        execution = self._execution(self.read(job))
        if execution is None or not self._may_act(job, execution):
            return False
        return self._lengthen(job.uuid, execution, _whole(expiry))

    def _stored(self) -> Iterator[tuple[Job, RQJob]]:
        """Yield what is on the board, highest priority and oldest first; skip what is damaged."""
        for priority in base.JobPriority:
            queue = self.queue(priority)
            keys = dict.fromkeys(queue.get_job_ids())
            keys.update(dict.fromkeys(queue.started_job_registry.get_job_ids(cleanup=False)))
            found = []
            for stored in self._fetch_many(list(keys)):
                if stored.get_status(refresh=False) == JobStatus.FAILED:
                    continue
                try:
                    found.append((stored, RQJob(self, stored)))
                except (KeyError, TypeError, ValueError) as error:
                    LOG.warning("the record of %s can't be read: %r", stored.id, error)
            yield from sorted(found, key=lambda pair: pair[1].created_on)

    def _fetch_many(self, keys: list[str]) -> Iterator[Job]:
        try:
            many = Job.fetch_many(keys, connection=self.client, serializer=JSONSerializer)
            yield from filter(None, many)
        except redis.RedisError:
            raise
        except Exception:  # one record that RQ can't read fails all that are read with it
            for key in keys:
                with contextlib.suppress(Exception):
                    yield self._fetch(key)

    @raising_job_failures
    def iterjobs(self, only_unclaimed: bool = False, ensure_fresh: bool = False) -> Iterator[RQJob]:
        """List the board; each call reads Redis, ``ensure_fresh`` or not."""
        listed = list(self._stored())
        if only_unclaimed:
            executions = [self._execution(stored) for stored, _ in listed]
            with self.client.pipeline() as pipeline:
                for execution in executions:
                    pipeline.exists(execution.key if execution else "")
                alive = pipeline.execute()
            listed = [each for each, claimed in zip(listed, alive, strict=True) if not claimed]
        return iter([job for _, job in listed])

    @raising_job_failures
    def wait(self, timeout: float | None = None) -> Iterator[RQJob]:
        """Look ten times a second for any job.

        Raises: NotFound where there is none after ``timeout`` seconds.
        """
        give_up = math.inf if timeout is None else time.monotonic() + timeout
        while not (jobs := list(self.iterjobs())):
            if time.monotonic() > give_up:
                raise excp.NotFound(f"no job within {timeout} s")
            time.sleep(PAUSE)
        return iter(jobs)

    @property
    @raising_job_failures
    def job_count(self) -> int:
        """The number of jobs on the board."""
        return sum(1 for _ in self._stored())

    @raising_job_failures
    def find_owner(self, job: RQJob) -> str | None:
        """Return the name under which a job is claimed, or None."""
        with contextlib.suppress(excp.NotFound):
            execution = self._execution(self.read(job))
            if execution is not None and self.client.exists(execution.key):
                return str(execution.worker_name)
        return None

    # -- writing -------------------------------------------------------------------------------

    @raising_job_failures
    def post(
        self, name: str, book: Any = None, details: Any = None, priority: Any = "NORMAL"
    ) -> RQJob:
        """Post a job.

        Raises: JobFailure for details that JSON would not give back as they were.
        """
        details = details or {}
        priority = base.JobPriority.convert(priority)
        try:
            same = json.loads(json.dumps(details)) == details
        except (TypeError, ValueError) as error:
            raise excp.JobFailure(f"the details can't be encoded: {error}") from error
        if not same:
            raise excp.JobFailure("JSON would change the details")
        meta = {
            "name": name,
            "details": details,
            "book": book and {"name": book.name, "uuid": book.uuid},
            "priority": priority.value,
            "modified": now(),
        }
        stored = self.queue(priority).enqueue_call(
            FUNCTION, timeout=-1, failure_ttl=-1, job_id=str(uuid.uuid4()), meta=meta
        )
        return RQJob(self, stored)

    def _change(self, job: RQJob, change: Callable[[Job, Execution | None, Any], None]) -> None:
        """Change a job in one transaction, on which no other change of it may fall.

        ``change`` is given the RQ job, the execution that has it now, and a pipeline.
        """
        while True:
            with self.client.pipeline() as pipeline, contextlib.suppress(redis.WatchError):
                pipeline.watch(Job.key_for(job.uuid))
                stored = self.read(job)
                execution = self._execution(stored)
                if execution is not None:
                    pipeline.watch(execution.key)
                alive = execution is not None and pipeline.exists(execution.key)
                pipeline.multi()
                change(stored, execution if alive else None, pipeline)
                pipeline.execute()
                return

    @base.check_who
    @raising_job_failures
    def claim(self, job: RQJob, who: str, expiry: float | None = None) -> None:
        """Claim a job: for so many whole seconds, or as long as this board is connected."""
        seconds = SESSION if expiry is None else _whole(expiry)
        made: list[Execution] = []

        def change(stored: Job, holder: Execution | None, pipeline: Any) -> None:
            if holder is not None:
                raise excp.UnclaimableJob(f"{job.uuid} is claimed by {holder.worker_name}")
            ended = self._execution(stored)
            if ended is not None:
                ended.delete(stored, pipeline)
            self.queue(job.priority).remove(stored, pipeline=pipeline)
            execution = Execution.create(stored, seconds, pipeline, worker_name=who)
            stored.meta["claim"] = {"id": execution.id, "who": who}
            self._save(stored, JobStatus.STARTED, pipeline)
            made[:] = [execution]

        self._change(job, change)
        self._claims[job.uuid] = (made[0], expiry is not None)

    def _save(self, stored: Job, status: JobStatus, pipeline: Any) -> None:
        stored.meta["modified"] = now()
        stored.save(pipeline=pipeline, include_result=False)
        stored.set_status(status, pipeline=pipeline)

    def _may_act(self, job: RQJob, holder: Execution) -> bool:
        """Tell whether a claim is not the successor of one that this board had."""
        mine = self._claims.get(job.uuid)
        return mine is None or mine[0].id == holder.id

    def _finish(self, job: RQJob, who: str, finish: Callable[[Job, Execution, Any], None]) -> None:
        def change(stored: Job, holder: Execution | None, pipeline: Any) -> None:
            if holder is None:
                raise excp.NotFound(f"{job.uuid} is not claimed")
            if holder.worker_name != who:
                raise excp.JobFailure(f"{job.uuid} is claimed by {holder.worker_name}, not {who}")
            if not self._may_act(job, holder):
                raise excp.JobFailure(f"this board lost its claim of {job.uuid} to a namesake")
            finish(stored, holder, pipeline)

        self._change(job, change)
        self._claims.pop(job.uuid, None)

    @base.check_who
    @raising_job_failures
    def consume(self, job: RQJob, who: str) -> None:
        """Delete a job that ``who`` has claimed."""
        self._finish(job, who, lambda stored, _, pipeline: stored.delete(pipeline=pipeline))

    @base.check_who
    @raising_job_failures
    def abandon(self, job: RQJob, who: str) -> None:
        """Give a job back: RQ puts it first in its queue, whatever its age."""

        def finish(stored: Job, holder: Execution, pipeline: Any) -> None:
            holder.delete(stored, pipeline)
            del stored.meta["claim"]
            self._save(stored, JobStatus.QUEUED, pipeline)
            queue = self.queue(job.priority)
            queue.push_job_id(stored.id, pipeline=pipeline, at_front=True)

        self._finish(job, who, finish)

    @base.check_who
    @raising_job_failures
    def trash(self, job: RQJob, who: str) -> None:
        """Put a job into RQ's registry of failed jobs, for ever."""

        def finish(stored: Job, holder: Execution, pipeline: Any) -> None:
            holder.delete(stored, pipeline)
            self._save(stored, JobStatus.FAILED, pipeline)
            failed = self.queue(job.priority).failed_job_registry
            failed.add(stored, ttl=-1, exc_string=f"trashed by {who}", pipeline=pipeline)

        self._finish(job, who, finish)

    @raising_job_failures
    def register_entity(self, entity: Any) -> None:
        """Register a conductor as a worker of RQ, which it is not: RQ shows it as idle."""
        if entity.kind != "conductor":
            raise excp.NotImplementedError(f"no entities of kind {entity.kind!r}")
        if entity.name not in self._entities:
            name = f"{self._conf['namespace']}.{entity.name}"
            worker = Worker(
                [self.queue(base.JobPriority.NORMAL)],
                name=name,
                connection=self.client,
                serializer=JSONSerializer,
            )
            with contextlib.suppress(ValueError):  # one of this name has not expired yet
                worker.register_birth()
            self._entities[entity.name] = worker


def _whole(expiry: float) -> int:
    if expiry != int(expiry) or expiry < 1:
        raise excp.NotImplementedError("RQ's times to live are whole seconds")
    return int(expiry)
