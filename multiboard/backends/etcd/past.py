# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""What the revisions that etcd keeps prove: how a lease ended, whether a posting was ever added.

etcd keeps every revision until it is compacted. This module imports the errors and its own
siblings.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from multiboard import errors
from multiboard.backends.etcd import messages
from multiboard.backends.etcd.messages import M
from multiboard.backends.etcd.session import Session
from multiboard.backends.etcd.watch import Watch

#: Revisions looked at in one step of a search.
_SEARCH = 50


def how_lease_ended(session: Session, key: str, token: int) -> str | None:
    """Return what ended a lease: "remove", "trash", "release" or "expiry".

    None where it has not ended, or there was none.

    Raises: ``Compacted``; and as :meth:`Session.read`.
    """
    lease = session.keys.of("leases", key)
    answer = session.read([messages.read(lease)])
    if _is_lease(answer.responses[0], token) or token > answer.header.revision:
        return None
    then = session.read([messages.read(lease, revision=token)])
    if not _is_lease(then.responses[0], token):
        return None
    there, gone, stride = token, answer.header.revision, 1
    while gone - there > 1:
        # Most ended soon: begin with small strides, never longer than what is left.
        stride = max(1, min(stride, (gone - there) // _SEARCH))
        marks = range(there + stride, min(gone, there + stride * _SEARCH), stride)
        past = session.read([messages.read(lease, revision=mark) for mark in marks]).responses
        still = [_is_lease(response, token) for response in past]
        first = still.index(False) if False in still else len(still)
        if first < len(marks):
            gone = marks[first]
        else:
            stride *= _SEARCH
        if first > 0:
            there = marks[first - 1]
    folders = [session.keys.of(folder, key) for folder in ("live", "trash")]
    ended = session.read([messages.read(raw, revision=gone) for raw in folders]).responses
    live, trashed = (
        [kv for kv in response.response_range.kvs if kv.mod_revision == gone] for response in ended
    )
    if live:
        return "release"
    if trashed:
        return "trash"
    return "expiry" if ended[0].response_range.kvs else "remove"


def _is_lease(response: Any, token: int) -> bool:
    kvs = response.response_range.kvs
    return bool(kvs) and kvs[0].create_revision == token


def added_since(session: Session, keys: Sequence[str], since: int, fence: str) -> set[str]:
    """Return which live postings were made after a revision and before a fence was closed.

    They may be gone since.

    Raises: ``Indeterminate`` where the past is not kept; ``Unavailable``, ``Closed``.
    """
    live = {session.keys.of("live", key): key for key in keys}
    mark = session.keys.of("fences", fence)
    client = session.client
    watch = Watch(
        client,
        M["WatchCreateRequest"](key=mark, range_end=max(live) + b"\0", start_revision=since + 1),
    )
    found: set[str] = set()
    give_up = time.monotonic() + client.patience
    try:
        while time.monotonic() < give_up:
            for response in watch.receive(client.patience, client.patience):
                if response.canceled:
                    raise errors.Indeterminate(
                        "whether postings were added can't be found out any more: "
                        f"{response.cancel_reason or 'their revision was compacted'}"
                    )
                for event in response.events:
                    if event.kv.key in live and event.type == messages.PUT:
                        found.add(live[event.kv.key])
                    elif event.kv.key == mark:
                        return found
    finally:
        watch.close()
    raise errors.Unavailable("etcd did not send the past in time")
