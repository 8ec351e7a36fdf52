"""Speed of the sparse MLA ops beside their floors and their peers.

    PYTHONPATH=kernels python kernels/benchmarks/bench_sparse_mla.py --peers FOLDER --json mla-native.json
    DSA_KERNELS_EMULATE=sm80 PYTHONPATH=kernels python kernels/benchmarks/bench_sparse_mla.py --no-peers --json ...

A speed is printed only when the result of that very shape is right; the exit status is 1 when any was wrong.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator

import torch
from peers import MlaPeer, load_mla_peers, mla_peer
from runner import Maker, parser, run

from dsa_kernels.bench import Case, Machine
from dsa_kernels.bench.inputs import random_fp8_ds_mla, random_rows
from dsa_kernels.bench.mla_cases import mla_case, mla_inputs
from dsa_kernels.sparse_mla import dispatch as tiles
from dsa_kernels.sparse_mla import plan as plans

TOPK = 2048
DECODE_ROWS = 1_048_576
PREFILL_ROWS = 16_384
PREFILL_TOKENS = 4096
DECODE_TOKENS = (1, 8, 32, 64, 128)
HEADS = (8, 16, 32, 64, 128)


def make_case(
    machine: Machine, kind: str, tokens: int, heads: int, cache: torch.Tensor, peers: dict[str, MlaPeer | str]
) -> Case:
    """One shape with its peers; decode batches select from a cache larger than L2, prefill from one that fits."""
    prefill = kind == "prefill"
    inputs = mla_inputs(cache, tokens, heads, TOPK, machine.l2_bytes)
    shape: dict[str, int | str] = {"cache": inputs.kv_format, "tokens": tokens, "heads": heads}
    case = mla_case("sparse MLA prefill" if prefill else "sparse MLA decode", inputs, shape, reread=prefill)
    case.peers = {name: peer if isinstance(peer, str) else mla_peer(peer, inputs) for name, peer in peers.items()}
    return case


def makers(options: argparse.Namespace, peers: dict[str, MlaPeer | str]) -> Iterator[Maker]:
    """Every shape; a cache is made for its kind and given back before the next."""
    batches = options.tokens or ((1, 64) if options.quick else DECODE_TOKENS)
    for kind in options.only or ("decode", "fp8", "prefill"):
        tokens = (PREFILL_TOKENS,) if kind == "prefill" else batches
        rows = PREFILL_ROWS if kind == "prefill" else DECODE_ROWS
        cache = random_fp8_ds_mla(rows) if kind == "fp8" else random_rows(rows, 576)
        for count in tokens:
            for heads in options.heads or HEADS:
                yield lambda machine, count=count, heads=heads, cache=cache, kind=kind: make_case(
                    machine, kind, count, heads, cache, {} if kind == "fp8" else peers
                )
        del cache
        torch.cuda.empty_cache()


def use_config(text: str) -> None:
    """Replace the default configuration: block_h,block_n,num_warps,num_stages,programs_per_sm[,kernel[,convert]]."""
    fields = text.split(",")
    chosen = tiles.TileConfig(*map(int, fields[:5]), *fields[5:6], convert="convert" in fields[6:])
    plans.tile_config = lambda capability, num_heads, fp8, gluon: chosen  # noqa: ARG005


def main() -> int:
    """Measure and print; 1 when a gate failed."""
    arguments = parser(__doc__)
    arguments.add_argument("--only", action="append", choices=("decode", "fp8", "prefill"))
    arguments.add_argument("--tokens", type=int, action="append", help="only these decode batches")
    arguments.add_argument("--heads", type=int, action="append", help="only these head counts")
    arguments.add_argument("--config", help="tile configuration in place of the default: " + str(use_config.__doc__))
    options = arguments.parse_args()
    if options.config:
        use_config(options.config)
    peers = {} if options.no_peers else load_mla_peers(options.peers)
    return run("sparse MLA", makers(options, peers), options)


if __name__ == "__main__":
    sys.exit(main())
