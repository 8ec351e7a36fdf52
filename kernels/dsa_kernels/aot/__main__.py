"""`python -m dsa_kernels.aot 80`: rows of the table for a target, as one line of JSON."""

from __future__ import annotations

import argparse
import sys

from dsa_kernels.aot.table import rows_as_json


def main() -> None:
    """Parse the arguments, compile, print."""
    parser = argparse.ArgumentParser(prog="python -m dsa_kernels.aot", description=__doc__)
    parser.add_argument("capability", type=int, help="target times ten, such as 80")
    parser.add_argument("--part", type=int, default=0)
    parser.add_argument("--of", type=int, default=1, dest="parts")
    parser.add_argument("--op", default=None)
    arguments = parser.parse_args()
    sys.stdout.write(rows_as_json(arguments.capability, arguments.part, arguments.parts, arguments.op) + "\n")


if __name__ == "__main__":
    main()
