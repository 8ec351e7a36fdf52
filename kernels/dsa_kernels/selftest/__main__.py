"""`python -m dsa_kernels.selftest`: run cases and print one JSON object per line, as they start and end.

Exit status: 0 when every case came to an end (whatever its verdict), 3 when an error stuck to the process, so that the
cases after it have to be run by another one.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import asdict

import torch

from dsa_kernels.selftest.case import Place
from dsa_kernels.selftest.registry import GROUPS
from dsa_kernels.selftest.run import describe, is_broken, run_case

EXIT_BROKEN = 3


def main(arguments: list[str] | None = None) -> int:
    """Run the chosen groups."""
    parser = argparse.ArgumentParser(prog="python -m dsa_kernels.selftest", description=__doc__)
    names = [group.name for group in GROUPS]
    parser.add_argument("--group", action="append", choices=names, help="group to run [default: all]")
    parser.add_argument("--op", action="append", help="run the cases of this op alone")
    parser.add_argument("--skip", action="append", default=[], help="name of a case to leave out")
    parser.add_argument("--device", default="cuda", help="torch device")
    parser.add_argument("--quick", action="store_true", help="small shapes")
    options = parser.parse_args(arguments)
    # Libraries print to standard output too; only lines of ours go to the real one.
    channel = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    place = Place(torch.device(options.device), full=not options.quick)

    def say(**what: object) -> None:
        channel.write(json.dumps(what) + "\n")

    if place.device.type == "cuda" and not torch.cuda.is_available():
        say(event="no_device", reason=f"torch {torch.__version__} sees no CUDA device")
        return 0
    if place.device.type == "cuda":
        torch.cuda.set_device(place.device)
    say(event="machine", **describe(place))
    for group in GROUPS:
        if options.group and group.name not in options.group:
            continue
        for case in group.cases:
            if case.name in options.skip or (options.op and case.op not in options.op):
                continue
            say(event="start", case=case.name, op=case.op)
            record = run_case(case, place)
            say(event="end", **asdict(record))
            if record.status in ("error", "fail") and is_broken(place):
                return EXIT_BROKEN
            if group.gated and case is group.cases[0] and record.status != "pass":
                break
    return 0


if __name__ == "__main__":
    sys.exit(main())
