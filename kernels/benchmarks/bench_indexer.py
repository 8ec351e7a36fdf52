"""Speed of the indexer's logits, ragged and paged, and of logits and selection in chunks, beside floors and peers.

    PYTHONPATH=kernels python kernels/benchmarks/bench_indexer.py --peers FOLDER --json indexer-native.json
    DSA_KERNELS_EMULATE=sm80 PYTHONPATH=kernels python kernels/benchmarks/bench_indexer.py --no-peers --json ...

A speed is printed only when the result of that very shape is right; the exit status is 1 when any was wrong.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from typing import Any

from indexer_peers import deep_gemm_paged, deep_gemm_ragged, load_deep_gemm, torch_ragged, unchunked
from runner import Maker, parser, run

from dsa_kernels.bench import Case, Machine
from dsa_kernels.bench.indexer_cases import (
    chunked_case,
    paged_case,
    paged_inputs,
    ragged_case,
    ragged_inputs,
)
from dsa_kernels.indexer import paged as paged_module
from dsa_kernels.indexer import ragged as ragged_module

TOPK = 2048
HEADS = (32, 64)
ROWS = (1024, 4096, 8192)
KEYS = (8192, 32768, 131072)
BATCHES = (1, 16, 64)
CONTEXTS = (4096, 32768, 131072)
NEXT_N = (1, 4)
#: Under CUDA graphs results are as wide as the longest context that the server takes: contexts in such a width.
WIDTH = 131072
SHORT_CONTEXTS = (4096, 16384)
PAGED_LENGTHS = [(context, context) for context in CONTEXTS] + [(context, WIDTH) for context in SHORT_CONTEXTS]
#: The plain formula in PyTorch is slow: on larger shapes it is left out.
MOST_TORCH_PAIRS = 1024 * 32768


def make_ragged(rows: int, keys: int, heads: int, deep_gemm: Any) -> Case:
    """Causal: the last `rows` tokens of `keys`."""
    inputs = ragged_inputs(rows, keys, heads)
    case = ragged_case(inputs, {"rows": rows, "keys": keys, "heads": heads})
    if deep_gemm is not None:
        case.peers["DeepGEMM"] = deep_gemm if isinstance(deep_gemm, str) else deep_gemm_ragged(deep_gemm, inputs)
        if rows * keys <= MOST_TORCH_PAIRS:
            case.peers["torch"] = torch_ragged(inputs)
    return case


def make_paged(machine: Machine, batch: int, next_n: int, context: int, width: int, heads: int, deep_gemm: Any) -> Case:
    """Every request at the same context, pages in random order."""
    inputs = paged_inputs(batch, next_n, context, heads, machine.l2_bytes, width=width)
    shape: dict[str, int | str] = {"batch": batch, "next_n": next_n, "context": context, "width": width, "heads": heads}
    case = paged_case(inputs, shape)
    if deep_gemm is not None:
        case.peers["DeepGEMM"] = deep_gemm if isinstance(deep_gemm, str) else deep_gemm_paged(deep_gemm, inputs)
    return case


def make_chunked(rows: int, keys: int, heads: int) -> Case:
    """In chunks against the same unchunked."""
    inputs = ragged_inputs(rows, keys, heads)
    case = chunked_case(inputs, TOPK, {"rows": rows, "keys": keys, "heads": heads, "k": TOPK})
    case.peers["unchunked"] = unchunked(inputs, TOPK, case.calls[0])
    return case


def makers(options: argparse.Namespace, deep_gemm: Any) -> Iterator[Maker]:
    """Every shape of the kinds asked for."""
    kinds, quick = options.only or ("ragged", "paged", "chunked"), options.quick
    for heads in HEADS if "ragged" in kinds else ():
        for rows in (4096,) if quick else ROWS:
            for keys in (32768,) if quick else KEYS:
                yield lambda _, r=rows, n=keys, h=heads: make_ragged(r, n, h, deep_gemm)
    for heads in HEADS if "paged" in kinds else ():
        for next_n in NEXT_N:
            for batch in (1, 64) if quick else BATCHES:
                for context, width in [(32768, 32768)] if quick else PAGED_LENGTHS:
                    yield lambda machine, b=batch, t=next_n, c=context, w=width, h=heads: make_paged(
                        machine, b, t, c, w, h, deep_gemm
                    )
    if "chunked" in kinds:
        for keys in (32768,) if quick else (32768, 131072):
            yield lambda _, n=keys: make_chunked(4096, n, 64)


def use_config(module: Any, name: str, text: str) -> None:
    """Replace a default configuration for this run: the fields of its class in order, numbers and the kernel's name."""
    kind = type(getattr(module, name)(80, 64, 1))
    chosen = kind(*(int(value) if value.isdigit() else value for value in text.split(",")))
    setattr(module, name, lambda *_: chosen)


def main() -> int:
    """Measure and print; 1 when a gate failed."""
    arguments = parser(__doc__)
    arguments.add_argument("--only", action="append", choices=("ragged", "paged", "chunked"))
    arguments.add_argument("--ragged-config", help=str(use_config.__doc__))
    arguments.add_argument("--paged-config", help=str(use_config.__doc__))
    options = arguments.parse_args()
    if options.ragged_config:
        use_config(ragged_module, "ragged_config", options.ragged_config)
    if options.paged_config:
        use_config(paged_module, "paged_config", options.paged_config)
    deep_gemm = None if options.no_peers else load_deep_gemm(options.peers)
    return run("indexer", makers(options, deep_gemm), options)


if __name__ == "__main__":
    sys.exit(main())
