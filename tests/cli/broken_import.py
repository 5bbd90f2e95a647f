# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""A module that can't be imported: what it raises is no ImportError."""

raise SystemExit("a line\nand another")
