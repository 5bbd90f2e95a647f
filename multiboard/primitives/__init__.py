# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""What a backend implements: the three primitives, their values, and the settings.

:mod:`multiboard.primitives.interface` is the contract. Everything that a backend's author needs is
here by name, so that ``multiboard.primitives`` is the one import.
"""

from multiboard.primitives.arguments import is_key
from multiboard.primitives.clock import boottime
from multiboard.primitives.failures import FailureLog
from multiboard.primitives.interface import Backend, ChangeFeed, LeaseLock, PostingDirectory
from multiboard.primitives.settings import (
    Settings,
    TlsSettings,
    Url,
    format_address,
    parse_address,
    setting,
)
from multiboard.primitives.sockets import wait_for
from multiboard.primitives.spent_claims import SpentClaims
from multiboard.primitives.spread import Spread
from multiboard.primitives.values import (
    Change,
    ChangeKind,
    Changes,
    Damage,
    Lease,
    NewPosting,
    Page,
    Place,
    Posting,
    Shelf,
    Traits,
)

__all__ = [
    "Backend",
    "Change",
    "ChangeFeed",
    "ChangeKind",
    "Changes",
    "Damage",
    "FailureLog",
    "Lease",
    "LeaseLock",
    "NewPosting",
    "Page",
    "Place",
    "Posting",
    "PostingDirectory",
    "Settings",
    "Shelf",
    "SpentClaims",
    "Spread",
    "TlsSettings",
    "Traits",
    "Url",
    "boottime",
    "format_address",
    "is_key",
    "parse_address",
    "setting",
    "wait_for",
]
