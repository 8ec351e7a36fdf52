"""What stands in for the functions that pool index keys (GLM-5.3-Flash), each with the signature of what it replaces.

vLLM keeps orchestrating: where the key of a pool goes and the cache of open pools are its own.
"""

from typing import Any

import torch

from dsa_doctor.plugin import ops


def fwht128_quant_fp8(q: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Serve vLLM's function of the same name: rows [R, 128] rotated to e4m3 codes [R, 128] and scales [R, 1] fp32."""
    return ops.hadamard_quantize_fp8(q)


def pad_indexer_heads(x: torch.Tensor, pad: int) -> torch.Tensor:
    """Serve vLLM's `_pad_indexer_heads`: [T, heads, ...] with `pad` heads of zeros more, codes of e4m3 as bytes."""
    values = x.view(torch.uint8) if x.element_size() == 1 else x
    return torch.cat([values, values.new_zeros(x.shape[0], pad, *x.shape[2:])], dim=1).view(x.dtype)


def kpool_compress_insert(
    k: torch.Tensor,
    gate_score: torch.Tensor,
    ape: torch.Tensor,
    kv_cache: torch.Tensor,
    slot_mapping: torch.Tensor,
    kpool: int,
    head_dim: int,
    round_scale: bool,
) -> None:
    """Serve vLLM's `_kpool_compress_insert`: write the key of every pool that ends among the tokens of a prefill.

    vLLM's own takes a pool's tokens to lie in one chunk. Here those of an earlier chunk come from the cache of open
    pools, so a chunk may begin anywhere.
    """
    del head_dim  # the tensors carry it
    tail_cache, tail_slots = _open_pools(kv_cache, len(slot_mapping))
    keys, gates = pools_of(k, gate_score, tail_cache, tail_slots, kpool)
    slots = slot_mapping.to(torch.int64)
    ops.kpool_compress_and_cache(kv_cache, keys, gates, ape, slots, slots >= 0, _scale_format(round_scale))


def pools_of(
    k: torch.Tensor, gate_score: torch.Tensor, tail_cache: torch.Tensor, tail_slots: torch.Tensor, kpool: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return for each token the last `kpool` tokens of its request, itself last.

    Args:
        k: keys [T, 128] of a step's tokens, each request's in order.
        gate_score: their gates [T, 128].
        tail_cache: [blocks, 2, ring, 128], one block a request: what it kept of earlier steps, keys and then gates.
        tail_slots: [T], block * ring + position % ring; -1 is padding.
        kpool: tokens of a pool.

    Returns:
        Keys and gates [T, kpool, 128]. What a request never had is undefined, as is padding.
    """
    ring = tail_cache.shape[2]
    back = torch.arange(kpool - 1, -1, -1, device=k.device)
    source = torch.arange(len(tail_slots), device=k.device).unsqueeze(1) - back
    here, slots = source.clamp_min(0), tail_slots.long()
    blocks = slots.div(ring, rounding_mode="floor")
    among = ((source >= 0) & (blocks[here] == blocks.unsqueeze(1))).unsqueeze(-1)
    kept = tail_cache[blocks.clamp_min(0).unsqueeze(1), :, (slots.unsqueeze(1) - back) % ring]  # [T, kpool, 2, 128]
    return torch.where(among, k[here], kept[:, :, 0]), torch.where(among, gate_score[here], kept[:, :, 1])


def _open_pools(kv_cache: torch.Tensor, tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the cache of open pools beside a cache of pooled keys, and its slots of the step's prefilled tokens."""
    from vllm.forward_context import get_forward_context

    context: Any = get_forward_context()
    layers = context.no_compile_layers
    held = (name for name in context.attn_metadata if getattr(layers.get(name), "kv_cache", None) is kv_cache)
    if (name := next(held, None)) is None:
        raise RuntimeError("no layer of this step holds the cache of pooled index keys that was to be written")
    tail = f"{name.rpartition('.')[0]}.tail_cache"
    first = context.attn_metadata[name].num_decode_tokens
    return layers[tail].kv_cache, context.attn_metadata[tail].slot_mapping[first : first + tokens]


def kpool_seed_tail_cache(
    tail_kv_cache: torch.Tensor,
    key: torch.Tensor,
    gate_score: torch.Tensor,
    tslot: torch.Tensor,
    kpool: int,
    head_dim: int = 128,
) -> None:
    """Serve vLLM's function of the same name: keep the last `kpool` prefilled tokens of each request.

    vLLM 0.30's own takes the blocks of the cache to lie next to each other; other layers' pages lie between them.
    """
    del head_dim
    ring = tail_kv_cache.shape[2]
    slots = tslot.long()
    blocks = slots.div(ring, rounding_mode="floor")
    ahead = torch.full_like(blocks, -1)
    ahead[:-kpool] = blocks[kpool:]
    # Nobody owns block 0: what is not to be kept goes there, so that the host need not wait for a mask.
    blocks = torch.where((slots < 0) | (ahead == blocks), 0, blocks)
    tail_kv_cache[blocks, 0, slots % ring] = key
    tail_kv_cache[blocks, 1, slots % ring] = gate_score


def kpool_decode_update_and_maybe_write_cache_batched(
    kv_cache: torch.Tensor,
    tail_kv_cache: torch.Tensor,
    tail_slot_mapping: torch.Tensor,
    key: torch.Tensor,
    slot_score: torch.Tensor,
    ape: torch.Tensor,
    slot_mapping: torch.Tensor,
    positions: torch.Tensor,
    pool_size: int,
    head_dim: int = 128,
    round_scale: bool = True,
) -> None:
    """Serve vLLM's function of the same name: keep each decoded token, and write the key of a pool that it ends."""
    del pool_size, head_dim
    ops.kpool_decode_update(
        kv_cache,
        tail_kv_cache,
        tail_slot_mapping,
        key,
        slot_score,
        ape,
        slot_mapping,
        positions,
        _scale_format(round_scale),
    )


def _scale_format(round_scale: bool) -> str:
    return "ue8m0" if round_scale else ""
