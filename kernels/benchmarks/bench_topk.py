"""Speed of the exact top-k beside its floor, torch.topk and the wheel's ops.

    PYTHONPATH=kernels python kernels/benchmarks/bench_topk.py --peers FOLDER --json topk-native.json
    DSA_KERNELS_EMULATE=sm80 PYTHONPATH=kernels python kernels/benchmarks/bench_topk.py --no-peers --json ...

A speed is printed only when the result of that very shape is right; the exit status is 1 when any was wrong.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from typing import Any

from runner import Maker, parser, run
from topk_peers import load_wheel_ops, torch_topk, wheel_topk

from dsa_kernels.bench import Case, Machine
from dsa_kernels.bench.indexer_cases import topk_case, topk_inputs

TOPK = 2048
WIDTHS = (4096, 16384, 32768, 131072, 1048576)
ROWS = (1, 16, 64, 512)
#: Shapes of more elements than this are left out.
MOST_ELEMENTS = 2**28


def make_case(machine: Machine, rows: int, width: int, wheel: Any) -> Case:
    """Rows of normally distributed logits, read from memory rather than from L2 where they could fit."""
    inputs = topk_inputs(rows, width, TOPK, machine.l2_bytes)
    case = topk_case(inputs, {"rows": rows, "width": width, "k": TOPK})
    if wheel is not None:
        case.peers["torch.topk"] = torch_topk(inputs)
        case.peers |= wheel_topk(wheel, inputs)
    return case


def makers(options: argparse.Namespace, wheel: Any) -> Iterator[Maker]:
    """Every shape of at most `MOST_ELEMENTS`."""
    for rows in (1, 64) if options.quick else ROWS:
        for width in (32768, 131072) if options.quick else WIDTHS:
            if rows * width <= MOST_ELEMENTS:
                yield lambda machine, r=rows, w=width: make_case(machine, r, w, wheel)


def main() -> int:
    """Measure and print; 1 when a gate failed."""
    options = parser(__doc__).parse_args()
    wheel = None if options.no_peers else load_wheel_ops(options.peers)
    return run("top-k", makers(options, wheel), options)


if __name__ == "__main__":
    sys.exit(main())
