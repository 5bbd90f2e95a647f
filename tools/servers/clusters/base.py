# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Several servers that form one store, and the faults that can be done to them.

Imports the standard library and the servers only.
"""

from __future__ import annotations

import abc
import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

from servers.process import Server

#: Seconds within which a cluster has to be in step again, on a busy machine.
IN_STEP_WITHIN = 60.0


class Cluster(abc.ABC):
    """Several servers that form one store.

    A subclass makes its members, with their ports, in ``__init__``; nothing runs before
    :meth:`start`.
    """

    #: By which it is asked for: ``zookeeper``, ``redis+sentinel``.
    name: str
    #: Why an acknowledged write may be lost when a member dies; empty where none may be.
    may_lose = ""
    #: The options of a URL with which none is lost all the same.
    safe: ClassVar[Mapping[str, str]] = {}

    def __init__(self) -> None:
        self.members: list[Server] = []

    @property
    def may_end_early(self) -> str:
        """Why the store may end a session that is kept; empty where it may not."""
        return ""

    @property
    @abc.abstractmethod
    def url(self) -> str:
        """The URL by which multiboard finds it."""

    @abc.abstractmethod
    def faults(self) -> Mapping[str, Callable[[], None]]:
        """Return what can be done to it, by name; each returns once the fault is there.

        A fault is done to a cluster that is in step, and ended by :meth:`heal`.
        """

    @property
    def can_be_put_back(self) -> bool:
        """Whether a backup that is put back is the whole of what its clients see."""
        return True

    def disturbances(self) -> Mapping[str, Callable[[], None]]:
        """Return what an administrator may do to it, by name: it is in step all the while.

        Each returns once it is done; :meth:`heal` undoes what has to be undone.
        """
        return {}

    @abc.abstractmethod
    def in_step(self) -> bool:
        """Return whether every member serves, and all agree who leads."""

    def url_through(self, addresses: Sequence[tuple[str, int]]) -> str | None:
        """Return the URL for a client that reaches the members at other addresses, in order.

        None where the store hands its clients the addresses itself: nothing can stand between.
        """
        return None

    def start(self) -> None:
        """Start all members at once and wait until they are in step."""
        self._all(lambda member: member.start())
        self.settle()

    def heal(self) -> None:
        """Let everything run again, and wait until all are in step."""
        self._all(lambda member: member.resume())
        self._all(lambda member: member.start())
        self.settle()

    def back_up(self, folder: str) -> None:
        """Stop it, copy the data of all members to a folder, and start it again."""
        self._stopped(lambda member, place: shutil.copytree(member.data, place), folder)

    def put_back(self, folder: str) -> None:
        """Stop it, and start it again with the data that :meth:`back_up` copied."""

        def put(member: Server, place: str) -> None:
            shutil.rmtree(member.data)
            shutil.copytree(place, member.data)

        self._stopped(put, folder)

    def _stopped(self, act: Callable[[Server, str], object], folder: str) -> None:
        self._all(lambda member: member.kill())
        for number, member in enumerate(self.members):
            act(member, os.path.join(folder, str(number)))
        self.heal()

    def settle(self) -> None:
        """Wait until all are in step."""
        until(self.in_step, f"the {self.name} cluster is not in step")

    def close(self) -> None:
        """Kill all members and delete their folders."""
        self._all(lambda member: member.kill())  # in order, each would wait for the others
        self._all(lambda member: member.close())

    def _all(self, act: Callable[[Server], None]) -> None:
        # A member serves only when enough of the others do: never one after the other.
        with ThreadPoolExecutor(max(1, len(self.members))) as pool:
            list(pool.map(act, self.members))


class Quorum(Cluster):
    """Members that elect one of them, and go on while most of them live."""

    @abc.abstractmethod
    def leader(self) -> Server:
        """Return the member that leads; waits while there is none."""

    def follower(self) -> Server:
        """Return a member that follows."""
        leader = self.leader()
        return next(member for member in self.members if member is not leader and member.running)

    def faults(self) -> Mapping[str, Callable[[], None]]:
        return {
            "leader killed": lambda: self.leader().kill(),
            "leader frozen": lambda: self.leader().pause(),
            "follower killed": lambda: self.follower().kill(),
            "follower frozen": lambda: self.follower().pause(),
            "all killed": self._kill_all,
        }

    def _kill_all(self) -> None:
        for member in self.members:
            member.kill()


def until(ready: Callable[[], bool], otherwise: str, within: float = IN_STEP_WITHIN) -> None:
    """Wait until something is the case.

    Raises: ``RuntimeError`` with ``otherwise`` where it does not come about.
    """
    give_up = time.monotonic() + within
    while not ready():
        if time.monotonic() > give_up:
            raise RuntimeError(f"{otherwise} after {within:g} s")
        time.sleep(0.05)


@contextlib.contextmanager
def running(cluster: Cluster) -> Iterator[Cluster]:
    """Run a cluster; at the end it is stopped and its folders deleted."""
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.close()
