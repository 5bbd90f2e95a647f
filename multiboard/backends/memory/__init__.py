# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The board in this process's memory."""

from multiboard.backends.memory.backend import MemoryBackend
from multiboard.backends.memory.settings import MemorySettings

__all__ = ["MemoryBackend", "MemorySettings"]
