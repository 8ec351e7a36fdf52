"""Triton kernels of pooled index keys: rotate and quantise, pool and write for prefill, update and pool for decode."""

import triton
import triton.language as tl

from dsa_kernels.fp8.e4m3 import round_to_bf16
from dsa_kernels.fp8.kernels import quantize_tile


@triton.jit
def _butterfly(values, SIZE: tl.constexpr, STRIDE: tl.constexpr):
    """One stage of the Walsh-Hadamard transform on [SIZE]: elements STRIDE apart become their sum and difference."""
    GROUPS: tl.constexpr = SIZE // (2 * STRIDE)
    pairs = tl.trans(tl.reshape(values, (GROUPS, 2, STRIDE)), 0, 2, 1)
    first, second = tl.split(pairs)
    pairs = tl.trans(tl.join(first + second, first - second), 0, 2, 1)
    return tl.reshape(pairs, (SIZE,))


@triton.jit
def rotate_rows(values, ROWS: tl.constexpr):
    """Rotate rows by the normalised Hadamard matrix of 128, in fp32, and round to bf16.

    The stages run from stride 1 to 64, as vLLM's do: fp32 sums in another order could round to another bf16.

    Args:
        values: [ROWS, 128] fp32.
        ROWS: a power of two.

    Returns:
        [ROWS, 128] fp32 that holds bf16 values.
    """
    SIZE: tl.constexpr = ROWS * 128
    flat = tl.reshape(values, (SIZE,))
    flat = _butterfly(flat, SIZE, 1)
    flat = _butterfly(flat, SIZE, 2)
    flat = _butterfly(flat, SIZE, 4)
    flat = _butterfly(flat, SIZE, 8)
    flat = _butterfly(flat, SIZE, 16)
    flat = _butterfly(flat, SIZE, 32)
    flat = _butterfly(flat, SIZE, 64)
    # 128^-0.5
    return tl.reshape(round_to_bf16(flat * 0.08838834764831845), (ROWS, 128))


@triton.jit
def _store_key(cache_ptr, slot, values, written, page_size, page_stride, UE8M0: tl.constexpr):
    """Rotate and quantise [ROWS, 128] pooled keys, and write those that are `written` to their slots [ROWS]."""
    ROWS: tl.constexpr = values.shape[0]
    codes, scale = quantize_tile(rotate_rows(round_to_bf16(values), ROWS), 1e-4, UE8M0)
    slot = tl.where(written, slot, 0).to(tl.int64)
    page, offset = slot // page_size, slot % page_size
    start = page * page_stride
    dims = tl.arange(0, 128)
    tl.store(cache_ptr + (start + offset * 128)[:, None] + dims[None, :], codes, mask=written[:, None])
    # The scales are fp32 words of the same page.
    scale_ptr = cache_ptr.to(tl.pointer_type(tl.float32))
    tl.store(scale_ptr + (start + page_size * 128) // 4 + offset, scale, mask=written)


@triton.jit(do_not_specialize=["num_rows", "row_stride"], do_not_specialize_on_alignment=["x_ptr"])
def rotate_quantize_kernel(x_ptr, codes_ptr, scale_ptr, num_rows, row_stride, BLOCK: tl.constexpr):
    """Rotate and quantise BLOCK rows of 128."""
    rows = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = rows < num_rows
    dims = tl.arange(0, 128)
    values = tl.load(x_ptr + rows[:, None] * row_stride + dims[None, :], mask=inside[:, None], other=0.0)
    codes, scale = quantize_tile(rotate_rows(values.to(tl.float32), BLOCK), 1e-4, True)
    tl.store(codes_ptr + rows[:, None] * 128 + dims[None, :], codes, mask=inside[:, None])
    tl.store(scale_ptr + rows, scale, mask=inside)


@triton.jit(
    do_not_specialize=[
        "num_pools",
        "key_pool_stride",
        "key_token_stride",
        "gate_pool_stride",
        "gate_token_stride",
        "page_size",
        "page_stride",
    ],
    do_not_specialize_on_alignment=["key_ptr", "gate_ptr", "ape_ptr", "slot_ptr", "mask_ptr"],
)
def compress_kernel(
    key_ptr,
    gate_ptr,
    ape_ptr,
    slot_ptr,
    mask_ptr,
    cache_ptr,
    num_pools,
    key_pool_stride,
    key_token_stride,
    gate_pool_stride,
    gate_token_stride,
    page_size,
    page_stride,
    POOL: tl.constexpr,
    HAS_MASK: tl.constexpr,
    UE8M0: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Pool BLOCK pools of POOL tokens each, and write each to its slot."""
    pools = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = pools < num_pools
    slot = tl.load(slot_ptr + pools, mask=inside, other=-1).to(tl.int64)
    written = inside & (slot >= 0)
    if HAS_MASK:
        written = written & (tl.load(mask_ptr + pools, mask=inside, other=0) != 0)
    dims = tl.arange(0, 128)
    here = written[:, None]
    gates = gate_ptr + pools[:, None] * gate_pool_stride + dims[None, :]  # [BLOCK, 128]
    keys = key_ptr + pools[:, None] * key_pool_stride + dims[None, :]
    # A softmax of its own for each of the 128 dimensions.
    highest = tl.full((BLOCK, 128), float("-inf"), tl.float32)
    for token in tl.static_range(POOL):
        score = tl.load(gates + token * gate_token_stride, mask=here, other=0.0).to(tl.float32)
        score += tl.load(ape_ptr + token * 128 + dims)[None, :]
        highest = tl.maximum(highest, score)
    total = tl.zeros((BLOCK, 128), tl.float32)
    weighted = tl.zeros((BLOCK, 128), tl.float32)
    for token in tl.static_range(POOL):
        score = tl.load(gates + token * gate_token_stride, mask=here, other=0.0).to(tl.float32)
        score += tl.load(ape_ptr + token * 128 + dims)[None, :]
        share = tl.exp(score - highest)
        total += share
        weighted += share * tl.load(keys + token * key_token_stride, mask=here, other=0.0).to(tl.float32)
    _store_key(cache_ptr, slot, weighted / total, written, page_size, page_stride, UE8M0)


@triton.jit(
    do_not_specialize=[
        "next_n",
        "key_request_stride",
        "key_token_stride",
        "gate_request_stride",
        "gate_token_stride",
        "ring",
        "tail_block_stride",
        "tail_half_stride",
        "page_size",
        "page_stride",
    ],
    do_not_specialize_on_alignment=[
        "key_ptr",
        "gate_ptr",
        "ape_ptr",
        "slot_ptr",
        "tail_slot_ptr",
        "position_ptr",
        "tail_ptr",
    ],
)
def decode_kernel(
    key_ptr,
    gate_ptr,
    ape_ptr,
    slot_ptr,
    tail_slot_ptr,
    position_ptr,
    tail_ptr,
    cache_ptr,
    next_n,
    key_request_stride,
    key_token_stride,
    gate_request_stride,
    gate_token_stride,
    ring,
    tail_block_stride,
    tail_half_stride,
    page_size,
    page_stride,
    POOL: tl.constexpr,
    UE8M0: tl.constexpr,
):
    """Take the tokens of one request in their order: complete a pool where one ends, then keep the token."""
    request = tl.program_id(0).to(tl.int64)
    dims = tl.arange(0, 128)
    for token in range(next_n):
        index = request * next_n + token
        slot = tl.load(slot_ptr + index).to(tl.int64)
        tail_slot = tl.load(tail_slot_ptr + index).to(tl.int64)
        position = tl.load(position_ptr + index).to(tl.int64)
        # A padded token has a negative position or tail slot; nothing of it may form an address.
        known = (position >= 0) & (tail_slot >= 0)
        position = tl.maximum(position, 0)
        tail = tail_ptr + (tl.maximum(tail_slot, 0) // ring) * tail_block_stride + dims
        key = tl.load(key_ptr + request * key_request_stride + token * key_token_stride + dims).to(tl.float32)
        gate = tl.load(gate_ptr + request * gate_request_stride + token * gate_token_stride + dims).to(tl.float32)
        if known & (slot >= 0) & (position % POOL == POOL - 1):
            first = position - (POOL - 1)
            # The pool's last token is this one, which the tail does not hold yet.
            highest = gate + tl.load(ape_ptr + (POOL - 1) * 128 + dims)
            for other in tl.static_range(POOL - 1):
                score = tl.load(tail + tail_half_stride + ((first + other) % ring) * 128).to(tl.float32)
                highest = tl.maximum(highest, score + tl.load(ape_ptr + other * 128 + dims))
            total = tl.zeros((128,), tl.float32)
            weighted = tl.zeros((128,), tl.float32)
            for other in tl.static_range(POOL - 1):
                row = ((first + other) % ring) * 128
                score = tl.load(tail + tail_half_stride + row).to(tl.float32)
                share = tl.exp(score + tl.load(ape_ptr + other * 128 + dims) - highest)
                total += share
                weighted += share * tl.load(tail + row).to(tl.float32)
            share = tl.exp(gate + tl.load(ape_ptr + (POOL - 1) * 128 + dims) - highest)
            total += share
            weighted += share * key
            pooled = tl.reshape(weighted / total, (1, 128))
            everything = tl.full((1,), 1, tl.int1)
            slots = tl.full((1,), 0, tl.int64) + slot
            _store_key(cache_ptr, slots, pooled, everything, page_size, page_stride, UE8M0)
        row = (position % ring) * 128
        dtype = tail_ptr.dtype.element_ty
        tl.store(tail + row, key.to(dtype), mask=known)
        tl.store(tail + tail_half_stride + row, gate.to(dtype), mask=known)
        # The next token of this request may read what this one left, by another thread.
        tl.debug_barrier()
