# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""``python -m benchmarks``; see :mod:`benchmarks.run`."""

import sys

from benchmarks.run import main

if __name__ == "__main__":  # worker processes import this module again
    sys.exit(main())
