# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The checks of a backend, and what they are given."""
