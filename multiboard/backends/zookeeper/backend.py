# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The board in ZooKeeper: every verb one transaction, every lease a node.

The nodes are described in :mod:`multiboard.backends.zookeeper.records`. This module imports the
primitives, the errors and its own siblings.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from multiboard import errors, primitives
from multiboard.backends.zookeeper import records
from multiboard.backends.zookeeper.access import DIGEST, OPEN, SASL, Access
from multiboard.backends.zookeeper.client import Link
from multiboard.backends.zookeeper.directory import MAX_BODY, Shelves
from multiboard.backends.zookeeper.feed import Feed
from multiboard.backends.zookeeper.session import Board
from multiboard.primitives import Changes, Url, boottime

PORT = 2181


@dataclass(frozen=True, kw_only=True)
class ZooKeeperSettings(primitives.TlsSettings):
    """The options of ``zookeeper://`` and ``zookeeper+tls://``."""

    tls_url = "zookeeper+tls://"

    hosts: tuple[str, ...] = primitives.setting(
        ("localhost:2181",), help="The servers of the ensemble, each as host:port."
    )
    root: str = primitives.setting(
        "/multiboard", help="The path of the node under which the boards are."
    )
    username: str | None = primitives.setting(None, help="The user, for 'acl'.")
    password: str | None = primitives.setting(None, help="The user's password.", secret=True)
    acl: str | None = primitives.setting(
        None,
        help="Who may touch the boards made here: 'open' is anybody; 'digest' is whoever gives "
        "this username and password; 'sasl' is this user, whom the servers know (DIGEST-MD5). "
        "By default 'digest' where there is a username, and 'open' otherwise.",
        choices=(OPEN, DIGEST, SASL),
    )


class ZooKeeperBackend(Shelves):
    """The primitives over a ZooKeeper ensemble. See :class:`multiboard.primitives.Backend`."""

    settings_class = ZooKeeperSettings
    settings: ZooKeeperSettings

    def __init__(self, settings: ZooKeeperSettings) -> None:
        super().__init__(settings)
        if not re.fullmatch(r"/|(/[^/\0\s]+)+", settings.root) or re.search(
            r"/\.\.?(/|$)", settings.root
        ):
            raise errors.ConfigError(f"zookeeper: the root {settings.root!r} is no path")
        if not settings.hosts:
            raise errors.ConfigError("zookeeper: at least one host is needed")
        hosts = [
            primitives.format_address(*primitives.parse_address(text, PORT))
            for text in settings.hosts
        ]
        access = _access(settings)
        # A call waits for half of what a whole operation may take: a lost answer gets a second try.
        patience = min(settings.connect_timeout, settings.operation_timeout / 2)
        self._board = Board(
            dial=lambda: Link(
                hosts=hosts,
                session_timeout=settings.session_timeout,
                patience=patience,
                access=access,
                woken=self._wake,
                gone=records.GONE,
            ),
            root=settings.root,
            namespace=settings.namespace,
            patience=patience,
            name=f"ZooKeeper at {','.join(hosts)}",
            forked=self._start_over,
        )
        self._feed = None
        self._forget()

    def _wake(self) -> None:
        feed = self._feed
        if feed is not None:
            feed.wake()

    @classmethod
    def from_url(cls, url: Url) -> Mapping[str, Any]:
        found: dict[str, Any] = {"username": url.username or None, "password": url.password}
        if url.hosts:
            found["hosts"] = url.addresses(PORT)
        if url.scheme == "zookeeper+tls":
            found["tls"] = True
        if url.path not in ("", "/"):
            found["root"] = url.node()
        return found

    @property
    def traits(self) -> primitives.Traits:
        return primitives.Traits(
            durable=True,
            cross_process=True,
            cross_host=True,
            max_body=MAX_BODY,
            # The server looks for dead sessions once a tick, which is two seconds by default.
            lease_slack=3.0,
            native_claim_next=False,
            fencing_survives_failover=True,
        )

    @property
    def incarnation(self) -> str:
        return self._board.incarnation

    @property
    def position(self) -> int:
        return self._board.position

    def open(self) -> None:
        self.settings.check_tls_files()
        self._board.open(self.settings.create)
        self._start_over()

    def boards(self) -> Sequence[str]:
        return self._board.namespaces(self.settings.connect_timeout)

    def _start_over(self) -> None:
        """Begin without anything known of the postings, and with nothing that another may lock."""
        board = self._board
        self._feed = Feed(board.paths, recursive=board.modern) if board.incarnation else None
        self._forget()

    def close(self) -> None:
        self._board.close()
        self._wake()

    @property
    def session_time(self) -> float:
        return self._board.granted or self.settings.session_timeout

    def keepalive(self, within: float | None = None) -> float:
        give_up = None if within is None else boottime() + within
        link = self._board.session(within)
        try:
            self._board.confirm(link, give_up)
        except errors.Unavailable:
            self._board.session_over(link)
            raise
        return link.granted

    def server_info(self) -> Mapping[str, str]:
        link = self._board.link()
        version, alone = link.version()
        facts = {
            "store": "zookeeper",
            "version": version or "unknown",
            "session_timeout": f"{link.granted:g} s",
        }
        if not alone and records.loses_transactions(version):
            facts["warning_version"] = (
                f"ZooKeeper {version} is known to lose transactions of an ensemble whose members "
                "are killed (ZOOKEEPER-4785, ZOOKEEPER-4925): 3.8.4, 3.9.4 and later do not"
            )
        if link.granted > self.settings.session_timeout:
            facts["warning_session_timeout"] = (
                f"the server grants no session time-out below {link.granted:g} s; "
                f"{self.settings.session_timeout:g} s were asked for"
            )
        return facts

    # -- feed ------------------------------------------------------------------------------------

    def changes(self, cursor: str | None, timeout: float) -> Changes:
        give_up = boottime() + timeout
        feed, board = self._open_feed(), self._board
        while True:
            link = board.link(max(0.0, give_up - boottime()))
            feed.ensure(link)
            feed.look_after(link, board.now)
            answer = feed.read(cursor, give_up)
            if answer is not None:
                return answer


def _access(settings: ZooKeeperSettings) -> Access:
    return Access(
        username=settings.username,
        password=settings.password,
        acl=settings.acl or (OPEN if settings.username is None else DIGEST),
        tls=settings.tls,
        tls_ca=settings.tls_ca,
        tls_cert=settings.tls_cert,
        tls_key=settings.tls_key,
        tls_verify=settings.tls_verify,
    )
