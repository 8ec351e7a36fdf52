"""Cases of the indexer's fp8 ops: the fused q path and the k-cache write."""

from __future__ import annotations

import torch

from dsa_kernels.bench.case import Case, named
from dsa_kernels.bench.gate import GateError, require, require_equal
from dsa_kernels.bench.inputs import PAGE_SIZE, spaced
from dsa_kernels.bench.work import INDEX_DIM, k_cache_work, q_quant_work
from dsa_kernels.fp8.interface import fused_indexer_q_rope_quant, indexer_k_quant_and_cache
from dsa_kernels.fp8.naive import naive_fused_indexer_q, naive_quantize_fp8, naive_read_indexer_cache

#: A fused multiply-add may turn a tie of the rope part's rounding: about one code in a thousand, by one step.
Q_LIMIT = 1e-2
CHECKED_TOKENS = 64
POISON = 0xA5


def q_quant_case(
    tokens: int,
    heads: int,
    rope: int,
    is_neox: bool,
    shape: dict[str, int | str],
    positions: int = 32768,
    device: torch.device | str = "cuda",
) -> Case:
    """`fused_indexer_q_rope_quant` on one input, in L2 where it fits, as it is behind the product that makes q.

    Gate: codes and folded weights of some tokens; codes outside the rope part are the reference's bit for bit.
    """
    where = torch.randint(0, positions, (tokens,), device=device)
    q = torch.randn(tokens, heads, INDEX_DIM, device=device, dtype=torch.bfloat16)
    angles = torch.rand(positions, rope // 2, device=device) * 6.2831853
    cos_sin = torch.cat((angles.cos(), angles.sin()), dim=-1)
    weights = torch.randn(tokens, heads, device=device)
    scales = (INDEX_DIM**-0.5, heads**-0.5)
    op = "q quantisation"

    def run() -> tuple[torch.Tensor, torch.Tensor]:
        return fused_indexer_q_rope_quant(where, q, cos_sin, weights, *scales, is_neox)

    def check() -> float:
        some, name = spaced(tokens, CHECKED_TOKENS), named(op, shape)
        codes, folded = run()
        wanted, wanted_folded = naive_fused_indexer_q(where[some], q[some], cos_sin, weights[some], *scales, is_neox)
        got = codes.view(torch.uint8)[some].view(torch.float8_e4m3fn)
        if not torch.equal(got.view(torch.uint8)[..., rope:], wanted.view(torch.uint8)[..., rope:]):
            raise GateError(f"{name}: codes outside the rope part differ")
        require(f"{name}: weights", folded[some], wanted_folded, 1e-6)
        return require(name, got.float(), wanted.float(), Q_LIMIT)

    return Case(op, shape, q_quant_work(tokens, heads, rope), Q_LIMIT, check, [run])


def k_cache_case(tokens: int, shape: dict[str, int | str], device: torch.device | str = "cuda") -> Case:
    """`indexer_k_quant_and_cache` of `tokens` keys to random slots. Gate: codes and scales, bit for bit."""
    num_pages = -(-tokens // PAGE_SIZE) * 4
    cache = torch.full((num_pages, PAGE_SIZE, INDEX_DIM + 4), POISON, dtype=torch.uint8, device=device)
    k = torch.randn(tokens, INDEX_DIM, device=device, dtype=torch.bfloat16)
    slots = torch.randperm(num_pages * PAGE_SIZE, device=device)[:tokens]
    op = "k-cache write"

    def run() -> None:
        indexer_k_quant_and_cache(k, cache, slots)

    def check() -> float:
        run()
        some, name = spaced(tokens, CHECKED_TOKENS), named(op, shape)
        wanted, wanted_scale = naive_quantize_fp8(k[some], INDEX_DIM)
        codes, scale = naive_read_indexer_cache(cache, slots[some])
        require_equal(f"{name}: scales", scale.flatten(), wanted_scale.flatten())
        return require_equal(name, codes.view(torch.uint8), wanted.view(torch.uint8))

    return Case(op, shape, k_cache_work(tokens), 0.0, check, [run])
