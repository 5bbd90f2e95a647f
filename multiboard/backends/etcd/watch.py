# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""A watch of etcd: a stream of events on a connection of its own.

This module imports the errors and its own siblings.
"""

from __future__ import annotations

import time
from typing import Any, NoReturn

from multiboard import errors
from multiboard.backends.etcd.client import Client
from multiboard.backends.etcd.errors import TokenExpired
from multiboard.backends.etcd.grpc import ConnectionBroken
from multiboard.backends.etcd.messages import M


class Watch:
    """A watch in progress; used by one thread, closed by any."""

    def __init__(self, client: Client, request: Any) -> None:
        """Begin to watch.

        Raises: ``Unavailable``, ``AccessDenied``, ``Closed``.
        """
        deadline = time.monotonic() + client.patience
        self._client = client
        self._token = client.token(deadline)
        metadata = client.metadata(self._token)
        self._member, connection = client.connect(deadline)
        body = M["WatchRequest"](create_request=request).SerializeToString()
        path = "/etcdserverpb.Watch/Watch"
        try:
            self._stream = connection.begin(path, body, metadata, deadline, end=False)
        except (ConnectionBroken, OSError) as error:
            connection.close()
            client.avoid(self._member)
            name = client.member_name(self._member)
            raise errors.Unavailable(f"{name}: {error}") from error
        except BaseException:
            connection.close()
            raise
        self._connection = connection

    def receive(self, timeout: float, within: float) -> list[Any]:
        """Return what came, waiting up to ``timeout`` for something.

        Where nothing came a ping is sent, and the member is given up where it does not reply
        ``within`` so many seconds.

        Raises: ``Unavailable``, ``AccessDenied``.
        """
        client, connection = self._client, self._connection
        try:
            reply = connection.receive(self._stream, timeout)
            if not reply.messages and not reply.ended:
                if connection.silent > within:
                    raise ConnectionBroken(f"the member gave no sign of life in {within:g} s")
                connection.ping(within)
        except (ConnectionBroken, OSError) as error:
            self.close()
            client.avoid(self._member)
            raise errors.Unavailable(f"{client.member_name(self._member)}: {error}") from error
        if reply.ended and not reply.messages:
            self.close()
            client.avoid(self._member)
            self._fail(reply.status, reply.message)
        responses = [M["WatchResponse"].FromString(message) for message in reply.messages]
        shown = max((response.header.revision for response in responses), default=0)
        client.revision = max(client.revision, shown)
        for response in responses:
            if response.canceled and not response.compact_revision:
                self.close()
                self._fail(None, f"ended the watch: {response.cancel_reason}")
        return responses

    def _fail(self, status: int | None, text: str) -> NoReturn:
        """Raise what an end of the watch means."""
        error = self._client.meant(status, text)
        if isinstance(error, TokenExpired):
            self._client.forget_token(self._token)
            raise errors.Unavailable("etcd requires a new token for the watch") from error
        raise error

    def close(self) -> None:
        """End it, from any thread."""
        self._connection.close()
