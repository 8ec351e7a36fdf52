"""Tells where the interpreter that runs it looks for packages.

Request: {}. Answer: {"search_path": [folder]}, this script's own folder left out.
"""

import json
import os
import sys


def main() -> None:
    """Answer with the folders of sys.path that exist."""
    folders = [entry for entry in sys.path[1:] if entry and os.path.isdir(entry)]  # noqa: PTH112 - any Python 3 runs this
    with os.fdopen(int(os.environ["DSA_DOCTOR_ANSWER_FD"]), "w") as stream:
        json.dump({"search_path": folders}, stream)


main()
