"""The truth for pooled index keys, in plain torch."""

from __future__ import annotations

import torch

from dsa_kernels.fp8.naive import naive_indexer_k_quant_and_cache, naive_quantize_fp8


def hadamard_matrix(size: int = 128) -> torch.Tensor:
    """The normalised Hadamard matrix in Sylvester's order: [size, size] fp64, symmetric, its own inverse."""
    matrix = torch.ones(1, 1, dtype=torch.float64)
    while matrix.shape[0] < size:
        matrix = torch.cat((torch.cat((matrix, matrix), 1), torch.cat((matrix, -matrix), 1)))
    return matrix / size**0.5


def naive_rotate(x: torch.Tensor) -> torch.Tensor:
    """Rotate the last dimension: [..., 128] float -> bf16, rounded once from fp64."""
    return (x.double() @ hadamard_matrix(x.shape[-1]).to(x.device)).float().to(torch.bfloat16)


def naive_hadamard_quantize_fp8(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The reference of `hadamard_quantize_fp8`; arguments and results as there."""
    return naive_quantize_fp8(naive_rotate(x))


def naive_pool(key: torch.Tensor, gate: torch.Tensor, ape: torch.Tensor) -> torch.Tensor:
    """Pool tokens: a softmax over the tokens for each dimension, of gate plus ape, weighs the keys.

    Args:
        key: [..., pool, 128] float.
        gate: [..., pool, 128] float.
        ape: [pool, 128] float.

    Returns:
        [..., 128] bf16, rounded once from fp64.
    """
    share = torch.softmax(gate.double() + ape.double(), dim=-2)
    return (share * key.double()).sum(-2).float().to(torch.bfloat16)


def naive_kpool_compress_and_cache(
    kv_cache: torch.Tensor,
    key: torch.Tensor,
    gate: torch.Tensor,
    ape: torch.Tensor,
    slot_mapping: torch.Tensor,
    write_mask: torch.Tensor | None = None,
    scale_fmt: str = "ue8m0",
) -> None:
    """The reference of `kpool_compress_and_cache`; arguments as there."""
    pooled = naive_rotate(naive_pool(key, gate, ape))
    slots = slot_mapping if write_mask is None else torch.where(write_mask, slot_mapping, -1)
    naive_indexer_k_quant_and_cache(pooled, kv_cache, slots, ue8m0=scale_fmt == "ue8m0")


def naive_kpool_decode_update(
    kv_cache: torch.Tensor,
    tail_cache: torch.Tensor,
    tail_slot_mapping: torch.Tensor,
    key: torch.Tensor,
    gate: torch.Tensor,
    ape: torch.Tensor,
    slot_mapping: torch.Tensor,
    positions: torch.Tensor,
    scale_fmt: str = "ue8m0",
) -> None:
    """The reference of `kpool_decode_update`, token by token; arguments as there."""
    pool, ring = ape.shape[0], tail_cache.shape[2]
    for request in range(key.shape[0]):
        for token in range(key.shape[1]):
            position, tail_slot = int(positions[request, token]), int(tail_slot_mapping[request, token])
            if position < 0 or tail_slot < 0:
                continue
            tail = tail_cache[tail_slot // ring]  # [2, ring, 128]
            slot = slot_mapping[request, token]
            if slot >= 0 and position % pool == pool - 1:
                rows = [(position - pool + 1 + other) % ring for other in range(pool - 1)]
                keys = torch.cat((tail[0, rows], key[request, token][None]))
                gates = torch.cat((tail[1, rows], gate[request, token][None]))
                pooled = naive_rotate(naive_pool(keys, gates, ape))[None]
                naive_indexer_k_quant_and_cache(pooled, kv_cache, slot[None], ue8m0=scale_fmt == "ue8m0")
            tail[0, position % ring] = key[request, token]
            tail[1, position % ring] = gate[request, token]
