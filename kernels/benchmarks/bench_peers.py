"""This project's ops beside kernels of other projects, whose sources are in a folder; see peer_folder.py for its form.

    PYTHONPATH=kernels python kernels/benchmarks/bench_peers.py --folder FOLDER --json peers-native.json
    DSA_KERNELS_EMULATE=sm80 PYTHONPATH=kernels python kernels/benchmarks/bench_peers.py --folder FOLDER --json ...

First it says of each file of the folder what it is measured as, or why it is not. A peer that is wrong has no speed.
The exit status is 1 where an op of this project was wrong, or nothing of the folder could be called.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peer_folder import Found, Function, find_peers
from runner import Maker, parser, run

from dsa_kernels.bench import Case, Machine, Peer, require, require_equal
from dsa_kernels.bench.indexer_cases import (
    CHECKED_ROWS,
    PagedInputs,
    RaggedInputs,
    TopkInputs,
    paged_case,
    paged_inputs,
    ragged_case,
    ragged_inputs,
    topk_case,
    topk_inputs,
)
from dsa_kernels.bench.inputs import random_fp8_ds_mla, random_rows, spaced
from dsa_kernels.bench.mla_cases import CHECKED_TOKENS, MlaInputs, mla_case, mla_inputs

TOPK = 2048
CACHE_ROWS = 1_048_576
PREFILL_ROWS = 16_384
PREFILL_TOKENS = 4096
DECODE_TOKENS = (1, 32)
HEADS = (8, 64)
RAGGED = ((1024, 8192), (4096, 32_768))
PAGED = ((1, 1, 4096), (1, 4, 4096), (16, 1, 32_768), (64, 1, 32_768))
INDEX_HEADS = (32, 64)
SELECTIONS = ((1, 16_384), (16, 131_072), (512, 131_072))

#: Peers round weights, or index keys, to bf16.
MLA_LIMIT, LOGITS_LIMIT = 6e-3, 5e-3

Values = Mapping[str, Any]
Result = torch.Tensor


def peers_of(
    functions: Sequence[Function], op: str, values: Sequence[Values], judge: Callable[[str, Result], float]
) -> dict[str, Peer | str]:
    """The peers of an op over its rotating inputs; `judge` takes the result on the first."""
    found: dict[str, Peer | str] = {}
    for one in (one for one in functions if one.op == op):
        name = one.peer if one.peer not in found else f"{one.peer} {one.name}"
        calls = [(lambda one=one, given=given: one.call(given)) for given in values]
        found[name] = Peer(calls, lambda name=name, first=calls[0]: judge(name, first()))
    return found


def mla_peers(functions: Sequence[Function], inputs: MlaInputs) -> dict[str, Peer | str]:
    """Peers over a flat bf16 cache, or over pages of fp8_ds_mla tokens."""
    fp8 = inputs.kv_format == "fp8_ds_mla"
    shared = {"q": inputs.q, "sm_scale": inputs.sm_scale, "d_v": 512, "cache" if fp8 else "kv": inputs.cache}
    values = [shared | {"indices": indices} for indices in inputs.selections]
    some = spaced(inputs.q.shape[0], CHECKED_TOKENS)
    wanted = inputs.expected(some)
    op = "sparse_mla_fp8" if fp8 else "sparse_mla"
    return peers_of(functions, op, values, lambda name, got: require(name, got[some], wanted, MLA_LIMIT))


def ragged_peers(functions: Sequence[Function], inputs: RaggedInputs) -> dict[str, Peer | str]:
    """Peers of the causal prefill."""
    names = ("q", "k", "weights", "starts", "ends")
    values = {name: getattr(inputs, name) for name in names} | {"k_scale": inputs.scale, "clean_logits": False}
    values["k and k_scale"] = inputs.k, inputs.scale
    judge = lambda name, got: inputs.check_logits(name, got, LOGITS_LIMIT)  # noqa: E731
    return peers_of(functions, "ragged_logits", [values], judge)


def paged_peers(functions: Sequence[Function], inputs: PagedInputs) -> dict[str, Peer | str]:
    """Peers of a decode batch."""
    shared = {"q": inputs.q, "cache": inputs.cache, "weights": inputs.weights, "lengths": inputs.lengths}
    shared |= {"width": inputs.width, "clean_logits": False}
    judge = lambda name, got: inputs.check_logits(name, got, LOGITS_LIMIT)  # noqa: E731
    return peers_of(functions, "paged_logits", [shared | {"block_tables": table} for table in inputs.tables], judge)


def topk_peers(functions: Sequence[Function], inputs: TopkInputs) -> dict[str, Peer | str]:
    """Peers of the selection: the same values in any order; which of equal ones is their own affair."""
    topk = inputs.out.shape[1]
    values = [{"logits": logits, "ends": inputs.ends, "topk": topk} for logits in inputs.draws]
    rows = spaced(inputs.out.shape[0], CHECKED_ROWS)
    first = inputs.draws[0][rows]

    def judge(name: str, got: Result) -> float:
        picked = first.gather(1, got[rows].long().clamp(min=0)).sort(dim=1, descending=True).values
        return require_equal(name, picked, first.topk(topk, dim=1).values)

    return peers_of(functions, "topk", values, judge)


def makers(functions: Sequence[Function], quick: bool) -> Iterator[Maker]:
    """Every shape of the ops that have a peer; a cache is given back before the next is made."""
    ops = {one.op for one in functions}
    for op in ("sparse_mla", "sparse_mla_fp8"):
        for prefill in (False, True) if op in ops else ():
            rows = PREFILL_ROWS if prefill else CACHE_ROWS
            cache = random_rows(rows, 576) if op == "sparse_mla" else random_fp8_ds_mla(rows)
            for tokens in (PREFILL_TOKENS,) if prefill else DECODE_TOKENS:
                for heads in HEADS[:1] if quick else HEADS:
                    yield lambda machine, c=cache, t=tokens, h=heads, p=prefill: attention(
                        machine, functions, c, t, h, p
                    )
            del cache
            torch.cuda.empty_cache()
    for heads in INDEX_HEADS[1:] if quick else INDEX_HEADS:
        for rows, keys in RAGGED if "ragged_logits" in ops else ():
            yield lambda machine, r=rows, n=keys, h=heads: ragged(machine, functions, r, n, h)
        for batch, next_n, context in PAGED if "paged_logits" in ops else ():
            yield lambda machine, b=batch, t=next_n, c=context, h=heads: paged(machine, functions, b, t, c, h)
    for rows, width in SELECTIONS if "topk" in ops else ():
        yield lambda machine, r=rows, w=width: selection(machine, functions, r, w)


def attention(
    machine: Machine, functions: Sequence[Function], cache: torch.Tensor, tokens: int, heads: int, prefill: bool
) -> Case:
    """Sparse MLA and its peers over a cache."""
    inputs = mla_inputs(cache, tokens, heads, TOPK, machine.l2_bytes)
    shape: dict[str, int | str] = {"cache": inputs.kv_format, "tokens": tokens, "heads": heads}
    case = mla_case("sparse MLA prefill" if prefill else "sparse MLA decode", inputs, shape, reread=prefill)
    case.peers = mla_peers(functions, inputs)
    return case


def ragged(machine: Machine, functions: Sequence[Function], rows: int, keys: int, heads: int) -> Case:
    """Ragged logits and their peers."""
    del machine
    inputs = ragged_inputs(rows, keys, heads)
    case = ragged_case(inputs, {"rows": rows, "keys": keys, "heads": heads})
    case.peers = ragged_peers(functions, inputs)
    return case


def paged(machine: Machine, functions: Sequence[Function], batch: int, next_n: int, context: int, heads: int) -> Case:
    """Paged logits and their peers."""
    inputs = paged_inputs(batch, next_n, context, heads, machine.l2_bytes)
    case = paged_case(inputs, {"batch": batch, "next_n": next_n, "context": context, "heads": heads})
    case.peers = paged_peers(functions, inputs)
    return case


def selection(machine: Machine, functions: Sequence[Function], rows: int, width: int) -> Case:
    """The selection and its peers."""
    inputs = topk_inputs(rows, width, TOPK, machine.l2_bytes)
    case = topk_case(inputs, {"rows": rows, "width": width, "k": TOPK})
    case.peers = topk_peers(functions, inputs)
    return case


def announce(found: Found) -> None:
    """Say of each file what became of it."""
    for said in found.lines:
        print(said, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; 1 when a gate of this project's ops failed, or no peer could be called."""
    taken: argparse.ArgumentParser = parser(__doc__)
    taken.add_argument(
        "--folder", type=Path, required=True, help="sources of other projects: one folder or file a peer"
    )
    options = taken.parse_args(arguments)
    try:
        found = find_peers(options.folder)
    except FileNotFoundError as error:
        taken.error(str(error))
    announce(found)
    if not found.functions:
        print(f"{options.folder}: no peer could be called, so nothing was measured")
        return 1
    return run("peers", makers(found.functions, options.quick), options)


if __name__ == "__main__":
    sys.exit(main())
