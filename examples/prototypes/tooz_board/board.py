# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""A TaskFlow jobboard on tooz's groups and locks: what can be had without changing tooz.

tooz stores no data: the one thing that outlives its writer is that a group exists. So a job is a
group, and all that is known of it is in the group's *name*. A claim is a lock of the job's id, and
the claimer's membership in the group, which shows who it is; both live as long as the
coordinator's heart beats. These are two steps, as are the removals of them.

What tooz does not have, and this board does not pretend:

- claims with an expiry: one time-out holds for all locks of a coordinator;
- acting for another board that claimed under one's name: a lock belongs to its coordinator;
- a fence: that the lock is still ours (on etcd not even that can be asked) is looked up first, and
  the group is deleted afterwards. That a group with members can't be deleted helps in most cases;
- one's own time of change: an abandoned job does not show when that was;
- a watch on groups that come and go, of any prefix: each look lists every group in the store;
- an order of its own: the names hold the time of posting, by the clock of the poster;
- an error for everything: native errors of kazoo, requests and redis-py come out of it.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import json
import logging
import math
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from typing import Any

import tooz
from taskflow import exceptions as excp
from taskflow import states
from taskflow.jobs import base
from tooz import coordination

LOG = logging.getLogger(__name__)

#: Seconds between two looks at the board.
PAUSE = 0.25
#: Seconds for one answer of tooz.
PATIENCE = 10.0
PRIORITIES = list(base.JobPriority)


def _failures(call: Callable[..., Any]) -> Callable[..., Any]:
    """Raise JobFailure for all that tooz lets out, and for a board that is not connected."""

    @functools.wraps(call)
    def wrapper(self: Any, *arguments: Any, **more: Any) -> Any:
        board = getattr(self, "board", self)
        if not board.connected:
            raise excp.JobFailure(f"the board {board.name!r} is not connected")
        try:
            return call(self, *arguments, **more)
        except (excp.TaskFlowException, excp.NotImplementedError, TypeError, ValueError):
            raise
        except Exception as error:  # native errors among them
            raise excp.JobFailure(f"{call.__name__}: {error!r}") from error

    return wrapper


class _Clock:
    """Microseconds since 1970 that rise with each call in this process."""

    def __init__(self) -> None:
        self._last = 0
        self._lock = threading.Lock()

    def next(self) -> int:
        with self._lock:
            self._last = max(self._last + 1, time.time_ns() // 1000)
            return self._last


_CLOCK = _Clock()


class ToozJob(base.Job):
    """One job; ``group`` is the group that it is. Two objects of one job are equal.

    Raises: ValueError or KeyError for a name that can't be read.
    """

    def __init__(self, board: ToozJobBoard, group: bytes) -> None:
        key, created, priority, body = group.decode().split(".")[2:]
        content = json.loads(base64.urlsafe_b64decode(body))
        super().__init__(
            board,
            content["name"],
            uuid=str(uuid.UUID(key)),
            details=content["details"],
            backend=board.persistence,
            book_data=content["book"],
        )
        self.group = group
        self.age = int(created)
        self._priority = base.JobPriority(priority)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ToozJob) and self.uuid == other.uuid

    def __hash__(self) -> int:
        return hash(self.uuid)

    @property
    def priority(self) -> base.JobPriority:
        """The priority as it was posted."""
        return self._priority

    @property
    def created_on(self) -> datetime:
        """When it was posted, by the clock of the poster."""
        return datetime.fromtimestamp(self.age / 1e6, timezone.utc)

    @property
    @_failures
    def last_modified(self) -> datetime:
        """When it was claimed, by the owner's clock; else when it was posted: tooz has no more."""
        claim = self.board.claim_of(self)
        return datetime.fromisoformat(claim["since"]) if claim else self.created_on

    @property
    @_failures
    def state(self) -> str:
        """The state, read from the store; a job that is not there is complete."""
        try:
            claimed = self.board.members(self)
        except excp.NotFound:
            return str(states.COMPLETE)
        return str(states.CLAIMED if claimed else states.UNCLAIMED)

    def wait(
        self,
        timeout: float | None = None,
        delay: float = PAUSE,
        delay_multiplier: float = 1.0,
        max_delay: float = PAUSE,
        sleep_func: Callable[[float], None] = time.sleep,
    ) -> bool:
        """Look four times a second whether the job is complete, however long it takes."""
        return super().wait(timeout, delay, delay_multiplier, max_delay, sleep_func)


class ToozJobBoard(base.JobBoard):
    """A board; ``conf`` has tooz's ``url`` and a ``namespace``, and may have ``timeout`` (s)."""

    def __init__(self, name: str, conf: dict[str, Any], persistence: Any = None) -> None:
        super().__init__(name, conf)
        self.persistence = persistence
        self._space = conf["namespace"].encode().hex()
        self._coordinator: Any = None
        self._locks: dict[str, Any] = {}
        self._entities: dict[str, dict[str, Any]] = {}

    # -- the connection ------------------------------------------------------------------------

    @property
    def connected(self) -> bool:
        """Whether connect() was called, and close() not since then."""
        return self._coordinator is not None

    def connect(self) -> None:
        """Connect, and let tooz's heart beat."""
        if self.connected:
            return
        made = coordination.get_coordinator(
            self._conf["url"],
            uuid.uuid4().hex.encode(),  # one that others have would be taken for this one
            timeout=str(self._conf.get("timeout", 4)),
        )
        try:
            made.start(start_heart=True)
        except Exception as error:
            with contextlib.suppress(Exception):
                made.stop()
            raise excp.JobFailure(f"connect: {error!r}") from error
        self._coordinator = made

    def close(self) -> None:
        """Disconnect; the claims end with the connection."""
        made, self._coordinator = self._coordinator, None
        self._locks.clear()
        if made is not None:
            with contextlib.suppress(Exception):
                made.stop()

    # -- reading -------------------------------------------------------------------------------

    def group(self, kind: str, *rest: str) -> bytes:
        """Return the name of a group of this board."""
        return ".".join((self._space, kind, *rest)).encode()

    def groups(self) -> list[bytes]:
        """Return the names of the groups of this board's jobs."""
        head = self.group("job", "")
        # On etcd the members come too, each with a slash in its name.
        every = self._coordinator.get_groups().get(timeout=PATIENCE)
        return [name for name in every if name.startswith(head) and b"/" not in name]

    def members(self, job: ToozJob) -> set[bytes]:
        """Return the members of a job's group.

        Raises: NotFound where there is no such group.
        """
        try:
            found = self._coordinator.get_members(job.group).get(timeout=PATIENCE)
        except coordination.GroupNotCreated as error:
            raise excp.NotFound(f"no job {job.uuid}") from error
        return set(found)

    def claim_of(self, job: ToozJob) -> dict[str, Any] | None:
        """Return who claimed a job and since when.

        Raises: NotFound where the job is gone.
        """
        for member in self.members(job):
            with contextlib.suppress(coordination.MemberNotJoined):
                asked = self._coordinator.get_member_capabilities(job.group, member)
                claim: dict[str, Any] = asked.get(timeout=PATIENCE)
                return claim
        return None

    @_failures
    def iterjobs(
        self, only_unclaimed: bool = False, ensure_fresh: bool = False
    ) -> Iterator[ToozJob]:
        """List the board: each call reads the store, and each claim is a call of its own."""
        jobs = []
        for name in self.groups():
            try:
                jobs.append(ToozJob(self, name))
            except (KeyError, TypeError, ValueError) as error:
                LOG.warning("the name of a group can't be read: %r", error)
        if only_unclaimed:
            jobs = [job for job in jobs if job.state == states.UNCLAIMED]
        return iter(sorted(jobs, key=lambda job: (PRIORITIES.index(job.priority), job.age)))

    @_failures
    def wait(self, timeout: float | None = None) -> Iterator[ToozJob]:
        """Look four times a second for any job.

        Raises: NotFound where there is none after ``timeout`` seconds.
        """
        give_up = math.inf if timeout is None else time.monotonic() + timeout
        while not (jobs := list(self.iterjobs())):
            if time.monotonic() > give_up:
                raise excp.NotFound(f"no job within {timeout} s")
            time.sleep(PAUSE)
        return iter(jobs)

    @property
    @_failures
    def job_count(self) -> int:
        """The number of jobs on the board."""
        return len(list(self.iterjobs()))

    @_failures
    def find_owner(self, job: ToozJob) -> str | None:
        """Return the name under which a job is claimed, or None."""
        with contextlib.suppress(excp.NotFound):
            claim = self.claim_of(job)
            return claim["who"] if claim else None
        return None

    # -- writing -------------------------------------------------------------------------------

    def _create(self, group: bytes) -> None:
        """Create a group, or find that it is there: then an earlier attempt of ours did it."""
        with contextlib.suppress(coordination.GroupAlreadyExist):
            self._coordinator.create_group(group).get(timeout=PATIENCE)

    @_failures
    def post(
        self, name: str, book: Any = None, details: Any = None, priority: Any = "NORMAL"
    ) -> ToozJob:
        """Post a job.

        Raises: JobFailure for details that JSON would not give back as they were.
        """
        details = details or {}
        content = {
            "name": name,
            "details": details,
            "book": book and {"name": book.name, "uuid": book.uuid},
        }
        try:
            text = json.dumps(content)
        except (TypeError, ValueError) as error:
            raise excp.JobFailure(f"the details can't be encoded: {error}") from error
        if json.loads(text)["details"] != details:
            raise excp.JobFailure("JSON would change the details")
        body = base64.urlsafe_b64encode(text.encode()).decode()
        chosen = base.JobPriority.convert(priority).value
        group = self.group("job", uuid.uuid4().hex, str(_CLOCK.next()), chosen, body)
        self._create(group)
        return ToozJob(self, group)

    @base.check_who
    @_failures
    def claim(self, job: ToozJob, who: str) -> None:
        """Claim a job for as long as the heart beats: take its lock, then join its group."""
        lock = self._coordinator.get_lock(uuid.UUID(job.uuid).hex.encode())
        if not lock.acquire(blocking=False):
            self.members(job)  # NotFound where the job is gone
            raise excp.UnclaimableJob(f"{job.uuid} is claimed")
        claim = {"who": who, "since": datetime.now(timezone.utc).isoformat()}
        try:
            try:
                self._coordinator.join_group(job.group, claim).get(timeout=PATIENCE)
            except coordination.MemberAlreadyExist:  # of a claim whose lock was lost
                asked = self._coordinator.update_capabilities(job.group, claim)
                asked.get(timeout=PATIENCE)
            if len(self.members(job)) > 1:  # whose lock ended before its membership
                self._coordinator.leave_group(job.group).get(timeout=PATIENCE)
                raise excp.UnclaimableJob(f"{job.uuid} is claimed")
        except Exception as error:
            with contextlib.suppress(Exception):
                lock.release()
            if isinstance(error, coordination.GroupNotCreated):
                raise excp.NotFound(f"no job {job.uuid}") from error
            raise
        self._locks[job.uuid] = lock

    def _lock_of(self, job: ToozJob, who: str) -> Any:
        """Return the lock by which this board holds a job."""
        claim = self.claim_of(job)
        if claim is None:
            raise excp.NotFound(f"{job.uuid} is not claimed")
        if claim["who"] != who:
            raise excp.JobFailure(f"{job.uuid} is claimed by {claim['who']}, not {who}")
        lock = self._locks.get(job.uuid)
        if lock is None:
            raise excp.NotImplementedError("tooz: a lock is its coordinator's, and no other's")
        try:
            held = lock.is_still_owner()
        except tooz.NotImplemented:  # on etcd
            held = lock.acquired
        if not held:
            del self._locks[job.uuid]
            raise excp.JobFailure(f"this board lost its claim of {job.uuid}")
        return lock

    def _leave(self, job: ToozJob, who: str, also: Callable[[], None]) -> None:
        """Give a claim back; what is done ``also`` comes between the membership and the lock."""
        lock = self._lock_of(job, who)
        try:
            self._coordinator.leave_group(job.group).get(timeout=PATIENCE)
            also()
        except (coordination.MemberNotJoined, coordination.GroupNotEmpty) as error:
            raise excp.JobFailure(f"this board lost its claim of {job.uuid}") from error
        except coordination.GroupNotCreated as error:
            raise excp.NotFound(f"no job {job.uuid}") from error
        del self._locks[job.uuid]
        lock.release()

    def _delete(self, job: ToozJob) -> None:
        self._coordinator.delete_group(job.group).get(timeout=PATIENCE)

    @base.check_who
    @_failures
    def consume(self, job: ToozJob, who: str) -> None:
        """Delete a job that this board has claimed."""
        self._leave(job, who, lambda: self._delete(job))

    @base.check_who
    @_failures
    def abandon(self, job: ToozJob, who: str) -> None:
        """Give a job back that this board has claimed."""
        self._leave(job, who, lambda: None)

    @base.check_who
    @_failures
    def trash(self, job: ToozJob, who: str) -> None:
        """Give a job that this board has claimed another name, among the trash."""

        def move() -> None:
            self._create(job.group.replace(b".job.", b".trash.", 1))
            self._delete(job)

        self._leave(job, who, move)

    @_failures
    def register_entity(self, entity: Any) -> None:
        """Join the group of entities; all of one board are one member."""
        if entity.kind != "conductor":
            raise excp.NotImplementedError(f"no entities of kind {entity.kind!r}")
        self._entities[entity.name] = entity.to_dict()
        group, known = self.group("entities"), list(self._entities.values())
        self._create(group)
        try:
            self._coordinator.join_group(group, known).get(timeout=PATIENCE)
        except coordination.MemberAlreadyExist:
            self._coordinator.update_capabilities(group, known).get(timeout=PATIENCE)
