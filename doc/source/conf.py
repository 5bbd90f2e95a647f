# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""How Sphinx builds the documentation. It needs the package installed and no network."""

from __future__ import annotations

import importlib.metadata
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent / "_ext"))

project = "multiboard"
project_copyright = "the multiboard developers"
release = importlib.metadata.version("multiboard")

extensions = ["sphinx.ext.autodoc", "backend_options", "conformance_table", "side_by_side"]
nitpicky = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "show-inheritance": True}

html_theme = "alabaster"
html_theme_options = {
    "description": "One jobboard over many stores",
    "fixed_sidebar": True,
    "page_width": "1100px",
}
