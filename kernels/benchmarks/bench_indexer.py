"""Speed of the indexer's logits, ragged, paged and chunked, beside their floors and their peers.

    PYTHONPATH=kernels python kernels/benchmarks/bench_indexer.py [--deep-gemm FOLDER] [--only ragged|paged|chunked]
    TRITON_OVERRIDE_ARCH=sm80 PYTHONPATH=kernels python kernels/benchmarks/bench_indexer.py

A speed is printed only when the result of that very shape is right; the exit status is 1 when any was wrong.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from gate import GateError, require
from indexer_peers import load_deep_gemm, torch_logits
from machine import Machine, measure_machine
from timing import Timing, time_calls

from dsa_kernels.indexer import config as tiles
from dsa_kernels.indexer import (
    fp8_mqa_logits,
    fp8_paged_mqa_logits,
    indexer_topk,
    naive_fp8_mqa_logits,
    naive_fp8_paged_mqa_logits,
    topk_indices,
)
from dsa_kernels.indexer import paged as paged_module
from dsa_kernels.indexer import ragged as ragged_module

GATE = 1e-5
CHECKED_ROWS = 8
TOPK = 2048
#: Logits of more than this many bytes are not measured unchunked.
MOST_BYTES = 20 * 2**30


def random_codes(*shape: int) -> torch.Tensor:
    """Random e4m3 values, made in parts so that no large fp32 copy exists."""
    flat = torch.empty(shape, dtype=torch.float8_e4m3fn, device="cuda")
    for part in flat.view(torch.uint8).view(-1).split(2**26):
        part.copy_(torch.randn(part.shape, device="cuda").to(torch.float8_e4m3fn).view(torch.uint8))
    return flat


def report(name: str, timing: Timing, floor_us: float, error: float, peers: dict[str, float | str]) -> None:
    """Print one line of the table."""
    others = "  ".join(
        f"{peer} {value:.1f} ({value / timing.median_us:.2f}x)" if isinstance(value, float) else f"{peer}: {value}"
        for peer, value in peers.items()
    )
    share = floor_us / timing.median_us
    print(f"{name:40} {timing!s:34} floor {floor_us:9.1f} ({share:4.0%}) err {error:.1e} | {others}", flush=True)


def time_peer(call: Callable[[], Any]) -> float | str:
    """Median microseconds, or the first line of what went wrong."""
    try:
        return time_calls([call], milliseconds=30.0).median_us
    except Exception as error:
        return str(error).splitlines()[0][:80]


def bench_ragged(machine: Machine, rows: int, keys: int, heads: int, deep_gemm: Any) -> None:
    """Gate and time one ragged shape: causal, the last `rows` tokens of `keys`.

    Raises:
        GateError: when the result is wrong.
    """
    q, k = random_codes(rows, heads, 128), random_codes(keys, 128)
    scale, weights = torch.rand(keys, device="cuda") + 0.5, torch.randn(rows, heads, device="cuda")
    starts = torch.zeros(rows, dtype=torch.int32, device="cuda")
    ends = torch.arange(keys - rows + 1, keys + 1, dtype=torch.int32, device="cuda")
    case = (q, (k, scale), weights, starts, ends)

    def ours() -> torch.Tensor:
        return fp8_mqa_logits(*case, clean_logits=False)

    got = ours()
    some = slice(rows - CHECKED_ROWS, rows)
    expected = naive_fp8_mqa_logits(q[some], (k, scale), weights[some], starts[some], ends[some])
    checked = got[some].masked_fill(expected == float("-inf"), float("-inf"))
    error = require(f"ragged {rows} x {keys}", checked, expected, GATE)
    del got, checked
    timing = time_calls([ours], milliseconds=60.0)
    pairs = float(ends.double().sum())
    flop_floor = 2 * pairs * heads * 128 / machine.bf16_flop_per_s
    byte_floor = (pairs * 4 + q.numel() + k.numel()) / machine.copy_bytes_per_s
    peers: dict[str, float | str] = {}
    if rows * keys <= 1024 * 32768:
        peers["torch"] = time_peer(lambda: torch_logits(q, k, scale, weights))
    if isinstance(deep_gemm, str):
        peers["deep_gemm"] = "-"
    else:
        peers["deep_gemm"] = time_peer(lambda: deep_gemm.fp8_mqa_logits(*case, clean_logits=False))
    report(f"ragged {rows} x {keys}, {heads} heads", timing, 1e6 * max(flop_floor, byte_floor), error, peers)


def bench_chunked(machine: Machine, rows: int, keys: int, heads: int) -> None:
    """Gate and time logits plus selection in chunks against the same unchunked.

    Raises:
        GateError: when the two differ.
    """
    q, k = random_codes(rows, heads, 128), random_codes(keys, 128)
    scale, weights = torch.rand(keys, device="cuda") + 0.5, torch.randn(rows, heads, device="cuda")
    starts = torch.zeros(rows, dtype=torch.int32, device="cuda")
    ends = torch.arange(keys - rows + 1, keys + 1, dtype=torch.int32, device="cuda")
    case = (q, (k, scale), weights, starts, ends)

    def chunked() -> torch.Tensor:
        return indexer_topk(*case, TOPK)

    def whole() -> torch.Tensor:
        return topk_indices(fp8_mqa_logits(*case, clean_logits=False), starts, ends, TOPK)

    if not torch.equal(chunked(), whole()):
        raise GateError(f"chunked {rows} x {keys}: differs from the two ops")
    timing = time_calls([chunked], milliseconds=60.0)
    pairs = float(ends.double().sum())
    floor = 2 * pairs * heads * 128 / machine.bf16_flop_per_s
    peers: dict[str, float | str] = {"unchunked": time_peer(whole)}
    report(f"chunked {rows} x {keys}, {heads} heads", timing, 1e6 * floor, 0.0, peers)


def bench_paged(machine: Machine, batch: int, next_n: int, context: int, heads: int, deep_gemm: Any) -> None:
    """Gate and time one paged shape, every request at the same context, pages in random order.

    Raises:
        GateError: when the result is wrong.
    """
    pages = -(-context // 64)
    sets = max(1, min(16, -(-4 * machine.l2_bytes // (batch * context * 132))))
    num_pages = batch * pages * sets
    cache = torch.empty(num_pages, 64 * 132, dtype=torch.uint8, device="cuda")
    cache[:, : 64 * 128] = random_codes(num_pages, 64 * 128).view(torch.uint8)
    cache[:, 64 * 128 :] = (torch.rand(num_pages, 64, device="cuda") + 0.5).view(torch.uint8)
    cache = cache.view(num_pages, 64, 1, 132)
    tables = torch.randperm(num_pages, device="cuda").to(torch.int32).view(sets, batch, pages)
    q, weights = random_codes(batch, next_n, heads, 128), torch.randn(batch * next_n, heads, device="cuda")
    steps = torch.arange(1 - next_n, 1, dtype=torch.int32, device="cuda")
    lengths = (context + steps).expand(batch, next_n).contiguous()

    def ours(table: torch.Tensor) -> torch.Tensor:
        return fp8_paged_mqa_logits(q, cache, weights, lengths, table, None, context, clean_logits=False)

    got = ours(tables[0])[-next_n:]
    expected = naive_fp8_paged_mqa_logits(
        q[-1:], cache[tables[0, -1].long()], weights[-next_n:], lengths[-1:], in_order(pages), context
    )
    error = require(
        f"paged {batch} x {context}", got.masked_fill(expected == float("-inf"), float("-inf")), expected, GATE
    )
    timing = time_calls([(lambda table=table: ours(table)) for table in tables], milliseconds=40.0)
    moved = batch * context * (132 + 4 * next_n)
    flop = 2 * batch * next_n * context * heads * 128
    floor = max(moved / machine.copy_bytes_per_s, flop / machine.bf16_flop_per_s)
    peers: dict[str, float | str] = {
        "bytes": f"{moved / timing.median_us / 1e3 / (machine.copy_bytes_per_s / 1e9):.0%}"
    }
    if isinstance(deep_gemm, str):
        peers["deep_gemm"] = "-"
    else:
        peers["deep_gemm"] = time_peer_paged(deep_gemm, q, cache, weights, lengths, tables, context)
    report(f"paged {batch} x {context}, next_n {next_n}, {heads} heads", timing, 1e6 * floor, error, peers)


def in_order(pages: int) -> torch.Tensor:
    """A block table of one request that names its pages in order."""
    return torch.arange(pages, dtype=torch.int32, device="cuda").unsqueeze(0)


def time_peer_paged(
    deep_gemm: Any,
    q: torch.Tensor,
    cache: torch.Tensor,
    weights: torch.Tensor,
    lengths: torch.Tensor,
    tables: torch.Tensor,
    context: int,
) -> float | str:
    """DeepGEMM on the same inputs, its schedule made beforehand."""
    try:
        schedule = deep_gemm.get_paged_mqa_logits_metadata(lengths, 64, deep_gemm.get_num_sms())
        calls = [
            lambda table=table: deep_gemm.fp8_paged_mqa_logits(
                q, cache, weights, lengths, table, schedule, context, clean_logits=False
            )
            for table in tables
        ]
        return time_calls(calls, milliseconds=30.0).median_us
    except Exception as error:
        return str(error).splitlines()[0][:80]


def use_config(module: Any, name: str, text: str) -> None:
    """Replace a default configuration for this run: block_n,columns,num_warps,num_stages,row_block."""
    chosen = tiles.LogitsConfig(*map(int, text.split(",")))
    setattr(module, name, lambda capability, heads: chosen)  # noqa: ARG005


def main() -> int:
    """Measure and print; 1 when a gate failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--deep-gemm", type=Path, help="folder that holds the deep_gemm package")
    parser.add_argument("--only", action="append", choices=("ragged", "paged", "chunked"))
    parser.add_argument("--ragged-config", help=str(use_config.__doc__))
    parser.add_argument("--paged-config", help=str(use_config.__doc__))
    parser.add_argument("--quick", action="store_true", help="a few shapes of each kind")
    options = parser.parse_args()
    if options.ragged_config:
        use_config(ragged_module, "ragged_config", options.ragged_config)
    if options.paged_config:
        use_config(paged_module, "paged_config", options.paged_config)
    torch.manual_seed(0)
    machine = measure_machine()
    print(json.dumps(asdict(machine)))
    deep_gemm = load_deep_gemm(options.deep_gemm)
    if isinstance(deep_gemm, str):
        print(f"not measured: deep_gemm: {deep_gemm}")
    kinds = options.only or ("ragged", "paged", "chunked")
    work: list[Callable[[], None]] = []
    quick = options.quick
    if "ragged" in kinds:
        for heads in (32, 64):
            for rows in (4096,) if quick else (1024, 4096, 8192):
                for keys in (32768,) if quick else (8192, 32768, 131072):
                    if rows * keys * 4 <= MOST_BYTES and keys >= rows:
                        work.append(lambda r=rows, n=keys, h=heads: bench_ragged(machine, r, n, h, deep_gemm))
    if "paged" in kinds:
        for next_n in (1, 4):
            for batch in (1, 64) if quick else (1, 4, 16, 64):
                for context in (32768,) if quick else (4096, 32768, 131072):
                    for heads in (64,) if not quick else (32, 64):
                        work.append(
                            lambda b=batch, t=next_n, c=context, h=heads: bench_paged(machine, b, t, c, h, deep_gemm)
                        )
    if "chunked" in kinds:
        work.append(lambda: bench_chunked(machine, 4096, 32768 if quick else 131072, 64))
    failures = 0
    for call in work:
        try:
            call()
        except GateError as error:
            print(f"REFUSED {error}")
            failures += 1
        torch.cuda.empty_cache()
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
