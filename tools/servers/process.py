# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""A store's server as a process: started, killed, frozen, restarted, and gone with its owner.

Imports the standard library only.
"""

from __future__ import annotations

import abc
import contextlib
import glob
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from typing import NoReturn

from servers.ports import HOST, free_port, listens

#: Seconds; a JVM on a busy machine with two cores takes a tenth of it.
READY_WITHIN = 60.0
STOP_WITHIN = 10.0
ATTEMPTS = 5

#: What runs a server's process and ends it with ours.
SUPERVISOR = os.path.join(os.path.dirname(__file__), "supervise.py")

#: Every server that this process started, for the report of a test run.
started: list[Server] = []


class PortTaken(Exception):
    """Another process was faster."""


class Server(abc.ABC):
    """One store in one process, with its data in a temporary folder.

    It stays on its port over :meth:`kill` and :meth:`restart`. It does not outlive the process
    that made it, even where that one is killed.
    """

    name: str
    host = HOST

    def __init__(self) -> None:
        self.port = 0
        self.pid = 0
        self.version = "unknown"
        self.folder = ""
        self._owner = os.getpid()
        self._supervisor: subprocess.Popen[bytes] | None = None

    @property
    @abc.abstractmethod
    def url(self) -> str:
        """The URL by which multiboard finds it."""

    @abc.abstractmethod
    def _command(self) -> list[str]:
        """Return the command line; called after the folder and the port are known."""

    @abc.abstractmethod
    def _answers(self) -> bool:
        """Return whether a client is served; may raise ``OSError``."""

    @property
    def running(self) -> bool:
        """Whether the server's process exists (a paused one does)."""
        return self._supervisor is not None and self._supervisor.poll() is None

    @property
    def log(self) -> str:
        """What the server wrote so far."""
        with contextlib.suppress(OSError), open(self._log_path, errors="replace") as file:
            return file.read()
        return ""

    def serves(self) -> bool:
        """Return whether a client is served now."""
        with contextlib.suppress(OSError):
            return self._answers()
        return False

    def start(self) -> None:
        """Start it and wait until it serves; a repeat does nothing.

        Raises: ``RuntimeError`` with the end of the server's log where it does not start.
        """
        if self.running:
            return
        if not self.folder:
            self.folder = tempfile.mkdtemp(prefix=f"multiboard-{self.name}-")
            os.mkdir(self._data)
        first = self.port == 0
        for attempt in range(ATTEMPTS):
            if first:
                self.port = free_port()
            try:
                self._launch()
            except PortTaken:
                if not first:  # its own port: whoever has it may be on the way out
                    time.sleep(0.2 * (attempt + 1))
            else:
                break
        else:
            raise RuntimeError(f"{self.name}: no port to listen on after {ATTEMPTS} attempts")
        started.append(self)
        print(f"[servers] {self}", file=sys.stderr, flush=True)

    def stop(self) -> None:
        """Stop it in order and keep its data; one that does not stop in time is killed."""
        if self.running:
            self._signal(signal.SIGTERM)
            self._signal(signal.SIGCONT)
            self._await_end(STOP_WITHIN)

    def kill(self) -> None:
        """Kill it with ``SIGKILL``; when this returns the process is gone."""
        if self.running:
            self._signal(signal.SIGKILL)
            self._await_end(STOP_WITHIN)

    def restart(self, wipe: bool = False) -> None:
        """Stop it, forget its data where ``wipe`` is true, and start it on the same port."""
        self.stop()
        if wipe:
            shutil.rmtree(self._data, ignore_errors=True)
            os.mkdir(self._data)
        self.start()

    @property
    def data(self) -> str:
        """The folder that holds what it stores."""
        return self._data

    def back_up(self, folder: str) -> None:
        """Stop it, copy its data to a folder that is not there yet, and start it again."""
        self.stop()
        shutil.copytree(self._data, folder)
        self.start()

    def put_back(self, folder: str) -> None:
        """Stop it, and start it again with the data that :meth:`back_up` copied."""
        self.stop()
        shutil.rmtree(self._data)
        shutil.copytree(folder, self._data)
        self.start()

    def pause(self) -> None:
        """Freeze it with ``SIGSTOP``: connections stay open and nothing answers.

        The signal is sent to the process, and stops its threads when one of them was given a
        processor to take it; until then the others go on. When this returns all of them stand.
        """
        self._signal(signal.SIGSTOP)
        give_up = time.monotonic() + STOP_WITHIN
        while not stands(self.pid):
            if time.monotonic() > give_up:
                raise RuntimeError(f"{self} did not stand still within {STOP_WITHIN:g} s")
            time.sleep(0.001)

    def resume(self) -> None:
        """Let a frozen server go on."""
        self._signal(signal.SIGCONT)

    def close(self) -> None:
        """Stop it and delete its folder. In a forked child it does nothing."""
        if os.getpid() != self._owner:
            return
        self.stop()
        if self.folder:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder = ""

    def __str__(self) -> str:
        return f"{self.name} {self.version} on {self.host}:{self.port} (pid {self.pid})"

    # -- the process -------------------------------------------------------------------------

    @property
    def _data(self) -> str:
        return os.path.join(self.folder, "data")

    @property
    def _log_path(self) -> str:
        return os.path.join(self.folder, "server.log")

    def _launch(self) -> None:
        with contextlib.suppress(OSError):
            os.unlink(self._log_path)
        supervise = [SUPERVISOR, str(os.getpid()), self.folder]
        self._supervisor = subprocess.Popen(
            [sys.executable, "-I", "-S", *supervise, *self._command()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for the tests, which then stop their servers
        )
        assert self._supervisor.stdout is not None
        with self._supervisor.stdout as answer:
            self.pid = int(answer.readline() or 0)
        give_up = time.monotonic() + READY_WITHIN
        while time.monotonic() < give_up:
            if not self.running:
                if "in use" in self.log:
                    raise PortTaken
                raise RuntimeError(f"{self.name} did not start:\n{self.log[-2000:]}")
            with contextlib.suppress(OSError):
                # Somebody else's server on this port would answer as well.
                if self._answers() and listens(self.pid, self.port):
                    return
            time.sleep(0.02)
        self.kill()
        raise RuntimeError(f"{self.name} served nobody in {READY_WITHIN} s:\n{self.log[-2000:]}")

    def _signal(self, number: int) -> None:
        if self.running:  # only then is the pid surely still the server's
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def _await_end(self, seconds: float) -> None:
        assert self._supervisor is not None
        try:
            self._supervisor.wait(seconds)
        except subprocess.TimeoutExpired:
            self._signal(signal.SIGKILL)
            self._supervisor.wait(seconds)


# -- finding things ----------------------------------------------------------------------------


def missing(what: str, package: str) -> NoReturn:
    raise RuntimeError(
        f"{what} is not installed: run tools/install-servers, or install the Debian package "
        f"{package}. Tests need the real stores and do not skip them."
    )


def program(name: str, package: str) -> str:
    # Debian keeps servers in sbin, which is not on everybody's path.
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"])
    found = shutil.which(name, path=path)
    if found is None:
        missing(name, package)
    return found


def stands(pid: int) -> bool:
    """Return whether no thread of a process runs; true where the system does not show it."""
    for path in glob.iglob(f"/proc/{pid}/task/*/stat"):
        with contextlib.suppress(OSError), open(path) as file:  # a thread may have ended
            if file.read().rpartition(")")[2].split()[0] not in "TtZX":
                return False
    return True
