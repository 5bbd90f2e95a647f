# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Ports to start servers on: free, and promised to one process at a time.

A server that was killed leaves its port free, and comes back to it; a cluster chooses all its
ports before the first of its members runs. Whoever else chose in the meantime could take them. So
a process draws from blocks of ports, and holds a block until it ends, by an UDP socket on the
block's first number: the system frees that even where the process is killed, nothing is left on
the disk, and TCP, which the servers speak, has numbers of its own.

Imports the standard library only.
"""

from __future__ import annotations

import contextlib
import glob
import os
import random
import socket
import threading

HOST = "127.0.0.1"
#: Below the range from which Linux takes the ports of outgoing connections: a server that was
#: killed finds its port free when it is started again.
PORTS = range(15000, 32000)
#: How many ports a process holds at once.
BLOCK = 50

_lock = threading.Lock()
_held: list[socket.socket] = []
_left: list[int] = []
# The block is the parent's, which goes on to draw from it.
os.register_at_fork(after_in_child=_left.clear)


def free_port() -> int:
    """Return a port as :func:`free_ports` does."""
    return free_ports(1)[0]


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on, and that no other process is given until this one ends.

    None is given twice in a process. Raises: ``RuntimeError`` where no block is left.
    """
    found: list[int] = []
    with _lock:
        while len(found) < count:
            if not _left:
                _left.extend(_block())
            port = _left.pop()
            with contextlib.suppress(OSError), socket.socket() as probe:
                probe.bind((HOST, port))
                found.append(port)
    return found


def _block() -> range:
    """Return a block of ports that was nobody's, and is ours from now on."""
    firsts = range(PORTS.start, PORTS.stop, BLOCK)
    for first in random.sample(firsts, len(firsts)):
        holder = socket.socket(type=socket.SOCK_DGRAM)
        try:
            holder.bind((HOST, first))
        except OSError:
            holder.close()
        else:
            _held.append(holder)
            return range(first, first + BLOCK)
    raise RuntimeError(f"all ports from {PORTS.start} to {PORTS.stop} are taken")


def listens(pid: int, port: int) -> bool:
    """Return whether process ``pid`` listens on ``port``; true where that can't be seen."""
    return not os.path.exists("/proc/net/tcp") or _has(pid, port, "0A")


def connects(pid: int, port: int) -> bool:
    """Return whether process ``pid`` made the connection that comes from ``port``."""
    return _has(pid, port, "01")


def _has(pid: int, port: int, state: str) -> bool:
    """Return whether a process has a socket at a port, in one of the kernel's states of sockets."""
    inodes = set()
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError), open(f"/proc/net/{table}") as file:
            for line in list(file)[1:]:
                words = line.split()
                if words[3] == state and int(words[1].rpartition(":")[2], 16) == port:
                    inodes.add(f"socket:[{words[9]}]")
    for descriptor in glob.iglob(f"/proc/{pid}/fd/*"):
        with contextlib.suppress(OSError):
            if os.readlink(descriptor) in inodes:
                return True
    return False
