# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""What the server is, for operators, and which of its settings endanger the board.

It imports the errors and the board. A server that refuses ``INFO`` is fine: less is shown of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from multiboard import errors
from multiboard.backends.redis.session import Board


def of(board: Board) -> Mapping[str, str]:
    """Return facts and warnings as of :meth:`multiboard.primitives.Backend.server_info`."""
    facts = {"store": "redis", "address": board.address}
    if board.version:
        facts["version"] = board.version
    try:
        text = board.query("INFO").decode("utf-8", "replace")
    except (errors.AccessDenied, errors.Unavailable, errors.Closed):
        return facts
    finally:
        server = board.server
        if server != board.address:
            facts["server"] = server
    info = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    facts["version"] = info.get("redis_version", board.version)
    facts.update((f"warning_{name}", text) for name, text in _warnings(info, board.replicas))
    return facts


def _warnings(info: Mapping[str, str], wanted: int) -> Iterator[tuple[str, str]]:
    if info.get("aof_enabled") == "0":
        yield (
            "persistence",
            "appendonly is off: postings acknowledged since the last snapshot are lost where the"
            " server dies",
        )
    policy = info.get("maxmemory_policy", "noeviction")
    # The others drop keys that have a time to live, and the board's have none.
    if policy.startswith("allkeys"):
        yield (
            "eviction",
            f"maxmemory-policy is {policy}: the server may drop the board when memory is short",
        )
    if info.get("role") == "slave":
        yield "replica", "the server is a replica: it takes no writes"
        return
    replicas = int(info.get("connected_slaves", "0"))
    if replicas < wanted:
        yield (
            "durability",
            f"durability is wait:{wanted} and the server has {replicas} replicas: what changes the"
            " board stays indeterminate",
        )
    elif replicas and not wanted and "min_slaves_good_slaves" not in info:
        yield (
            "failover",
            "the server has replicas, and neither the option durability nor min-replicas-to-write"
            " is set: what it acknowledged last is lost where a replica takes over",
        )
