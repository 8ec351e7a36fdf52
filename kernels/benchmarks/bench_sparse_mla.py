"""Speed of the sparse MLA ops beside their floors and their peers.

    PYTHONPATH=kernels python kernels/benchmarks/bench_sparse_mla.py [--peers FOLDER] [--only decode|fp8|prefill]
    TRITON_OVERRIDE_ARCH=sm80 PYTHONPATH=kernels python kernels/benchmarks/bench_sparse_mla.py

A speed is printed only when the result of that very shape is right; the exit status is 1 when any was wrong.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from gate import GateError, require
from machine import Machine, measure_machine
from peers import Peer, load_peers
from timing import Timing, time_calls

from dsa_kernels import naive_sparse_mla_fwd, naive_sparse_mla_with_kvcache, sparse_mla_fwd, sparse_mla_with_kvcache
from dsa_kernels.sparse_mla import config as tiles
from dsa_kernels.sparse_mla import plan as plans
from dsa_kernels.targets import device_facts

TOPK = 2048
GATE = 4e-3
CHECKED_TOKENS = 8
DECODE_ROWS = 1_048_576
PREFILL_ROWS = 16_384
DECODE_TOKENS = (1, 8, 32, 64, 128)
HEADS = (8, 16, 64, 128)


@dataclass
class Row:
    """One measured shape."""

    kind: str
    tokens: int
    heads: int
    error: float
    timing: Timing
    byte_floor_us: float
    flop_floor_us: float
    splits: int
    peers: dict[str, float | str] = field(default_factory=dict)

    def line(self) -> str:
        """The row as one line of the table."""
        floor = max(self.byte_floor_us, self.flop_floor_us)
        peers = "  ".join(
            f"{name} {value:.1f} ({value / self.timing.median_us:.2f}x)" if isinstance(value, float) else f"{name} -"
            for name, value in self.peers.items()
        )
        return (
            f"{self.kind:8} {self.tokens:5} {self.heads:4} {self.splits:3} {self.timing!s:32} "
            f"bytes {self.byte_floor_us:8.1f} ({self.byte_floor_us / self.timing.median_us:4.0%}) "
            f"flops {self.flop_floor_us:8.1f} ({self.flop_floor_us / self.timing.median_us:4.0%}) "
            f"floor/time {floor / self.timing.median_us:4.0%} err {self.error:.1e} | {peers}"
        )


def random_indices(tokens: int, rows: int, sets: int) -> list[torch.Tensor]:
    """Distinct rows per token, a fresh draw for each set."""
    drawn = []
    for _ in range(sets):
        if tokens > 256:
            picked = torch.stack([torch.randperm(rows, device="cuda")[:TOPK] for _ in range(tokens)])
        else:
            picked = torch.randint(0, rows, (tokens, TOPK), device="cuda")
        drawn.append(picked.to(torch.int32)[:, None, :].contiguous())
    return drawn


def number_of_sets(machine: Machine, touched: float) -> int:
    """So many inputs that a replay touches four times the L2 cache (64 at most)."""
    return max(1, min(64, -(-4 * machine.l2_bytes // int(touched))))


def floors(machine: Machine, tokens: int, heads: int, row_bytes: int, cached: bool) -> tuple[float, float]:
    """Microseconds for the bytes (each gathered row, q and out once) and for the FLOPs, at the measured ceilings.

    With `cached` the rows fit in L2 and count once for the whole cache rather than once per token.
    """
    gathered = PREFILL_ROWS * row_bytes if cached else tokens * TOPK * row_bytes
    moved = gathered + tokens * heads * (576 + 512) * 2 + tokens * TOPK * 4
    flop = 2 * tokens * heads * TOPK * (576 + 512)
    return moved / machine.copy_bytes_per_s * 1e6, flop / machine.bf16_flop_per_s * 1e6


def splits_of(tokens: int, heads: int, fp8: bool) -> int:
    """Parts that the launch plan cuts a selection into."""
    capability, multiprocessors = device_facts(torch.device("cuda", 0))
    return plans.plan_launch(tokens, heads, TOPK, fp8, capability, multiprocessors).num_splits


def measure(
    machine: Machine,
    kind: str,
    tokens: int,
    heads: int,
    cache: torch.Tensor,
    peers: dict[str, Peer | str],
) -> Row:
    """Gate and time one shape.

    Raises:
        GateError: when the result is wrong.
    """
    fp8, prefill = kind == "fp8", kind == "prefill"
    row_bytes = 656 if fp8 else 1152
    rows = cache.shape[0] * (64 if fp8 else 1)
    sets = 1 if prefill else number_of_sets(machine, tokens * TOPK * row_bytes)
    q = torch.randn(tokens, heads, 576, device="cuda", dtype=torch.bfloat16)
    out = torch.empty(tokens, heads, 512, device="cuda", dtype=torch.bfloat16)
    draws = random_indices(tokens, rows, sets)
    scale = 576**-0.5

    def ours(indices: torch.Tensor) -> torch.Tensor:
        if fp8:
            return sparse_mla_with_kvcache(q, cache, indices, scale, kv_format="fp8_ds_mla", out=out)[0]
        return sparse_mla_fwd(q, cache, indices, scale, out=out)[0]

    some = slice(0, CHECKED_TOKENS)
    if fp8:
        used = draws[0][some].flatten().long()
        small = cache.view(-1, 656)[used][:, None, None, :]
        order = torch.arange(used.numel(), device="cuda", dtype=torch.int32).view(-1, 1, TOPK)
        expected = naive_sparse_mla_with_kvcache(q[some], small, order, scale, kv_format="fp8_ds_mla")[0]
    else:
        expected = naive_sparse_mla_fwd(q[some], cache, draws[0][some], scale)[0]
    out.fill_(float("nan"))
    error = require(f"{kind} {tokens} x {heads}", ours(draws[0])[some], expected, GATE)
    if not out.isfinite().all():
        raise GateError(f"{kind} {tokens} x {heads}: unwritten output")
    timing = time_calls([(lambda indices=indices: ours(indices)) for indices in draws])
    byte_floor, flop_floor = floors(machine, tokens, heads, row_bytes, prefill)
    row = Row(kind, tokens, heads, error, timing, byte_floor, flop_floor, splits_of(tokens, heads, fp8))
    for name, peer in peers.items():
        row.peers[name] = peer if isinstance(peer, str) else time_peer(peer, q, cache, draws, scale, expected)
    return row


def time_peer(
    peer: Peer, q: torch.Tensor, kv: torch.Tensor, draws: list[torch.Tensor], scale: float, expected: torch.Tensor
) -> float | str:
    """Median microseconds of a peer, or why there is none; a peer that is wrong has no speed either."""
    try:
        require("peer", peer(q, kv, draws[0], scale)[: expected.shape[0]], expected, 2e-2)
        calls: list[Callable[[], object]] = [(lambda indices=indices: peer(q, kv, indices, scale)) for indices in draws]
        return time_calls(calls, milliseconds=60.0).median_us
    except (RuntimeError, GateError) as error:
        return str(error).splitlines()[0]


def random_fp8_cache(rows: int) -> torch.Tensor:
    """fp8_ds_mla pages of 64 tokens with random codes, scales near one and random rope values."""
    cache = torch.empty(rows // 64, 64, 1, 656, dtype=torch.uint8, device="cuda")
    for part in cache.split(2048):
        shape = part.shape[:3]
        part[..., :512] = torch.randn(*shape, 512, device="cuda").to(torch.float8_e4m3fn).view(torch.uint8)
        part[..., 512:528] = (torch.rand(*shape, 4, device="cuda") + 0.5).view(torch.uint8)
        part[..., 528:] = torch.randn(*shape, 64, device="cuda").to(torch.bfloat16).view(torch.uint8)
    return cache


def use_config(text: str) -> None:
    """Replace the default tile configuration for this run: block_h,block_n,num_warps,num_stages,programs_per_sm."""
    chosen = tiles.TileConfig(*map(int, text.split(",")))
    plans.tile_config = lambda capability, num_heads, fp8: chosen  # noqa: ARG005


def main() -> int:
    """Measure and print; 1 when a gate failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path, help="folder with files taken out of a vLLM wheel")
    parser.add_argument("--only", action="append", choices=("decode", "fp8", "prefill"))
    parser.add_argument("--tokens", type=int, action="append", help="only these decode batches")
    parser.add_argument("--heads", type=int, action="append", help="only these head counts")
    parser.add_argument("--config", help="tile configuration in place of the default: " + str(use_config.__doc__))
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--output", type=Path, help="write everything as JSON")
    options = parser.parse_args()
    if options.config:
        use_config(options.config)
    torch.manual_seed(0)
    machine = measure_machine()
    print(json.dumps(asdict(machine)))
    peers: dict[str, Peer | str] = {} if options.no_peers else load_peers(options.peers)
    print("kind    tokens heads splits  median us [p10, p90]")
    rows: list[Row] = []
    failures = 0
    for kind in options.only or ("decode", "fp8", "prefill"):
        if kind == "fp8":
            cache = random_fp8_cache(DECODE_ROWS)
        else:
            cache = torch.randn(
                DECODE_ROWS if kind == "decode" else PREFILL_ROWS, 1, 576, device="cuda", dtype=torch.bfloat16
            )
        for tokens in (4096,) if kind == "prefill" else options.tokens or DECODE_TOKENS:
            for heads in options.heads or HEADS:
                try:
                    row = measure(machine, kind, tokens, heads, cache, {} if kind == "fp8" else peers)
                except GateError as error:
                    print(f"REFUSED {error}")
                    failures += 1
                    continue
                rows.append(row)
                print(row.line(), flush=True)
        del cache
        torch.cuda.empty_cache()
    for name, peer in peers.items():
        if isinstance(peer, str):
            print(f"not measured: {name}: {peer}")
    if options.output:
        options.output.write_text(
            json.dumps({"machine": asdict(machine), "rows": [asdict(row) for row in rows]}, indent=1)
        )
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
