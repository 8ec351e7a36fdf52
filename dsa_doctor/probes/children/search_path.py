"""Tells where the interpreter that runs it looks for packages, and its version.

Request: {}. Answer: {"search_path": [folder], "version": "3.12.3"}, this script's own folder left out.
"""

import json
import os
import platform
import sys


def main() -> None:
    """Answer with the folders of sys.path that exist."""
    folders = [entry for entry in sys.path[1:] if entry and os.path.isdir(entry)]  # noqa: PTH112 - any Python 3 runs this
    with os.fdopen(int(os.environ["DSA_DOCTOR_ANSWER_FD"]), "w") as stream:
        json.dump({"search_path": folders, "version": platform.python_version()}, stream)


main()
