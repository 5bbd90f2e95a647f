# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""What the suite can't guess about a store: how to restart its server, how to write garbage.

Give one as ``--harness module:Class``. Every hook is optional: a check whose hook is missing is
listed as "not exercised", apart from what passed. Imports the primitives only.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, cast

from multiboard.primitives import Settings


class Harness:
    """The hooks, each of them unsupported here. Extend this class and override what you can.

    It is made with the target of the command, in every process that runs checks, and is closed at
    the end. ``settings`` are those of a backend of the board concerned: its namespace, and the way
    to the store. A hook that is not overridden is one that you can't provide.
    """

    def __init__(self, target: str) -> None:
        self.target = target

    def write_garbage(self, settings: Settings) -> Mapping[str, object]:
        """Write foreign records into the board's space, of every sort that a stranger could.

        They must be outside any posting: a key, a path or a row that is not the board's, a name
        or a value that can't be read. Return what was written, by a name of your choice.
        """
        raise NotImplementedError

    def read_garbage(self, settings: Settings) -> Mapping[str, object]:
        """Return what is left of what :meth:`write_garbage` wrote, as the store holds it now."""
        raise NotImplementedError

    def damage(self, settings: Settings, key: str) -> None:
        """Make the record of one live posting unreadable."""
        raise NotImplementedError

    def restart(self) -> None:
        """Stop the server the hard way (SIGKILL) and start it again with the data that it kept."""
        raise NotImplementedError

    def wipe(self, settings: Settings) -> None:
        """Let the store come back without the board, as after the loss of its data."""
        raise NotImplementedError

    def failover(self, writes: Callable[[], None]) -> None:
        """Let a replica take over that missed what ``writes`` writes, at the same address.

        Call ``writes`` where no replica learns of it, end the server, and let one serve that holds
        the rest. Where a replica never takes over before it has everything, restart instead.
        """
        raise NotImplementedError

    def put_back(self, settings: Settings, writes: Callable[[], None]) -> None:
        """Put the store back to an earlier state, as by a backup, at the same address.

        Make a backup, call ``writes``, and put the backup in the place of what is there, in the
        way in which operators of the store do that.
        """
        raise NotImplementedError

    def trim(self, settings: Settings) -> None:
        """Let the store, or its backends in this process, forget the past of the board's feed.

        It is what happens by itself to a reader that is too slow, after more changes than a test
        can make.
        """
        raise NotImplementedError

    def keep_changes(self, settings: Settings) -> AbstractContextManager[int]:
        """Let the backends of this process keep few changes of the board meanwhile; say how many.

        They trim by themselves, as they do after many more. A few dozen are best.
        """
        raise NotImplementedError

    def spare(self) -> str:
        """Start a store for the checks that disturb it, and return its target.

        It is called once, in the one process that runs them, beside the others; :meth:`close` ends
        it. Without this hook they work on the target of the command, when all others are done.
        """
        raise NotImplementedError

    def fresh(self) -> str:
        """Return the target of a store that nobody has used yet: a file, a database, a root path.

        For stores where the very first board makes more than itself (tables, folders).
        """
        raise NotImplementedError

    def address(self) -> tuple[str, int]:
        """Return the server's host and port, where the target does not name them."""
        raise NotImplementedError

    def close(self) -> None:
        """Release what the harness holds."""


def provides(harness: Harness, hook: str) -> bool:
    """Tell whether a harness overrides a hook."""
    return getattr(type(harness), hook) is not getattr(Harness, hook)


def load(name: str | None, target: str) -> Harness:
    """Make the harness that ``module:Class`` names; without a name, one that provides nothing."""
    if name is None:
        return Harness(target)
    module, _, cls = name.partition(":")
    made: Any = getattr(importlib.import_module(module), cls)(target)
    return cast(Harness, made)
