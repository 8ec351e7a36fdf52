"""Compile, before serving, every kernel that a serving shape can reach."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from dsa_kernels.compressor.config import INDEX_DIM, ROW_DIM
from dsa_kernels.compressor.interface import (
    compress_to_index_keys,
    compress_to_rows,
    index_key_norm_rope_store,
    inverse_rope_grouped,
)
from dsa_kernels.compressor.variants import GROUPS, ROPE


def warmup_compressor(
    heads: int,
    num_groups: int,
    groups: Sequence[tuple[int, bool]] = GROUPS,
    rope: int = ROPE,
    device: torch.device | str = "cuda",
) -> None:
    """Compile the kernels for one model on one device, so that nothing compiles during graph capture or serving.

    What specialises: ratio and overlap, the width of the rope, heads of an output group, and the dtypes, which are
    those that vLLM has: int32 requests and tables, int64 positions and slots, bf16 weights of the norm, fp32 states and
    angles. What does not: numbers of tokens, strides, page and block sizes.

    Args:
        heads: query heads of this rank.
        num_groups: output groups of this rank.
        groups: (ratio, overlap) of the layers that compress; the first with overlap is the indexer's too.
        rope: columns that are rotated.
        device: where to compile.
    """
    zero = torch.zeros(1, dtype=torch.int64, device=device)
    table = torch.zeros((1, 1), dtype=torch.int32, device=device)
    angles = torch.zeros((1, rope), dtype=torch.float32, device=device)
    for ratio, overlap in groups:
        for width in (ROW_DIM, INDEX_DIM) if overlap else (ROW_DIM,):
            state = torch.zeros((1, 1, 2 * width * (2 if overlap else 1)), dtype=torch.float32, device=device)
            weight = torch.zeros(width, dtype=torch.bfloat16, device=device)
            index = width == INDEX_DIM
            shape, dtype = ((1, 16, INDEX_DIM + 4), torch.uint8) if index else ((1, 1, ROW_DIM), torch.bfloat16)
            cache = torch.zeros(shape, dtype=dtype, device=device)
            # Position 0 ends no group: the kernel compiles and writes nothing.
            compress = compress_to_index_keys if index else compress_to_rows
            compress(state, zero.int(), zero, zero, table, weight, 1e-6, angles, cache, zero, ratio, overlap)
    o = torch.zeros((1, heads, ROW_DIM), dtype=torch.bfloat16, device=device)
    inverse_rope_grouped(o, zero, angles, num_groups)


def warmup_index_keys(
    ratios: Sequence[int] = (1, 2),
    weight_dtype: torch.dtype = torch.bfloat16,
    rope: int = ROPE,
    device: torch.device | str = "cuda",
) -> None:
    """Compile `index_key_norm_rope_store` for one model on one device.

    What specialises: tokens of a group, the width of the rope, the dtypes of weights, angles (fp32), positions and
    slots (int64). What does not: numbers of tokens, strides, page sizes.

    Args:
        ratios: tokens of a group, of each layer that has keys of its own.
        weight_dtype: of the norm's weight.
        rope: columns that are rotated.
        device: where to compile.
    """
    k = torch.zeros((1, INDEX_DIM), dtype=torch.bfloat16, device=device)
    weight = torch.zeros(INDEX_DIM, dtype=weight_dtype, device=device)
    angles = torch.zeros((1, rope), dtype=torch.float32, device=device)
    cache = torch.zeros((1, 16, INDEX_DIM + 4), dtype=torch.uint8, device=device)
    none = torch.full((1,), -1, dtype=torch.int64, device=device)
    for ratio in ratios:
        index_key_norm_rope_store(k, none, weight, 1e-6, angles, cache, none, ratio)
