"""The public fp8 ops: conversion, quantisation, the indexer's q path and its k-cache write."""

from __future__ import annotations

import torch

from dsa_kernels.errors import expect, expect_aligned_rows, expect_contiguous_last, expect_same_device, expect_tensor
from dsa_kernels.fp8.config import CONVERT_BLOCK, CONVERT_WARPS, GROUP_BLOCK, GROUP_WARPS, HEAD_DIM
from dsa_kernels.fp8.kernels import convert_kernel, indexer_k_kernel, indexer_q_kernel, quantize_kernel

FLOATS = (torch.float32, torch.bfloat16, torch.float16)
CODES = (torch.float8_e4m3fn, torch.uint8)
INTEGERS = (torch.int32, torch.int64)


def encode_e4m3_tensor(x: torch.Tensor) -> torch.Tensor:
    """Convert to e4m3 with saturation: values beyond ±448 and infinities become ±448, NaN stays NaN.

    Args:
        x: any shape, fp32, bf16 or fp16, contiguous.

    Returns:
        torch.float8_e4m3fn of x's shape, bit for bit `x.float().clamp(-448, 448).to(torch.float8_e4m3fn)`.

    Raises:
        ArgumentError: a wrong dtype or layout.

    Source: OCP 8-bit floating point specification, E4M3.
    """
    expect(x.dtype in FLOATS, "x", f"dtype {x.dtype}", " or ".join(map(str, FLOATS)))
    expect(x.is_contiguous(), "x", f"strides {x.stride()}", "a contiguous tensor")
    codes = torch.empty(x.shape, dtype=torch.uint8, device=x.device)
    _convert(x, codes, encode=True)
    return codes.view(torch.float8_e4m3fn)


def decode_e4m3_tensor(codes: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Convert e4m3 codes to floats, exactly (0x7f and 0xff are NaN).

    Args:
        codes: any shape, torch.float8_e4m3fn or uint8, contiguous.
        dtype: fp32, bf16 or fp16.

    Raises:
        ArgumentError: a wrong dtype or layout.

    Source: OCP 8-bit floating point specification, E4M3.
    """
    expect(codes.dtype in CODES, "codes", f"dtype {codes.dtype}", " or ".join(map(str, CODES)))
    expect(dtype in FLOATS, "dtype", dtype, " or ".join(map(str, FLOATS)))
    expect(codes.is_contiguous(), "codes", f"strides {codes.stride()}", "a contiguous tensor")
    values = torch.empty(codes.shape, dtype=dtype, device=codes.device)
    _convert(codes.view(torch.uint8), values, encode=False)
    return values


def _convert(source: torch.Tensor, target: torch.Tensor, encode: bool) -> None:
    count = source.numel()
    if count:
        grid = (-(-count // CONVERT_BLOCK),)
        convert_kernel[grid](source, target, count, ENCODE=encode, BLOCK=CONVERT_BLOCK, num_warps=CONVERT_WARPS)


def quantize_fp8_ue8m0(
    x: torch.Tensor, group_size: int = HEAD_DIM, floor: float = 1e-4
) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantise groups of the last dimension to e4m3 with power-of-two scales.

    scale = the smallest power of two >= max(max|x|, floor) / 448, so that nothing saturates; codes = x / scale, rounded
    to nearest even. The scale is taken from the bits of the quotient: a logarithm in fp32, as CUDA ops take it, can
    round a quotient just above a power of two down to it, and then saturates the largest values.

    Args:
        x: [..., D] fp32, bf16 or fp16, contiguous; D a multiple of group_size. Infinities and NaN are outside the
            contract.
        group_size: elements that share a scale: a power of two from 16 to 1,024.
        floor: smallest magnitude that a scale is made from.

    Returns:
        codes: [..., D] torch.float8_e4m3fn.
        scale: [..., D / group_size] fp32; x ≈ codes * scale.

    Raises:
        ArgumentError: a wrong dtype, shape or layout; the message names the argument.

    Source: vLLM's `per_token_group_fp8_quant` and `indexer_k_quant_and_cache` with scale_fmt "ue8m0".
    """
    expect(x.dtype in FLOATS, "x", f"dtype {x.dtype}", " or ".join(map(str, FLOATS)))
    expect(x.is_contiguous(), "x", f"strides {x.stride()}", "a contiguous tensor")
    power = 16 <= group_size <= 1024 and group_size & (group_size - 1) == 0
    expect(power, "group_size", group_size, "a power of two from 16 to 1024")
    expect(x.dim() > 0 and x.shape[-1] % group_size == 0, "x", f"shape {list(x.shape)}", f"[..., k * {group_size}]")
    codes = torch.empty(x.shape, dtype=torch.uint8, device=x.device)
    scale = torch.empty((*x.shape[:-1], x.shape[-1] // group_size), dtype=torch.float32, device=x.device)
    num_groups = scale.numel()
    if num_groups:
        quantize_kernel[(-(-num_groups // GROUP_BLOCK),)](
            x,
            codes,
            scale,
            num_groups,
            floor,
            GROUP=group_size,
            BLOCK=GROUP_BLOCK,
            UE8M0=True,
            num_warps=GROUP_WARPS,
        )
    return codes.view(torch.float8_e4m3fn), scale


def fused_indexer_q_rope_quant(
    positions: torch.Tensor,
    q: torch.Tensor,
    cos_sin_cache: torch.Tensor,
    weights: torch.Tensor,
    softmax_scale: float,
    head_scale: float,
    is_neox: bool,
    rope_last: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The indexer's q path in one kernel: rope, e4m3 with a ue8m0 scale, the scale folded into the weights.

    Args:
        positions: [T] int32 or int64, rows of cos_sin_cache.
        q: [T, H, 128] bf16, any strides with a contiguous last dimension.
        cos_sin_cache: [P, R] float, cosines of R / 2 angles, then their sines; R a power of two up to 128.
        weights: [T, H] float, any strides.
        softmax_scale: folded into the weights (head_dim^-0.5 in the models).
        head_scale: folded into the weights (H^-0.5 in the models).
        is_neox: whether element i rotates with i + R / 2 (DeepSeek-V3.2) instead of i + 1 (GLM-5).
        rope_last: whether the last R elements rotate (DeepSeek-V4) instead of the first R.

    Returns:
        codes: [T, H, 128] torch.float8_e4m3fn; the rope part is rounded to bf16 before it is quantised.
        weights_out: [T, H] fp32, weights * scale of (token, head) * softmax_scale * head_scale.

    Raises:
        ArgumentError: a wrong shape, dtype, stride or device; the message names the argument.

    Source: `fused_indexer_q_rope_quant` of vLLM (model_executor/layers/sparse_attn_indexer.py), whose kernel needs
    Triton's fp8e4nv. The scale differs where that kernel's logarithm rounds: see `quantize_fp8_ue8m0`.
    """
    expect_tensor("q", q, ["T", "H", HEAD_DIM], [torch.bfloat16])
    num_tokens, num_heads = q.shape[0], q.shape[1]
    expect_tensor("positions", positions, [num_tokens], INTEGERS)
    expect_tensor("cos_sin_cache", cos_sin_cache, ["P", "R"], FLOATS)
    expect_tensor("weights", weights, [num_tokens, num_heads], FLOATS)
    rope = cos_sin_cache.shape[1]
    power = 2 <= rope <= HEAD_DIM and rope & (rope - 1) == 0
    expect(power, "cos_sin_cache", f"shape {list(cos_sin_cache.shape)}", "[P, R] with R a power of two up to 128")
    expect_contiguous_last("q", q)
    expect_contiguous_last("cos_sin_cache", cos_sin_cache)
    expect_contiguous_last("positions", positions)
    expect_same_device("q", q, positions=positions, cos_sin_cache=cos_sin_cache, weights=weights)
    codes = torch.empty((num_tokens, num_heads, HEAD_DIM), dtype=torch.uint8, device=q.device)
    weights_out = torch.empty((num_tokens, num_heads), dtype=torch.float32, device=q.device)
    if codes.numel():
        indexer_q_kernel[(num_tokens, -(-num_heads // GROUP_BLOCK))](
            positions,
            q,
            cos_sin_cache,
            weights,
            codes,
            weights_out,
            num_heads,
            q.stride(0),
            q.stride(1),
            cos_sin_cache.stride(0),
            weights.stride(0),
            weights.stride(1),
            softmax_scale,
            head_scale,
            ROPE=rope,
            HEAD_DIM=HEAD_DIM,
            BLOCK_H=GROUP_BLOCK,
            NEOX=is_neox,
            ROPE_FIRST=HEAD_DIM - rope if rope_last else 0,
            num_warps=GROUP_WARPS,
        )
    return codes.view(torch.float8_e4m3fn), weights_out


def indexer_k_quant_and_cache(
    k: torch.Tensor,
    kv_cache: torch.Tensor,
    slot_mapping: torch.Tensor,
    quant_block_size: int = HEAD_DIM,
    scale_fmt: str = "ue8m0",
) -> None:
    """Quantise the indexer's keys and write them to the paged cache.

    A page of page_size tokens holds page_size * 128 bytes of codes, token after token, and behind them page_size fp32
    scales. Tokens whose slot is negative are skipped.

    Args:
        k: [T, 128] bf16, fp16 or fp32, contiguous last dimension.
        kv_cache: [num_pages, page_size, 132] or [num_pages, page_size, 1, 132] uint8, written in place. Pages are
            dense; they may lie further apart than their size. Data and page stride on multiples of 16 bytes.
        slot_mapping: [N] int64 or int32, N <= T: token i goes to page slot // page_size, offset slot % page_size. Slots
            are trusted to lie inside the cache; two tokens must not share one.
        quant_block_size: 128: one scale per token.
        scale_fmt: "ue8m0" rounds scales up to powers of two; "" leaves them as max|k| / 448.

    Raises:
        ArgumentError: a wrong shape, dtype, stride or device; the message names the argument.

    Source: `_C_cache_ops::indexer_k_quant_and_cache` of vLLM (csrc/cache_kernels.cu). The scale differs where that
    kernel's logarithm rounds: see `quantize_fp8_ue8m0`.
    """
    expect_tensor("k", k, ["T", HEAD_DIM], FLOATS)
    cache = check_indexer_cache(kv_cache)
    expect_tensor("slot_mapping", slot_mapping, ["N"], INTEGERS)
    num_tokens = slot_mapping.shape[0]
    expect(num_tokens <= k.shape[0], "slot_mapping", f"{num_tokens} slots", f"at most {k.shape[0]}, one per row of k")
    expect(quant_block_size == HEAD_DIM, "quant_block_size", quant_block_size, HEAD_DIM)
    check_scale_format(scale_fmt)
    expect_contiguous_last("k", k)
    expect_contiguous_last("slot_mapping", slot_mapping)
    expect_same_device("k", k, kv_cache=kv_cache, slot_mapping=slot_mapping)
    if num_tokens:
        indexer_k_kernel[(-(-num_tokens // GROUP_BLOCK),)](
            k,
            cache,
            slot_mapping,
            num_tokens,
            k.stride(0),
            cache.shape[1],
            cache.stride(0),
            HEAD_DIM=HEAD_DIM,
            BLOCK=GROUP_BLOCK,
            UE8M0=scale_fmt == "ue8m0",
            num_warps=GROUP_WARPS,
        )


def check_scale_format(scale_fmt: str) -> None:
    """Refuse what is no format of an index key's scale."""
    expect(scale_fmt in ("ue8m0", ""), "scale_fmt", repr(scale_fmt), "'ue8m0' or ''")


def check_indexer_cache(kv_cache: torch.Tensor) -> torch.Tensor:
    """Check an indexer cache and return it as [num_pages, page_size, 132]; errors as in `indexer_k_quant_and_cache`."""
    expect(isinstance(kv_cache, torch.Tensor), "kv_cache", type(kv_cache).__name__, "a uint8 tensor")
    cache = kv_cache.squeeze(2) if kv_cache.dim() == 4 and kv_cache.shape[2] == 1 else kv_cache
    expect_tensor("kv_cache", cache, ["num_pages", "page_size", HEAD_DIM + 4], [torch.uint8])
    page_size = cache.shape[1]
    expect(page_size > 0, "kv_cache", f"shape {list(kv_cache.shape)}", "pages of at least one token")
    dense = cache.stride(2) == 1 and (page_size == 1 or cache.stride(1) == HEAD_DIM + 4)
    expect(dense, "kv_cache", f"strides {kv_cache.stride()}", "dense pages (only the page stride is free)")
    expect_aligned_rows("kv_cache", cache[:, 0])
    return cache
