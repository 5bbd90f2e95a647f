# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""A memory of bounded size. This module imports the standard library only."""

from __future__ import annotations

from collections import OrderedDict
from typing import TypeVar

#: Postings and leases that are remembered to save a read before a step.
REMEMBERED = 20_000

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


class Recent(OrderedDict[_Key, _Value]):
    """A dictionary that forgets the oldest."""

    def note(self, key: _Key, value: _Value) -> None:
        """Remember something, as the newest."""
        self[key] = value
        while len(self) > REMEMBERED:
            try:
                self.popitem(last=False)
            except KeyError:  # another thread was faster
                return
