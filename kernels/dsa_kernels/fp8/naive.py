"""The truth for the fp8 ops, in plain torch."""

from __future__ import annotations

import torch

E4M3_MAX = 448.0


def naive_encode_e4m3(values: torch.Tensor) -> torch.Tensor:
    """Saturate at ±448 and convert: any shape, any float dtype -> torch.float8_e4m3fn."""
    return values.float().clamp(-E4M3_MAX, E4M3_MAX).to(torch.float8_e4m3fn)


def _over_max(amax: torch.Tensor) -> torch.Tensor:
    """Divide by 448, correctly rounded: torch multiplies by the rounded reciprocal of a scalar on a GPU."""
    return amax / torch.full_like(amax, E4M3_MAX)


def naive_power_of_two_scale(amax: torch.Tensor, floor: float) -> torch.Tensor:
    """The smallest power of two that is at least max(amax, floor) / 448, elementwise in fp32."""
    mantissa, exponent = torch.frexp(_over_max(amax.float().clamp_min(floor)))
    # frexp gives [0.5, 1): exactly a power of two when the mantissa is 0.5.
    return torch.ldexp(torch.ones_like(mantissa), exponent - (mantissa == 0.5).int())


def naive_quantize_fp8(
    x: torch.Tensor, group_size: int = 128, floor: float = 1e-4, ue8m0: bool = True
) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantise groups of the last dimension.

    Args:
        x: [..., D] float.
        group_size: elements that share a scale.
        floor: smallest magnitude that a scale is made from.
        ue8m0: round the scale up to a power of two.

    Returns:
        codes [..., D] torch.float8_e4m3fn and scales [..., D / group_size] fp32.
    """
    groups = x.float().unflatten(-1, (-1, group_size))
    amax = groups.abs().amax(-1)
    scale = naive_power_of_two_scale(amax, floor) if ue8m0 else _over_max(amax.clamp_min(floor))
    return naive_encode_e4m3(groups / scale.unsqueeze(-1)).flatten(-2), scale


def naive_rope(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, is_neox: bool) -> torch.Tensor:
    """Rotate pairs of the last dimension in fp32: halves when `is_neox`, neighbours otherwise.

    Args:
        x: [..., R] float.
        cos: broadcastable to [..., R / 2].
        sin: broadcastable to [..., R / 2].
        is_neox: whether element i pairs with i + R / 2 instead of i + 1.
    """
    if is_neox:
        first, second = x.float().chunk(2, -1)
    else:
        first, second = x.float()[..., 0::2], x.float()[..., 1::2]
    rotated = (first * cos - second * sin, second * cos + first * sin)
    return torch.cat(rotated, -1) if is_neox else torch.stack(rotated, -1).flatten(-2)


def naive_fused_indexer_q(
    positions: torch.Tensor,
    q: torch.Tensor,
    cos_sin_cache: torch.Tensor,
    weights: torch.Tensor,
    softmax_scale: float,
    head_scale: float,
    is_neox: bool,
    rope_last: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The reference of `fused_indexer_q_rope_quant`; arguments and results as there."""
    first = q.shape[-1] - cos_sin_cache.shape[-1] if rope_last else 0
    last = first + cos_sin_cache.shape[-1]
    cos, sin = cos_sin_cache[positions].float().unsqueeze(1).chunk(2, -1)  # [T, 1, rope_dim / 2]
    rotated = naive_rope(q[..., first:last], cos, sin, is_neox).to(torch.bfloat16).float()
    whole = torch.cat((q[..., :first].float(), rotated, q[..., last:].float()), -1)  # [T, H, 128]
    codes, scale = naive_quantize_fp8(whole, whole.shape[-1], floor=1e-10)
    return codes, weights.float() * scale.squeeze(-1) * softmax_scale * head_scale


def naive_indexer_k_quant_and_cache(
    k: torch.Tensor, kv_cache: torch.Tensor, slot_mapping: torch.Tensor, ue8m0: bool = True
) -> None:
    """The reference of `indexer_k_quant_and_cache`: writes kv_cache in place, one token after the other."""
    page_size, head_dim = kv_cache.shape[1], k.shape[1]
    codes, scales = naive_quantize_fp8(k, head_dim, ue8m0=ue8m0)
    for token, slot in enumerate(slot_mapping.tolist()):
        if slot < 0:
            continue
        page = kv_cache[slot // page_size].view(-1)  # [page_size * 132]
        offset = slot % page_size
        page[offset * head_dim : (offset + 1) * head_dim] = codes[token].view(torch.uint8)
        start = page_size * head_dim + 4 * offset
        page[start : start + 4] = scales[token].view(torch.uint8)


def naive_read_indexer_cache(kv_cache: torch.Tensor, slots: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Read tokens back from the indexer's cache.

    Args:
        kv_cache: [num_pages, page_size, 1, 132] or [num_pages, page_size, 132] uint8.
        slots: [N] int, page * page_size + offset.

    Returns:
        codes [N, 128] torch.float8_e4m3fn and scales [N] fp32.
    """
    num_pages, page_size, token_bytes = kv_cache.shape[0], kv_cache.shape[1], kv_cache.shape[-1]
    head_dim = token_bytes - 4
    pages = kv_cache.reshape(num_pages, -1)
    values = pages[:, : page_size * head_dim].reshape(-1, head_dim)
    scales = pages[:, page_size * head_dim :].contiguous().view(torch.float32).reshape(-1)
    return values[slots].view(torch.float8_e4m3fn), scales[slots]
