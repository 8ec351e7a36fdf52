"""The truth for the compressor, in plain torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from dsa_kernels.fp8.naive import naive_indexer_k_quant_and_cache, naive_rope


def naive_compressed(
    state_cache: torch.Tensor,
    block_table: torch.Tensor,
    position: int,
    norm_weight: torch.Tensor,
    eps: float,
    ratio: int,
    overlap: bool,
) -> torch.Tensor:
    """Pool and normalise the window that ends at one token of one request.

    Args:
        state_cache: [P, block_size, 2 * c * D] fp32, c being 2 with overlap and 1 without.
        block_table: [blocks] int, of the request.
        position: of the token; (position + 1) is a multiple of the ratio.
        norm_weight: [D] float.
        eps: of the norm.
        ratio: tokens that are compressed into one.
        overlap: whether the group before counts too.

    Returns:
        [D] fp64.
    """
    block_size, width = state_cache.shape[1], norm_weight.shape[0]
    parts = 2 if overlap else 1
    values, scores = [], []
    for row in range(parts * ratio):
        at = position - parts * ratio + 1 + row
        if at < 0:
            continue
        state = state_cache[int(block_table[at // block_size]), at % block_size].double()
        first = width if overlap and row >= ratio else 0
        values.append(state[first : first + width])
        scores.append(state[parts * width + first : parts * width + first + width])
    share = torch.softmax(torch.stack(scores), dim=0)  # for each of the D columns
    pooled = (share * torch.stack(values)).sum(0)
    return pooled * torch.rsqrt(pooled.square().mean() + eps) * norm_weight.double()


def naive_rotate_end(x: torch.Tensor, cos_sin: torch.Tensor, *, inverse: bool = False) -> torch.Tensor:
    """Rotate neighbours among the last R of the last dimension: x [..., D] float, cos_sin broadcastable to [..., R]."""
    rope = cos_sin.shape[-1]
    cos, sin = cos_sin.float().chunk(2, -1)
    turned = naive_rope(x[..., -rope:].float(), cos, -sin if inverse else sin, is_neox=False)
    return torch.cat((x[..., :-rope].float(), turned), -1)


def naive_compress_to_rows(kv_cache: torch.Tensor, **given: Any) -> None:
    """The reference of `compress_to_rows`, token by token; arguments as there, by keyword."""
    for slot, compressed, angles in _groups(**given):
        row = naive_rotate_end(compressed.float(), angles)
        kv_cache[slot // kv_cache.shape[1], slot % kv_cache.shape[1]] = row.to(torch.bfloat16)


def naive_compress_to_index_keys(kv_cache: torch.Tensor, **given: Any) -> None:
    """The reference of `compress_to_index_keys`, token by token; arguments as there, by keyword."""
    for slot, compressed, angles in _groups(**given):
        key = naive_rotate_end(compressed.float().to(torch.bfloat16), angles).to(torch.bfloat16)
        naive_indexer_k_quant_and_cache(key[None], kv_cache, torch.tensor([slot]))


def naive_index_key_norm_rope_store(
    k: torch.Tensor,
    positions: torch.Tensor,
    norm_weight: torch.Tensor,
    eps: float,
    cos_sin_cache: torch.Tensor,
    kv_cache: torch.Tensor,
    slot_mapping: torch.Tensor,
    ratio: int,
) -> None:
    """The reference of `index_key_norm_rope_store`, token by token; arguments as there."""
    for token, slot in enumerate(slot_mapping.tolist()):
        position = int(positions[token])
        if slot < 0 or position < 0 or (position + 1) % ratio:
            continue
        row = k[token].double()
        normed = row * torch.rsqrt(row.square().mean() + eps) * norm_weight.double()
        angles = cos_sin_cache[position // ratio * ratio]
        key = naive_rotate_end(normed.float().to(torch.bfloat16), angles).to(torch.bfloat16)
        naive_indexer_k_quant_and_cache(key[None], kv_cache, torch.tensor([slot]))


def _groups(
    state_cache: torch.Tensor,
    token_to_request: torch.Tensor,
    positions: torch.Tensor,
    state_slots: torch.Tensor,
    block_table: torch.Tensor,
    norm_weight: torch.Tensor,
    eps: float,
    cos_sin_cache: torch.Tensor,
    slot_mapping: torch.Tensor,
    ratio: int,
    overlap: bool,
) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
    """Yield (slot, [D] fp64, [R] angles of the group's first position) of every token at which a group ends."""
    for token, (position, slot) in enumerate(zip(positions.tolist(), slot_mapping.tolist(), strict=True)):
        if int(state_slots[token]) < 0 or slot < 0 or position < 0 or (position + 1) % ratio:
            continue
        table = block_table[int(token_to_request[token])]
        compressed = naive_compressed(state_cache, table, position, norm_weight, eps, ratio, overlap)
        yield slot, compressed, cos_sin_cache[position // ratio * ratio]


def naive_inverse_rope(
    o: torch.Tensor, positions: torch.Tensor, cos_sin_cache: torch.Tensor, num_groups: int
) -> torch.Tensor:
    """The reference of `inverse_rope_grouped`; arguments and result as there."""
    turned = naive_rotate_end(o, cos_sin_cache[positions.long()].unsqueeze(1), inverse=True).to(torch.bfloat16)
    tokens, heads, width = o.shape
    return turned.reshape(tokens, num_groups, heads // num_groups * width).transpose(0, 1).contiguous()
