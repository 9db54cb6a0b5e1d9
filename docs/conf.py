"""Sphinx configuration: `make docs` builds the Markdown pages of this folder into site/, without the network.

The command reference is generated from the argparse parser, and the Python API page from the docstrings.
"""

project = "selfedit"
copyright = "the selfedit authors, Apache-2.0"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinxarg.ext"]
exclude_patterns = ["results/**/tasks/**"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
suppress_warnings = ["myst.header"]  # the study log has headings of its own order
default_role = "code"
autodoc_default_options = {"members": True, "undoc-members": True, "exclude-members": "__init__"}
autodoc_member_order = "bysource"
autodoc_class_signature = "separated"  # a dataclass shows its fields, not its long signature
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 88
highlight_language = "none"  # for code blocks that name no language
html_theme = "furo"
html_title = "selfedit"
html_show_sphinx = False
html_copy_source = False
html_static_path = ["static"]
html_css_files = ["site.css"]
