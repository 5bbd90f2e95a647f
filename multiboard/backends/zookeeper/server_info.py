# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""What an operator should see of the servers: their version, and what is wrong with them.

This module imports its own siblings.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from multiboard.backends.zookeeper.client import Client


def server_info(client: Client, session_timeout: float) -> Mapping[str, str]:
    """Return what is shown of the servers; warnings are among it."""
    version, alone = client.version()
    info = {
        "store": "zookeeper",
        "version": version or "unknown",
        "session_timeout": f"{client.granted:g} s",
    }
    if not alone and loses_transactions(version):
        info["warning_version"] = (
            f"ZooKeeper {version} is known to lose transactions of an ensemble whose members "
            "are killed (ZOOKEEPER-4785, ZOOKEEPER-4925): 3.8.4, 3.9.4 and later do not"
        )
    if client.granted > session_timeout:
        info["warning_session_timeout"] = (
            f"the server grants no session time-out below {client.granted:g} s; "
            f"{session_timeout:g} s were asked for"
        )
    return info


def loses_transactions(version: str) -> bool:
    """Return whether members of an ensemble of this version may come to hold different data.

    After ZOOKEEPER-4785, mended in 3.8.4 and 3.9.2, and ZOOKEEPER-4925, of 3.9.3 alone.
    """
    numbers = tuple(map(int, re.findall(r"[0-9]+", version)))
    return bool(numbers) and (
        numbers < (3, 8, 4) or (3, 9) <= numbers < (3, 9, 2) or numbers[:3] == (3, 9, 3)
    )
