# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Mutants of a backend, made by rule, and which of them the suite finds."""
