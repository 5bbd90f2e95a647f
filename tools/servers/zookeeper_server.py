# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""ZooKeeper, stand-alone."""

from __future__ import annotations

import glob
import os
import socket
import struct
from collections.abc import Mapping, Sequence

from servers.process import Server, missing, program


class ZooKeeperServer(Server):
    """A stand-alone ZooKeeper with stock limits, but for its tick.

    ``options`` are lines of its zoo.cfg, ``flags`` are words for its JVM.
    """

    name = "zookeeper"

    def __init__(
        self,
        *,
        tick_ms: int = 500,
        options: Mapping[str, str] | None = None,
        flags: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.tick_ms = tick_ms
        self.flags = list(flags)
        self.options = dict(options or {})
        self._java = program("java", "default-jre-headless")
        self._jars = _jars_of_zookeeper()
        if not self._jars:
            missing("ZooKeeper (zookeeper.jar)", "zookeeper")

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
        return [self._java, *flags, *self.flags, "-cp", ":".join(self._jars), main, path]

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


def _jars_of_zookeeper() -> list[str]:
    """Return the class path: that of ZOOKEEPER_HOME, else of the distribution's package."""
    home = os.environ.get("ZOOKEEPER_HOME")
    if home:
        return sorted(glob.glob(f"{home}/*.jar") + glob.glob(f"{home}/lib/*.jar"))
    folder = "/usr/share/java"
    jars = sorted(glob.glob(f"{folder}/zookeeper-[0-9]*.jar"), reverse=True)
    jars += glob.glob(f"{folder}/zookeeper.jar")
    # The jar's manifest names its other parts, but none that writes the log, and for TLS not all.
    more = [f"{folder}/{name}.jar" for name in ("slf4j-simple", "netty-codec", "netty-resolver")]
    return [*jars[:1], *filter(os.path.exists, more)] if jars else []
