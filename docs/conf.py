"""The site: `sphinx-build -W --keep-going docs site`. Pages are plain Markdown; contents.rst is their order."""

from dsa_doctor import __version__

project = "dsa-doctor"
release = __version__
copyright = "the dsa-doctor authors; Apache-2.0"  # noqa: A001 (Sphinx reads this name)
extensions = ["myst_parser"]
root_doc = "contents"
myst_heading_anchors = 4
html_theme = "alabaster"
html_theme_options = {
    "description": "DeepSeek Sparse Attention under vLLM, below Hopper",
    "page_width": "1200px",
    "sidebar_includehidden": False,
}
html_show_sourcelink = False
