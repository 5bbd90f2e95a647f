# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""An unpatched process that posts a job: ``peer.py URL post NAME``."""

from __future__ import annotations

import sys
import time

import multiboard

if __name__ == "__main__":
    url, _, name = sys.argv[1:]
    board = multiboard.fetch("peer", url)
    board.connect()
    time.sleep(0.5)  # the other one is to be waiting by then; where it is not, it finds the job
    board.post(name)
    board.close()
