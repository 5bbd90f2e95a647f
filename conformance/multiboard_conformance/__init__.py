# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The conformance suite: what the primitives promise, checked on any backend.

Run it as ``multiboard-conformance URL``; see ``conformance/README.md``. The suite imports
:mod:`multiboard.primitives`, :mod:`multiboard.errors`, :mod:`multiboard.runtime.guard` and
:mod:`multiboard.config.loading`, and never a backend. This module imports nothing: every worker
process of the suite loads it.
"""
