"""Speed of sparse MLA over two caches, at DeepSeek-V4's shapes, beside its floors and the same rows in one cache.

    PYTHONPATH=kernels python kernels/benchmarks/bench_two_caches.py --json two-native.json
    DSA_KERNELS_EMULATE=sm80 PYTHONPATH=kernels python kernels/benchmarks/bench_two_caches.py --json ...

A speed is printed only when the result of that very shape is right; the exit status is 1 when any was wrong.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator

from runner import Maker, parser, run

from dsa_kernels.bench.mla_two_cases import two_cache_case

#: Rows of the window and compressed rows of a token, and rows of a page of both caches: V4-Flash's layers of ratio 4,
#: and those of ratio 128 at a context of 131,072.
LAYERS = {"ratio 4": ((128, 512), (64, 64)), "ratio 128": ((128, 1024), (64, 2))}
DECODE_TOKENS = (1, 8, 32, 64, 128)
DECODE_ROWS = (262_144, 1_048_576)
PREFILL_TOKENS = 8192
PREFILL_ROWS = (8192, 32_768)
HEADS = (8, 16, 64, 128)


def makers(options: argparse.Namespace) -> Iterator[Maker]:
    """Decode batches over caches larger than L2, and a prefill chunk over what lies in L2."""
    for layer, (widths, page_sizes) in LAYERS.items():
        for heads in options.heads or HEADS:
            batches = options.tokens or ((1, 32) if options.quick else (*DECODE_TOKENS, PREFILL_TOKENS))
            for tokens in batches:
                rows = PREFILL_ROWS if tokens == PREFILL_TOKENS else DECODE_ROWS
                shape: dict[str, int | str] = {"layer": layer, "tokens": tokens, "heads": heads}
                yield lambda machine, n=tokens, h=heads, w=widths, p=page_sizes, r=rows, s=shape: two_cache_case(
                    n, h, w, p, r, machine.l2_bytes, s
                )


def main() -> int:
    """Measure and print; 1 when a gate failed."""
    arguments = parser(__doc__)
    arguments.add_argument("--tokens", type=int, action="append", help="only these batches")
    arguments.add_argument("--heads", type=int, action="append", help="only these head counts")
    options = arguments.parse_args()
    return run("sparse MLA, two caches", makers(options), options)


if __name__ == "__main__":
    sys.exit(main())
