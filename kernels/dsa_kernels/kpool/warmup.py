"""Compile, before serving, every kernel that a serving shape can reach."""

from __future__ import annotations

import torch

from dsa_kernels.kpool.config import HEAD_DIM
from dsa_kernels.kpool.interface import hadamard_quantize_fp8, kpool_compress_and_cache, kpool_decode_update


def warmup_kpool(pool: int = 4, device: torch.device | str = "cuda") -> None:
    """Compile the kernels for one model on one device, so that nothing compiles during graph capture or serving.

    What specialises: the tokens of a pool, masked or not, the dtypes of slots and gates. What does not: numbers of
    requests, tokens and pools, next_n, the ring, strides, page sizes. Slots are int64, positions int32 and gates bf16,
    as vLLM has them.

    Args:
        pool: tokens of a pool.
        device: where to compile.
    """
    row = torch.zeros((1, HEAD_DIM), dtype=torch.bfloat16, device=device)
    hadamard_quantize_fp8(row)
    cache = torch.zeros((1, 16, HEAD_DIM + 4), dtype=torch.uint8, device=device)
    keys = torch.zeros((1, pool, HEAD_DIM), dtype=torch.bfloat16, device=device)
    ape = torch.zeros((pool, HEAD_DIM), dtype=torch.float32, device=device)
    slots = torch.zeros(1, dtype=torch.int64, device=device)
    for mask in (None, torch.ones(1, dtype=torch.bool, device=device)):
        kpool_compress_and_cache(cache, keys, keys, ape, slots, mask)
    tail = torch.zeros((1, 2, pool, HEAD_DIM), dtype=torch.bfloat16, device=device)
    slot = slots.unsqueeze(0)
    kpool_decode_update(cache, tail, slot, keys[:, :1], keys[:, :1], ape, slot, slot.to(torch.int32))
