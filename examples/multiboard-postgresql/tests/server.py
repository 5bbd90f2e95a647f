# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""A PostgreSQL server for the tests: in a temporary folder, on a free port, gone afterwards."""

from __future__ import annotations

import contextlib
import glob
import json
import os
import pathlib
import pwd
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence

HOST = "127.0.0.1"
PASSWORD = "correct-horse"
SECONDS = 60.0


#: Below the range from which Linux takes the ports of outgoing connections: a server that was
#: stopped finds its port free when it is started again.
PORTS = range(12000, 15000)


class Server:
    """A server whose folder describes it, so that another process can restart it."""

    def __init__(self, folder: str) -> None:
        self.folder = pathlib.Path(folder)
        self.port, self._bin, self._user = json.loads((self.folder / "server.json").read_text())

    @classmethod
    def start_new(cls) -> Server:
        """Make a cluster and start it."""
        found = sorted(glob.glob("/usr/lib/postgresql/*/bin/initdb"))
        program = found[-1] if found else shutil.which("initdb")
        if program is None:
            raise RuntimeError(
                "PostgreSQL is not installed: install the Debian package postgresql. "
                "These tests need a real server and do not skip it."
            )
        folder = tempfile.mkdtemp(prefix="multiboard-postgresql-")
        port = _free_port()
        user = None
        if os.getuid() == 0:  # the server refuses to be root
            user = "nobody"
            os.chown(folder, pwd.getpwnam(user).pw_uid, pwd.getpwnam(user).pw_gid)
        words = [port, os.path.dirname(os.path.realpath(program)), user]
        (pathlib.Path(folder) / "server.json").write_text(json.dumps(words))
        server = cls(folder)
        try:
            secret = server.folder / "secret"
            secret.write_text(PASSWORD)
            secret.chmod(0o644)
            server._run(
                "initdb", "--pgdata", str(server.data), "--username=board", "--auth=scram-sha-256",
                f"--pwfile={secret}", "--encoding=UTF8", "--no-locale", "--no-sync",
            )  # fmt: skip
            with (server.data / "postgresql.conf").open("a") as conf:
                conf.write(
                    f"listen_addresses = '{HOST}'\nport = {port}\n"
                    "unix_socket_directories = ''\n"
                    "max_connections = 400\nshared_buffers = 32MB\n"
                )
            server.start()
        except BaseException:
            server.close()
            raise
        return server

    @property
    def data(self) -> pathlib.Path:
        """The cluster."""
        return self.folder / "data"

    @property
    def url(self) -> str:
        """Where a board may be."""
        return f"postgresql://board:{PASSWORD}@{HOST}:{self.port}/postgres"

    def start(self) -> None:
        """Start the server and wait until it serves."""
        log = str(self.folder / "server.log")
        self._run("pg_ctl", "start", "-w", "-s", "-D", str(self.data), "-l", log)

    def kill(self) -> None:
        """Kill the server, all its processes; its data stay."""
        pid = int((self.data / "postmaster.pid").read_text().split()[0])
        children = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        processes = [pid, *map(int, children)]
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        give_up = time.monotonic() + SECONDS
        while any(map(_lives, processes)):
            if time.monotonic() > give_up:
                raise RuntimeError("the server does not die")
            time.sleep(0.01)
        (self.data / "postmaster.pid").unlink()

    def fall_back(self, writes: Callable[[], None]) -> None:
        """Fail over to a copy of the server that lacks what ``writes`` writes."""
        copy = self.folder / "copy"
        self._run("pg_basebackup", "--pgdata", str(copy), "--checkpoint=fast", "--dbname", self.url)
        writes()
        self.kill()
        shutil.rmtree(self.data)
        copy.rename(self.data)
        self.start()

    def close(self) -> None:
        """Stop the server and delete its folder."""
        if (self.data / "postmaster.pid").exists():
            self._run("pg_ctl", "stop", "-m", "immediate", "-w", "-s", "-D", str(self.data))
        shutil.rmtree(self.folder, ignore_errors=True)

    def _run(self, program: str, *words: str) -> None:
        command: Sequence[str] = [f"{self._bin}/{program}", *words]
        done = subprocess.run(
            command, cwd=self.folder, user=self._user, group=None if self._user is None else
            pwd.getpwnam(self._user).pw_gid, extra_groups=[] if self._user else None,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            timeout=SECONDS, check=False,
        )  # fmt: skip
        if done.returncode:
            log = self.folder / "server.log"
            output = log.read_text()[-2000:] if log.exists() else ""
            raise RuntimeError(f"{program} failed: {done.stderr.decode()}\n{output}")


def _free_port() -> int:
    """Return a port that nobody listens on."""
    for port in random.sample(PORTS, len(PORTS)):
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind((HOST, port))
            return port
    raise RuntimeError(f"all ports from {PORTS.start} to {PORTS.stop} are taken")


def _lives(process: int) -> bool:
    """Tell whether a process lives; a zombie does not."""
    try:
        stat = pathlib.Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"
