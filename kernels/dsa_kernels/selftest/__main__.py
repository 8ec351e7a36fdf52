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
    device = torch.device(options.device)

    def say(**what: object) -> None:
        channel.write(json.dumps(what) + "\n")

    if device.type == "cuda":
        if not torch.cuda.is_available():
            say(event="no_device", reason=f"torch {torch.__version__} sees no CUDA device")
            return 0
        # "cuda" alone names no GPU, and set_device wants one.
        device = torch.device("cuda", 0 if device.index is None else device.index)
        torch.cuda.set_device(device)
    place = Place(device, full=not options.quick)
    chosen = [
        (group, case)
        for group in GROUPS
        for case in group.cases
        if (not options.group or group.name in options.group)
        and (not options.op or case.op in options.op)
        and case.name not in options.skip
    ]
    say(event="machine", cases=[case.name for _, case in chosen], **describe(place))
    closed = ""
    for group, case in chosen:
        if group.name == closed:
            continue
        gate = group.gated and case is group.cases[0]
        say(event="start", case=case.name, op=case.op, provokes=case.provokes, gate=gate)
        record = run_case(case, place)
        say(event="end", **asdict(record))
        if record.status in ("error", "fail") and is_broken(place):
            return EXIT_BROKEN
        if gate and record.status != "pass":
            closed = group.name
    return 0


if __name__ == "__main__":
    sys.exit(main())
