# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""What actors do by themselves, in a loop: run in a worker process, or in a thread of the suite.

A program takes a backend and simple arguments and returns what json can write. It imports the
primitives and the errors only: no pytest, every worker process loads it.
"""

from __future__ import annotations

import itertools
import os
import random
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any

from multiboard import errors
from multiboard.primitives import Backend, Lease, NewPosting, Shelf, boottime

#: Seconds of a timed lease that ends while a history goes on.
SHORT = 0.06


def claim_id() -> str:
    """Return a claim id for one attempt."""
    return uuid.uuid4().hex


def post(backend: Backend, *, keys: Sequence[str], rank: int = 0) -> int:
    """Post the keys one by one."""
    for key in keys:
        backend.add([NewPosting(key, key.encode(), rank)])
    return len(keys)


def drain(
    backend: Backend, *, holder: str, batch: int = 1, expires_in: float | None, idle: float
) -> list[str]:
    """Take and remove postings until there were none for ``idle`` seconds; return their keys."""
    done: list[str] = []
    hungry_since = boottime()
    while boottime() - hungry_since < idle:
        won = backend.acquire_next(holder, [claim_id() for _ in range(batch)], expires_in)
        if not won:
            time.sleep(0.02)
            continue
        answers = backend.remove([lease for _, lease in won])
        done += [
            lease.key for (_, lease), answer in zip(won, answers, strict=True) if answer is None
        ]
        hungry_since = boottime()
    return done


def churn(
    backend: Backend,
    *,
    holder: str,
    seed: float,
    rounds: int,
    keys: Sequence[str],
    timed: float,
) -> int:
    """Do random operations on the keys, leases included; what fails is part of the story.

    One lease in four is so short that it ends by itself.
    """
    dice = random.Random(seed)
    held: dict[str, Lease] = {}
    for _ in range(rounds):
        key = dice.choice(keys)
        lease = held.get(key)
        span = SHORT if dice.randrange(4) == 0 else timed
        try:
            if lease is None:
                _churn_free(backend, dice, holder, key, held, span)
            else:
                _churn_held(backend, dice, lease, held, span)
        except (errors.LeaseHeld, errors.LeaseLost, errors.PostingNotFound):
            held.pop(key, None)
    return len(held)


def _churn_free(
    backend: Backend,
    dice: random.Random,
    holder: str,
    key: str,
    held: dict[str, Lease],
    timed: float,
) -> None:
    choice = dice.randrange(5)
    if choice == 1:
        for posting, lease in backend.acquire_next(holder, [claim_id()], timed):
            held[posting.key] = lease
    elif choice == 2:
        backend.restore(key)
    else:
        attempt = claim_id()
        for _ in range(dice.randrange(1, 3)):  # a repeat must find the same lease
            held[key] = backend.acquire(key, holder, attempt, timed)


def _churn_held(
    backend: Backend, dice: random.Random, lease: Lease, held: dict[str, Lease], timed: float
) -> None:
    choice = dice.randrange(8)
    if choice == 0:
        held[lease.key] = backend.renew(lease, timed)
        return
    del held[lease.key]
    if choice == 1:
        backend.remove([lease])
    elif choice == 2:
        backend.remove([lease], Shelf.TRASH)
    else:
        backend.release(lease)
        if choice == 3:
            backend.release(lease)


def work(backend: Backend, *, prefix: str, seconds: float) -> int:
    """Post, lease and remove large postings for so long, through whatever happens; count them.

    It works past the record, which would take most of the time that a freeze is to meet.
    """
    backend = getattr(backend, "backend", backend)
    give_up = boottime() + seconds
    body = bytes(min(backend.traits.max_body, 64 * 1024))
    for number in itertools.count():
        key = f"{prefix}{number}"
        try:
            backend.add([NewPosting(key, body)])
            won = backend.acquire_next(prefix, [claim_id()], 5.0)
            backend.list()
            backend.remove([lease for _, lease in won])
        except (errors.BackendError, errors.SessionLost):
            time.sleep(0.02)
        if boottime() > give_up:
            return number
    raise AssertionError("there are enough numbers")


# -- fork ------------------------------------------------------------------------------------


def fork(backend: Backend, *, keys: Sequence[str], timeout: float) -> dict[str, str]:
    """Fork; let the child use the backend that it inherited; return what each of the two saw.

    The child posts ``keys[1]``, leases ``keys[2]`` under a session of its own, closes, and is gone.
    The parent holds ``keys[0]`` under a session lease all the time.
    """
    held = backend.acquire(keys[0], "parent", claim_id())
    backend.keepalive()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        result = "nothing"
        try:
            result = _as_child(backend, keys)
        except BaseException as error:
            ours = isinstance(error, errors.MultiboardError)
            result = f"{'refused' if ours else 'native'}: {type(error).__name__}: {error}"
        finally:
            os.write(writing, result.encode())
            os._exit(0)
    os.close(writing)
    seen = {"child": _read_all(reading, timeout)}
    if not seen["child"]:
        os.kill(child, 9)
    os.waitpid(child, 0)
    seen["posted"] = str(backend.get([keys[1]])[0] is not None)
    seen["lease"] = str(backend.get([keys[0]])[0].lease == held)  # type: ignore[union-attr]
    backend.keepalive()
    seen["removed"] = str(backend.remove([held])[0])
    return seen


def _as_child(backend: Backend, keys: Sequence[str]) -> str:
    first, second, third = keys
    backend.add([NewPosting(second, b"from the child")])
    lease = backend.acquire(third, "child", claim_id())
    parents = backend.get([first])[0]
    if parents is None or parents.lease is None:
        return "the parent's lease is not seen"
    if lease.session == parents.lease.session:
        return "the child leased under its parent's session"
    backend.keepalive()
    cursor = backend.changes(None, 0.0).cursor
    backend.release(lease)
    if not backend.changes(cursor, 5.0).events:
        return "the child's feed is silent"
    backend.close()
    return "fine"


def _read_all(descriptor: int, timeout: float) -> str:
    import select

    parts: list[bytes] = []
    give_up = boottime() + timeout
    while True:
        ready, _, _ = select.select([descriptor], [], [], max(0.0, give_up - boottime()))
        data = os.read(descriptor, 65536) if ready else b""
        if not data:
            os.close(descriptor)
            return b"".join(parts).decode()
        parts.append(data)


PROGRAMS: dict[str, Callable[..., Any]] = {
    "post": post,
    "drain": drain,
    "churn": churn,
    "fork": fork,
    "work": work,
}
