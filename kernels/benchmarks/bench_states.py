"""Speed of the ops around the caches of GLM-5.3-Flash and DeepSeek-V4 beside their floors.

    PYTHONPATH=kernels python kernels/benchmarks/bench_states.py --json states-native.json
    DSA_KERNELS_EMULATE=sm80 PYTHONPATH=kernels python kernels/benchmarks/bench_states.py --json ...

A speed is printed only when the result of that very shape is right; the exit status is 1 when any was wrong.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from runner import Maker, parser, run

from dsa_kernels.bench.state_cases import (
    compress_case,
    compress_inputs,
    engram_case,
    index_key_case,
    inverse_rope_case,
    pool_case,
    rotate_case,
    tail_case,
)


def makers() -> Iterator[Maker]:
    """Decode batches and a prefill chunk of 8,192 tokens, at the models' shapes on one of eight ranks."""
    for tokens in (1, 64, 8192):
        yield lambda _, n=tokens: rotate_case(n * 32, {"tokens": n, "heads": 32})
    yield lambda _: pool_case(8192, {"tokens": 8192, "pool": 4})
    for requests in (1, 64):
        yield lambda _, n=requests: tail_case(n, {"requests": n, "pool": 4})
    for ratio, overlap in ((4, True), (128, False)):
        for tokens in (ratio, 64 * ratio if ratio == 4 else ratio * 8, 8192):
            yield lambda _, n=tokens, r=ratio, o=overlap: compress_case(
                compress_inputs(n, r, o), {"tokens": n, "ratio": r}
            )
    for tokens in (1, 64, 8192):
        yield lambda _, n=tokens: inverse_rope_case(n, 8, 1, {"tokens": n, "heads": 8, "groups": 1})
    for tokens in (1, 64, 8192):
        yield lambda _, n=2 * tokens: index_key_case(n, 2, {"tokens": n, "ratio": 2})
        for place in ("device", "host"):
            yield lambda _, n=tokens, p=place: engram_case(
                n, 3, 2**21, p == "host", {"tokens": n, "heads": 3, "table": p}
            )


def main() -> int:
    """Measure and print; 1 when a gate failed."""
    return run("cache states", makers(), parser(__doc__).parse_args())


if __name__ == "__main__":
    sys.exit(main())
