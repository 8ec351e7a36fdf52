"""Speed of the product before the norm of DeepSeek-V4's hyper-connections (mHC), beside its floor and PyTorch.

    PYTHONPATH=kernels python kernels/benchmarks/bench_mhc.py --json mhc-native.json
    DSA_KERNELS_EMULATE=sm80 PYTHONPATH=kernels python kernels/benchmarks/bench_mhc.py --json ...

A speed is printed only when the result of that very shape is right; the exit status is 1 when any was wrong.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from runner import Maker, parser, run

from dsa_kernels.bench.mhc_cases import prenorm_case

#: Four times the hidden size of V4-Flash, V4.1-Flash and V4-Pro; the first layer of V4-Flash has the hidden size.
WIDTHS = {"V4-Flash": 16_384, "V4.1-Flash": 20_480, "V4-Pro": 28_672, "V4-Flash, first layer": 4096}
TOKENS = (1, 8, 64, 512, 2048, 8192)


def makers(quick: bool) -> Iterator[Maker]:
    """Decode batches and prefill chunks, split as the device needs it; 16 and 1 splits as vLLM may ask for."""
    for model, k in WIDTHS.items():
        if quick and model != "V4-Flash":
            continue
        for tokens in TOKENS:
            yield lambda machine, n=tokens, width=k: prenorm_case(
                n, width, None, {"k": width, "tokens": n}, machine.l2_bytes
            )
    for tokens, k, splits in ((1, 20_480, 16), (1, 16_384, 1), (64, 16_384, 1)):
        yield lambda machine, n=tokens, width=k, s=splits: prenorm_case(
            n, width, s, {"k": width, "tokens": n}, machine.l2_bytes
        )


def main() -> int:
    """Measure and print; 1 when a gate failed."""
    options = parser(__doc__).parse_args()
    return run("mHC product", makers(options.quick), options)


if __name__ == "__main__":
    sys.exit(main())
