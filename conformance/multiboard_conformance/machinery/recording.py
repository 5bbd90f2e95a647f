# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Backends that stand for another one: the record that checks hold instead of the bare backend.

Nothing here changes an answer. Imports the primitives, the errors and the history only.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from typing import Any

from multiboard import errors, primitives
from multiboard.primitives import Lease, NewPosting, Page, Place, Posting, Shelf
from multiboard_conformance.machinery.history import History

_KEYWORDS = ("after", "limit")


def apply(backend: primitives.Backend, verb: str, args: Mapping[str, Any]) -> Any:
    """Call a verb as a caller of the primitives does: by position, where the verb allows it."""
    positions = [value for name, value in args.items() if name not in _KEYWORDS]
    keywords = {name: value for name, value in args.items() if name in _KEYWORDS}
    return getattr(backend, verb)(*positions, **keywords)


class Delegate(primitives.Backend):
    """A backend whose every verb is one call of :meth:`do`."""

    @abc.abstractmethod
    def do(self, verb: str, args: Mapping[str, Any]) -> Any:
        """Do a verb of the primitives with its arguments by name, in their order."""

    def open(self) -> None:
        self.do("open", {})

    def boards(self) -> Sequence[str]:
        answer: Sequence[str] = self.do("boards", {})
        return answer

    def close(self) -> None:
        self.do("close", {})

    def keepalive(self, within: float | None = None) -> float:
        answer: float = self.do("keepalive", {} if within is None else {"within": within})
        return answer

    def server_info(self) -> Mapping[str, str]:
        answer: Mapping[str, str] = self.do("server_info", {})
        return answer

    def add(
        self, postings: Sequence[NewPosting], shelf: Shelf = Shelf.LIVE
    ) -> Sequence[Posting | errors.MultiboardError]:
        answer: Sequence[Posting | errors.MultiboardError] = self.do(
            "add", {"postings": postings, "shelf": shelf}
        )
        return answer

    def get(self, keys: Sequence[str]) -> Sequence[Posting | None]:
        answer: Sequence[Posting | None] = self.do("get", {"keys": keys})
        return answer

    def list(
        self, shelf: Shelf = Shelf.LIVE, *, after: Place | None = None, limit: int | None = None
    ) -> Page:
        answer: Page = self.do("list", {"shelf": shelf, "after": after, "limit": limit})
        return answer

    def count(self, shelf: Shelf = Shelf.LIVE) -> int:
        answer: int = self.do("count", {"shelf": shelf})
        return answer

    def remove(
        self, leases: Sequence[Lease], to: Shelf | None = None
    ) -> Sequence[errors.MultiboardError | None]:
        answer: Sequence[errors.MultiboardError | None] = self.do(
            "remove", {"leases": leases, "to": to}
        )
        return answer

    def restore(self, key: str) -> Posting:
        answer: Posting = self.do("restore", {"key": key})
        return answer

    def purge(self, keys: Sequence[str], shelf: Shelf = Shelf.TRASH) -> Sequence[bool]:
        answer: Sequence[bool] = self.do("purge", {"keys": keys, "shelf": shelf})
        return answer

    def acquire(
        self, key: str, holder: str, claim_id: str, expires_in: float | None = None
    ) -> Lease:
        args = {"key": key, "holder": holder, "claim_id": claim_id, "expires_in": expires_in}
        answer: Lease = self.do("acquire", args)
        return answer

    def acquire_next(
        self, holder: str, claim_ids: Sequence[str], expires_in: float | None = None
    ) -> Sequence[tuple[Posting, Lease]]:
        args = {"holder": holder, "claim_ids": claim_ids, "expires_in": expires_in}
        answer: Sequence[tuple[Posting, Lease]] = self.do("acquire_next", args)
        return answer

    def renew(self, lease: Lease, expires_in: float) -> Lease:
        answer: Lease = self.do("renew", {"lease": lease, "expires_in": expires_in})
        return answer

    def release(self, lease: Lease, delay: float = 0.0) -> None:
        self.do("release", {"lease": lease, "delay": delay})

    def changes(self, cursor: str | None, timeout: float) -> primitives.Changes:
        answer: primitives.Changes = self.do("changes", {"cursor": cursor, "timeout": timeout})
        return answer


class Recorded(Delegate):
    """A backend whose every verb is noted in a history."""

    def __init__(self, backend: primitives.Backend, who: str, history: History) -> None:
        super().__init__(backend.settings)
        self.backend = backend
        self.who = who
        self.history = history

    @property
    def traits(self) -> primitives.Traits:
        return self.backend.traits

    @property
    def incarnation(self) -> str:
        return self.backend.incarnation

    @property
    def position(self) -> int:
        return self.backend.position

    def do(self, verb: str, args: Mapping[str, Any]) -> Any:
        operation = self.history.invoke(self.who, verb, args)
        try:
            answer = apply(self.backend, verb, args)
        except BaseException as error:
            self.history.conclude(operation, error)
            raise
        self.history.conclude(operation, answer)
        return answer
