# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Waiting for sockets: for backends that talk to their server through sockets of their own.

It imports the standard library only.
"""

from __future__ import annotations

import select
import time
from collections.abc import Sequence
from typing import Any


def wait_for(
    readers: Sequence[Any], writers: Sequence[Any], timeout: float | None
) -> tuple[list[Any], list[Any]]:
    """Return those that can be read, those that can be written; an end that broke is both.

    It waits up to ``timeout`` seconds for one of them, and for ever where that is None. ``poll`` is
    for any number of descriptors, and gone where eventlet has patched the standard library, whose
    ``select`` then is for any number: so it is looked up at each call.

    Raises: ``OSError`` and ``ValueError`` for what is closed.
    """
    poll = getattr(select, "poll", None)
    if poll is None:
        return _cooperatively(readers, writers, timeout)
    poller = poll()
    inward = {_descriptor(one): one for one in readers}
    outward = {_descriptor(one): one for one in writers}
    for descriptor in inward.keys() | outward.keys():
        wanted = select.POLLIN if descriptor in inward else 0
        poller.register(descriptor, wanted | (select.POLLOUT if descriptor in outward else 0))
    found = poller.poll(None if timeout is None else max(0.0, timeout) * 1000)
    broken = ~(select.POLLIN | select.POLLOUT)
    return (
        [inward[d] for d, event in found if d in inward and event & (select.POLLIN | broken)],
        [outward[d] for d, event in found if d in outward and event & (select.POLLOUT | broken)],
    )


def _cooperatively(
    readers: Sequence[Any], writers: Sequence[Any], timeout: float | None
) -> tuple[list[Any], list[Any]]:
    give_up = None if timeout is None else time.monotonic() + timeout
    while True:
        left = None if give_up is None else max(0.0, give_up - time.monotonic())
        found, ready, _ = select.select(readers, writers, [], left)
        if len(readers) + len(writers) > 1:
            # Where several became ready at once eventlet wakes us for each, this time or, with an
            # answer to the question before, the next time that we wait for anything.
            time.sleep(0)
        answer = [one for one in found if one in readers], [one for one in ready if one in writers]
        if any(answer) or not (found or ready):
            return answer


def _descriptor(one: Any) -> int:
    descriptor = one.fileno()
    if descriptor < 0:
        raise ValueError("the socket is closed")
    return int(descriptor)
