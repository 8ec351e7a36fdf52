"""Triton kernels of the fp8 ops: conversion, quantisation, the indexer's q path and its k-cache write."""

import triton
import triton.language as tl

from dsa_kernels.fp8.e4m3 import decode_e4m3, encode_e4m3, power_of_two_scale, round_to_bf16


@triton.jit(do_not_specialize=["count"], do_not_specialize_on_alignment=["source_ptr"])
def convert_kernel(source_ptr, target_ptr, count, ENCODE: tl.constexpr, BLOCK: tl.constexpr):
    """Convert `count` values, elementwise: floats to codes when ENCODE, codes to floats otherwise."""
    offsets = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = offsets < count
    source = tl.load(source_ptr + offsets, mask=inside)
    target = encode_e4m3(source.to(tl.float32)) if ENCODE else decode_e4m3(source)
    tl.store(target_ptr + offsets, target.to(target_ptr.dtype.element_ty), mask=inside)


@triton.jit
def quantize_tile(values, floor, UE8M0: tl.constexpr):
    """Quantise the rows of a tile.

    Args:
        values: [ROWS, GROUP] fp32.
        floor: smallest magnitude that a scale is made from.
        UE8M0: whether scales are powers of two.

    Returns:
        codes [ROWS, GROUP] uint8 and scales [ROWS] fp32.
    """
    amax = tl.max(tl.abs(values), axis=1)  # [ROWS]
    if UE8M0:
        scale = power_of_two_scale(amax, floor)
    else:
        scale = tl.div_rn(tl.maximum(amax, floor), tl.full(amax.shape, 448.0, tl.float32))
    divisor = tl.broadcast_to(scale[:, None], values.shape)
    return encode_e4m3(tl.div_rn(values, divisor)), scale


@triton.jit(do_not_specialize=["num_groups", "floor"], do_not_specialize_on_alignment=["x_ptr"])
def quantize_kernel(
    x_ptr,
    codes_ptr,
    scale_ptr,
    num_groups,
    floor,
    GROUP: tl.constexpr,
    BLOCK: tl.constexpr,
    UE8M0: tl.constexpr,
):
    """Quantise BLOCK groups of GROUP contiguous values."""
    rows = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = rows < num_groups
    offsets = rows[:, None] * GROUP + tl.arange(0, GROUP)[None, :]  # [BLOCK, GROUP]
    values = tl.load(x_ptr + offsets, mask=inside[:, None], other=0.0).to(tl.float32)
    codes, scale = quantize_tile(values, floor, UE8M0)
    tl.store(codes_ptr + offsets, codes, mask=inside[:, None])
    tl.store(scale_ptr + rows, scale, mask=inside)


@triton.jit(
    do_not_specialize=[
        "num_heads",
        "q_token_stride",
        "q_head_stride",
        "cache_stride",
        "weights_token_stride",
        "weights_head_stride",
        "softmax_scale",
        "head_scale",
    ],
    do_not_specialize_on_alignment=["positions_ptr", "q_ptr", "cos_sin_ptr", "weights_ptr"],
)
def indexer_q_kernel(
    positions_ptr,
    q_ptr,
    cos_sin_ptr,
    weights_ptr,
    codes_ptr,
    weights_out_ptr,
    num_heads,
    q_token_stride,
    q_head_stride,
    cache_stride,
    weights_token_stride,
    weights_head_stride,
    softmax_scale,
    head_scale,
    ROPE: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_H: tl.constexpr,
    NEOX: tl.constexpr,
    ROPE_FIRST: tl.constexpr,
):
    """Rotate, quantise and fold the scales of BLOCK_H heads of one token; ROPE_FIRST is the first rotated element."""
    token = tl.program_id(0).to(tl.int64)
    heads = tl.program_id(1) * BLOCK_H + tl.arange(0, BLOCK_H)
    inside = heads < num_heads
    dims = tl.arange(0, HEAD_DIM)
    # Beside each rotated element lies its partner, and the sign that the partner's sine takes.
    place = dims - ROPE_FIRST
    rotated = (place >= 0) & (place < ROPE)
    HALF: tl.constexpr = ROPE // 2
    if NEOX:
        angle = place % HALF
        partner = tl.where(rotated, (place ^ HALF) + ROPE_FIRST, dims)
        sign = tl.where(place < HALF, -1.0, 1.0)
    else:
        angle = place // 2
        partner = tl.where(rotated, (place ^ 1) + ROPE_FIRST, dims)
        sign = tl.where(place % 2 == 0, -1.0, 1.0)
    position = tl.load(positions_ptr + token).to(tl.int64)
    angles = cos_sin_ptr + position * cache_stride + angle
    cos = tl.load(angles, mask=rotated, other=1.0).to(tl.float32)  # [HEAD_DIM]
    sin = tl.load(angles + HALF, mask=rotated, other=0.0).to(tl.float32)
    rows = q_ptr + token * q_token_stride + heads.to(tl.int64)[:, None] * q_head_stride  # [BLOCK_H, 1]
    own = tl.load(rows + dims[None, :], mask=inside[:, None], other=0.0).to(tl.float32)
    other = tl.load(rows + partner[None, :], mask=inside[:, None], other=0.0).to(tl.float32)
    turned = own * cos[None, :] + other * (sign * sin)[None, :]
    # The rope part passes through bf16, as it does where rope is an op of its own.
    values = tl.where(rotated[None, :], round_to_bf16(turned), own)
    codes, scale = quantize_tile(values, 1e-10, True)
    flat = token * num_heads + heads
    tl.store(codes_ptr + flat[:, None] * HEAD_DIM + dims[None, :], codes, mask=inside[:, None])
    weight_offsets = token * weights_token_stride + heads.to(tl.int64) * weights_head_stride
    weight = tl.load(weights_ptr + weight_offsets, mask=inside, other=0.0).to(tl.float32)
    tl.store(weights_out_ptr + flat, weight * scale * softmax_scale * head_scale, mask=inside)


@triton.jit(
    do_not_specialize=["num_tokens", "k_stride", "page_size", "page_stride"],
    do_not_specialize_on_alignment=["k_ptr", "slot_ptr"],
)
def indexer_k_kernel(
    k_ptr,
    cache_ptr,
    slot_ptr,
    num_tokens,
    k_stride,
    page_size,
    page_stride,
    HEAD_DIM: tl.constexpr,
    BLOCK: tl.constexpr,
    UE8M0: tl.constexpr,
):
    """Quantise BLOCK tokens and write each to its slot: codes at the front of the page, scales behind them."""
    tokens = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    slots = tl.load(slot_ptr + tokens, mask=tokens < num_tokens, other=-1).to(tl.int64)
    written = slots >= 0
    dims = tl.arange(0, HEAD_DIM)
    offsets = tokens[:, None] * k_stride + dims[None, :]
    values = tl.load(k_ptr + offsets, mask=written[:, None], other=0.0).to(tl.float32)
    codes, scale = quantize_tile(values, 1e-4, UE8M0)
    slots = tl.where(written, slots, 0)
    page, offset = slots // page_size, slots % page_size
    start = page * page_stride
    tl.store(cache_ptr + (start + offset * HEAD_DIM)[:, None] + dims[None, :], codes, mask=written[:, None])
    # The scales are fp32 words of the same page.
    scale_ptr = cache_ptr.to(tl.pointer_type(tl.float32))
    tl.store(scale_ptr + (start + page_size * HEAD_DIM) // 4 + offset, scale, mask=written)
