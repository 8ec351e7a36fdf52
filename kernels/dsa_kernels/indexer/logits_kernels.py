"""Triton kernels of the indexer's logits: a tile of keys stays, query rows pass over it.

Keys lie along the rows of the dot and heads along its columns: the sum over heads then stays inside a thread and its
three neighbours. q and k are decoded times 2^-8 each (`decode_e4m3_small`), so a dot comes out times 2^-16, exactly;
the factor 2^16 joins the scale of the key.
"""

import triton
import triton.language as tl

from dsa_kernels.fp8.e4m3 import decode_e4m3_pairs, decode_e4m3_small

#: `decode_e4m3_pairs` for two words in a register: seven instructions for four codes, where the compiler, which takes
#: the words out of the register and puts the values back, needs about twenty.
DECODE_PAIRS = tl.constexpr(
    """
    {
    .reg .b32 magnitude, sign;
    shl.b32 magnitude, $2, 7;
    shl.b32 sign, $2, 8;
    and.b32 magnitude, magnitude, 0x3f803f80;
    lop3.b32 $0, sign, 0x80008000, magnitude, 0xea;
    shr.u32 magnitude, $2, 1;
    and.b32 magnitude, magnitude, 0x3f803f80;
    lop3.b32 $1, $2, 0x80008000, magnitude, 0xea;
    }
    """
)


@triton.jit
def decode_pairs(words, INLINE: tl.constexpr):
    """Decode two finite e4m3fn bytes per word to fp16, each times 2^-8, as `decode_e4m3_pairs` does.

    Args:
        words: int16 block of any shape, little-endian pairs of codes.
        INLINE: take the short way in PTX; Triton's interpreter cannot.

    Returns:
        Two fp16 blocks of the same shape: the first (low) byte of each pair and the second.
    """
    if INLINE:
        return tl.inline_asm_elementwise(
            DECODE_PAIRS, "=r,=r,r", [words], dtype=(tl.float16, tl.float16), is_pure=True, pack=2
        )
    return decode_e4m3_pairs(words)


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
    do_not_specialize=["num_rows", "num_keys", "out_stride", "width"],
    do_not_specialize_on_alignment=["k_scale_ptr", "starts_ptr", "ends_ptr"],
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
    out_stride,
    width,
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
        lines = (num_rows - first_row) * PADDED
        weights_ptr += first_row.to(tl.int64) * PADDED
        wide = wide_ptr + first_row.to(tl.int64) * (PADDED * HEAD_DIM)
        for step in range(begin, stop, ROWS):
            q = tl.load(wide + (step * PADDED + line)[None, :] * HEAD_DIM + dims[:, None])  # [HEAD_DIM, ROWS * PADDED]
            at = step * PADDED + line
            weights = tl.load(weights_ptr + at, mask=at < lines, other=0.0)
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


@triton.jit
def load_queries(q_ptr, line_starts, present, HALF: tl.constexpr, MASKED: tl.constexpr, INLINE: tl.constexpr):
    """Decode the lines of one dot's columns.

    Args:
        q_ptr: int16, pairs of codes.
        line_starts: [COLUMNS] int64, first word of each line.
        present: [COLUMNS] whether there is such a line; the others become 0.
        HALF: words of a line.
        MASKED: whether `present` needs to be looked at.
        INLINE: as `decode_pairs` takes it.

    Returns:
        [HALF, COLUMNS] fp16 twice: even and odd dimensions.
    """
    at = q_ptr + line_starts[None, :] + tl.arange(0, HALF)[:, None]
    words = tl.load(at, mask=present[None, :], other=0) if MASKED else tl.load(at)
    return decode_pairs(words, INLINE)


@triton.jit(
    do_not_specialize=[
        "num_pages",
        "page_stride",
        "table_width",
        "table_stride",
        "q_batch_stride",
        "q_step_stride",
        "q_head_stride",
        "out_stride",
        "width",
        "share",
        "most_tiles",
    ],
    do_not_specialize_on_alignment=["lengths_ptr", "table_ptr"],
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
    out_stride,
    width,
    share,
    most_tiles,
    NEXT_N: tl.constexpr,
    STEPS: tl.constexpr,
    ROWS: tl.constexpr,
    PARTS: tl.constexpr,
    HEADS: tl.constexpr,
    PADDED: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    PAGE_SIZE: tl.constexpr,
    BLOCK_N: tl.constexpr,
    INLINE: tl.constexpr,
):
    """Logits of STEPS rows of one request against every n-th tile of its context.

    n is how many programs share the request: `share`, or a multiple where each would have more than `most_tiles`. It
    depends on the context, not on the width of the result, so that a short context in a wide result, as under CUDA
    graphs, is shared by as many programs as a long one. The grid has programs for the longest; the others return.

    The rows' queries stay, decoded, in shared memory, ROWS of them to a dot, or PARTS dots to a row; codes of keys pass
    over them and are decoded in registers, once for all rows. Cells of the cache that no page names are read from page
    0 and masked afterwards, so there is at least one page to read.
    """
    COLUMNS: tl.constexpr = ROWS * PADDED // PARTS
    GROUPS: tl.constexpr = STEPS // ROWS
    HALF: tl.constexpr = HEAD_DIM // 2
    MASKED: tl.constexpr = HEADS != PADDED or NEXT_N % STEPS != 0
    request = tl.program_id(1)
    first_step = tl.program_id(2) * STEPS
    first_row = request.to(tl.int64) * NEXT_N + first_step
    longest = 0
    for ahead in tl.static_range(STEPS):
        seen = tl.load(lengths_ptr + first_row + ahead, mask=first_step + ahead < NEXT_N, other=0)
        longest = tl.maximum(longest, seen)
    longest = tl.minimum(longest, width)
    tiles = tl.cdiv(longest, BLOCK_N)
    programs = share * tl.cdiv(tiles, share * most_tiles)
    program = tl.program_id(0)
    if (program < programs) & (program < tiles):
        line = tl.arange(0, COLUMNS)
        firsts = ()  # type: tuple
        seconds = ()  # type: tuple
        for place in tl.static_range(GROUPS * PARTS):
            step = first_step + place // PARTS * ROWS + line // PADDED
            head = place % PARTS * COLUMNS + line % PADDED
            starts = request.to(tl.int64) * q_batch_stride + step * q_step_stride + head * q_head_stride
            present = (head < HEADS) & (step < NEXT_N)
            # Strides of q and of pages come in units of 16 bytes; codes are read two to a word.
            first, second = load_queries(q_ptr, starts * 8, present, HALF, MASKED, INLINE)
            firsts += (first,)
            seconds += (second,)
        table = table_ptr + request.to(tl.int64) * table_stride
        offsets = tl.arange(0, BLOCK_N)
        pairs = tl.arange(0, HALF)
        scales = cache_ptr.to(tl.pointer_type(tl.float32)) + PAGE_SIZE * HEAD_DIM // 4
        for tile in range(program, tiles, programs):
            positions = tile * BLOCK_N + offsets
            offset = positions % PAGE_SIZE
            if PAGE_SIZE * 2 >= BLOCK_N:
                # One page, or two: scalars, in place of an entry for each key.
                entry = tile * BLOCK_N // PAGE_SIZE
                near = tl.load(table + entry, mask=entry < table_width, other=-1)
                near_known = (near >= 0) & (near < num_pages)
                start = tl.where(near_known, near, 0).to(tl.int64) * page_stride
                known = (offsets >= 0) & near_known
                if PAGE_SIZE < BLOCK_N:
                    far = tl.load(table + entry + 1, mask=entry + 1 < table_width, other=-1)
                    far_known = (far >= 0) & (far < num_pages)
                    far_start = tl.where(far_known, far, 0).to(tl.int64) * page_stride
                    start = tl.where(offsets < PAGE_SIZE, start, far_start)
                    known = tl.where(offsets < PAGE_SIZE, near_known, far_known)
            else:
                entries = positions // PAGE_SIZE
                page = tl.load(table + entries, mask=(positions < longest) & (entries < table_width), other=-1)
                known = (page >= 0) & (page < num_pages)
                start = tl.where(known, page, 0).to(tl.int64) * page_stride
            words = tl.load(cache_ptr + (start * 8 + offset * HALF)[:, None] + pairs[None, :])
            scale = tl.load(scales + (start * 4 + offset)) * 65536.0
            k_first, k_second = decode_pairs(words, INLINE)  # [BLOCK_N, HALF] each
            for group in tl.static_range(GROUPS):
                row = group * ROWS + tl.arange(0, ROWS)
                exists = first_step + row < NEXT_N
                step = first_step + group * ROWS + line // PADDED
                logits = tl.zeros((BLOCK_N, ROWS), tl.float32)
                for part in tl.static_range(PARTS):
                    first, second = firsts[group * PARTS + part], seconds[group * PARTS + part]
                    scores = tl.dot(k_second, second, acc=tl.dot(k_first, first))  # [BLOCK_N, COLUMNS]
                    heads = weights_ptr + first_row * PADDED + (group * PARTS + part) * COLUMNS + line
                    weights = tl.load(heads, mask=step < NEXT_N, other=0.0) if MASKED else tl.load(heads)
                    logits += head_sum(scores, weights, BLOCK_N, ROWS, PADDED // PARTS)
                logits = tl.where(known[:, None], logits * scale[:, None], float("-inf"))
                length = tl.minimum(tl.load(lengths_ptr + first_row + row, mask=exists, other=0), width)
                tl.store(
                    out_ptr + (first_row + row)[None, :] * out_stride + positions[:, None],
                    logits,
                    mask=positions[:, None] < length[None, :],
                )
