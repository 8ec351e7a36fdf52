"""Triton kernels of the compressor: pool states, normalise, rotate, and store a row or an index key."""

import triton
import triton.language as tl

from dsa_kernels.fp8.e4m3 import round_to_bf16
from dsa_kernels.fp8.kernels import quantize_tile


@triton.jit
def rotate_pairs(values, cos_sin_ptr, WIDTH: tl.constexpr, ROPE: tl.constexpr, INVERSE: tl.constexpr):
    """Rotate neighbours among the last ROPE of [WIDTH] fp32 by the angles of one position; the rest stays.

    Args:
        values: [WIDTH] fp32.
        cos_sin_ptr: row of one position: ROPE / 2 cosines, then as many sines.
        WIDTH: a power of two.
        ROPE: even, at most WIDTH.
        INVERSE: whether to rotate by the negative angles.
    """
    first, second = tl.split(tl.reshape(values, (WIDTH // 2, 2)))
    pair = tl.arange(0, WIDTH // 2) - (WIDTH - ROPE) // 2
    cos = tl.load(cos_sin_ptr + pair, mask=pair >= 0, other=1.0).to(tl.float32)
    sin = tl.load(cos_sin_ptr + ROPE // 2 + pair, mask=pair >= 0, other=0.0).to(tl.float32)
    if INVERSE:
        sin = -sin
    return tl.reshape(tl.join(first * cos - second * sin, second * cos + first * sin), (WIDTH,))


@triton.jit
def finish_row(
    row,
    position,
    slot,
    weight_ptr,
    cos_sin_ptr,
    cache_ptr,
    cos_sin_stride,
    page_size,
    page_stride,
    eps,
    WIDTH: tl.constexpr,
    ROPE: tl.constexpr,
    RATIO: tl.constexpr,
    INDEX: tl.constexpr,
):
    """Normalise [WIDTH] fp32, rotate it by the first position of its group, and store it as a row or an index key."""
    dims = tl.arange(0, WIDTH)
    mean_square = tl.sum(row * row, axis=0) / WIDTH
    normed = row * tl.rsqrt(mean_square + eps) * tl.load(weight_ptr + dims).to(tl.float32)
    if INDEX:
        normed = round_to_bf16(normed)
    angles = cos_sin_ptr + (position // RATIO) * RATIO * cos_sin_stride
    result = rotate_pairs(normed, angles, WIDTH, ROPE, False)
    page, offset = slot // page_size, slot % page_size
    start = page * page_stride
    if INDEX:
        codes, scale = quantize_tile(tl.reshape(round_to_bf16(result), (1, WIDTH)), 1e-4, True)
        tl.store(cache_ptr + start + offset * WIDTH + dims[None, :], codes)
        # The scales are fp32 words behind the page's codes.
        scale_ptr = cache_ptr.to(tl.pointer_type(tl.float32))
        tl.store(scale_ptr + (start + page_size * WIDTH) // 4 + offset + tl.arange(0, 1), scale)
    else:
        tl.store(cache_ptr + start + offset * WIDTH + dims, round_to_bf16(result).to(tl.bfloat16))


@triton.jit(
    do_not_specialize=[
        "block_size",
        "block_stride",
        "state_stride",
        "table_stride",
        "cos_sin_stride",
        "page_size",
        "page_stride",
        "eps",
    ],
    do_not_specialize_on_alignment=[
        "state_ptr",
        "request_ptr",
        "position_ptr",
        "state_slot_ptr",
        "table_ptr",
        "weight_ptr",
        "cos_sin_ptr",
        "slot_ptr",
    ],
)
def compress_kernel(
    state_ptr,
    request_ptr,
    position_ptr,
    state_slot_ptr,
    table_ptr,
    weight_ptr,
    cos_sin_ptr,
    cache_ptr,
    slot_ptr,
    block_size,
    block_stride,
    state_stride,
    table_stride,
    cos_sin_stride,
    page_size,
    page_stride,
    eps,
    WIDTH: tl.constexpr,
    ROPE: tl.constexpr,
    RATIO: tl.constexpr,
    OVERLAP: tl.constexpr,
    STEP: tl.constexpr,
    INDEX: tl.constexpr,
):
    """Compress the window that ends at one token, where a group of RATIO tokens ends there.

    INDEX says whether an index key (e4m3 codes and a scale) is stored, or a bf16 row. Strides count elements.
    """
    token = tl.program_id(0).to(tl.int64)
    position = tl.load(position_ptr + token).to(tl.int64)
    slot = tl.load(slot_ptr + token).to(tl.int64)
    ends_here = (tl.load(state_slot_ptr + token) >= 0) & (slot >= 0) & (position >= 0)
    if ends_here & ((position + 1) % RATIO == 0):
        WINDOW: tl.constexpr = RATIO * (2 if OVERLAP else 1)
        # What a token's state holds: values, then scores. With overlap each is twice as wide: the first half is for the
        # window whose second group begins after the token, the second half for the window that ends with its group.
        SCORES: tl.constexpr = WIDTH * (2 if OVERLAP else 1)
        table = table_ptr + tl.load(request_ptr + token).to(tl.int64) * table_stride
        dims = tl.arange(0, WIDTH)
        highest = tl.full((WIDTH,), float("-inf"), tl.float32)
        total = tl.zeros((WIDTH,), tl.float32)
        pooled = tl.zeros((WIDTH,), tl.float32)
        # From the last step to the first: the token itself is in the last, so `highest` is a number from the start.
        for back in range(0, WINDOW, STEP):
            row = WINDOW - STEP - back + tl.arange(0, STEP)
            at = position - (WINDOW - 1) + row
            there = (row >= 0) & (at >= 0)
            block = tl.load(table + at // block_size, mask=there, other=0).to(tl.int64)
            start = block * block_stride + (at % block_size) * state_stride
            if OVERLAP:
                start += tl.where(row >= RATIO, WIDTH, 0)
            states = state_ptr + start[:, None] + dims[None, :]  # [STEP, WIDTH]
            score = tl.load(states + SCORES, mask=there[:, None], other=float("-inf"))
            value = tl.load(states, mask=there[:, None], other=0.0)
            above = tl.maximum(highest, tl.max(score, axis=0))
            shrink = tl.exp(highest - above)
            share = tl.exp(score - above[None, :])
            total = total * shrink + tl.sum(share, axis=0)
            pooled = pooled * shrink + tl.sum(share * value, axis=0)
            highest = above
        finish_row(
            pooled / total, position, slot, weight_ptr, cos_sin_ptr, cache_ptr, cos_sin_stride, page_size, page_stride,
            eps, WIDTH, ROPE, RATIO, INDEX,
        )  # fmt: skip


@triton.jit(
    do_not_specialize=["k_stride", "cos_sin_stride", "page_size", "page_stride", "eps"],
    do_not_specialize_on_alignment=["k_ptr", "position_ptr", "weight_ptr", "cos_sin_ptr", "slot_ptr"],
)
def index_key_kernel(
    k_ptr,
    position_ptr,
    weight_ptr,
    cos_sin_ptr,
    cache_ptr,
    slot_ptr,
    k_stride,
    cos_sin_stride,
    page_size,
    page_stride,
    eps,
    WIDTH: tl.constexpr,
    ROPE: tl.constexpr,
    RATIO: tl.constexpr,
):
    """Finish and store the index key of one token, where a group of RATIO tokens ends there."""
    token = tl.program_id(0).to(tl.int64)
    position = tl.load(position_ptr + token).to(tl.int64)
    slot = tl.load(slot_ptr + token).to(tl.int64)
    if (slot >= 0) & (position >= 0) & ((position + 1) % RATIO == 0):
        row = tl.load(k_ptr + token * k_stride + tl.arange(0, WIDTH)).to(tl.float32)
        finish_row(
            row, position, slot, weight_ptr, cos_sin_ptr, cache_ptr, cos_sin_stride, page_size, page_stride, eps,
            WIDTH, ROPE, RATIO, True,
        )  # fmt: skip


@triton.jit(
    do_not_specialize=["token_stride", "head_stride", "cos_sin_stride", "out_group_stride"],
    do_not_specialize_on_alignment=["o_ptr", "position_ptr", "cos_sin_ptr"],
)
def inverse_rope_kernel(
    o_ptr,
    position_ptr,
    cos_sin_ptr,
    out_ptr,
    token_stride,
    head_stride,
    cos_sin_stride,
    out_group_stride,
    GROUP: tl.constexpr,
    WIDTH: tl.constexpr,
    ROPE: tl.constexpr,
):
    """Rotate one head of one token back, and store it beside its group's other heads."""
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    dims = tl.arange(0, WIDTH)
    values = tl.load(o_ptr + token * token_stride + head.to(tl.int64) * head_stride + dims).to(tl.float32)
    position = tl.load(position_ptr + token).to(tl.int64)
    result = rotate_pairs(values, cos_sin_ptr + position * cos_sin_stride, WIDTH, ROPE, True)
    out = out_ptr + (head // GROUP).to(tl.int64) * out_group_stride + (token * GROUP + head % GROUP) * WIDTH
    tl.store(out + dims, round_to_bf16(result).to(tl.bfloat16))
