# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""A TaskFlow jobboard on RQ's queues, as good as RQ's public API allows; see ``board.py``."""

from rq_board.board import RQJobBoard
from rq_board.job import RQJob

__all__ = ["RQJob", "RQJobBoard"]
