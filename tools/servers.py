# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Start real stores for tests and benchmarks: free loopback ports, temporary folders, no leftovers.

From Python::

    with servers.redis_server() as redis:
        redis.url, redis.kill(), redis.restart(wipe=True), redis.pause(), redis.resume()

From a shell, with the URLs in ``MULTIBOARD_REDIS_URL`` and ``MULTIBOARD_ZOOKEEPER_URL``::

    python tools/servers.py redis zookeeper -- COMMAND

A store that is not installed is a :class:`RuntimeError`, never a skip. This module imports the
standard library only: it has to run before anything is installed.
"""

from __future__ import annotations

import abc
import contextlib
import ctypes
import glob
import os
import random
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NoReturn

HOST = "127.0.0.1"
#: Below the range from which Linux takes the ports of outgoing connections: a server that was
#: killed finds its port free when it is started again.
PORTS = range(15000, 32000)
#: Seconds; a JVM on a busy machine with two cores takes a tenth of it.
READY_WITHIN = 60.0
STOP_WITHIN = 10.0
ATTEMPTS = 5

#: Every server that this process started, for the report of a test run.
started: list[Server] = []


class _PortTaken(Exception):
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
        """Tell whether a client is served; may raise ``OSError``."""

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
                self.port = _free_port()
            try:
                self._launch()
            except _PortTaken:
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

    def pause(self) -> None:
        """Freeze it with ``SIGSTOP``: connections stay open and nothing answers."""
        self._signal(signal.SIGSTOP)

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
        supervise = [__file__, "--supervise", str(os.getpid()), self.folder]
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
                    raise _PortTaken
                raise RuntimeError(f"{self.name} did not start:\n{self.log[-2000:]}")
            with contextlib.suppress(OSError):
                # Somebody else's server on this port would answer as well.
                if self._answers() and _listens(self.pid, self.port):
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


class RedisServer(Server):
    """A Redis without periodic snapshots; its writes are in an append-only file, or nowhere."""

    name = "redis"

    def __init__(
        self,
        *,
        appendonly: bool = True,
        password: str | None = None,
        options: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.appendonly = appendonly
        self.password = password
        self.options = tuple(options)
        self._program = _program("redis-server", "redis-server")

    @property
    def url(self) -> str:
        secret = "" if self.password is None else f":{self.password}@"
        return f"redis://{secret}{self.host}:{self.port}/0"

    def _command(self) -> list[str]:
        command = [self._program, "--bind", self.host, "--port", str(self.port)]
        command += ["--dir", self._data, "--save", "", "--daemonize", "no"]
        command += ["--appendonly", "yes" if self.appendonly else "no"]
        if self.password is not None:
            command += ["--requirepass", self.password]
        return [*command, *self.options]

    def _answers(self) -> bool:
        lines = [] if self.password is None else [["AUTH", self.password]]
        with socket.create_connection((self.host, self.port), 1.0) as client:
            for words in [*lines, ["PING"], ["INFO", "server"]]:
                parts = [f"${len(word.encode())}\r\n{word}\r\n" for word in words]
                client.sendall(f"*{len(words)}\r\n{''.join(parts)}".encode())
                answer = client.recv(65536).decode(errors="replace")
                if words == ["PING"] and not answer.startswith("+PONG"):
                    return False  # -LOADING: it still reads its file
                _, found, rest = answer.partition("redis_version:")
                if found:
                    self.version = rest.split()[0]
        return True


class ZooKeeperServer(Server):
    """A stand-alone ZooKeeper with stock limits, but for its tick."""

    name = "zookeeper"

    def __init__(self, *, tick_ms: int = 500, options: Mapping[str, str] | None = None) -> None:
        super().__init__()
        self.tick_ms = tick_ms
        self.options = dict(options or {})
        self._java = _program("java", "default-jre-headless")
        self._jars = _zookeeper_jars()
        if not self._jars:
            _missing("ZooKeeper (zookeeper.jar)", "zookeeper")

    @property
    def url(self) -> str:
        return f"zookeeper://{self.host}:{self.port}"

    def _command(self) -> list[str]:
        settings = {
            "dataDir": self._data,
            "clientPort": str(self.port),
            "clientPortAddress": self.host,
            "tickTime": str(self.tick_ms),
            "maxClientCnxns": "0",
            "admin.enableServer": "false",
            **self.options,
        }
        path = os.path.join(self.folder, "zoo.cfg")
        with open(path, "w") as file:
            file.writelines(f"{name}={value}\n" for name, value in settings.items())
        for jar in self._jars:
            name = os.path.basename(jar)
            if name.startswith("zookeeper-") and name[10:11].isdigit():
                self.version = name[len("zookeeper-") : -len(".jar")]
        flags = ["-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData"]
        flags += ["-Djava.net.preferIPv4Stack=true", "-Dzookeeper.preAllocSize=1024"]
        flags += ["-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"]
        main = "org.apache.zookeeper.server.quorum.QuorumPeerMain"
        return [self._java, *flags, "-cp", ":".join(self._jars), main, path]

    def _answers(self) -> bool:
        # A ConnectRequest: protocol, last zxid, time-out in ms, session id, password, read-only.
        request = struct.pack(">iqiqi16s?", 0, 0, 4000, 0, 16, b"", False)
        close = struct.pack(">ii", 1, -11)
        with socket.create_connection((self.host, self.port), 1.0) as client:
            client.settimeout(5.0)
            client.sendall(struct.pack(">i", len(request)) + request)
            answer = client.recv(4)
            if len(answer) < 4:
                return False  # it accepted, but does not serve yet
            client.recv(struct.unpack(">i", answer)[0])
            client.sendall(struct.pack(">i", len(close)) + close)  # leave no session behind
            client.recv(64)
        return True


# -- what the tests use ------------------------------------------------------------------------


@contextlib.contextmanager
def _running(server: Server) -> Iterator[Server]:
    try:
        server.start()
        yield server
    finally:
        server.close()


@contextlib.contextmanager
def redis_server(
    *, appendonly: bool = True, password: str | None = None, options: Sequence[str] = ()
) -> Iterator[Server]:
    """Run a Redis; ``options`` are command line words (``"--maxmemory", "10mb"``)."""
    made = RedisServer(appendonly=appendonly, password=password, options=options)
    with _running(made) as server:
        yield server


@contextlib.contextmanager
def zookeeper_server(
    *, tick_ms: int = 500, options: Mapping[str, str] | None = None
) -> Iterator[Server]:
    """Run a ZooKeeper; sessions last 2 to 20 ticks, ``options`` are lines of its zoo.cfg."""
    with _running(ZooKeeperServer(tick_ms=tick_ms, options=options)) as server:
        yield server


_SERVERS: Mapping[str, Callable[[], contextlib.AbstractContextManager[Server]]] = {
    "redis": redis_server,
    "zookeeper": zookeeper_server,
}


def server(name: str) -> contextlib.AbstractContextManager[Server]:
    """Run the store called ``name`` with its defaults."""
    if name not in _SERVERS:
        raise ValueError(f"no server {name!r}; there are {', '.join(sorted(_SERVERS))}")
    return _SERVERS[name]()


# -- finding things ----------------------------------------------------------------------------


def _missing(what: str, package: str) -> NoReturn:
    raise RuntimeError(
        f"{what} is not installed: run tools/install-servers, or install the Debian package "
        f"{package}. Tests need the real stores and do not skip them."
    )


def _program(name: str, package: str) -> str:
    # Debian keeps servers in sbin, which is not on everybody's path.
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"])
    found = shutil.which(name, path=path)
    if found is None:
        _missing(name, package)
    return found


def _zookeeper_jars() -> list[str]:
    """Return the class path: that of ZOOKEEPER_HOME, else of the distribution's package."""
    home = os.environ.get("ZOOKEEPER_HOME")
    if home:
        return sorted(glob.glob(f"{home}/*.jar") + glob.glob(f"{home}/lib/*.jar"))
    folder = "/usr/share/java"
    jars = sorted(glob.glob(f"{folder}/zookeeper-[0-9]*.jar"), reverse=True)
    jars += glob.glob(f"{folder}/zookeeper.jar")
    # The jar's manifest names its other parts, but none that writes the log.
    return [*jars[:1], *glob.glob(f"{folder}/slf4j-simple.jar")] if jars else []


def _free_port() -> int:
    for port in random.sample(PORTS, 200):
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind((HOST, port))
            return port
    raise RuntimeError(f"no free port from {PORTS.start} to {PORTS.stop}")


def _listens(pid: int, port: int) -> bool:
    """Tell whether process ``pid`` listens on ``port``; true where the system can't tell."""
    inodes = set()
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError), open(f"/proc/net/{table}") as file:
            for line in list(file)[1:]:
                words = line.split()
                if words[3] == "0A" and int(words[1].rpartition(":")[2], 16) == port:
                    inodes.add(f"socket:[{words[9]}]")
    if not os.path.exists("/proc/net/tcp"):
        return True
    for descriptor in glob.iglob(f"/proc/{pid}/fd/*"):
        with contextlib.suppress(OSError):
            if os.readlink(descriptor) in inodes:
                return True
    return False


# -- the supervisor ----------------------------------------------------------------------------


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def _supervise(parent: int, folder: str, command: Sequence[str]) -> None:
    """Run ``command`` until it ends or the process ``parent`` is gone, then leave nothing behind.

    The kernel's "signal me when my parent dies" means the parent's *thread*: a server that a
    worker thread of the tests started would die with that thread. So the tests' process is
    watched by its id, and the kernel's signal is for a death of this supervisor.
    """
    with open(os.path.join(folder, "server.log"), "ab") as log:
        child = subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            preexec_fn=_die_with_parent,  # safe: there is no other thread yet
        )
    print(child.pid, flush=True)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.1)
        child.kill()

    threading.Thread(target=watch, daemon=True).start()
    child.wait()
    if os.getppid() != parent:
        shutil.rmtree(folder, ignore_errors=True)


def _terminated(*_: object) -> NoReturn:
    sys.exit(128 + signal.SIGTERM)


def main(arguments: Sequence[str]) -> int:
    """Run a command with servers beside it; return its exit status."""
    if arguments[:1] == ["--supervise"]:
        _supervise(int(arguments[1]), arguments[2], arguments[3:])
        return 0
    names = list(arguments[: arguments.index("--")]) if "--" in arguments else []
    command = arguments[len(names) + 1 :]
    if not names or not command or set(names) - set(_SERVERS):
        known = " ".join(sorted(_SERVERS))
        print(f"usage: servers.py NAME... -- COMMAND...   names: {known}", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, _terminated)
    with contextlib.ExitStack() as stack:
        environment = dict(os.environ)
        try:
            for name in dict.fromkeys(names):
                url = stack.enter_context(server(name)).url
                environment[f"MULTIBOARD_{name.upper()}_URL"] = url
        except RuntimeError as error:
            print(f"[servers] {error}", file=sys.stderr)
            return 1
        try:
            status = subprocess.call(command, env=environment)
        except OSError as error:
            print(f"[servers] {command[0]}: {error.strerror}", file=sys.stderr)
            return 127
        return status if status >= 0 else 128 - status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
