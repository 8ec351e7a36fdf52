"""The two kernels: attention of one query token's heads over one part of its selection, and the merge of the parts."""

import triton
import triton.language as tl

from dsa_kernels.sparse_mla.fp8_rows import load_fp8_latent

_RUNTIME_INTEGERS = [
    "num_heads",
    "num_head_blocks",
    "num_rows",
    "topk",
    "num_splits",
    "has_length",
    "has_sink",
    "q_token_stride",
    "q_head_stride",
    "page_stride",
    "row_stride",
    "indices_token_stride",
    "out_token_stride",
    "out_head_stride",
    "extra_num_rows",
    "extra_topk",
    "has_extra_length",
    "extra_page_stride",
    "extra_row_stride",
    "extra_indices_token_stride",
]
_ANY_ALIGNMENT = [
    "indices_ptr",
    "length_ptr",
    "sink_ptr",
    "max_logits_ptr",
    "lse_ptr",
    "extra_indices_ptr",
    "extra_length_ptr",
]


@triton.jit
def _valid_length(length_ptr, token, topk, has_length):
    """Entries of a token's selection that count, within [0, topk]."""
    length = tl.load(length_ptr + token, mask=has_length != 0, other=topk)
    return tl.minimum(tl.maximum(length, 0), topk)


@triton.jit
def _load_rows(selection, start, lanes, EXTRA: tl.constexpr):
    """Selected row numbers of the step that begins at `start`, -1 past the end of its source or part. int32.

    selection is (indices, end of the part, indices of the second source, length of the first, where the second begins).
    """
    indices_ptr, end, extra_indices_ptr, length, boundary = selection
    positions = start + lanes
    if EXTRA:
        of_extra = start >= boundary
        indices_ptr = tl.where(of_extra, extra_indices_ptr - boundary, indices_ptr)
        end = tl.where(of_extra, end, tl.minimum(end, length))
    return tl.load(indices_ptr + positions, mask=positions < end, other=-1)


@triton.jit
def _row_units(rows, page_stride, row_stride, PAGE_SIZE: tl.constexpr):
    """Where rows start, in units of 16 bytes from the start of the cache. int64."""
    wide = rows.to(tl.int64)
    if PAGE_SIZE > 0:  # noqa: SIM108 (decided when compiling)
        units = (wide // PAGE_SIZE) * page_stride + (wide % PAGE_SIZE) * row_stride
    else:
        units = wide * row_stride
    return units


@triton.jit
def _finish(acc, row_max, row_sum, sink, has_sink):
    """Normalise a row: output, largest logit and log-sum-exp in natural-log units.

    acc is [H, D], the rest [H]; row_max and sink are in log2 units. row_max is -inf where nothing (or only NaN) was
    met.
    """
    LN2: tl.constexpr = 0.6931471805599453
    infinity = float("inf")
    base = tl.where(row_max == -infinity, 0.0, row_max)
    total = row_sum + tl.where(has_sink != 0, tl.exp2(sink - base), 0.0)
    out = acc * (1.0 / tl.where(total == 0.0, 1.0, total))[:, None]
    broken = row_sum != row_sum
    max_logits = tl.where(broken & (row_max < infinity), float("nan"), row_max * LN2)
    lse = tl.where(row_max == infinity, infinity, base * LN2 + tl.log(row_sum))
    return out, max_logits, lse


@triton.jit(do_not_specialize=_RUNTIME_INTEGERS, do_not_specialize_on_alignment=_ANY_ALIGNMENT)
def attend_kernel(
    q_ptr,
    latent_ptr,
    scale_ptr,
    rope_ptr,
    indices_ptr,
    length_ptr,
    sink_ptr,
    out_ptr,
    max_logits_ptr,
    lse_ptr,
    partial_ptr,
    partial_max_ptr,
    partial_sum_ptr,
    scale_log2,
    num_heads,
    num_head_blocks,
    num_rows,
    topk,
    num_splits,
    has_length,
    has_sink,
    q_token_stride,
    q_head_stride,
    page_stride,
    row_stride,
    indices_token_stride,
    out_token_stride,
    out_head_stride,
    extra_ptr,
    extra_indices_ptr,
    extra_length_ptr,
    extra_num_rows,
    extra_topk,
    has_extra_length,
    extra_page_stride,
    extra_row_stride,
    extra_indices_token_stride,
    LATENT: tl.constexpr,
    ROPE: tl.constexpr,
    FP8: tl.constexpr,
    PAGE_SIZE: tl.constexpr,
    EXTRA_PAGE_SIZE: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """One program: BLOCK_H heads of one token over one part of its selection.

    Strides of q, the cache and out are in units of 16 bytes, so that Triton knows rows to be aligned whatever the
    stride, without compiling anew for each. With one part the result is final; with several it goes to the partial
    buffers [token, part, head, ...] for `merge_kernel`. Parts are even over the valid length, so short selections are
    spread as well.

    With EXTRA_PAGE_SIZE above 0 there is a second source of plain rows, whose selection follows the first one's; it
    begins with a step of its own, so that the rows of a step lie in one cache. Otherwise all that is called extra is
    None.
    """
    program = tl.program_id(0)
    head_block = program % num_head_blocks
    split = (program // num_head_blocks) % num_splits
    token = (program // num_head_blocks // num_splits).to(tl.int64)

    EXTRA: tl.constexpr = EXTRA_PAGE_SIZE > 0
    tl.static_assert(not EXTRA or (ROPE == 0 and not FP8 and PAGE_SIZE > 0))
    length = _valid_length(length_ptr, token, topk, has_length)
    total = length
    boundary = length
    if EXTRA:
        boundary = tl.cdiv(length, BLOCK_N) * BLOCK_N
        total = boundary + _valid_length(extra_length_ptr, token, extra_topk, has_extra_length)
    part = tl.cdiv(tl.cdiv(total, num_splits), BLOCK_N) * BLOCK_N
    begin = split * part
    end = tl.minimum(begin + part, total)

    dtype: tl.constexpr = q_ptr.dtype.element_ty
    heads = head_block * BLOCK_H + tl.arange(0, BLOCK_H)
    is_head = heads < num_heads
    columns = tl.arange(0, LATENT)
    q_rows = q_ptr + token * q_token_stride * 8 + (heads * q_head_stride * 8)[:, None]
    q_latent = tl.load(q_rows + columns[None, :], mask=is_head[:, None], other=0.0)  # [BLOCK_H, LATENT]
    if ROPE > 0:
        rope_columns = tl.arange(0, ROPE)
        q_rope = tl.load(q_rows + LATENT + rope_columns[None, :], mask=is_head[:, None], other=0.0)  # [BLOCK_H, ROPE]

    row_max = tl.full([BLOCK_H], float("-inf"), tl.float32)
    row_sum = tl.zeros([BLOCK_H], tl.float32)
    acc = tl.zeros([BLOCK_H, LATENT], tl.float32)

    indices_ptr += token * indices_token_stride
    if EXTRA:
        extra_indices_ptr += token * extra_indices_token_stride
    selection = (indices_ptr, end, extra_indices_ptr, length, boundary)
    lanes = tl.arange(0, BLOCK_N)
    # Carried by hand: when the loop itself loads the indices that it gathers through, Triton's pipeliner buffers the
    # indices ahead and not the rows.
    rows = _load_rows(selection, begin, lanes, EXTRA)
    for start in range(begin, end, BLOCK_N):
        units = _row_units(rows, page_stride, row_stride, PAGE_SIZE)
        cache_ptr = latent_ptr
        cache_rows = num_rows
        if EXTRA:
            of_extra = start >= boundary
            units = tl.where(of_extra, _row_units(rows, extra_page_stride, extra_row_stride, EXTRA_PAGE_SIZE), units)
            cache_ptr = tl.where(of_extra, extra_ptr, latent_ptr)
            cache_rows = tl.where(of_extra, extra_num_rows, num_rows)
        valid = (rows >= 0) & (rows < cache_rows)
        if FP8:
            latent = load_fp8_latent(latent_ptr, scale_ptr, units, valid, dtype, LATENT)  # [BLOCK_N, LATENT]
        else:
            latent = tl.load(cache_ptr + (units * 8)[:, None] + columns[None, :], mask=valid[:, None], other=0.0)
        if ROPE > 0:
            rope = tl.load(rope_ptr + (units * 8)[:, None] + rope_columns[None, :], mask=valid[:, None], other=0.0)
        rows = _load_rows(selection, start + BLOCK_N, lanes, EXTRA)

        logits = tl.dot(q_latent, tl.trans(latent))  # [BLOCK_H, BLOCK_N]
        if ROPE > 0:
            logits = tl.dot(q_rope, tl.trans(rope.to(dtype)), logits)
        logits = tl.where(valid[None, :], logits * scale_log2, float("-inf"))

        new_max = tl.maximum(row_max, tl.max(logits, 1))
        base = tl.where(new_max == float("-inf"), 0.0, new_max)
        weights = tl.exp2(logits - base[:, None])
        decay = tl.exp2(row_max - base)
        row_sum = row_sum * decay + tl.sum(weights, 1)
        acc = tl.dot(weights.to(dtype), latent, acc * decay[:, None])
        row_max = new_max

    # The same heads as above, derived so that the compiler cannot tell: addresses and masks shared with the loads of q
    # would stay in registers across the loop and make it spill.
    heads = (program + tl.num_programs(0)) % num_head_blocks * BLOCK_H + tl.arange(0, BLOCK_H)
    is_head = heads < num_heads
    if num_splits == 1:
        sink = tl.load(sink_ptr + heads, mask=heads < num_heads * has_sink, other=0.0) * 1.4426950408889634
        out, max_logits, lse = _finish(acc, row_max, row_sum, sink, has_sink)
        out_rows = out_ptr + token * out_token_stride * 8 + (heads * out_head_stride * 8)[:, None]
        tl.store(out_rows + columns[None, :], out.to(out_ptr.dtype.element_ty), mask=is_head[:, None])
        tl.store(max_logits_ptr + token * num_heads + heads, max_logits, mask=is_head)
        tl.store(lse_ptr + token * num_heads + heads, lse, mask=is_head)
    else:
        slots = (token * num_splits + split) * num_heads + heads
        tl.store(partial_max_ptr + slots, row_max, mask=is_head)
        tl.store(partial_sum_ptr + slots, row_sum, mask=is_head)
        # A part that met nothing is told by its maximum and sum; the merge then never reads its rows.
        if begin < end:
            tl.store(partial_ptr + (slots * LATENT)[:, None] + columns[None, :], acc, mask=is_head[:, None])


@triton.jit(
    do_not_specialize=["num_heads", "num_splits", "has_sink", "out_token_stride", "out_head_stride"],
    do_not_specialize_on_alignment=["sink_ptr", "max_logits_ptr", "lse_ptr"],
)
def merge_kernel(
    partial_ptr,
    partial_max_ptr,
    partial_sum_ptr,
    sink_ptr,
    out_ptr,
    max_logits_ptr,
    lse_ptr,
    num_heads,
    num_splits,
    has_sink,
    out_token_stride,
    out_head_stride,
    LATENT: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_S: tl.constexpr,
    MAX_SPLITS: tl.constexpr,
):
    """One program: BLOCK_D output columns of one head of one token, over all parts of its selection."""
    token = (tl.program_id(0) // num_heads).to(tl.int64)
    head = tl.program_id(0) % num_heads
    columns = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)

    splits = tl.arange(0, MAX_SPLITS)
    slots = (token * num_splits + splits) * num_heads + head
    maxima = tl.load(partial_max_ptr + slots, mask=splits < num_splits, other=float("-inf"))
    sums = tl.load(partial_sum_ptr + slots, mask=splits < num_splits, other=0.0)
    row_max = tl.max(maxima, 0)
    base = tl.where(row_max == float("-inf"), 0.0, row_max)
    row_sum = tl.sum(sums * tl.exp2(maxima - base), 0)

    acc = tl.zeros([BLOCK_D], tl.float32)
    for first in range(0, num_splits, BLOCK_S):
        chunk = first + tl.arange(0, BLOCK_S)
        chunk_slots = (token * num_splits + chunk) * num_heads + head
        chunk_max = tl.load(partial_max_ptr + chunk_slots, mask=chunk < num_splits, other=float("-inf"))
        chunk_sum = tl.load(partial_sum_ptr + chunk_slots, mask=chunk < num_splits, other=0.0)
        met = chunk_sum != 0.0  # true for NaN too
        values = tl.load(
            partial_ptr + (chunk_slots * LATENT)[:, None] + columns[None, :], mask=met[:, None], other=0.0
        )  # [BLOCK_S, BLOCK_D]
        acc += tl.sum(values * tl.exp2(chunk_max - base)[:, None], 0)

    sink = tl.load(sink_ptr + head, mask=has_sink != 0, other=0.0) * 1.4426950408889634
    one = tl.arange(0, 1)
    out, max_logits, lse = _finish(
        acc[None, :], row_max + tl.zeros([1], tl.float32), row_sum + tl.zeros([1], tl.float32), sink, has_sink
    )
    out_row = out_ptr + token * out_token_stride * 8 + head * out_head_stride * 8
    tl.store(out_row + one[:, None] + columns[None, :], out.to(out_ptr.dtype.element_ty))
    if tl.program_id(1) == 0:
        tl.store(max_logits_ptr + token * num_heads + head + one, max_logits)
        tl.store(lse_ptr + token * num_heads + head + one, lse)
