"""The site: `sphinx-build -W --keep-going docs site`; the manual page: `sphinx-build -b man docs man`.

Pages are plain Markdown; contents.rst is their order.
"""

import os
import sys
from pathlib import Path

from dsa_doctor import __version__

project = "dsa-doctor"
release = __version__
copyright = "the dsa-doctor authors; Apache-2.0"  # noqa: A001 (Sphinx reads this name)
sys.path.insert(0, os.fspath(Path(__file__).parent))
extensions = ["myst_parser", "manual"]
root_doc = "contents"
myst_heading_anchors = 4
html_theme = "alabaster"
html_theme_options = {
    "description": "DeepSeek Sparse Attention under vLLM, below Hopper",
    "page_width": "1200px",
    "sidebar_includehidden": False,
}
html_show_sourcelink = False
man_pages = [("cli", "dsa-doctor", "say why DeepSeek Sparse Attention models do not run on a GPU, and run them", "", 1)]
