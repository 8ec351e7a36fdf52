"""Triton kernels of the indexer's logits: a tile of keys stays, query rows pass over it.

Keys lie along the rows of the dot and heads along its columns: the sum over heads then stays inside a thread and its
three neighbours. q and k are decoded times 2^-8 each (`decode_e4m3_small`), so a dot comes out times 2^-16, exactly;
the factor 2^16 joins the scale of the key.
"""

import triton
import triton.language as tl

from dsa_kernels.fp8.e4m3 import decode_e4m3_pairs, decode_e4m3_small


@triton.jit(do_not_specialize=["num_rows", "wide_rows", "row_stride", "head_stride"])
def widen_kernel(
    codes_ptr,
    wide_ptr,
    num_rows,
    wide_rows,
    row_stride,
    head_stride,
    HEADS: tl.constexpr,
    PADDED: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Decode q or k to fp16 (times 2^-8): [M, HEADS, HEAD_DIM] codes -> [wide_rows, PADDED, HEAD_DIM], padding 0."""
    lines = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    row, head = lines // PADDED, lines % PADDED
    dims = tl.arange(0, HEAD_DIM)
    real = (row < num_rows) & (head < HEADS)
    # Rows of codes lie on 16 bytes: strides come in units of 16.
    source = codes_ptr + (row * row_stride + head * head_stride)[:, None] * 16 + dims[None, :]
    codes = tl.load(source, mask=real[:, None], other=0)
    target = wide_ptr + lines[:, None] * HEAD_DIM + dims[None, :]
    tl.store(target, decode_e4m3_small(codes), mask=(row < wide_rows)[:, None])


@triton.jit(do_not_specialize=["width", "row_stride"], do_not_specialize_on_alignment=["starts_ptr", "ends_ptr"])
def clean_kernel(out_ptr, starts_ptr, ends_ptr, width, row_stride, BLOCK: tl.constexpr):
    """Write -inf to every column of a row outside [start, end)."""
    row = tl.program_id(0).to(tl.int64)
    first = tl.program_id(1) * BLOCK
    start = tl.load(starts_ptr + row)
    end = tl.load(ends_ptr + row)
    if (start > first) | (end < tl.minimum(first + BLOCK, width)):
        columns = first + tl.arange(0, BLOCK)
        outside = (columns < width) & ((columns < start) | (columns >= end))
        empty = tl.full((BLOCK,), float("-inf"), tl.float32)
        tl.store(out_ptr + row * row_stride + columns, empty, mask=outside)


@triton.jit
def head_sum(scores, weights, BLOCK_N: tl.constexpr, ROWS: tl.constexpr, PADDED: tl.constexpr):
    """relu, weighting and the sum over heads, in registers.

    Args:
        scores: [BLOCK_N, ROWS * PADDED] fp32.
        weights: [ROWS * PADDED] fp32.
        BLOCK_N: keys.
        ROWS: query rows.
        PADDED: heads of a row.

    Returns:
        [BLOCK_N, ROWS] fp32.
    """
    weighted = tl.maximum(scores, 0.0) * weights[None, :]
    return tl.sum(tl.reshape(weighted, (BLOCK_N, ROWS, PADDED)), axis=2)


@triton.jit(
    do_not_specialize=["num_rows", "num_keys", "weights_stride", "out_stride", "width"],
    do_not_specialize_on_alignment=["k_scale_ptr", "weights_ptr", "starts_ptr", "ends_ptr"],
)
def ragged_kernel(
    wide_ptr,
    wide_k_ptr,
    k_scale_ptr,
    weights_ptr,
    starts_ptr,
    ends_ptr,
    out_ptr,
    num_rows,
    num_keys,
    weights_stride,
    out_stride,
    width,
    HEADS: tl.constexpr,
    PADDED: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    ROWS: tl.constexpr,
    ROW_BLOCK: tl.constexpr,
    BLOCK_N: tl.constexpr,
    COMPRESSED: tl.constexpr,
):
    """Logits of ROW_BLOCK query rows against one tile of BLOCK_N keys; only what lies in a row's bounds is written."""
    first_key = tl.program_id(0) * BLOCK_N
    first_row = tl.program_id(1) * ROW_BLOCK
    local = tl.arange(0, ROW_BLOCK)
    present = first_row + local < num_rows
    starts = tl.maximum(tl.load(starts_ptr + first_row + local, mask=present, other=0), 0)
    ends = tl.minimum(tl.load(ends_ptr + first_row + local, mask=present, other=0), num_keys)
    meets = (starts < ends) & (starts < first_key + BLOCK_N) & (ends > first_key)
    begin = tl.min(tl.where(meets, local, ROW_BLOCK)) // ROWS * ROWS
    stop = tl.max(tl.where(meets, local + 1, 0))
    if begin < stop:
        keys = first_key + tl.arange(0, BLOCK_N)
        dims = tl.arange(0, HEAD_DIM)
        k = tl.load(
            wide_k_ptr + keys.to(tl.int64)[:, None] * HEAD_DIM + dims[None, :],
            mask=(keys < num_keys)[:, None],
            other=0.0,
        )  # [BLOCK_N, HEAD_DIM]
        scale = tl.load(k_scale_ptr + keys, mask=keys < num_keys, other=0.0) * 65536.0
        line = tl.arange(0, ROWS * PADDED)
        heads = line % PADDED
        wide = wide_ptr + first_row.to(tl.int64) * (PADDED * HEAD_DIM)
        for step in range(begin, stop, ROWS):
            q = tl.load(wide + (step * PADDED + line)[None, :] * HEAD_DIM + dims[:, None])  # [HEAD_DIM, ROWS * PADDED]
            row = (first_row + step + line // PADDED).to(tl.int64)
            weights = tl.load(
                weights_ptr + row * weights_stride + heads, mask=(row < num_rows) & (heads < HEADS), other=0.0
            )
            scores = tl.dot(k, q)  # [BLOCK_N, ROWS * PADDED]
            logits = head_sum(scores, weights, BLOCK_N, ROWS, PADDED) * scale[:, None]  # [BLOCK_N, ROWS]
            out_row = first_row + step + tl.arange(0, ROWS)
            start = tl.maximum(tl.load(starts_ptr + out_row, mask=out_row < num_rows, other=0), 0)[None, :]
            end = tl.minimum(tl.load(ends_ptr + out_row, mask=out_row < num_rows, other=0), num_keys)[None, :]
            inside = (keys[:, None] >= start) & (keys[:, None] < end)
            column = tl.broadcast_to(keys[:, None], (BLOCK_N, ROWS))
            if COMPRESSED:
                column -= start
                inside &= column < width
            tl.store(out_ptr + out_row.to(tl.int64)[None, :] * out_stride + column, logits, mask=inside)


@triton.jit(
    do_not_specialize=[
        "num_pages",
        "page_stride",
        "table_width",
        "table_stride",
        "q_batch_stride",
        "q_step_stride",
        "q_head_stride",
        "weights_stride",
        "out_stride",
        "width",
    ],
    do_not_specialize_on_alignment=["weights_ptr", "lengths_ptr", "table_ptr"],
)
def paged_kernel(
    q_ptr,
    cache_ptr,
    weights_ptr,
    lengths_ptr,
    table_ptr,
    out_ptr,
    num_pages,
    page_stride,
    table_width,
    table_stride,
    q_batch_stride,
    q_step_stride,
    q_head_stride,
    weights_stride,
    out_stride,
    width,
    NEXT_N: tl.constexpr,
    HEADS: tl.constexpr,
    PADDED: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    PAGE_SIZE: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Logits of the NEXT_N rows of one request against one tile of its context."""
    first = tl.program_id(0) * BLOCK_N
    request = tl.program_id(1)
    longest = 0
    for step in range(NEXT_N):
        longest = tl.maximum(longest, tl.load(lengths_ptr + request * NEXT_N + step))
    longest = tl.minimum(longest, width)
    if first < longest:
        positions = first + tl.arange(0, BLOCK_N)
        pairs = tl.arange(0, HEAD_DIM // 2)
        entry = positions // PAGE_SIZE
        listed = (positions < longest) & (entry < table_width)
        page = tl.load(table_ptr + request.to(tl.int64) * table_stride + entry, mask=listed, other=-1)
        known = (page >= 0) & (page < num_pages)
        # Strides of pages and of q come in units of 16 bytes; codes are read two to a word.
        start = tl.where(known, page, 0).to(tl.int64) * page_stride
        offset = positions % PAGE_SIZE
        words = tl.load(
            cache_ptr + start[:, None] * 8 + (offset * (HEAD_DIM // 2))[:, None] + pairs[None, :],
            mask=known[:, None],
            other=0,
        )
        k_first, k_second = decode_e4m3_pairs(words)  # [BLOCK_N, HEAD_DIM / 2] each
        scale_words = start * 4 + PAGE_SIZE * HEAD_DIM // 4 + offset
        scale_ptr = cache_ptr.to(tl.pointer_type(tl.float32))
        scale = tl.load(scale_ptr + scale_words, mask=known, other=0.0) * 65536.0
        heads = tl.arange(0, PADDED)
        real = heads < HEADS
        for step in range(NEXT_N):
            base = request.to(tl.int64) * q_batch_stride + step * q_step_stride
            q_words = tl.load(
                q_ptr + (base + heads * q_head_stride)[None, :] * 8 + pairs[:, None], mask=real[None, :], other=0
            )
            q_first, q_second = decode_e4m3_pairs(q_words)  # [HEAD_DIM / 2, PADDED] each
            scores = tl.dot(k_second, q_second, acc=tl.dot(k_first, q_first))  # [BLOCK_N, PADDED]
            row = request.to(tl.int64) * NEXT_N + step
            weights = tl.load(weights_ptr + row * weights_stride + heads, mask=real, other=0.0)
            logits = tl.sum(tl.maximum(scores, 0.0) * weights[None, :], axis=1) * scale  # [BLOCK_N]
            logits = tl.where(known, logits, float("-inf"))
            length = tl.minimum(tl.load(lengths_ptr + row), width)
            tl.store(out_ptr + row * out_stride + positions, logits, mask=positions < length)
