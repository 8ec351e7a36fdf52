"""Speed of the exact top-k beside its floor, torch.topk and the wheel's op.

    PYTHONPATH=kernels python kernels/benchmarks/bench_topk.py [--wheel-library FILE]
    TRITON_OVERRIDE_ARCH=sm80 PYTHONPATH=kernels python kernels/benchmarks/bench_topk.py

A speed is printed only when the result of that very shape is right; the exit status is 1 when any was wrong.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from indexer_peers import load_wheel_topk
from machine import Machine, measure_machine
from timing import time_calls

from dsa_kernels.indexer import topk_indices

TOPK = 2048
WIDTHS = (4096, 16384, 32768, 131072, 1048576)
ROWS = (1, 16, 64, 512)
#: Shapes of more elements than this are left out.
MOST_ELEMENTS = 2**28


def bench(machine: Machine, rows: int, width: int, wheel: Any) -> bool:
    """Gate and time one shape; whether the result was right."""
    sets = max(1, min(16, -(-2 * machine.l2_bytes // (rows * width * 4))))
    draws = [torch.randn(rows, width, device="cuda") for _ in range(sets)]
    ends = torch.full((rows,), width, dtype=torch.int32, device="cuda")
    out = torch.empty(rows, TOPK, dtype=torch.int32, device="cuda")
    got = topk_indices(draws[0], None, ends, TOPK, out=out)
    mine = draws[0].gather(1, got.long()).sort(dim=1, descending=True).values
    if not torch.equal(mine, draws[0].topk(TOPK, dim=1).values):
        print(f"REFUSED {rows} x {width}: not the largest values")
        return False
    timing = time_calls([(lambda x=x: topk_indices(x, None, ends, TOPK, out=out)) for x in draws], 30.0)
    peers = {"torch.topk": time_calls([(lambda x=x: x.topk(TOPK, dim=1)) for x in draws], 30.0).median_us}
    if not isinstance(wheel, str):
        calls = [(lambda x=x: wheel(x, 1, ends, out, rows, x.stride(0), x.stride(1), TOPK)) for x in draws]
        try:
            peers["wheel"] = time_calls(calls, 30.0).median_us
        except Exception as error:
            print(f"not measured: wheel: {str(error).splitlines()[0]}")
    floor = 1e6 * rows * (width + TOPK) * 4 / machine.copy_bytes_per_s
    others = "  ".join(f"{name} {value:.1f} ({value / timing.median_us:.2f}x)" for name, value in peers.items())
    print(f"top-k {rows:4} x {width:8} {timing!s:34} one read {floor:8.1f} | {others}", flush=True)
    return True


def main() -> int:
    """Measure and print; 1 when a gate failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wheel-library", type=Path, help="_C_stable_libtorch.abi3.so taken out of a vLLM wheel")
    options = parser.parse_args()
    torch.manual_seed(0)
    machine = measure_machine()
    print(json.dumps(asdict(machine)))
    wheel = load_wheel_topk(options.wheel_library)
    if isinstance(wheel, str):
        print(f"not measured: wheel: {wheel}")
    right = [bench(machine, rows, width, wheel) for rows in ROWS for width in WIDTHS if rows * width <= MOST_ELEMENTS]
    return int(not all(right))


if __name__ == "__main__":
    sys.exit(main())
