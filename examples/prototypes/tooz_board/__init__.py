# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""A TaskFlow jobboard on tooz, as good as tooz's public API allows; see ``board.py``."""

from tooz_board.board import ToozJob, ToozJobBoard

__all__ = ["ToozJob", "ToozJobBoard"]
