# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""What a service reports to the manager that started it, by systemd's protocol of datagrams."""

from __future__ import annotations

import logging
import os
import socket

LOG = logging.getLogger(__name__)

#: Seconds for one datagram: a manager that does not read must not hold up a drain.
PATIENCE = 1.0


def notify(*lines: str) -> None:
    """Send ``READY=1``, ``STOPPING=1`` and the like; nothing where ``NOTIFY_SOCKET`` is not set.

    What can't be sent is logged: the work goes on.
    """
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):  # in the abstract namespace
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as made:
            made.settimeout(PATIENCE)
            made.connect(address)
            made.send("\n".join(lines).encode())
    except (OSError, ValueError) as error:
        LOG.warning("NOTIFY_SOCKET can't be written to: %s", error)
