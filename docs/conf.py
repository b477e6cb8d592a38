# SPDX-License-Identifier: BSD-3-Clause
"""Sphinx: the pages of this folder, and the reference out of the installed package's docstrings."""

from importlib.metadata import version as installed_version

project = "bpfree_fast"
author = "bpfree_fast contributors"
project_copyright = "bpfree_fast contributors"
release = version = installed_version("bpfree-fast")

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
]
myst_enable_extensions = ["deflist", "dollarmath"]
myst_heading_anchors = 3
nitpicky = True
# Types of other projects, which an offline build cannot look up.
nitpick_ignore_regex = [
    ("py:.*", r"(numpy|np|sklearn|collections|concurrent|typing|pathlib|os)\..*"),
    ("py:class", r"(ArrayLike|DTypeLike|NDArray|Self|MetadataRequest|Literal.*|optional|Path)"),
]
autodoc_typehints = "none"  # the docstrings say types with shapes
autosummary_generate = False
numpydoc_class_members_toctree = False
numpydoc_show_class_members = False
exclude_patterns = ["_build"]
html_theme = "alabaster"
html_theme_options = {"description": "Training without backpropagation, on CPUs"}
