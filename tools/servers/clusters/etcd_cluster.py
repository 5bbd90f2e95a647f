# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""An etcd cluster: one leader by Raft, the others follow."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence

from servers.clusters.base import Quorum, until
from servers.clusters.links import Links
from servers.etcd_server import EtcdServer
from servers.ports import free_ports
from servers.process import Server

_PASSWORD = "of-the-faults"


class EtcdCluster(Quorum):
    """etcd members that elect a leader among them, over links that can be cut."""

    name = "etcd"

    def __init__(self, size: int = 3, *, accounts: bool = False) -> None:
        """With ``accounts`` clients are asked for a password, and work by JSON web tokens."""
        super().__init__()
        self._keys = tempfile.TemporaryDirectory(prefix="multiboard-keys-") if accounts else None
        self._users = 0
        ports = free_ports(3 * size)
        listening, linked = ports[size : 2 * size], ports[2 * size :]
        peers = {f"m{n}": port for n, port in enumerate(linked)}
        self.servers = [
            EtcdServer(member=name, peers=peers, listens=port, options=self._token_options())
            for name, port in zip(peers, listening, strict=True)
        ]
        for server, port in zip(self.servers, ports[:size], strict=True):
            server.port = port
        self.members.extend(self.servers)
        self._links = Links(self.servers, listening, linked)

    def start(self) -> None:
        self._links.start()
        super().start()
        if self._keys is not None:
            self._admin("user/add", name="root", password=_PASSWORD)
            self._admin("role/add", name="root")
            self._admin("user/grant", user="root", role="root")
            self._admin("enable")

    def _token_options(self) -> list[str]:
        if self._keys is None:
            return []
        private, public = (os.path.join(self._keys.name, f"{name}.pem") for name in ("key", "pub"))
        if not os.path.exists(public):
            for words in (["genrsa", "-out", private, "2048"],
                          ["rsa", "-in", private, "-pubout", "-out", public]):  # fmt: skip
                subprocess.run(["openssl", *words], check=True, capture_output=True)
        words = ["jwt", f"pub-key={public}", f"priv-key={private}", "sign-method=RS256", "ttl=10m"]
        return ["--auth-token", ",".join(words), "--bcrypt-cost", "4"]

    def _admin(self, path: str, token: str = "", **body: str) -> Mapping[str, object]:
        """Change the accounts; the leader is asked again until it does."""
        answer: dict[str, object] = {}

        def done() -> bool:
            with contextlib.suppress(OSError):
                answer.clear()
                answer.update(self.leader().ask("POST", f"/v3/auth/{path}", body, token=token))
            return bool(answer) and "error" not in answer

        until(done, f"etcd did not do {path}: {answer}")
        return answer

    def disturbances(self) -> Mapping[str, Callable[[], None]]:
        return {} if self._keys is None else {"users changed": self._change_users}

    def _change_users(self) -> None:
        """Add a user, which makes every token old that was given before."""
        self._users += 1
        token = self._admin("authenticate", name="root", password=_PASSWORD)["token"]
        self._admin("user/add", str(token), name=f"user{self._users}", password=_PASSWORD)

    def faults(self) -> Mapping[str, Callable[[], None]]:
        return {
            **super().faults(),
            "leader partitioned": lambda: self._part(self.leader()),
            "follower partitioned": lambda: self._part(self.follower()),
        }

    def _part(self, member: Server) -> None:
        """Cut a member off from the others; clients reach it as before."""
        self._links.part(member)
        until(lambda: not self.in_step(), "the others did without a member, and nobody noticed")

    def heal(self) -> None:
        self._links.join()
        super().heal()

    def close(self) -> None:
        super().close()
        self._links.close()
        if self._keys is not None:
            self._keys.cleanup()

    @property
    def may_end_early(self) -> str:
        version = tuple(int(part) for part in self.servers[0].version.split("."))
        if version >= (3, 5, 12) or (3, 4, 30) <= version < (3, 5):
            return ""
        return (
            "a leader that was frozen and replaced revokes, when it wakes, the leases that it takes"
            " to be over (etcd-io/etcd issue 15247, mended in later releases)"
        )

    @property
    def url(self) -> str:
        return self.url_through([(server.host, server.port) for server in self.servers])

    def url_through(self, addresses: Sequence[tuple[str, int]]) -> str:
        account = "" if self._keys is None else f"root:{_PASSWORD}@"
        return f"etcd://{account}" + ",".join(f"{host}:{port}" for host, port in addresses)

    def _states(self) -> list[tuple[str, str]]:
        """Return the id of each member that answers, and that of the leader it knows."""
        states = []
        for server in self.servers:
            with contextlib.suppress(OSError, KeyError, TypeError):
                reply = server.ask("POST", "/v3/maintenance/status", {})
                header = reply["header"]
                assert isinstance(header, dict)
                states.append((str(header["member_id"]), str(reply.get("leader", "0"))))
        return states

    def in_step(self) -> bool:
        states = self._states()
        leaders = {leader for _, leader in states}
        return len(states) == len(self.servers) and len(leaders) == 1 and leaders != {"0"}

    def leader(self) -> EtcdServer:
        """Return the member that leads; waits while there is none."""
        found: list[EtcdServer] = []

        def elected() -> bool:
            found.clear()
            for server in self.servers:
                with contextlib.suppress(OSError, KeyError, TypeError):
                    reply = server.ask("POST", "/v3/maintenance/status", {})
                    header = reply["header"]
                    assert isinstance(header, dict)
                    if header["member_id"] == reply.get("leader"):
                        found.append(server)
            return len(found) == 1

        until(elected, "the cluster elected no leader")
        return found[0]
